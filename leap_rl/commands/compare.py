"""``leap-rl compare``"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from leap_rl.agents import RandomPolicies
from leap_rl.agents.tasks import check_names
from leap_rl.commands.engine import WHERE_IT_RUNS, engine_of
from leap_rl.commands.initializations import load_initialization
from leap_rl.commands.run_folder import RANDOM_POLICY, begin, check_same_settings, print_commands
from leap_rl.commands.tables import print_markdown
from leap_rl.commands.tasks import make_tasks
from leap_rl.core.initialization import what_learns
from leap_rl.core.lead import FEWEST_SEEDS, learner_of, too_narrow
from leap_rl.evaluation import check_starts, plot_comparison, plot_statistics
from leap_rl.evaluation import compare as compare_starts
from leap_rl.evaluation.comparison import check_same_runs, folder_of
from leap_rl.evaluation.human import HUMAN
from leap_rl.evaluation.statistics import Statistics
from leap_rl.running.files import json_number, write_text
from leap_rl.running.logger import write_whole
from leap_rl.running.outside import printable
from leap_rl.settings import CompareSettings, as_dict, write_settings
from leap_rl.transfer import Initialization

_log = logging.getLogger(__name__)

MEASURES = (
    "Area: mean over the steps of what the figure shows, the mean return of the last 50 episodes. Final score: mean "
    "return of the episodes that end in the last tenth of the steps."
)
# A kept run is known by game, start and seed: others may join it.
MAY_CHANGE = {"games", "envs", "starts", "finetune", "seeds", "note", *WHERE_IT_RUNS}


def compare(settings: CompareSettings, folder: Path, resume: bool) -> None:
    """
    Learn games from several starts, and leave ``table.md``, ``results.json``, ``figure.png`` and, with intervals,
    ``statistics.png`` in the run folder.

    :param settings: of the comparison
    :param folder: of a new run, or of the one to resume; nobody else writes to it
    :param resume: whether it is there already; runs that are finished are not run again
    :raises ValueError: for what can't be compared
    """
    tasks = make_tasks(
        settings.games, settings.envs, settings.timesteps, settings.agent, settings.atari, settings.family, "test"
    )
    starts = dict(map(start_of, settings.starts))
    if not starts:
        raise ValueError("starts is empty: give folders of initializations, names of the zoo, or random")
    if len(starts) < len(settings.starts):
        raise ValueError(f"starts have the same name: {', '.join(settings.starts)}. Give them as name=folder")
    starts, finetune = finetuned(starts, settings.finetune)
    if not settings.seeds or len(set(settings.seeds)) < len(settings.seeds):
        raise ValueError(f"seeds={list(settings.seeds)}: at least one is needed, and none twice")
    if resume:
        check_same_settings(folder, "compare", settings, MAY_CHANGE)
    for strategies in dict.fromkeys(finetune.values()):
        tasks.finetuned(strategies)
    engine = engine_of(settings)
    n_runs = len(tasks) * len(starts) * len(settings.seeds)
    each = f"{settings.timesteps:,} steps, {settings.timesteps // settings.agent.n_envs:,} in each environment"
    print(f"Comparing {', '.join(starts)}: {n_runs} runs of {each}, in {folder}", flush=True)

    scope = check_starts(tasks, starts, settings.scope)
    # Before the settings are written: a folder that refuses runs keeps those that it can be resumed with.
    random = tasks.draw_initialization(scope, settings.seeds[0])
    begin(folder, "compare", settings, MAY_CHANGE)
    check_same_runs(folder, tasks, starts, random, finetune)
    write_settings(folder, "compare", settings)
    preprocessing = random.config.get("preprocessing")
    for name, initialization in starts.items():
        learned_with = initialization.config.get("preprocessing") if initialization else None
        if learned_with not in (None, preprocessing):
            _log.warning(
                "%s was learned with %s, and is compared with %s", name, printable(learned_with, 80), preprocessing
            )
    not_new = learned_from({task.name for task in tasks}, starts)
    if not_new:
        _log.warning("%s", not_new)
    random_policy: dict[str, np.ndarray] = {}
    try:
        comparison = compare_starts(
            tasks,
            starts,
            settings.seeds,
            engine,
            settings.scope,
            settings.device,
            run_dir=folder,
            progress_bar=True,
            finetune=finetune,
            verbose=1,
        )
        if "random" in starts and len(settings.seeds) >= FEWEST_SEEDS:
            floor = compare_starts(
                RandomPolicies(tasks),
                {RANDOM_POLICY: None},
                settings.seeds,
                engine,
                scope,
                run_dir=folder,
                progress_bar=True,
            )
            random_policy = {task.name: floor.areas(RANDOM_POLICY, task.name) for task in tasks}
    except KeyboardInterrupt:
        print("\nInterrupted; finished runs are saved. To go on:")
        print_commands(["leap-rl", "compare", "--resume", folder])
        raise
    seeds = f"seeds {', '.join(map(str, settings.seeds))}"
    note = f"{seeds}; {settings.note}" if settings.note else seeds
    table = f"{comparison.table(over_tasks=tasks.share_scale)}\n\n({note})\n\n{MEASURES}"
    statistics = Statistics(comparison, random_policy) if random_policy else None
    if statistics:
        table += "".join(f"\n\n{sentence}" for sentence in statistics.in_short())
        narrow = too_narrow(len(settings.seeds))
        table += (
            "\n\nInterquartile means over the seeds, with 95 % bootstrap intervals; areas above that of a random "
            "policy (as many steps and seeds), by those of random starts, where these are clearly above it"
            f"{f' ({narrow})' if narrow else ''}:\n\n{statistics.table()}"
        )
        if human := statistics.human_normalized():
            table += f"\n\n{HUMAN}:\n\n{human}"
        if len(starts) > 2:
            table += f"\n\nEach start against each, over all games together:\n\n{statistics.each_against_each()}"
    if not_new:
        table += f"\n\n{not_new}"
    for start, task, seed in sorted(comparison.diverged):
        table += f"\n\nDiverged: {task} from {start}, seed {seed}; it has no area, and no final score."
    areas = np.concatenate([comparison.areas(start, task.name) for start in starts for task in tasks])
    if without_episode := int(np.isnan(areas).sum()) - len(comparison.diverged):
        table += (
            f"\n\nIn {without_episode} of {areas.size} runs no episode ended within {settings.timesteps:,} steps: more "
            "--timesteps measure them."
        )
    for (task, start), deviations in comparison.behind().items():
        how = f"{start} is {deviations:.1f} standard deviations behind random starts"
        if math.isinf(deviations):
            how = f"every run from {start} diverged"
        behind = f"Negative transfer: on {task} {how} ({len(settings.seeds)} seeds)."
        table += f"\n\n{behind}"
        _log.warning(behind)
        tensorboard = folder / "tensorboard" / folder_of(task, start)
        write_whole(tensorboard, [(settings.timesteps, {"transfer/lead": -deviations})])
    write_text(folder / "table.md", table + "\n")
    results = {
        "settings": as_dict(settings),
        "sha256": {name: start and start.sha256 for name, start in starts.items()},
        "config": what_learns(random.config),
        "versions": random.config["versions"],  # of the last sitting
        "random_policy": {task: [json_number(a) for a in areas.tolist()] for task, areas in random_policy.items()},
        "statistics": statistics.as_dict() if statistics else {},
        "results": comparison.as_dict(),
    }
    write_text(folder / "results.json", json.dumps(results, indent=1) + "\n")
    files = ["figure.png", "table.md", "results.json"]
    plot_comparison(comparison, folder / "figure.png", settings.note, random_policy or None)
    if statistics and len(starts) > 1:
        plot_statistics(statistics, folder / "statistics.png")
        files.insert(1, "statistics.png")
    print()
    print_markdown(table if not np.isnan(areas).all() else table[table.index(MEASURES) + len(MEASURES) :].strip())
    print()
    for file in files:
        print(f"  {folder / file}")
    print_commands(["tensorboard", "--logdir", folder / "tensorboard"])


def finetuned(
    starts: Mapping[str, Initialization | None], strategies: Sequence[str]
) -> tuple[dict[str, Initialization | None], dict[str, str]]:
    """
    Each start under each strategy. Random starts learn plainly: what a strategy holds back is what was learned before.

    :param starts: by name
    :param strategies: as ``read_strategies`` takes them; none: all learn plainly
    :return: starts and strategies by name, ``"leap lp-ft"`` being the start ``leap`` by ``lp-ft``
    :raises ValueError: for strategies that are listed twice, or that no start learns by
    """
    if not strategies:
        return dict(starts), {}
    check_names("--finetune", strategies)
    if not any(starts.values()):
        raise ValueError("--finetune says how initializations learn: --starts has none, random ones learn plainly")
    named: dict[str, Initialization | None] = {}
    by: dict[str, str] = {}
    for start, initialization in starts.items():
        learner, slash, number = start.partition("/")  # of a meta-training of several
        for strategy in strategies if initialization else ():
            name = f"{learner} {strategy}{slash}{number}"
            named[name], by[name] = initialization, strategy
        if initialization is None:
            named[start] = None
    return named, by


def learned_from(tasks: set[str], starts: Mapping[str, Initialization | None]) -> str:
    """What is to be said where a task is judged that an initialization was learned from; nothing, if none is."""
    known = {
        name: sorted(tasks & initialization.learned_from)
        for name, initialization in starts.items()
        if initialization is not None
    }
    said = "; ".join(f"{name} from {', '.join(both)}" for name, both in known.items() if both)
    return f"Learned from what is judged here, which says nothing of new tasks: {said}." if said else ""


def start_of(start: str) -> tuple[str, Initialization | None]:
    """
    :param start: ``random``, a folder or a name of the zoo, or ``name=`` one of them
    :return: what it is called, and what it is; ``None`` is random
    :raises ValueError: if there is no such initialization
    """
    if start == "random":
        return "random", None
    name, is_named, what = start.partition("=")
    if not is_named:
        what, path = start, Path(start)  # runs/x/initialization is called x
        name = path.parent.name if path.name in ("initialization", "agent.zip") and path.parent.name else path.name
    if learner_of(name) in ("random", ""):
        raise ValueError(f"--starts {start}: random is what random starts are called, choose another name")
    return name, load_initialization(what)
