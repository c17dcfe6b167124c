"""Distillation: a small network learns what a large one says, too (Hinton et al., 2015)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from leap_rl.core import Engine, Initialization, Job, NoPretraining
from supervised.experiments import Run
from supervised.images import Images
from supervised.multi_cv.data import DATA_SETS, SIZE, load
from supervised.multi_cv.tasks import DataSets
from supervised.networks import Classifier, ConvNet
from supervised.runs import evaluate, test_error
from supervised.tasks import ClassificationTask, ClassificationTasks

TEMPERATURE = 4.0
"""T, by which logits are divided before the softmax: it shows what a teacher takes for the second likeliest."""
TEACHER_FILTERS = 64
BATCH_SIZE = 64


class Distilled(Classifier):
    """
    A student whose penalty is T² · KL(teacher ‖ student), both at temperature T, so that its gradient is as large as
    that of labels whatever T (section 2).

    :param student: what is learned
    :param teacher: what it also learns from; it is only looked at
    :param weight: of the penalty, beside the labels' cross entropy with 1
    :param temperature: T
    """

    def __init__(
        self, student: Classifier, teacher: nn.Module, weight: float = 1.0, temperature: float = TEMPERATURE
    ) -> None:
        super().__init__(student.encoder, student.head)
        self._teacher = [teacher.eval()]  # out of sight of `parameters` and `train`
        self.weight = weight
        self.temperature = temperature
        self._computed: tuple[Tensor, Tensor] | None = None

    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        if self.training:
            with torch.no_grad():
                self._computed = logits, self._teacher[0].to(images.device)(images)
        return logits

    def penalty(self, labels: Tensor) -> Tensor:
        assert self._computed is not None
        student, teacher = (logits / self.temperature for logits in self._computed)
        self._computed = None
        divergence = nn.functional.kl_div(
            student.log_softmax(dim=1), teacher.log_softmax(dim=1), reduction="batchmean", log_target=True
        )
        return self.weight * self.temperature**2 * divergence


@dataclass(frozen=True)
class SmallNetTask(ClassificationTask):
    """
    A task whose network has other filters than its own, and maybe a teacher.

    :param task: what is learned
    :param n_classes: of it
    :param n_filters: of the network
    :param teacher: a ``ConvNet`` that learned it
    :param teacher_filters: of that
    """

    task: ClassificationTask
    n_classes: int
    n_filters: int
    teacher: Initialization | None = None
    teacher_filters: int = TEACHER_FILTERS

    @classmethod
    def of(cls, task: ClassificationTask, n_classes: int, n_filters: int) -> SmallNetTask:
        """As the constructor; budget and settings are those of the task."""
        shared = {name: getattr(task, name) for name in ClassificationTask.__dataclass_fields__}
        return cls(**shared, task=task, n_classes=n_classes, n_filters=n_filters)

    def images(self) -> Images:
        return self.task.images()

    def network(self) -> Classifier:
        student = ConvNet(self.n_classes, channels=3, image_size=SIZE, n_filters=self.n_filters)
        if self.teacher is None:
            return student
        teacher = ConvNet(self.n_classes, channels=3, image_size=SIZE, n_filters=self.teacher_filters)
        self.teacher.apply_to(teacher)
        return Distilled(student, teacher)


@dataclass(frozen=True)
class DistillationRun(Run):
    """
    The settings of a run.

    :param data_set: of Multi-CV
    :param student: ``"alone"``, or ``"distilled"``
    :param n_filters: of the student
    :param passes: over the images, of student and of teacher
    :param limit: images, at most
    """

    experiment = "distillation"

    data_set: str
    student: str
    n_filters: int
    passes: int
    limit: int

    @property
    def cells(self) -> dict[str, str]:
        return {"student": self.student, "filters": f"{self.n_filters} filters", "data set": self.data_set}

    def task(self, n_filters: int) -> SmallNetTask:
        """
        :raises ValueError: if there is none
        """
        sets = DataSets(self.data_dir, [self.data_set], self.seed, self.limit, self.passes, BATCH_SIZE)
        return SmallNetTask.of(replace(sets[0], patience=None), DATA_SETS[self.data_set].n_classes, n_filters)

    def data(self) -> dict[str, int]:
        return {self.data_set: len(load(self.data_dir, self.data_set).train)}

    def images(self) -> int:
        steps = self.task(self.n_filters).steps
        return 2 * steps if self.student == "distilled" else steps

    def learn(self, folder: Path, engine: Engine, progress_bar: bool) -> dict[str, float]:
        task = self.task(self.n_filters)
        if self.student == "distilled":
            teacher = self.task(TEACHER_FILTERS)
            job = replace(self._job(teacher), return_final=True)
            ((_, result),) = engine.run([job], lambda *_: None)
            test_error(result, "the teacher")
            task = replace(task, teacher=result.final)
        result = evaluate([self._job(task)], task.name, folder / "0000", engine)[task.name]
        return {"error": 100 * test_error(result)}

    def _job(self, task: SmallNetTask) -> Job:
        # Both students start from the same weights: that of the teacher draws after them.
        alone = ClassificationTasks([replace(task, teacher=None)], "all", {}).draw_initialization(None, self.seed)
        return Job(task, alone, NoPretraining(), self.seed)
