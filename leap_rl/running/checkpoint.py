"""Checkpoints on disk: tensors as safetensors, the rest as JSON, no pickle."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from leap_rl.running import record
from leap_rl.running.files import UNFINISHED, clean, replacing_folder
from leap_rl.running.integers import integer
from leap_rl.running.outside import read_file
from leap_rl.running.run_file import begin_run, run_id
from leap_rl.running.run_lock import run_lock

if TYPE_CHECKING:  # what a run says of itself is read without torch
    from torch import Tensor

FORMAT = "leap-rl checkpoint"
FORMAT_VERSION = 3
TENSORS = "state.safetensors"


class Step(Protocol):
    """The state of a training, a dataclass."""

    @property
    def step(self) -> int:
        """After which it was saved: of a meta-training its meta steps."""


State = TypeVar("State")
Saved = TypeVar("Saved", bound=Step)


class CheckpointError(ValueError):
    """A checkpoint that cannot be read; says what and what to do."""


class Checkpoints:
    """
    What a training leaves on disk: a checkpoint after a step of it (a meta step, a visit, a pass, so many updates) and,
    of a meta-training, the results of the running meta step, so that a task of an hour is not lost with it. Each is a
    folder that appears whole or not at all.

    ``running`` holds the results of the running meta step, by ``save_result``.

    :param run_dir: of the training
    :param keep: how many of the last checkpoints stay
    :param keep_every: those of every n-th step stay, too; 0: none
    """

    def __init__(self, run_dir: Path, keep: int = 3, keep_every: int = 0) -> None:
        self.run_dir = run_dir
        self.keep = integer("keep_checkpoints", keep, least=1)
        self.keep_every = integer("keep_every", keep_every, least=0)
        self.folder = run_dir / "checkpoints"
        self.running = run_dir / "running"
        self._run: str | None = None

    @property
    def run(self) -> str:
        """
        Names the run, in all that it leaves; a new one begins with it.

        :raises ValueError: if there are checkpoints, but nothing says of which run
        """
        if self._run is None:
            if not self.steps():
                if self.running.exists() and not (self.run_dir / "run.json").is_file():
                    raise ValueError(f"{self.running} is no run's, and would be removed: choose another run_dir")
                begin_run(self.run_dir)
            self._run = run_id(self.run_dir)
        return self._run

    def steps(self) -> list[int]:
        """Those that have a checkpoint."""
        return sorted(int(p.name) for p in self.folder.glob("*") if p.name.isdecimal())

    def of(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self.folder / f"{step:06d}"

    @contextmanager
    def alone(self, step: int) -> Iterator[None]:
        """
        Nobody else goes on with the run meanwhile. What a process that was killed left half written goes.

        :param step: that whoever goes on with it stands at
        :raises ValueError: if somebody else does, or has gone on from there already
        """
        with run_lock(self.folder, "whoever goes on with this run"):
            made = self.steps()
            if made and made[-1] > step:
                raise ValueError(
                    f"{self.run_dir} has gone on from {step} to {made[-1]} meanwhile: load it again to go on from there"
                )
            self.clean()
            yield

    def clean(self) -> None:
        """Remove what a process that was killed left half written."""
        clean(self.folder)
        clean(self.running)
        # The folder of the run may be a project's: there it is what a trainer writes alone.
        for name in ("running", "best_initialization", "initialization", "run"):
            clean(self.run_dir, name)

    def save(self, tensors: Mapping[str, Tensor], state: Step, any_value: Collection[str] = ()) -> None:
        """
        Write the checkpoint after a step; older ones and the results that led to it go.

        :param tensors: by name
        :param state: the rest, what JSON holds
        :param any_value: names of tensors that need not be finite
        :raises RuntimeError: if another is not finite, which could not be gone on with; the last checkpoint stays
        :raises OSError: if there is no room for it
        """
        if diverged := [n for n, tensor in tensors.items() if n not in any_value and not tensor.isfinite().all()]:
            raise RuntimeError(
                f"it diverged: after step {state.step} {diverged[0]} is not finite, and not saved; a smaller learning "
                "rate may help"
            )
        write(self.of(state.step), self.run, tensors, state)
        for step in self.steps()[: -self.keep]:
            if not self.keep_every or step % self.keep_every:
                _remove(self.of(step))
        if self.running.exists():
            _remove(self.running)

    def load(self, form: type[Saved], any_value: Collection[str] = ()) -> tuple[dict[str, Tensor], Saved]:
        """
        The last checkpoint.

        :param form: a dataclass that says what its state is
        :param any_value: as of ``save``
        :raises CheckpointError: if it is missing, foreign, damaged, of another version or another run; it names the
            last one that is whole
        """
        if not self.steps():
            raise CheckpointError(f"{self.run_dir} holds no checkpoint: it is no run of leap_rl, or has not begun")
        try:
            return self._read(self.steps()[-1], form, any_value)
        except CheckpointError as error:
            raise self.refused(error, form) from None

    def state(self, form: type[Saved]) -> Saved:
        """The last checkpoint without its tensors, which are compared with their hash alone; as ``load`` otherwise."""
        if not self.steps():
            return self.load(form)[1]  # which says so
        try:
            return read_state(self.of(self.steps()[-1]), form)[1]
        except CheckpointError as error:
            raise self.refused(error, form) from None

    def refused(self, error: ValueError, form: type[Saved]) -> CheckpointError:
        """
        What to say where the last checkpoint can't be gone on with, and how to go on from the one before it.

        :param error: that says why; one that is no ``CheckpointError`` doesn't name the checkpoint yet
        :param form: as of ``load``
        """
        *before, last = self.steps()
        if not isinstance(error, CheckpointError):
            error = CheckpointError(
                f"{self.of(last)} does not fit: {' '.join(str(error).split())[: record.LONGEST_SHOWN]}"
            )
        remove = [self.of(last)]
        for step in reversed(before):
            try:
                self._read(step, form)
            except ValueError:
                remove.append(self.of(step))
            else:
                folders = " and ".join(map(str, remove))
                return CheckpointError(f"{error}. {self.of(step)} is whole: remove {folders} to go on from it")
        return CheckpointError(f"{error}. No other checkpoint is whole: begin again in another folder")

    def _read(self, step: int, form: type[Saved], any_value: Collection[str] = ()) -> tuple[dict[str, Tensor], Saved]:
        tensors, state, run = read(self.of(step), form, any_value)
        if state.step != step:
            raise CheckpointError(f"{self.of(step)} was saved after {state.step}")
        if run != self.run:
            raise CheckpointError(f"{self.of(step)} is of another run than {self.run_dir / 'run.json'}")
        return tensors, state


def write(folder: Path, run: str, tensors: Mapping[str, Tensor], state: object) -> None:
    """
    :param folder: to appear, or to be replaced
    :param run: that it is of
    :param tensors: by name
    :param state: a dataclass of what JSON holds, and of dataclasses
    :raises OSError: if there is no room for it
    """
    import safetensors.torch

    data = safetensors.torch.save({name: t.detach().contiguous() for name, t in tensors.items()})
    header = {"format": FORMAT, "format_version": FORMAT_VERSION, "run": run, "name": folder.name}
    text = record.sealed({**header, "tensors": hashlib.sha256(data).hexdigest(), "state": vars(state)}).encode()
    with replacing_folder(folder, [len(data), len(text)]) as temporary:
        (temporary / TENSORS).write_bytes(data)
        (temporary / "state.json").write_bytes(text)


@dataclass(frozen=True)
class _Header:
    run: str
    name: str
    tensors: str
    state: dict[str, Any]


def read(folder: Path, form: type[State], any_value: Collection[str] = ()) -> tuple[dict[str, Tensor], State, str]:
    """
    What ``write`` wrote; nothing of it is run.

    :param form: of the state
    :param any_value: names of tensors that need not be finite
    :return: tensors, state, and the run that it is of
    :raises CheckpointError: if it is missing, foreign, damaged, renamed, or of another version; without a remedy
    """
    data, state, run = read_state(folder, form)
    try:
        return _tensors(data, any_value), state, run
    except ValueError as error:
        raise CheckpointError(f"{folder} is damaged: {error}") from None


def read_state(folder: Path, form: type[State]) -> tuple[bytes, State, str]:
    """As ``read``, with the tensors as they lie on disk."""
    try:
        content = record.read(folder / "state.json")
        data = read_file(folder / TENSORS, record.LARGEST_FILE)
        if content.pop("format", None) != FORMAT:
            raise CheckpointError(f"{folder} is no checkpoint of leap_rl")
        version = content.pop("format_version", None)
        if version != FORMAT_VERSION or isinstance(version, bool):
            raise CheckpointError(
                f"{folder} has format version {record.shown(version)}, this leap_rl reads {FORMAT_VERSION}"
            )
        record.check_seal(content, {"format": FORMAT, "format_version": FORMAT_VERSION})
        header = record.typed(_Header, content)
        if header.name != folder.name:
            raise ValueError(f"it is {record.shown(header.name)} under another name")
        if header.tensors != hashlib.sha256(data).hexdigest():
            raise ValueError("the sha256 of state.safetensors is not the one in state.json")
        return data, record.typed(form, header.state, "state"), header.run
    except CheckpointError:
        raise
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} is damaged: {error}") from None


def _tensors(data: bytes, any_value: Collection[str]) -> dict[str, Tensor]:
    import safetensors.torch

    try:
        tensors = safetensors.torch.load(data)
    except Exception as error:  # whatever a library says of bytes that it was not made for
        raise ValueError(f"state.safetensors can't be read: {record.shown(str(error))}") from None
    for name, tensor in tensors.items():
        if name not in any_value and not tensor.isfinite().all():
            raise ValueError(f"{record.shown(name)} is not finite")
    return tensors


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str = "") -> None:
    """
    :param tensors: by name, as they were read
    :param expected: those that there must be, of the same shapes and dtypes
    :param what: begins their names
    :raises ValueError: naming the first that is missing, too many, or of another shape or dtype
    """
    for name in [*expected, *tensors]:
        mine, there = tensors.get(name), expected.get(name)
        if mine is None or there is None:
            raise ValueError(f"{record.shown(what + name)} is {'missing' if mine is None else 'of no use'}")
        if (mine.shape, mine.dtype) != (there.shape, there.dtype):
            said = f"{tuple(mine.shape)} of {mine.dtype}, not {tuple(there.shape)} of {there.dtype}"
            raise ValueError(f"{record.shown(what + name)} is {said}")


def checkpoint_bytes(theta: Mapping[str, Tensor], kept: int, meta_batch_size: int) -> int:
    """
    At most so many bytes are on disk at once: checkpoints of θ⁰, the meta optimizer (Adam's two moments), the best and
    the averaged θ⁰, one more of them than stay, and the results of a meta batch.
    """
    return sum(t.nbytes for t in theta.values()) * (5 * (kept + 1) + meta_batch_size)


def _remove(folder: Path) -> None:
    """At once for whoever looks for it: renamed first. What a network's disk keeps while it is read, ``clean`` has."""
    hidden = Path(tempfile.mkdtemp(prefix=f".{folder.name}{UNFINISHED}removed-", dir=folder.parent))
    os.replace(folder, hidden / folder.name)
    shutil.rmtree(hidden, ignore_errors=True)
