"""Tasks on a Ray cluster: two nodes of one core on this machine, whose workers and nodes are lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from test_engines import LOST, RAISED, RAISED_IN_A_WORKER, fails_alone, result, run, wait_until_gone
from torch import nn

from leap_rl.cli import main
from leap_rl.core import (
    Initialization,
    InProcess,
    Job,
    Leap,
    LearningCurve,
    MetaTrainer,
    Report,
    Task,
    TaskFamily,
    TaskResult,
)

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402

from leap_rl.running.engines import ray as module  # noqa: E402
from leap_rl.running.engines.ray import RayEngine  # noqa: E402

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    made.add_node(num_cpus=1)
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture(scope="module")
def engine(cluster: Cluster) -> RayEngine:
    return RayEngine(cluster.address)


def kill_this_process() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def node() -> str:
    return str(ray.get_runtime_context().get_node_id())


class Descent(Task):
    """
    Noisy descent towards a point of its own.

    :param seconds: that each of its steps waits
    :param once: what happens in its third step, where this file is not there yet
    """

    steps = 8

    def __init__(self, index: int, seconds: float = 0.0, once: tuple[Path, Callable[[], Any]] | None = None) -> None:
        self.index, self.seconds, self.once = index, seconds, once
        self.name = f"descent-{index}"

    def run(self, job: Job, report: Report) -> TaskResult:
        generator = torch.Generator().manual_seed(job.seed)
        torch.manual_seed(job.seed)
        model = nn.Linear(300, 30)
        job.initialization.apply_to(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        path = job.learner.observe(dict(model.named_parameters()))
        assert path is not None
        with path.observe(optimizer):
            for step in range(self.steps):
                if step == 3 and self.once is not None and not self.once[0].exists():
                    self.once[0].touch()
                    self.once[1]()
                optimizer.zero_grad()
                inputs = torch.randn(50, 300, generator=generator)
                (model(inputs) - self.index).square().mean().backward()
                optimizer.step()
                time.sleep(self.seconds)
                report(step + 1)
        curve = LearningCurve(torch.arange(1).numpy(), torch.zeros(1).numpy(), self.steps)
        gradient, statistics = path.meta_gradient(), path.statistics()
        return TaskResult(self.name, curve, self.steps, 0.1, gradient, statistics, scores={"node": hash(node())})


class Descents(TaskFamily):
    def __init__(self, *tasks: Descent) -> None:
        self.tasks = tasks

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, index: int) -> Descent:  # type: ignore[override]
        return self.tasks[index]

    def draw_initialization(self, scope: str | None, seed: int) -> Initialization:
        torch.manual_seed(seed)
        return Initialization.of(nn.Linear(300, 30))


def trained(engine: Any, tasks: list[Descent], meta_steps: int = 2, **kwargs: Any) -> MetaTrainer:
    return MetaTrainer(Descents(*tasks), Leap(), len(tasks), engine=engine, seed=3, **kwargs).learn(meta_steps)


def undisturbed(n: int, meta_steps: int = 2) -> str:
    """θ⁰ of ``n`` tasks, without Ray."""
    return trained(InProcess(), [Descent(i) for i in range(n)], meta_steps).initialization.sha256


def test_two_nodes_have_the_bits_of_one_process(engine: RayEngine) -> None:
    nodes: set[float] = set()

    def note(local: dict[str, Any], _: Any) -> None:
        nodes.update(r.scores["node"] for r in local["results"])

    tasks = [Descent(i, seconds=0.1) for i in range(5)]
    trainer = MetaTrainer(Descents(*tasks), Leap(), 5, engine=engine, seed=3).learn(2, note)
    assert len(nodes) == 2
    assert trainer.initialization.sha256 == undisturbed(5)


def test_what_jobs_share_is_sent_once(engine: RayEngine) -> None:
    theta, learner = Initialization.of(nn.Linear(2, 2)), Leap()
    jobs = [Job(Descent(i), theta, learner, seed=i) for i in range(3)]
    sent = module._Sent(jobs)
    parts = [dict(zip(names, values, strict=True)) for _, names, *values in map(sent.parts, range(3))]
    assert len({part["initialization"] for part in parts}) == len({part["learner"] for part in parts}) == 1
    assert isinstance(parts[0]["initialization"], ray.ObjectRef)
    assert [part["task"] for part in parts] == [job.task for job in jobs]


def test_what_a_task_does_is_its_own(engine: RayEngine) -> None:
    fails_alone(engine, [*RAISED, *RAISED_IN_A_WORKER, (LOST[-1][0], "its result can't be unpickled")])
    assert run(engine, [lambda: result(node() != "")])[0].status == "ok"


@pytest.mark.parametrize("lost", [action for action, _ in LOST[:-1]])
def test_a_task_that_takes_its_worker_with_it(engine: RayEngine, lost: Callable[[], Any]) -> None:
    fails_alone(engine, [(lost, "its worker process or its machine was lost .*")])


def test_a_job_that_cant_be_pickled_says_so(engine: RayEngine) -> None:
    fails_alone(engine, [(partial(print, threading.Lock()), "it can't be pickled")])
    (alone,) = run(engine, [partial(print, threading.Lock())])
    assert alone.status == "failed"


def test_a_worker_that_is_killed_once_changes_no_bit(engine: RayEngine, tmp_path: Path) -> None:
    kill = (tmp_path / "killed", kill_this_process)
    trainer = trained(engine, [Descent(0), Descent(1, once=kill), Descent(2)])
    assert (tmp_path / "killed").exists()
    assert trainer.initialization.sha256 == undisturbed(3)


def test_steps_are_told_while_tasks_run(engine: RayEngine) -> None:
    theta, told = Initialization.of(nn.Linear(300, 30)), []
    jobs = [Job(Descent(0, seconds=0.3), theta, Leap(), seed=0)]
    for _ in engine.run(jobs, lambda index, steps, score=0.0: told.append((index, steps))):
        pass
    assert {index for index, _ in told} == {0}
    assert [steps for _, steps in told] == sorted(steps for _, steps in told)
    assert len({steps for _, steps in told}) > 2


def test_a_task_that_hangs_is_ended(cluster: Cluster) -> None:
    engine = RayEngine(cluster.address, task_timeout=2)
    fails_alone(engine, [(partial(time.sleep, 600), r"it was ended after \d+\.\d seconds, with 3 of 8 .*")])


def test_a_node_that_is_lost_changes_no_bit(cluster: Cluster, tmp_path: Path) -> None:
    third = cluster.add_node(num_cpus=2)
    engine = RayEngine(cluster.address)
    begun = tmp_path / "begun"

    def lose() -> None:
        while not begun.exists():
            time.sleep(0.05)
        cluster.remove_node(third, allow_graceful=False)

    losing = threading.Thread(target=lose)
    losing.start()
    tasks = [Descent(0, seconds=0.2, once=(begun, int)), *(Descent(i, seconds=0.2) for i in range(1, 5))]
    trainer = trained(engine, tasks)
    losing.join()
    assert trainer.initialization.sha256 == undisturbed(5)


# -- a trainer that ends ---------------------------------------------------------------------------

SCRIPT = """
import os, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_ray import Descent, Descents, Leap, MetaTrainer, RayEngine
from test_ray import say_who_and_wait
from functools import partial

wait = partial(say_who_and_wait, Path({run_dir!r}) / "said")
tasks = [Descent(0), Descent(1, once=(Path({run_dir!r}) / "waited", wait)), Descent(2)]
engine = RayEngine({address!r})
MetaTrainer(Descents(*tasks), Leap(), 3, engine=engine, seed=3, run_dir={run_dir!r} + "/run").learn(2)
"""


def say_who_and_wait(folder: Path) -> None:
    (folder / str(os.getpid())).touch()
    time.sleep(600)


@pytest.mark.parametrize("own_cluster", [False, True], ids=["cluster", "alone"])
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=str)
def test_nothing_outlives_the_trainer_and_it_goes_on(
    cluster: Cluster, engine: RayEngine, tmp_path: Path, end: signal.Signals, own_cluster: bool
) -> None:
    said = tmp_path / "said"
    said.mkdir()
    address = None if own_cluster else cluster.address
    script = SCRIPT.format(tests=str(Path(__file__).parent), run_dir=str(tmp_path), address=address)
    trainer = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(said.iterdir()):
        assert trainer.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    pids = [int(file.name) for file in said.iterdir()]
    os.kill(trainer.pid, end)
    trainer.wait(60)
    wait_until_gone(pids)
    resumed = MetaTrainer.load(tmp_path / "run", Descents(*map(Descent, range(3))), engine=engine).learn(2)
    assert resumed.initialization.sha256 == undisturbed(3)


# -- bad input -------------------------------------------------------------------------------------


def test_a_cluster_that_lacks_what_a_task_takes(cluster: Cluster, engine: RayEngine) -> None:
    with pytest.raises(ValueError, match=r"a task takes 64 CPUs, but the Ray cluster has \d in all"):
        RayEngine(cluster.address, num_cpus=64)
    with pytest.raises(ValueError, match=r"a task takes 0\.5 GPUs, but the Ray cluster has 0 in all"):
        RayEngine(cluster.address, num_gpus=0.5)
    with pytest.raises(ValueError, match="num_cpus=0 must be more than 0"):
        RayEngine(cluster.address, num_cpus=0)
    with pytest.raises(ValueError, match="task_timeout=0 must be more than 0 seconds"):
        RayEngine(cluster.address, task_timeout=0)


def test_a_machine_with_other_versions(cluster: Cluster, engine: RayEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    other = {**module._facts(), "torch": "1.0"}
    monkeypatch.setattr(module, "_facts", lambda: other)
    with pytest.raises(ValueError, match=r"the Ray node [\d.]+ has torch 2.*, not 1.0: install the same"):
        RayEngine(cluster.address)
    # A node that came later.
    assert re.match("RuntimeError: this machine has torch 2.*, not 1.0", run(engine, [lambda: result(1.0)])[0].reason)


@pytest.mark.parametrize(
    ("before", "said"),
    [
        (
            "",
            "ValueError: there is no Ray cluster at '127.0.0.1:1' .*: start one",
        ),
        ("sys.modules['ray'] = None; ", "ModuleNotFoundError: import of ray halted"),
    ],
    ids=["no cluster", "no Ray"],
)
def test_what_is_missing_is_named(before: str, said: str) -> None:
    program = f"import sys; {before}from leap_rl.running.engines.ray import RayEngine; RayEngine('127.0.0.1:1')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1
    assert re.search(said, last), last


def test_the_command_line_has_the_bits_of_this_machine(cluster: Cluster, engine: RayEngine, tmp_path: Path) -> None:
    """And a run that began on a cluster goes on here."""
    tiny = ["--envs", "CartPole-v1", "--timesteps", "1024", "--agent.n-envs", "4"]
    there, here = tmp_path / "there", tmp_path / "here"
    on_ray = ["--engine", "ray", "--address", cluster.address]
    assert main(["meta-train", *tiny, "--meta-steps", "1", *on_ray, "--run-dir", str(there)]) == 0
    assert main(["meta-train", "--resume", str(there), "--meta-steps", "2", "--engine", "local"]) == 0
    assert main(["meta-train", *tiny, "--meta-steps", "2", "--run-dir", str(here)]) == 0
    one, other = (Initialization.load(run / "initialization") for run in (there, here))
    assert one.sha256 == other.sha256
    compared = ["compare", *tiny, "--starts", f"leap={here / 'initialization'}", "--seeds", "0"]
    assert main([*compared, *on_ray, "--run-dir", str(tmp_path / "compared")]) == 0
    assert (tmp_path / "compared" / "results.json").is_file()
