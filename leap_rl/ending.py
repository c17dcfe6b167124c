"""
How a command ends: errors are one line.

Exit codes: 2 for bad input, 1 for a failure, 130 after Ctrl-C (or SIGTERM, which a cluster sends).
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import signal
import sys
import warnings
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

from cyclopts.exceptions import CycloptsError, UnusedCliTokensError

EXTRAS = {
    "Box2D": "box2d",
    "huggingface_hub": "hub",
    "matplotlib": "evaluation",
    "minigrid": "minigrid",
    "moviepy": "video",
    "mujoco": "mujoco",
    "optuna": "tune",
    "ot": "adaptation",
    "ray": "ray",
    "rliable": "evaluation",
    "sb3_contrib": "contrib",
    "scipy": "supervised",
    "sklearn": "adaptation",
    "torchjd": "multitask",
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
        message, code = f"{error.name} is not installed: {how_to_install(EXTRAS[error.name])}", 2
    except UnusedCliTokensError as error:
        message, code = f"no option before {' '.join(error.unused_tokens or ())}: --help lists them", 2
    except (CycloptsError, ValueError) as error:
        message, code = str(error), 2
    except (OSError, RuntimeError) as error:
        message, code = str(error), 1
    print(f"{program}: {message.strip()}", file=sys.stderr)
    return code


def how_to_install(extra: str) -> str:
    """
    The command that brings an extra: from the checkout, if this is one. No index is known to have this package, so
    elsewhere it is what the extra asks for.
    """
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "pyproject.toml").is_file():
        editable = ["-e"] if _is_editable() else []
        return shlex.join(["pip", "install", *editable, f"{'.' if Path.cwd() == checkout else checkout}[{extra}]"])
    asked = [text.replace('"', "'").partition(";") for text in metadata.requires("leap-rl") or ()]
    return shlex.join(["pip", "install", *(what.strip() for what, _, when in asked if f"extra == '{extra}'" in when)])


def _is_editable() -> bool:
    try:
        origin = metadata.distribution("leap-rl").read_text("direct_url.json")
    except metadata.PackageNotFoundError:
        return False
    return json.loads(origin or "{}").get("dir_info", {}).get("editable") is True


def run_program(main: Callable[[], int], log_format: str) -> None:
    """
    What a process does that is a command.

    :param main: gives its exit code
    :param log_format: of warnings
    """
    logging.basicConfig(format=log_format)
    logging.captureWarnings(True)
    warnings.formatwarning = lambda message, *_, **__: str(message)  # where it came from is nothing for a user
    # Not by raising SIGINT, which a shell has its background jobs ignore.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
