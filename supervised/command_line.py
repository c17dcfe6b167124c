"""What the command lines of the experiments share."""

from __future__ import annotations

import sys
from typing import Annotated

from cyclopts import App, Parameter
from cyclopts.exceptions import CycloptsError
from cyclopts.validators import Number

Positive = Annotated[int, Parameter(validator=Number(gte=1))]
Names = Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative=())]
Ints = Annotated[tuple[Positive, ...], Parameter(consume_multiple=True, negative=())]
Rates = Annotated[
    tuple[Annotated[float, Parameter(validator=Number(gt=0))], ...], Parameter(consume_multiple=True, negative=())
]
Seeds = Annotated[
    tuple[Annotated[int, Parameter(validator=Number(gte=0))], ...], Parameter(consume_multiple=True, negative=())
]


def exit_code(app: App, arguments: list[str] | None) -> int:
    """
    Run a command. Exit codes are those of ``leap-rl``: 2 for bad input, 1 for a failure, 130 after Ctrl-C.

    :param app: that knows it
    :param arguments: ``None``: those of this process
    """
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        return 0
    except (CycloptsError, ValueError) as error:
        print(f"{app.name[0]}: {str(error).strip()}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nInterrupted; the same command goes on.", file=sys.stderr)
        return 130
    except (OSError, RuntimeError) as error:
        print(f"{app.name[0]}: {error}", file=sys.stderr)
        return 1
