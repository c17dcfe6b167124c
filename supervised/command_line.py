"""What the command lines of the experiments share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated

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
    tuple[Annotated[int, Parameter(validator=Number(gte=0))], ...], Parameter(consume_multiple=True, negative=())
]


def chosen_engine(name: str, n_workers: int | None, task_timeout: float | None) -> Engine:
    """
    :param name: ``workers``, ``in-process``, ``together``, or ``auto``: together on a GPU, else workers
    :param n_workers: worker processes; ``None``: one per core
    :param task_timeout: seconds that one run of a task may take; ``None``: as long as it takes
    :raises ValueError: for a number of workers, or a time limit, with an engine that has none
    """
    import torch

    from leap_rl.core import InProcess, Workers
    from supervised.together import Together

    of_workers = {"--n-workers": n_workers, "--task-timeout": task_timeout}
    given = [option for option, value in of_workers.items() if value is not None]
    if given and name not in ("auto", "workers"):
        raise ValueError(f"{given[0]} is of --engine workers, not of {name}")
    if name == "together" or (name == "auto" and not given and torch.cuda.is_available()):
        return Together()
    return InProcess() if name == "in-process" else Workers(n_workers, task_timeout)


def run_all(runs: Mapping[str, Callable[[], None]]) -> None:
    """
    Make runs, one after the other; one that fails does not keep the others from it.

    :param runs: by name
    :raises RuntimeError: when all are over, if any failed
    """
    failed = []
    for name, run in runs.items():
        try:
            run()
        except RuntimeError as error:
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
