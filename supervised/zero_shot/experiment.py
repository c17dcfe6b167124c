"""One run: signs are held out, the others are learned, and those that were never seen are told apart."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from leap_rl.core import Engine, Initialization, Job, NoPretraining
from supervised.experiments import Run
from supervised.images import as_float
from supervised.multi_cv.data import load
from supervised.runs import log, test_error
from supervised.tasks import ClassificationTasks
from supervised.zero_shot.tasks import UNSEEN, SignsTask, signs_task


@dataclass(frozen=True)
class ZeroShotRun(Run):
    """
    The settings of a run.

    :param updates: of the learning process
    :param n_unseen: signs that are held out; the seed says which
    :param n_filters: as of ``ConvNet``
    """

    experiment = "zero-shot"

    updates: int
    n_unseen: int = UNSEEN
    n_filters: int = 64

    @property
    def cells(self) -> dict[str, str]:
        return {"unseen": f"{self.n_unseen} unseen", "chance": f"{100 - 100 / self.n_unseen:.1f} % by chance"}

    @property
    def name(self) -> str:
        return f"{self.n_unseen}-unseen-seed{self.seed}"

    def task(self) -> SignsTask:
        return signs_task(self.data_dir, self.seed, self.updates, self.n_filters, self.n_unseen)

    def data(self) -> dict[str, int]:
        signs = load(self.data_dir, "gtsrb")
        return {"train": len(signs.train), "test": len(signs.test)}

    def images(self) -> int:
        return self.task().steps

    def learn(self, folder: Path, engine: Engine, progress_bar: bool) -> dict[str, float]:
        """Errors of unseen signs among themselves; of these, and of seen ones, among all 43; and of a mean of both."""
        task = self.task()
        kept = folder / "0000" / "initialization"
        start = ClassificationTasks([task], "all", {"data": "GTSRB"}).draw_initialization(None, self.seed)
        job = Job(task, start, NoPretraining(), self.seed)
        if not (kept / "config.json").is_file():
            ((_, result),) = engine.run([replace(job, return_final=True)], lambda *_: None)
            test_error(result)  # says whether it diverged
            assert result.final is not None
            log(result, folder, "seen signs")
            result.final.save(kept)
        learned = Initialization.load(kept)
        unseen = self._error(task, learned)
        among = self._error(replace(task, generalized=True), learned)
        seen = self._error(replace(task, generalized=True, of_unseen=False), learned)
        right = (100 - among, 100 - seen)
        harmonic = 2 * right[0] * right[1] / max(sum(right), 1e-9)
        return {"unseen": unseen, "unseen among all": among, "seen among all": seen, "harmonic mean": 100 - harmonic}

    @staticmethod
    @torch.no_grad()
    def _error(task: SignsTask, learned: Initialization) -> float:
        model = task.network()
        learned.apply_to(model)
        model.eval()
        images = task.images()
        parts = as_float(images.test, torch.Generator()).split(256)
        wrong = torch.cat([model(part).argmax(dim=1) for part in parts]) != images.test_labels
        # Of each sign as much (Xian et al., 2017): what says one sign of all is right by chance, however many it has.
        of_each = [wrong[images.test_labels == label].float().mean() for label in images.test_labels.unique()]
        return 100 * torch.stack(of_each).mean().item()
