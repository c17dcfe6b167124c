"""``leap-rl tune``: search how to fine-tune an initialization on one game."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from leap_rl.agents import observed_algorithm
from leap_rl.agents.learning import is_finite, learns
from leap_rl.agents.observed import default_arguments
from leap_rl.agents.tasks import check_learns
from leap_rl.commands.initializations import load_initialization
from leap_rl.commands.run_folder import begin, check_same_settings, print_commands
from leap_rl.commands.saved_runs import new_model
from leap_rl.commands.tables import print_markdown
from leap_rl.commands.tasks import algorithm, algorithm_kwargs, make_env, policy
from leap_rl.core import Initialization, blocks_of, read_strategies
from leap_rl.core.blocks import HEAD, block_of_layers
from leap_rl.core.search import suggested_strategy
from leap_rl.running.engines import learning_process
from leap_rl.running.files import json_number, read_json, write_text
from leap_rl.running.journal import open_journal
from leap_rl.running.progress import mean_of
from leap_rl.settings import AgentSettings, TuneSettings, as_dict, write_settings
from leap_rl.transfer import FineTune
from leap_rl.transfer.episodes import Episodes
from leap_rl.transfer.finetune import FrozenTooBriefly

MAY_CHANGE = {"trials"}
JOURNAL = "trials.journal"
BEST = "best.yaml"


def suggested(trial: optuna.Trial, agent: AgentSettings, blocks: Sequence[str]) -> dict[str, Any]:
    """
    What a trial tries: a strategy and its setting, the learning rate, and which blocks are transferred.

    :param trial: that draws
    :param agent: as it is given
    :param blocks: of the initialization
    :return: ``finetune``, ``transfer_layers`` and ``learning_rate``, as ``leap-rl train`` takes them
    """
    finetune = suggested_strategy(trial)
    base = agent.learning_rate or default_arguments(algorithm(agent))["learning_rate"]
    times = trial.suggest_float("rate", 0.25, 4, log=True)
    taken = [block for block in blocks if trial.suggest_categorical(f"take {block}", [True, False])]
    if not taken:  # that would be a random start
        raise optuna.TrialPruned
    return {
        "finetune": finetune,
        "transfer_layers": tuple(taken) if len(taken) < len(blocks) else (),
        "learning_rate": float(f"{base * times:.4g}"),
    }


def plain(agent: AgentSettings) -> dict[str, Any]:
    """All of the initialization, and all of it learns, as ``suggested`` says it: the first trial."""
    return {"finetune": "full", "transfer_layers": (), "learning_rate": agent.learning_rate}


def area(settings: TuneSettings, start: Initialization | None, tried: dict[str, Any], seed: int) -> float:
    """
    Under the learning curve of one run.

    :param start: ``None`` is random
    :param tried: as ``suggested`` gives it
    :param seed: of the run
    :return: NaN if no episode ended, or the training diverged
    :raises ValueError: for what can't be trained so
    """
    agent = replace(settings.agent, learning_rate=tried["learning_rate"])
    env = make_env(settings.game, settings.env, agent.n_envs, settings.atari, seed)
    try:
        model = new_model(agent, env, settings.game, settings.env, settings.timesteps, seed, settings.device)
        if start is not None:
            start.apply_to(model, settings.head, tried["transfer_layers"] or None)
        episodes = Episodes()
        with learning_process():
            held = FineTune(*read_strategies(tried["finetune"]))
            went_well = learns(model, settings.timesteps, [held, episodes]) and is_finite(model)
    finally:
        env.close()
    return episodes.curve(settings.timesteps).area() if went_well else math.nan


def tune(settings: TuneSettings, folder: Path, resume: bool) -> None:
    """
    Search, and leave the best settings as a preset of ``leap-rl train`` in the run folder.

    :param settings: of the search
    :param folder: of a new run, or of the one to resume
    :param resume: whether it is there already
    :raises ValueError: for what can't be searched
    """
    if settings.init is None:
        raise ValueError("--init names the initialization that is fine-tuned")
    for option, seeds in (("seeds", settings.seeds), ("report-seeds", settings.report_seeds)):
        if not seeds or len(set(seeds)) < len(seeds):
            raise ValueError(f"--{option} {list(seeds)}: at least one is needed, and none twice")
    if both := set(settings.seeds) & set(settings.report_seeds):
        raise ValueError(f"--seeds and --report-seeds share {', '.join(map(str, sorted(both)))}: report on others")
    if resume:
        check_same_settings(folder, "tune", settings, MAY_CHANGE)
    start = load_initialization(settings.init)
    kwargs = algorithm_kwargs(settings.agent, policy(settings.agent, settings.env))
    check_learns(observed_algorithm(algorithm(settings.agent)), settings.timesteps, kwargs)
    blocks = [block for block in blocks_of_start(settings, start) if block != HEAD]
    # Of a search the head is taken whole, as it is without one.
    head = (HEAD,) if HEAD in block_of_layers(start.parameters).values() else ()
    begin(folder, "tune", settings, MAY_CHANGE)
    write_settings(folder, "tune", settings)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=open_journal(folder / JOURNAL),
        study_name="tune",
        direction="maximize",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
    )
    done = _finished(study)
    # A sampler that goes on would draw what it drew already.
    study.sampler = optuna.samplers.TPESampler(seed=settings.seed + len(done), n_startup_trials=5)
    if not done and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
        first = {"finetune": "full", "rate": 1.0, **{f"take {block}": True for block in blocks}}
        study.enqueue_trial(first)

    def objective(trial: optuna.Trial) -> float:
        tried = suggested(trial, settings.agent, blocks)
        if tried["transfer_layers"]:
            tried["transfer_layers"] = (*tried["transfer_layers"], *head)
        trial.set_user_attr("tried", tried)
        areas: list[float] = []
        for number, seed in enumerate(settings.seeds):
            try:
                areas.append(area(settings, start, tried, seed))
            except FrozenTooBriefly:  # it would be another strategy than the one that is tried
                raise optuna.TrialPruned from None
            if not np.isfinite(areas[-1]):  # no episode ended, or it diverged
                raise optuna.TrialPruned
            trial.report(float(np.mean(areas)), number)
            if number + 1 < len(settings.seeds) and trial.should_prune():
                raise optuna.TrialPruned
        return float(np.mean(areas))

    print(f"Tuning {settings.init} on {settings.game or settings.env} in {folder}")
    try:
        while len(_finished(study)) < settings.trials:
            began = time.perf_counter()
            study.optimize(objective, n_trials=1)
            areas = [t.value for t in _finished(study) if t.state is TrialState.COMPLETE and t.value is not None]
            progress = {"trials": len(_finished(study)), "best": max(areas, default=None)}
            write_text(folder / "progress.json", json.dumps(progress) + "\n")
            _say(study.get_trials(deepcopy=False)[-1], time.perf_counter() - began, len(_finished(study)), settings)
    except KeyboardInterrupt:
        print(f"\nInterrupted after {len(_finished(study))} trials. To go on:")
        print_commands(["leap-rl", "tune", "--resume", folder])
        raise
    if not any(trial.state is TrialState.COMPLETE for trial in study.get_trials(deepcopy=False)):
        raise RuntimeError(
            "no trial has an area: no episode ended, or each run diverged. More --timesteps may help, or a smaller rate"
        )
    best = study.best_trial.user_attrs["tried"]
    _report(settings, start, {**best, "transfer_layers": tuple(best["transfer_layers"])}, study, folder)


def blocks_of_start(settings: TuneSettings, start: Initialization) -> list[str]:
    """
    The blocks of the network that is trained.

    :raises ValueError: if the initialization does not fit it
    """
    env = make_env(settings.game, settings.env, settings.agent.n_envs, settings.atari, settings.seed)
    try:
        model = new_model(settings.agent, env, settings.game, settings.env, settings.timesteps, settings.seed, "cpu")
        start.apply_to(model, settings.head)
        return list(blocks_of(model))
    finally:
        env.close()


def _finished(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _say(trial: FrozenTrial, seconds: float, number: int, settings: TuneSettings) -> None:
    tried = trial.user_attrs.get("tried")
    what = "nothing transferred" if tried is None else f"{tried['finetune']}, rate {tried['learning_rate']}"
    if tried and tried["transfer_layers"]:
        what += f", {' '.join(tried['transfer_layers'])} taken"
    value = "ended early" if trial.value is None or trial.state is TrialState.PRUNED else f"area {trial.value:.2f}"
    print(f"trial {number} of {settings.trials}: {value}: {what} ({seconds:.0f} s)", flush=True)


def _report(
    settings: TuneSettings, start: Initialization, best: dict[str, Any], study: optuna.Study, folder: Path
) -> None:
    """The best settings on seeds that the search has not seen, beside plain fine-tuning and a random start."""
    as_it_is = plain(settings.agent)
    ways: dict[str, tuple[Initialization | None, dict[str, Any]]] = {
        "best": (start, best),
        "plain": (start, as_it_is),
        "random": (None, as_it_is),
    }
    kept = folder / "report.json"
    known = read_json(kept, "remove it, and those runs are made again") if kept.is_file() else {}
    is_of_best = known.get("best") == json.loads(json.dumps(best)) and isinstance(known.get("areas"), dict)
    found: dict[str, dict[str, float | None]] = known["areas"] if is_of_best else {}
    for name, (of, tried) in ways.items():
        for seed in settings.report_seeds:
            if str(seed) not in found.setdefault(name, {}):
                found[name][str(seed)] = json_number(area(settings, of, tried, seed))
                write_text(kept, json.dumps({"best": best, "areas": found}, indent=1) + "\n")
    train = {key: as_dict(settings)[key] for key in ("game", "env", "timesteps", "agent", "atari")}
    train["init"] = str(settings.init)
    train["finetune"] = best["finetune"]
    if best["learning_rate"] is not None:
        train["agent"] = {**train["agent"], "learning-rate": best["learning_rate"]}
    if best["transfer_layers"]:
        train["transfer-layers"] = list(best["transfer_layers"])
    if settings.head is not None:
        train["head"] = settings.head
    text = yaml.safe_dump({"train": {k: v for k, v in train.items() if v != ""}}, sort_keys=False, allow_unicode=True)
    write_text(folder / BEST, text)
    seeds = ", ".join(map(str, settings.report_seeds))
    lines = [f"| | area, mean | seeds {seeds} |", "|---|---|---|"]
    for name in ways:
        areas = [found[name][str(seed)] for seed in settings.report_seeds]
        mean = mean_of([math.nan if a is None else a for a in areas])
        lines.append(f"| {name} | {mean} | {', '.join('-' if a is None else f'{a:.2f}' for a in areas)} |")
    table = "\n".join(lines)
    write_text(folder / "table.md", f"{table}\n\nThe best of {len(_finished(study))} trials, chosen on other seeds.\n")
    print("\nOn seeds that the search has not seen:\n")
    print_markdown(table)
    print()
    print(f"The best settings are a preset, {folder / BEST}. Next:", file=sys.stdout)
    print_commands(["leap-rl", "train", "--preset", folder / BEST])
