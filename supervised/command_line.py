"""What the command lines of the experiments share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from leap_rl.ending import exit_code

if TYPE_CHECKING:
    from leap_rl.core import Engine

Positive = Annotated[int, Parameter(validator=Number(gte=1))]
Seconds = Annotated[float, Parameter(validator=Number(gt=0))]
Names = Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative=())]
Ints = Annotated[tuple[Positive, ...], Parameter(consume_multiple=True, negative=())]
Rates = Annotated[
    tuple[Annotated[float, Parameter(validator=Number(gt=0))], ...], Parameter(consume_multiple=True, negative=())
]
Seeds = Annotated[
    tuple[Annotated[int, Parameter(validator=Number(gte=0, lt=2**31))], ...],
    Parameter(consume_multiple=True, negative=()),
]


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Made:
    """From what runs are made, and how many."""

    data_dir: Path | None = None
    """folder of the data; without it $LEAP_RL_DATA (omniglot in it), or leap_rl's folder in the user's cache"""
    download: bool = False
    """what is not there of the data, with torchvision"""
    seeds: Seeds = (0,)
    """of the runs"""
    root: Path | None = None
    """folder of the runs; without it that of the experiment in runs"""
    dry_run: bool = False
    """print what would be run, in images"""

    def data(self, default: Callable[[], Path], fetch: Callable[[str], object]) -> str:
        """
        :param default: folder of the data where none is named
        :param fetch: downloads to it what is not there
        """
        data = str((self.data_dir or default()).absolute())
        if self.download:
            fetch(data)
        return data


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Where:
    """Where the learning processes of a command run. Their bits are the same, but those of ``together``."""

    engine: Literal["workers", "in-process", "ray"] = "workers"
    """in worker processes, one after the other in this process, or on a Ray cluster (extra ray; docs/scaling.md)"""
    n_workers: Positive | None = None
    """worker processes; without it one per core"""
    task_timeout: Seconds | None = None
    """seconds that one learning process may take before it is ended as failed"""
    address: str | None = None
    """of the Ray cluster, host:port, or auto for the one of this machine; without it this machine alone"""
    gpus_per_task: Annotated[float | None, Parameter(validator=Number(gte=0))] = None
    """GPUs, or a part of one, that each learning process takes of the Ray cluster, besides one core"""

    def chosen(self) -> Engine:
        """
        :raises ValueError: for an option with an engine that has none, and for no Ray cluster at the address
        :raises ImportError: without Ray
        """
        import torch

        from leap_rl.core import InProcess, Workers
        from supervised.together import Together

        takes = {
            "--n-workers": (self.n_workers, ("workers",)),
            "--task-timeout": (self.task_timeout, ("workers", "ray")),
            "--address": (self.address, ("ray",)),
            "--gpus-per-task": (self.gpus_per_task, ("ray",)),
        }
        name: str = self.engine
        given = [option for option, (value, _) in takes.items() if value is not None]
        if name == "auto":
            name = "together" if not given and torch.cuda.is_available() else "workers"
        for option in given:
            _, engines = takes[option]
            if name not in engines:
                raise ValueError(f"{option} is of --engine {' or '.join(engines)}, not of {name}")
        if name == "ray":
            from leap_rl.running.engines.ray import RayEngine

            return RayEngine(self.address, num_gpus=self.gpus_per_task or 0, task_timeout=self.task_timeout)
        if name == "together":
            return Together()
        return InProcess() if name == "in-process" else Workers(self.n_workers, self.task_timeout)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Here(Where):
    """As ``Where``, by default in this process."""

    engine: Literal["workers", "in-process", "ray"] = "in-process"
    """in this process, in worker processes, or on a Ray cluster (extra ray; docs/scaling.md)"""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class WhereTogether(Where):
    """As ``Where``, and together in one stacked model."""

    engine: Literal["auto", "workers", "in-process", "together", "ray"] = "auto"  # type: ignore[assignment]
    """in worker processes, one after the other in this process, together in one stacked model, or on a Ray cluster
    (extra ray; docs/scaling.md); auto is together on a GPU, else workers"""


MADE, IN_WORKERS, IN_PROCESS, ANYWHERE = Made(), Where(), Here(), WhereTogether()
"""Without options."""


def add_table(app: App, run: str, column: str, less: str = "") -> None:
    """
    Give an experiment the command ``table``.

    :param run: kind of its runs, as module:class, which is imported when the command is given
    :param column: in which runs are compared, as of ``experiments.table``
    :param less: what others are compared with by default, if it is among the runs; ``""``: nothing
    """
    usual = less

    @app.command(name="table")
    def table(*roots: Path, less: str | None = None, figure: Path | None = None, save: Path | None = None) -> None:
        """
        Print what the runs showed, and what is missing.

        :param roots: folders of runs, and files that --save wrote, together; without one that of the experiment in runs
        :param less: what differences are taken to, on the same seeds; empty: none; without it the experiment's own
            reference, if it is among the runs
        :param figure: PNG to write: the error of each
        :param save: JSON to write, with all that table and figure need
        """
        from supervised.experiments import show

        module, _, name = run.partition(":")
        show(roots, getattr(import_module(module), name), column, less, figure, save, usual)


def run_all(runs: Mapping[str, Callable[[], None]]) -> None:
    """
    Make runs, one after the other; one that fails, or whose folder can't be gone on with, does not keep the others from
    it.

    :param runs: by name
    :raises RuntimeError: when all are over, if any failed
    """
    failed = []
    for name, run in runs.items():
        try:
            run()
        except (RuntimeError, ValueError) as error:
            failed.append(f"{name}: {error}")
            print(f"  failed: {error}", flush=True)
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(runs)} runs failed. {'; '.join(failed)}")


def run_command(app: App, arguments: list[str] | None) -> int:
    """
    :param app: that knows the command
    :param arguments: ``None``: those of this process
    :return: exit code, as ``leap_rl.ending`` has them
    """
    app.suppress_keyboard_interrupt = False

    def command() -> None:
        try:
            app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        except KeyboardInterrupt:
            print("\nInterrupted; the same command goes on.", file=sys.stderr)
            raise

    return exit_code(app.name[0], command)
