"""The folder that a command writes to, and how it goes on in one."""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leap_rl.core.logger import next_run_folder
from leap_rl.core.run_file import begin_run, run_settings
from leap_rl.settings import Settings, as_dict, read_preset, settings_file

COMMANDS_WITH_RUNS = ("meta-train", "train", "compare")

RANDOM_POLICY = "a random policy"
"""What a comparison's runs of it are called, as the others are by what they started from."""


def print_commands(*commands: Sequence[object]) -> None:
    """Those to go on with, each as it runs when it is pasted into a shell."""
    for words in commands:
        print(f"  {shlex.join(map(str, words))}", flush=True)


def open_run_folder(run_dir: Path | None, resume: bool, command: str, settings: Settings, may_change: set[str]) -> Path:
    """
    :param run_dir: of a new run, or of the one to resume
    :param resume: whether it is there already
    :param command: that runs
    :param settings: of the run
    :param may_change: names of those that a resumed run may be given anew
    :raises ValueError: if a new run can't be written there, or the one that is there can't be gone on with
    """
    if not resume:
        return new_run_folder(run_dir, command)
    assert run_dir is not None
    check_same_settings(run_dir, command, settings, may_change)
    return run_dir


def new_run_folder(run_dir: Path | None, command: str) -> Path:
    """
    :param run_dir: as given; ``None``: the next free number under ``runs``
    :raises ValueError: if it holds anything, or can't be written to
    """
    if run_dir is None:
        run_dir = next_run_folder(Path("runs"), command)
    if run_dir.exists() and (not run_dir.is_dir() or any(run_dir.iterdir())):
        raise ValueError(f"{run_dir} exists: --resume {run_dir} goes on with a run, or choose another --run-dir")
    above = next(parent for parent in (run_dir, *run_dir.absolute().parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise ValueError(f"{run_dir} can't be written to: {error.strerror}; choose another --run-dir") from None
    return run_dir


def begin(folder: Path, command: str, settings: Settings, may_change: set[str]) -> None:
    """
    Write ``run.json`` for a new run, with the settings that must stay as they are: ``settings.yaml`` may be edited.

    :raises OSError: if there is no room for it
    """
    must_stay = {name: value for name, value in _flat(as_dict(settings)).items() if name not in may_change}
    begin_run(folder, {"command": command, **must_stay})


def stored_settings(folder: Path, command: str) -> dict[str, Any]:
    """
    The settings of a run.

    :raises ValueError: if the folder is none of that command's
    """
    settings = read_preset(str(settings_file(folder)), {command, *COMMANDS_WITH_RUNS})
    if command not in settings:
        raise ValueError(f"{folder} is a run of {', '.join(settings)}, not of {command}")
    return dict(settings[command])


def check_same_settings(folder: Path, command: str, settings: Settings, may_change: set[str]) -> None:
    """
    :param settings: those of ``settings.yaml``, which may have been edited, and of the command line
    :param may_change: names of settings that a resumed run may be given anew
    :raises ValueError: naming what else differs from those that the run began with, of which ``run.json`` tells
    """
    in_file = _flat(stored_settings(folder, command))
    # A setting that is younger than the run had its default.
    before = _flat(as_dict(type(settings)())) | run_settings(folder)
    now = _flat(as_dict(settings)) | {"command": command}
    for name in sorted({*before, *now} - may_change):
        if before.get(name) != now.get(name):
            edited = in_file.get(name) == now.get(name)
            remedy = f"put it back in {folder / 'settings.yaml'}" if edited else "leave it out"
            raise ValueError(f"{folder} began with {name}={before.get(name)}, not {now.get(name)}: {remedy} to resume")


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = json.loads(json.dumps(value))
    return flat
