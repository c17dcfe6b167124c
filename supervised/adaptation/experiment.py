"""One run: a method, a pair of domains, a seed; and how the weight of a method is chosen without target labels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from leap_rl.core import Engine, Job, NoPretraining
from supervised.adaptation.domains import load_domain, load_pair
from supervised.adaptation.methods import METHODS
from supervised.adaptation.tasks import ALONE, BATCH_SIZE, LEARNING_RATE, AdaptationTask, check_weight
from supervised.experiments import Found, Run, check_choices
from supervised.images import as_float
from supervised.runs import evaluate, log, test_error
from supervised.tasks import ClassificationTask, ClassificationTasks

KNOWN = (*ALONE, *METHODS)
WEIGHTED = tuple(name for name in METHODS if name != "batch-norm")
"""Those that have a penalty."""


class TaskRun(Run):
    """One task, learned once from scratch: its test error."""

    @abstractmethod
    def task(self) -> ClassificationTask:
        """
        :raises ValueError: if it can't be
        """

    def images(self) -> int:
        return self.task().steps

    def job(self) -> Job:
        task = self.task()
        start = ClassificationTasks([task], "all", {"data": task.name}).draw_initialization(None, self.seed)
        return Job(task, start, NoPretraining(), self.seed)

    def learn(self, folder: Path, engine: Engine, progress_bar: bool) -> dict[str, float]:
        job = self.job()
        return {"error": 100 * test_error(evaluate([job], job.name, folder / "0000", engine)[job.name])}


@dataclass(frozen=True)
class AdaptationRun(TaskRun):
    """
    The settings of a run.

    :param method: one of ``KNOWN``
    :param source: name of its domain
    :param target: name of its domain
    :param updates: of the learning process
    :param limit: images of each domain to learn from, at most
    :param weight: of the method's penalty
    :param n_filters: as of ``ConvNet``
    """

    experiment = "adaptation"

    method: str
    source: str
    target: str
    updates: int
    limit: int
    weight: float = 1.0
    n_filters: int = 32

    @property
    def cells(self) -> dict[str, str]:
        return {"method": self.method, "pair": f"{self.source} to {self.target}"}

    @property
    def name(self) -> str:
        seed = f"-seed{self.seed}"
        of_weight = "" if self.weight == 1 or "weight" in self.cells else f"-weight-{self.weight}"
        return f"{super().name.removesuffix(seed)}{of_weight}{seed}"

    def task(self) -> AdaptationTask:
        """
        :raises ValueError: for a method that is unknown, a weight that is not positive, domains that are no pair, or
            fewer images than a minibatch has
        """
        check_choices("method", [self.method], KNOWN)
        check_weight(self.weight)
        pair = load_pair(self.data_dir, self.source, self.target, self.limit, self.seed)
        fewest, name = min(len(pair.source), len(pair.target)), f"{self.source} to {self.target}"
        if fewest < BATCH_SIZE:
            raise ValueError(f"{name}: {fewest} images of one are too few for minibatches of {BATCH_SIZE}")
        if self.method in METHODS:
            METHODS[self.method](1)  # says which package is missing
        return AdaptationTask(
            name, self.updates, BATCH_SIZE, LEARNING_RATE, as_float, self.data_dir, self.source, self.target,
            self.method, self.weight, self.limit, self.seed, self.n_filters, annealing=True,
        )  # fmt: skip

    def data(self) -> dict[str, int]:
        self.task()  # says what is wrong with it
        domains = [load_domain(self.data_dir, name) for name in (self.source, self.target)]
        return {f"{d.name} {half}": len(x) for d in domains for half, x in (("train", d.train), ("test", d.test))}


@dataclass(frozen=True)
class ReverseValidation(AdaptationRun):
    """
    What a weight is chosen by (Ganin et al., 2016, section 5.1.4): adapt; label the target with what was learned; adapt
    back from it, with these labels and the same method, starting from what was learned; and test on images of the
    source that were held out. No label of the target is used.
    """

    experiment = "adaptation-weights"

    @property
    def cells(self) -> dict[str, str]:
        return super().cells | {"weight": f"{self.weight:g}"}

    def settings(self) -> dict[str, Any]:
        known = super().settings()
        return known | {"domains": "told apart anew on the way back"} if self.method == "dann" else known

    def images(self) -> int:
        return 2 * super().images()

    def learn(self, folder: Path, engine: Engine, progress_bar: bool) -> dict[str, float]:
        job = replace(self.job(), return_final=True)
        ((_, result),) = engine.run([job], lambda *_: None)
        test_error(result)
        log(result, folder, "adapted")
        assert result.final is not None and isinstance(job.task, AdaptationTask)
        pair = load_pair(self.data_dir, self.source, self.target, self.limit, self.seed)
        model = job.task.network()
        result.final.apply_to(model)
        model.eval()
        with torch.no_grad():
            parts = as_float(pair.target, torch.Generator()).split(256)
            labels = torch.cat([model(part).argmax(dim=1) for part in parts]).tolist()
        back = replace(job.task, name=f"{self.target} back to {self.source}", pseudo_labels=tuple(labels))
        # On the way back the domains change places: what tells them apart begins anew.
        drawn = job.initialization.parameters
        kept = {n: drawn[n] if n.startswith("method.") else p for n, p in result.final.parameters.items()}
        start = replace(result.final, parameters=kept)
        ((_, reverse),) = engine.run([Job(back, start, NoPretraining(), self.seed)], lambda *_: None)
        error = test_error(reverse)
        log(reverse, folder, "adapted back")
        return {REVERSE: 100 * error}


REVERSE = "reverse error"


def chosen_weights(found: Sequence[Found]) -> dict[float, list[str]]:
    """
    :param found: runs of reverse validation
    :return: methods by the weight that has the least reverse error, a mean over pairs and seeds
    """
    errors: dict[str, dict[float, list[float]]] = {}
    for run in found:
        errors.setdefault(run.cells["method"], {}).setdefault(run.settings["weight"], []).append(run.scores[REVERSE])
    chosen: dict[float, list[str]] = {}
    for method, of_weights in errors.items():
        chosen.setdefault(min(of_weights, key=lambda weight: mean(of_weights[weight])), []).append(method)
    return chosen
