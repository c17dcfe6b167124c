"""Search how to fine-tune what a run found, by folds of the images that the held-out data set is learned from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import optuna
from optuna.trial import TrialState

from leap_rl.core import Engine, Initialization, Job, NoPretraining, blocks_of
from leap_rl.core.blocks import layer_of
from leap_rl.core.search import suggested_strategy
from leap_rl.running.file_name import file_name
from leap_rl.running.journal import open_journal
from supervised.batch_norm import BatchNorm
from supervised.multi_cv.experiment import TASK_NETWORKS, Run, found_last
from supervised.multi_cv.tasks import DataSets
from supervised.multi_cv.way import Way
from supervised.runs import open_folder
from supervised.tasks import ClassificationTask


def suggested(
    trial: optuna.Trial, batch_norms: Sequence[BatchNorm], learning_rate: float, blocks: Sequence[str]
) -> Way:
    """
    :param trial: that draws
    :param batch_norms: that the initialization can have
    :param learning_rate: of the run, which is tried from a quarter to four times
    :param blocks: of the initialization, each of which is taken or not
    """
    finetune = suggested_strategy(trial)
    batch_norm: BatchNorm = trial.suggest_categorical("batch_norm", list(batch_norms))  # type: ignore[assignment]
    rate = learning_rate * trial.suggest_float("rate", 0.25, 4, log=True)
    taken = tuple(block for block in blocks if trial.suggest_categorical(f"take {block}", [True, False]))
    if not taken:
        print("no block taken: that would be a random start, and is not tried", flush=True)
        raise optuna.TrialPruned
    return Way(finetune, batch_norm, float(f"{rate:.4g}"), taken if len(taken) < len(blocks) else ())


def tune(run: Run, folder: Path, engine: Engine, trials: int, n_folds: int) -> tuple[Way, float, float]:
    """
    Search for the way with the least mean error on folds of the training images: each trial learns from all folds but
    one, as often as there are folds. Images for validation end a learning process early, as in the run; test images are
    not looked at. A search that is there goes on; the first trial is plain fine-tuning.

    :param run: as it was read from the folder
    :param folder: of it
    :param engine: where the folds are learned
    :param trials: in all, those of earlier sittings among them
    :param n_folds: at least 2
    :return: the best way, its error, and that of plain fine-tuning, from 0 to 1
    :raises ValueError: for a run that is not finished, or whose learner is not fine-tuned
    :raises RuntimeError: if a fold failed, or no trial stayed finite
    """
    if run.learner in TASK_NETWORKS:
        raise ValueError(f"{run.learner} learns in its own way: it is not fine-tuned by strategies")
    found = found_last(run, folder)
    with open_folder(folder, run.settings()):
        start = Initialization.load(found / "initialization")
        folds = [_fold(run, number, n_folds) for number in range(n_folds)]
        batch_norms = [way for way in get_args(BatchNorm) if _is_possible(folds[0], start, way)]
        rate = folds[0].learning_rate
        held = {layer_of(name) for name in start.parameters}
        blocks = [block for block in blocks_of(folds[0].network()) if block in held]

        def errors(way: Way) -> list[float]:
            jobs = [Job(way.of(fold), start, NoPretraining(), run.seed) for fold in folds]
            measured = {}
            for index, result in engine.run(jobs, lambda *_: None):
                result.raise_for_status(f"fold {index} of {run.held_out}")
                measured[index] = result.scores["test_error"] if result.status == "ok" else float("nan")
            return [measured[index] for index in range(n_folds)]

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(
            storage=open_journal(found / file_name(f"tune {n_folds} folds.journal")),
            study_name="tune",
            load_if_exists=True,
        )

        def finished() -> int:
            return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))

        # A sampler that goes on would draw what it drew already.
        study.sampler = optuna.samplers.TPESampler(seed=run.seed + finished(), n_startup_trials=5)
        if not finished() and not study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            everything = {f"take {block}": True for block in blocks}
            study.enqueue_trial({"finetune": "full", "batch_norm": "update", "rate": 1.0, **everything})

        def objective(trial: optuna.Trial) -> float:
            way = suggested(trial, batch_norms, rate, blocks)
            trial.set_user_attr("way", vars(way))
            error = float(np.mean(errors(way)))
            shown = f"error {100 * error:.1f} %" if np.isfinite(error) else "diverged"
            print(
                f"trial {finished() + 1} of {trials}: {shown}: {way.finetune}, batch norm {way.batch_norm}, "
                f"rate {way.learning_rate:g}" + f", {' '.join(way.transfer_layers)} taken" * bool(way.transfer_layers),
                flush=True,
            )
            if not np.isfinite(error):
                raise optuna.TrialPruned
            return error

        while finished() < trials:
            study.optimize(objective, n_trials=1)
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if not complete:
            raise RuntimeError("no trial stayed finite: there is no best one")
        best = study.best_trial
        ways = {trial.number: _way(trial.user_attrs["way"]) for trial in complete}
        plain = next((t.value for t in complete if ways[t.number] == Way("full", "update", rate)), None)
        return ways[best.number], float(best.value or 0.0), float("nan") if plain is None else float(plain)


def _way(kept: dict[str, Any]) -> Way:
    """As it was kept, by an older version without blocks."""
    return Way(**{**kept, "transfer_layers": tuple(kept.get("transfer_layers", ()))})


def _fold(run: Run, number: int, n_folds: int) -> ClassificationTask:
    return DataSets(
        run.data_dir, [run.held_out], run.seed, run.limit, run.passes, run.batch_size, fold=(number, n_folds)
    )[0]


def _is_possible(task: ClassificationTask, start: Initialization, batch_norm: BatchNorm) -> bool:
    of = replace(task, batch_norm=batch_norm)
    try:
        of.check_finetuning(of.network(), start)
    except ValueError:
        return False
    return True
