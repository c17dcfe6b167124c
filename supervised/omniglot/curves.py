"""What TensorBoard shows of the Omniglot experiment beyond meta-training's own curves."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from leap_rl.core import MetaCallback, TaskResult
from leap_rl.running.files import write_text
from leap_rl.running.logger import TensorBoardLogger
from supervised.omniglot.alphabets import AUGMENTATION, Alphabets


class TrainingCurves(MetaCallback):
    """
    The training curve within a visit, as it gets shorter over the meta steps (figure 2, left, of the paper): error on a
    minibatch, by update, mean over the meta batch. Kept in ``training_curves.json``, and in TensorBoard as a run for
    each.

    :param folder: of the run
    :param every: so many meta steps
    """

    def __init__(self, folder: Path, every: int) -> None:
        super().__init__()
        self.folder = folder
        self.every = every
        self.file = folder / "training_curves.json"

    def _on_rollout_end(self) -> None:
        step = self.trainer.meta_step
        results: list[TaskResult] = [r for r in self.locals["results"] if r.status == "ok" and len(r.curve.values) > 1]
        if step % self.every or not results:
            return
        curve = np.mean([r.curve.values for r in results], axis=0)
        curves = json.loads(self.file.read_text()) if self.file.is_file() else {}
        curves[str(step)] = [round(float(v), 5) for v in curve]
        write_text(self.file, json.dumps(curves) + "\n")
        run = self.folder / "tensorboard" / "training curves" / f"meta step {step:04d}"
        shutil.rmtree(run, ignore_errors=True)  # of an interrupted meta step
        logger = TensorBoardLogger(run)
        for update, error in enumerate(curve):
            logger.record("training_curve/error", float(error))  # by update, where others are by image
            logger.dump(update + 1)
        logger.close()


def show_examples(alphabets: Alphabets, folder: Path, n: int = 5) -> None:
    """
    Images as they are and as they are learned, a row of each for a few alphabets.

    :param alphabets: whose images
    :param folder: of the TensorBoard run
    :param n: how many alphabets
    """
    with SummaryWriter(str(folder / "examples")) as writer:
        for task in alphabets.tasks[:n]:
            images = task.images().train[:: 300 // 20]
            augmented = AUGMENTATION(images, torch.Generator().manual_seed(0))
            rows = torch.cat([torch.cat(list(x), dim=2) for x in (images, augmented)], dim=1)
            writer.add_image(f"examples/{task.name}", rows, 0)
