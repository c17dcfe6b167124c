"""Model cards: what an initialization is, and the evidence there is for it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from leap_rl.core import Initialization
from leap_rl.core.lead import NEGATIVE, by_learner, lead, learner_of, too_narrow
from leap_rl.running.files import read_json
from leap_rl.zoo.artifacts import ZooError, figure_name, total_steps

RECORDED = {
    "agent": "algorithm",
    "its settings, where they are not SB3's": "algorithm_kwargs",
    "environments": "n_envs",
    "meta optimizer": "meta_optimizer",
    "dormant units drawn anew": "recycled_units",
    "seed": "seed",
    "versions": "versions",
}
"""Rows of a card, and what of the config they show."""

EVIDENCE = (
    "`curves.json` holds each comparison whole: its settings, the hash of every start, "
    "the versions, and every seed's learning curve, area and final score."
)


@dataclass
class Evidence:
    """
    What a comparison showed.

    :param results: what ``leap-rl compare`` wrote as ``results.json``
    :param start: what the initialization is called there
    :param figure: its learning curves, a PNG file
    :param learned_from: names of the tasks that the initialization knows
    """

    results: dict[str, Any]
    start: str
    figure: Path
    learned_from: frozenset[str] = frozenset()

    @classmethod
    def of(cls, comparison: Path, initialization: Initialization) -> Evidence:
        """
        :param comparison: run folder of ``leap-rl compare``
        :param initialization: that must have been a start of it, whatever it was called
        :raises ZooError: if it is no finished comparison, or one of something else
        """
        for name_of_file in ("results.json", "figure.png"):
            if not (comparison / name_of_file).is_file():
                raise ZooError(f"{comparison} is no finished comparison: {name_of_file} is missing")
        results = read_json(comparison / "results.json", "leap-rl compare --resume writes it again")
        starts = results.get("sha256")
        if not isinstance(starts, dict):
            raise ZooError(f"{comparison} does not say which initializations it compared: run leap-rl compare again")
        found = [start for start, sha256 in starts.items() if sha256 == initialization.sha256]
        if not found:
            raise ZooError(f"{comparison} compared other initializations ({', '.join(starts)}): compare this one")
        # Where the folders of the starts lay is nobody's business.
        results["settings"]["starts"] = list(starts)
        return cls(results, found[0], comparison / "figure.png", frozenset(initialization.learned_from))

    def title(self) -> str:
        games = self.results["results"]
        seeds = {run["seed"] for starts in games.values() for runs in starts.values() for run in runs}
        several = len(by_learner(self.results["sha256"])[learner_of(self.start)])
        each = f" from each of {several} meta-trainings, this one is {self.start}" if several > 1 else ""
        steps = f"{self.results['settings']['timesteps']:,} steps"
        return f"{', '.join(games)}: {steps}, {len(seeds)} seeds{each}"

    def summary(self) -> str:
        """
        Mean areas of every start on every game, and the gains over all games; what the comparison notes; and where the
        initialization is clearly behind random weights. Markdown.
        """
        games, learners = self.results["results"], by_learner(self.results["sha256"])
        if len(learners[learner_of(self.start)]) > 1:
            learners |= {f"{self.start}, this one": [self.start]}
        rows = [f"| mean return while learning | {' | '.join(learners)} |", "|---|" + "---|" * len(learners)]
        for game, runs in games.items():
            areas = [[run["area"] for start in starts for run in runs.get(start, ())] for starts in learners.values()]
            known_already = " (learned from)" * (game in self.learned_from)
            rows.append(f"| {game}{known_already} | {' | '.join(map(_mean, areas))} |")
        known = self.results.get("statistics", {})
        for said, of in (("gain over random weights", _gain), ("lead where these hardly learn", _lead)):
            cells = [of(known.get(learner, {}), len(games)) for learner in learners]
            if any(cells):
                rows.append(f"| **{said}** | {' | '.join(cells)} |")
        settings = self.results["settings"]
        lines = [settings["note"]] if settings.get("note") else []
        if any(known.get(learner, {}).get("gain") for learner in learners):
            lines += [f"The intervals are {narrow}"] if (narrow := too_narrow(len(settings.get("seeds", ())))) else []
        for game, runs in games.items():
            own, random = ([run["area"] for run in runs.get(start, ())] for start in (self.start, "random"))
            if _measured(own) and _measured(random) and (behind := -lead(own, random)) > -NEGATIVE:
                lines.append(f"Negative transfer: on {game} {behind:.1f} standard deviations behind random weights")
        return "\n".join(rows) + "\n" + "".join(f"\n{line[0].upper()}{line[1:]}.\n" for line in lines)

    def for_model_index(self) -> list[EvalResult]:
        """Mean areas under the learning curves, as the Hub lists results."""
        made, steps = [], f"{self.results['settings']['timesteps']:,} steps"
        for game, starts in self.results["results"].items():
            areas = [run["area"] for run in starts.get(self.start, ())]
            if not _measured(areas):
                continue
            made.append(
                EvalResult(
                    task_type="reinforcement-learning",
                    task_name=f"learning a game that it was {'' if game in self.learned_from else 'not '}learned from",
                    dataset_type=game,
                    dataset_name=game,
                    # A mean over a learning curve is no mean_reward, which is a finished agent's.
                    metric_type="area_under_learning_curve",
                    metric_name=f"mean return while learning, {steps}, {len(areas)} seeds",
                    metric_value=round(statistics.fmean(areas), 2),
                )
            )
        return made


def model_card(
    name: str, initialization: Initialization, evidence: Sequence[Evidence] = (), repo_id: str | None = None
) -> str:
    """
    A model card whose metadata the Hub understands.

    :param name: of the initialization
    :param initialization: whose config says where it comes from
    :param evidence: for the text and the ``model-index``
    :param repo_id: ``owner/repository`` where it will be, if that is known
    :return: Markdown with a YAML header
    """
    config = initialization.config
    learner = (config.get("learner") or {}).get("name")
    tags = ["reinforcement-learning", "stable-baselines3", "leap-rl", "initialization"]
    tags += ["atari"] if "preprocessing" in config else []
    results = [result for e in evidence for result in e.for_model_index()]
    data = ModelCardData(
        library_name="stable-baselines3",
        tags=[*tags, *([learner.lower()] if learner else [])],
        model_name=name if results else None,
        eval_results=results or None,
    )
    tasks = ", ".join(config.get("tasks", [])) or "not recorded"
    steps = config.get("timesteps")
    total = total_steps(config)
    earlier = f", after {total - steps:,} of what it started from: {total:,} in all" if steps and total > steps else ""
    rows = [
        f"| network | {_cell(config['network'])} |",
        f"| scope | {_cell(initialization.scope)} |",
        f"| parameters | {sum(t.numel() for t in initialization.parameters.values()):,} |",
        f"| learned by | {_cell(config['learner'] if learner else config.get('source', 'not recorded'))} |",
        f"| learned from | {_cell(tasks)} |",
        f"| steps | {f'{steps:,}{_visits(config)}{earlier}' if steps else 'not recorded'} |",
        f"| preprocessing | {_cell(config.get('preprocessing', 'not recorded'))} |",
        *(f"| {what} | {_cell(config[key])} |" for what, key in RECORDED.items() if config.get(key) not in (None, {})),
    ]
    shown = ["None is recorded: nothing says that it helps.\n"]
    if evidence:
        shown = [f"{EVIDENCE}\n"]
        for number, e in enumerate(evidence, 1):
            shown += [f"### {e.title()}\n", e.summary(), f"![Learning curves]({figure_name(number)})\n"]
    return "\n".join(
        [
            f"---\n{data.to_yaml()}\n---\n",
            f"# {name}\n",
            "An initialization for Stable-Baselines3: safetensors and JSON, no pickle.\n",
            f'```python\nimport zoo\n\nzoo.load("{name}").apply_to(model)\n```\n',
            f"If `leap-rl zoo list` does not have it, `leap-rl zoo pull {repo_id or f'OWNER/{name}'}` fetches it.\n",
            "| | |\n|---|---|",
            *rows,
            "\n## Evidence\n",
            *shown,
        ]
    )


def _measured(areas: Sequence[float | None]) -> bool:
    """Without an area: a run that diverged, or in which no episode ended. (Older comparisons wrote NaN.)"""
    return bool(areas) and all(area is not None and math.isfinite(area) for area in areas)


def _gain(statistics: dict[str, Any], games: int) -> str:
    """Of a learner over all games, with its interval, and of how many they are if not of all."""
    gain = statistics.get("gain")
    if not gain:
        return ""
    of = len(statistics["learned"])
    some = f", {of} of {games} games" if of < games else ""
    return f"{gain['value']:.2f} ({gain['low']:.2f} to {gain['high']:.2f}{some})"


def _lead(statistics: dict[str, Any], games: int) -> str:
    """Of a learner, in standard deviations of random weights' seeds, where these don't clearly learn."""
    lead = statistics.get("lead")
    if not lead or lead["value"] is None:
        return ""
    of = len(statistics["leads"])
    some = f", {of} of {games} games" if of < games else ""
    return f"{lead['value']:+.1f} SD ({lead['low']:+.1f} to {lead['high']:+.1f}{some})"


def _mean(areas: Sequence[Any]) -> str:
    return f"{statistics.fmean(areas):,.2f}" if _measured(areas) else "not measured"


def _cell(value: Any) -> str:
    """What a config says, in a table; whatever a stranger's holds, it is shown as text and nothing else."""
    said = [str(value)]
    if isinstance(value, dict):
        named_first = sorted(value.items(), key=lambda item: item[0] != "name")
        said = [str(v) if k == "name" else f"{k} {v}" for k, v in named_first if v is not None]
    text = "".join(c for c in ", ".join(said)[:1000] if c.isprintable() and c not in "|`")
    return f"`{text}`"


def _visits(config: dict[str, Any]) -> str:
    """How the steps were spent, where it is recorded."""
    try:
        size = config["meta_batch_size"]
        visits = f"{size} visit{'s' * (size != 1)} of {config['steps_per_visit']:,} steps"
        averaged = f", averaged from meta step {config['averaged_from']} on" if "averaged_from" in config else ""
        return f", in {config['meta_steps']:,} meta steps of {visits}{averaged}"
    except (KeyError, TypeError, ValueError):  # a stranger's, or imported
        return ""
