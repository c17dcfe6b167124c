"""All tasks of a meta batch in one stacked model."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest
import torch

from leap_rl.core import (
    FOMAML,
    MAML,
    CheckpointError,
    InProcess,
    Job,
    Leap,
    MetaLearner,
    MetaTrainer,
    NoPretraining,
    Reptile,
    TaskResult,
)
from supervised.images import Images
from supervised.multihead import MultiHeadTrainer
from supervised.networks import ConvNet
from supervised.together import Together, learn_together
from tests.supervised.noise import Noise, NoiseFamily, noise

LEARNERS = [
    Leap(metric="length", loss_scale=1.0),
    Leap(metric="energy"),
    Reptile(),
    FOMAML(),
    MAML(inner_steps=2),
    NoPretraining(),
]


def run(engine: InProcess | Together, jobs: list[Job]) -> list[TaskResult]:
    results = dict(engine.run(jobs, lambda *_: None))
    assert all(r.status == "ok" for r in results.values()), [r.error for r in results.values()]
    return [results[i] for i in range(len(jobs))]


@pytest.mark.parametrize("learner", LEARNERS, ids=lambda x: type(x).__name__)
def test_the_results_are_those_of_one_after_the_other(learner: MetaLearner) -> None:
    family = NoiseFamily(3)
    theta = family.draw_initialization(None, 0)
    jobs = [Job(task, theta, learner, i, "cpu", return_final=True) for i, task in enumerate(family.tasks)]
    for alone, together in zip(run(InProcess(), jobs), run(Together(), jobs), strict=True):
        assert (alone.name, alone.steps, alone.curve.budget) == (together.name, together.steps, together.curve.budget)
        assert together.curve.values == pytest.approx(alone.curve.values, abs=1e-6)
        for key, score in alone.scores.items():
            assert together.scores[key] == pytest.approx(score, rel=1e-3, abs=1e-6)
        for name, gradient in (alone.meta_gradient or {}).items():
            torch.testing.assert_close(together.meta_gradient[name], gradient, rtol=2e-3, atol=2e-5)  # type: ignore[index]
        if alone.final is not None:
            assert together.final is not None
            for mine, theirs in (
                (alone.final.parameters, together.final.parameters),
                (alone.final.buffers, together.final.buffers),
            ):
                for name, tensor in mine.items():
                    torch.testing.assert_close(theirs[name], tensor, rtol=1e-3, atol=1e-5)


def test_a_run_goes_on_with_the_arithmetic_it_began_with(tmp_path: Path) -> None:
    tasks = NoiseFamily(2)

    def new(run_dir: Path | None) -> MetaTrainer:
        return MetaTrainer(tasks, Reptile(), 2, engine=Together(), run_dir=run_dir, seed=0, device="cpu")

    whole = new(None).learn(2).initialization
    new(tmp_path).learn(1)
    with pytest.raises(CheckpointError, match="began with arithmetic 'together', not 'exact'"):
        MetaTrainer.load(tmp_path, tasks, engine=InProcess())
    with pytest.raises(CheckpointError, match="began with arithmetic 'together'"):
        MetaTrainer.load(tmp_path, tasks)
    resumed = MetaTrainer.load(tmp_path, tasks, engine=Together()).learn(1).initialization
    for name, tensor in whole.parameters.items():
        assert torch.equal(tensor, resumed.parameters[name])


def test_tasks_that_cannot_be_stacked() -> None:
    first, second = noise(2)
    theta = NoiseFamily(1).draw_initialization(None, 0)

    def jobs(other: object) -> list[Job]:
        return [Job(task, theta, NoPretraining(), 0, "cpu") for task in (first, other)]  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="noise1 has other updates than noise0"):
        learn_together(jobs(dataclasses.replace(second, updates=3)), lambda *_: None)
    with pytest.raises(ValueError, match="noise1 has 4 images to learn from, too few"):
        learn_together(jobs(dataclasses.replace(second, n=4)), lambda *_: None)
    # An engine reports what can't be run, as it does what crashes.
    results = dict(Together().run(jobs(dataclasses.replace(second, patience=1)), lambda *_: None))
    assert [results[i].status for i in range(2)] == ["ok", "failed"]
    assert "noise1 has a learning rate that falls, or stops early" in results[1].reason


class Penalized(ConvNet):
    def penalty(self, labels: torch.Tensor) -> torch.Tensor:
        return self.head.weight.square().sum()


class NoiseOfPenalized(Noise):
    def network(self) -> ConvNet:
        drawn = super().network()
        drawn.__class__ = Penalized
        return drawn


@pytest.mark.parametrize("learner", [Reptile(), MAML(inner_steps=1)])
def test_a_network_that_asks_for_more_than_steps_is_refused(learner: MetaLearner) -> None:
    task = NoiseOfPenalized(**vars(noise(1)[0]))
    job = Job(task, NoiseFamily(1).draw_initialization(None, 0), learner, 0, "cpu")
    with pytest.raises(ValueError, match=r"Penalized has penalty, which .* does not call"):
        learn_together([job], lambda *_: None)
    with pytest.raises(ValueError, match="Penalized has penalty, which multi-head fine-tuning does not call"):
        MultiHeadTrainer([task], 0.1)


def test_a_task_that_fails_takes_no_other_with_it() -> None:
    class Exits(Noise):
        def images(self) -> Images:
            sys.exit("no licence")

    first, second, third = noise(3)
    bad = Exits(**vars(second))
    theta = NoiseFamily(1).draw_initialization(None, 0)
    jobs = [Job(task, theta, Reptile(), 0, "cpu") for task in (first, bad, third)]
    results = dict(Together().run(jobs, lambda *_: None))
    assert [results[i].status for i in range(3)] == ["ok", "failed", "ok"]
    assert results[1].reason == "SystemExit: no licence"
    for i, alone in zip((0, 2), run(InProcess(), [jobs[0], jobs[2]]), strict=True):
        for name, gradient in alone.meta_gradient.items():  # type: ignore[union-attr]
            torch.testing.assert_close(results[i].meta_gradient[name], gradient, rtol=2e-3, atol=2e-5)  # type: ignore[index]
