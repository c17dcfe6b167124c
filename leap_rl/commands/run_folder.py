"""The folder that a command writes to, and how it goes on in one."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from leap_rl.running.files import clean, nearest
from leap_rl.running.run_file import begin_run, run_settings
from leap_rl.running.run_lock import HOLDER, LOCK, is_unused, next_run_folder, run_lock
from leap_rl.settings import Settings, as_dict, read_preset, settings_file

COMMANDS_WITH_RUNS = ("meta-train", "train", "tune", "compare")

RANDOM_POLICY = "a random policy"
"""What a comparison's runs of it are called, as the others are by what they started from."""


def print_commands(*commands: Sequence[object]) -> None:
    """Those to go on with, each as it runs when it is pasted into a shell."""
    for words in commands:
        print(f"  {shlex.join(map(str, words))}", flush=True)


def saved_agents(folder: Path) -> list[Path]:
    """From first to last."""
    return sorted(p for p in folder.glob("*.zip") if p.stem.isdecimal())


@contextmanager
def run_folder(run_dir: Path | None, resume: bool, command: str) -> Iterator[Path]:
    """
    The folder that a command writes to, which nobody else writes to meanwhile. A new one goes again if nothing was
    written to it.

    :param run_dir: of a new run, or of the one to resume; ``None``: the next free number under ``runs``
    :param resume: whether it is there already
    :param command: that runs
    :raises ValueError: if a new run can't be written there, or the one that is there can't be gone on with
    """
    if resume:
        assert run_dir is not None
        settings_file(run_dir)
        with run_lock(run_dir, f"leap-rl {command} --resume"):
            for kept in (run_dir, run_dir / "results", run_dir / "agents"):
                clean(kept)
            yield run_dir
        return
    wanted = run_dir or Path("runs")
    there = nearest(wanted)
    try:
        folder = next_run_folder(wanted, command) if run_dir is None else run_dir
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if run_dir is not None and run_dir.exists():
            raise ValueError(f"{run_dir} is no folder: choose another --run-dir") from None
        raise ValueError(f"{wanted} can't be written to: {error.strerror}; choose another --run-dir") from None
    with run_lock(folder, f"leap-rl {command}"):
        _forget_what_never_began(folder)
        if not is_unused(folder):
            raise ValueError(f"{folder} exists: --resume {folder} goes on with a run, or choose another --run-dir")
        try:
            yield folder
        finally:
            if is_unused(folder) and folder != there:
                shutil.rmtree(folder, ignore_errors=True)
                for parent in folder.absolute().parents:
                    if parent == there.absolute() or any(parent.iterdir()):
                        break
                    parent.rmdir()


def _forget_what_never_began(folder: Path) -> None:
    """A run that was ended before its settings were written can't be gone on with, and has nothing to lose."""
    begun = {file.name for file in folder.iterdir()} - {LOCK, HOLDER}
    if "run.json" in begun <= {"run.json", "compared.json"} and "command" in run_settings(folder):
        for name in begun:
            (folder / name).unlink()


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
        made = folder / "initialization"
        remedy = f": its initialization is {made}" if made.is_dir() else ""
        raise ValueError(f"{folder} is a run of {', '.join(settings) or 'no command'}, not of {command}{remedy}")
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
