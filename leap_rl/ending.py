"""
How a command ends: errors are one line.

Exit codes: 2 for bad input, 1 for a failure, 130 after Ctrl-C (or SIGTERM, which a cluster sends).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable

from cyclopts.exceptions import CycloptsError, UnusedCliTokensError

EXTRAS = {
    "huggingface_hub": "hub",
    "matplotlib": "evaluation",
    "moviepy": "video",
    "rliable": "evaluation",
    "scipy": "supervised",
    "torchvision": "supervised",
}
"""Which extra of the package brings a module that not every command needs."""


def exit_code(program: str, command: Callable[[], object]) -> int:
    """
    Run a command, and say in one line what went wrong.

    :param program: its name
    :param command: what it does
    """
    try:
        command()
        return 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever read the output has enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        message, code = f"{error.name} is not installed: pip install 'leap-rl[{EXTRAS[error.name]}]'", 2
    except UnusedCliTokensError as error:
        message, code = f"no option before {' '.join(error.unused_tokens or ())}: --help lists them", 2
    except (CycloptsError, ValueError) as error:
        message, code = str(error), 2
    except (OSError, RuntimeError) as error:
        message, code = str(error), 1
    print(f"{program}: {message.strip()}", file=sys.stderr)
    return code


def run_program(main: Callable[[], int], log_format: str) -> None:
    """
    What a process does that is a command.

    :param main: gives its exit code
    :param log_format: of warnings
    """
    logging.basicConfig(format=log_format)
    # Not by raising SIGINT, which a shell has its background jobs ignore.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
