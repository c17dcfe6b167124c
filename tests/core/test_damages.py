"""
A run whose files were damaged, on purpose or not, never goes on to another θ⁰, and says on one line what to do.

Damages are made of every field of each JSON file, and of every part of each file of tensors; once as an accident makes
them, and once by one who makes the hashes true again.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from leap_rl.core import (
    CheckpointError,
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
from leap_rl.running.checkpoint import read_state

CHECKPOINT, RESULT, RUN = "checkpoints/000003", "running/task-000003-000", "run.json"

Damage = Callable[[Path], None]


@dataclass(frozen=True)
class Slope(Task):
    index: int
    steps: int = 3

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"slope-{self.index}"

    def run(self, job: Job, report: Report) -> TaskResult:
        torch.manual_seed(job.seed)
        model = nn.Linear(2, 2)
        job.initialization.apply_to(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        path = job.learner.observe(dict(model.named_parameters()))
        if path is not None:
            path.attach(optimizer)
        losses = []
        for _ in range(self.steps):
            optimizer.zero_grad()
            loss = (model(torch.randn(4, 2)) - self.index).square().mean()
            loss.backward() if path is None else path.backward(loss)
            optimizer.step()
            losses.append(loss.item())
        return TaskResult(
            self.name,
            LearningCurve(np.arange(1, self.steps + 1), np.array(losses), self.steps, maximize=False),
            self.steps,
            0.01,
            None if path is None else path.meta_gradient(),
            None if path is None else path.statistics(),
            scores={"loss": losses[-1]},
            log=[(self.steps, {"loss": losses[-1]})],
        )


class Slopes(TaskFamily):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Slope:  # type: ignore[override]
        return Slope(range(3)[index])

    def draw_initialization(self, scope: str | None, seed: int) -> Initialization:
        torch.manual_seed(seed)
        return Initialization.of(nn.Linear(2, 2), scope or "all", {"network": "Linear(2, 2)"})


class Interrupted(InProcess):
    """Ends like Ctrl-C after so many results."""

    def __init__(self, results: int) -> None:
        self.results = results

    def outcomes(self, jobs: Any, waiting: Any, on_progress: Any) -> Any:
        for outcome in super().outcomes(jobs, waiting, on_progress):
            if not self.results:
                raise KeyboardInterrupt
            self.results -= 1
            yield outcome


def begin(run_dir: Path, seed: int = 0) -> None:
    """Three meta steps of two tasks, and one task of the fourth."""
    trainer = MetaTrainer(
        Slopes(),
        Leap(metric="length"),
        2,
        meta_optimizer_class=torch.optim.Adam,
        meta_optimizer_kwargs={"lr": 0.05},
        average_from=2,
        eval_tasks=[Slope(5)],
        eval_freq=2,
        engine=Interrupted(3 * 2 + 2 + 1),
        run_dir=run_dir,
        seed=seed,
    )
    with pytest.raises(KeyboardInterrupt):
        trainer.learn(4)


def resumed(run_dir: Path) -> str:
    """θ⁰ after the fourth meta step."""
    trainer = MetaTrainer.load(run_dir, Slopes(), eval_tasks=[Slope(5)], engine=InProcess())
    trainer.learn(1)
    return trainer._current().sha256 + trainer.initialization.sha256


def outcome(run_dir: Path, expected: str) -> str:
    """``refused`` as it should be, or what is wrong."""
    try:
        theta = resumed(run_dir)
    except CheckpointError as error:
        message = str(error)
        if "\n" in message or len(message) > 1000:
            return f"unreadable: {message[:2000]}"
        remedy = re.search(r"[Rr]emove|begin again|put it back|give |new run|was trained|began with", message)
        return "refused" if remedy and str(run_dir) in message else f"no remedy: {message}"
    except Exception as error:
        return f"traceback: {type(error).__name__}: {error}"
    return "the same" if theta == expected else "another θ⁰"


# -- what is done to a file of JSON ----------------------------------------------------------------


def fields(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each value is; of a long list the first alone."""
    if path:
        yield path
    if isinstance(value, dict):
        for key in value:
            yield from fields(value[key], (*path, key))
    elif isinstance(value, list) and value:
        yield from fields(value[0], (*path, 0))


def other_values(value: Any) -> dict[str, Any]:
    """Those that a value may be changed to."""
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    others: dict[str, Any] = {"null": None, "text": "x", "list": [value], "object": {"a": value}, "deep": deep}
    if isinstance(value, bool):
        others |= {"not": not value, "number": 1}
    elif isinstance(value, int | float):
        others |= {"a digit": value + 1, "negative": -1 - abs(value), "large": 10**40, "NaN": float("nan")}
        others |= {"bool": True, "infinite": float("inf"), "a fraction": value + 0.5}
    elif isinstance(value, str):
        others |= {"a letter": f"{value}x", "number": 3, "long": "y" * 5000, "lines": "a\nb", "nothing": ""}
    elif isinstance(value, list):
        others |= {"empty": [], "twice": value + value}
    elif isinstance(value, dict):
        others |= {"empty": {}, "unknown key": value | {"unknown": 1}}
    return {what: other for what, other in others.items() if other != value or type(other) is not type(value)}


def changed(content: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with another value there; ``...`` removes it."""
    content = json.loads(json.dumps(content))
    parent = content
    for key in path[:-1]:
        parent = parent[key]
    if new is ...:
        del parent[path[-1]]
    else:
        parent[path[-1]] = new
    return content


def sealed(content: Any) -> Any:
    """With the hash made true, as one would who means harm: sorted JSON of the rest."""
    if isinstance(content, dict):
        rest = {key: value for key, value in content.items() if key != "sha256"}
        content["sha256"] = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    return content


def json_damages(run_dir: Path, file: str, make_true: bool) -> Iterator[tuple[str, Damage]]:
    content = json.loads((run_dir / file).read_text())
    for path in fields(content):
        if make_true and path == ("sha256",):
            continue
        value = content
        for key in path:
            value = value[key]
        for what, new in {"removed": ..., **other_values(value)}.items():
            made = changed(content, path, new)
            text = json.dumps(sealed(made) if make_true else made)
            yield f"{file} {'.'.join(map(str, path))}: {what}", lambda d, t=text: (d / file).write_text(t)  # type: ignore[misc]


def text_damages(run_dir: Path, file: str) -> Iterator[tuple[str, Damage]]:
    """What no JSON writer makes."""
    text = (run_dir / file).read_text()
    number = re.search(r": (\d+)", text)
    assert number is not None
    key = re.search(r'"\w+": ', text)
    assert key is not None
    texts = {
        "5,000 digits": f"{text[: number.start(1)]}{'9' * 5000}{text[number.end(1) :]}".encode(),
        "a key twice": f"{text[: key.end()]}1, {text[key.start() :]}".encode(),
        "too deep": b"[" * 100_000,
        "too deep and closed": b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        "no UTF-8": text.encode().replace(b'"', b'"\xff', 1),
        "UTF-16": text.encode("utf-16"),
        "empty": b"",
        "a list": b"[]",
        "null": b"null",
        "zeros": bytes(len(text)),
        "half": text[: len(text) // 2].encode(),
        "followed by more": text.encode() + b"{}",
    }
    for what, data in texts.items():
        yield f"{file}: {what}", lambda d, data=data: (d / file).write_bytes(data)  # type: ignore[misc]


# -- what is done to a file of tensors -------------------------------------------------------------


def with_tensors(folder: str, data: bytes, make_true: bool) -> Damage:
    def damage(run_dir: Path) -> None:
        (run_dir / folder / "state.safetensors").write_bytes(data)
        if make_true:
            file = run_dir / folder / "state.json"
            content = json.loads(file.read_text())
            content["tensors" if "tensors" in content else "sha256"] = hashlib.sha256(data).hexdigest()
            file.write_text(json.dumps(sealed(content) if "tensors" in content else content))

    return damage


def byte_damages(run_dir: Path, folder: str) -> Iterator[tuple[str, bytes]]:
    data = (run_dir / folder / "state.safetensors").read_bytes()
    (n,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + n])

    def flipped(offset: int) -> bytes:
        return data[:offset] + bytes([data[offset] ^ 0x41]) + data[offset + 1 :]

    for offset in range(8):
        yield f"byte {offset} of the header's length", flipped(offset)
    for offset in range(8, 8 + n, max(1, n // 12)):
        yield f"byte {offset} of the header", flipped(offset)
    for name, tensor in header.items():
        begin, end = (8 + n + offset for offset in tensor["data_offsets"])
        for offset in {begin, (begin + end) // 2, end - 1}:
            yield f"{name}, byte {offset}", flipped(offset)
        yield f"up to {name}", data[:begin]
        yield f"up to the middle of {name}", data[: end - 1]
    for length in (0, 4, 8, 8 + n // 2, 8 + n):
        yield f"up to byte {length}", data[:length]
    for more in (b"\0", bytes(8), data):
        yield f"{len(more)} bytes more", data + more
    yield "a long header", struct.pack("<Q", 2**63) + data[8:]
    for dtype in ("F4", "F8_E4M3", "X", "BOOL", "F64"):
        for name in header:
            text = json.dumps(header | {name: header[name] | {"dtype": dtype}}).encode()
            yield f"{name} as {dtype}", struct.pack("<Q", len(text)) + text + data[8 + n :]


def tensor_damages(run_dir: Path, folder: str) -> Iterator[tuple[str, bytes]]:
    tensors = safetensors.torch.load((run_dir / folder / "state.safetensors").read_bytes())
    for name, tensor in tensors.items():
        rest = {n: t for n, t in tensors.items() if n != name}
        changes: dict[str, dict[str, Any]] = {"missing": rest, "renamed": {**rest, f"{name}x": tensor}}
        changes["of another shape"] = {**rest, name: torch.cat([tensor.flatten(), tensor.flatten()])}
        changes["of size 0"] = {**rest, name: tensor.flatten()[:0]}
        if torch.complex64 in safetensors.torch._TYPES.values():  # older releases have none
            changes["complex"] = {**rest, name: tensor.to(torch.complex64)}
        changes["of half its precision"] = {**rest, name: tensor.half()}
        if tensor.is_floating_point():
            changes["not finite"] = {**rest, name: torch.full_like(tensor, torch.inf)}
        for what, made in changes.items():
            yield f"{name} {what}", safetensors.torch.save(made)
    yield "one more", safetensors.torch.save({**tensors, "more": torch.zeros(2)})


# -- the checks ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run that was interrupted, and θ⁰ after its next meta step."""
    folder = tmp_path_factory.mktemp("damaged")
    begin(folder / "run")
    shutil.copytree(folder / "run", folder / "whole")
    return folder / "run", resumed(folder / "whole")


def contents(folder: Path) -> dict[str, bytes]:
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def outcomes(run: tuple[Path, str], damages: Iterable[tuple[str, Damage]]) -> dict[str, list[str]]:
    """Names of damages by what came of them."""
    kept, expected = run
    found: dict[str, list[str]] = {}
    victim, whole = kept.with_name("victim"), contents(kept)
    for name, damage in damages:
        if not victim.is_dir() or contents(victim) != whole:
            shutil.rmtree(victim, ignore_errors=True)
            shutil.copytree(kept, victim)
        damage(victim)
        damaged = contents(victim)
        came_of_it = outcome(victim, expected)
        found.setdefault(came_of_it, []).append(name)
        if came_of_it == "refused":
            assert contents(victim) == damaged, f"{name}: a run that is refused is left as it is"
            for file, data in whole.items() - damaged.items():
                if (victim / file).parent.is_dir():
                    (victim / file).write_bytes(data)
    return found


def accidents(kept: Path) -> Iterator[tuple[str, Damage]]:
    for file in (f"{CHECKPOINT}/state.json", f"{RESULT}/state.json", RUN):
        yield from json_damages(kept, file, make_true=False)
    for file in (f"{CHECKPOINT}/state.json", f"{RESULT}/state.json"):
        yield from text_damages(kept, file)
    for folder in (CHECKPOINT, RESULT):
        for what, data in (*byte_damages(kept, folder), *tensor_damages(kept, folder)):
            yield f"{folder} {what}", with_tensors(folder, data, make_true=False)


def harm(kept: Path) -> Iterator[tuple[str, Damage]]:
    for file in (f"{CHECKPOINT}/state.json", f"{RESULT}/state.json"):
        yield from json_damages(kept, file, make_true=True)
    for folder in (CHECKPOINT, RESULT):
        for what, data in (*byte_damages(kept, folder), *tensor_damages(kept, folder)):
            yield f"{folder} {what}", with_tensors(folder, data, make_true=True)


def swaps(kept: Path) -> Iterator[tuple[str, Damage]]:
    """Files that are whole, where they don't belong."""
    other = kept.with_name("other")
    begin(other, seed=1)
    for file in ("state.json", "state.safetensors"):
        for folder in (CHECKPOINT, RESULT):
            yield f"{folder}/{file} is missing", lambda d, f=f"{folder}/{file}": (d / f).unlink()  # type: ignore[misc]
            yield (
                f"{folder}/{file} is another run's",
                lambda d, f=f"{folder}/{file}": shutil.copy(other / f, d / f),  # type: ignore[misc]
            )
        yield (
            f"{CHECKPOINT}/{file} is the one before",
            lambda d, f=file: shutil.copy(d / "checkpoints" / "000002" / f, d / CHECKPOINT / f),  # type: ignore[misc]
        )

    def moved(here: Path, there: Path) -> None:
        shutil.rmtree(there, ignore_errors=True)
        shutil.copytree(here, there)

    for folder in (CHECKPOINT, RESULT):
        yield f"{folder} is another run's", lambda d, f=folder: moved(other / f, d / f)  # type: ignore[misc]
    yield "a checkpoint of another run is newer", lambda d: moved(other / CHECKPOINT, d / "checkpoints/000004")
    yield "a checkpoint is under a later name", lambda d: moved(d / "checkpoints/000002", d / "checkpoints/000009")
    yield "a checkpoint is under an earlier name", lambda d: moved(d / "checkpoints/000002", d / CHECKPOINT)
    yield "a result is under another name", lambda d: moved(d / RESULT, d / "running/task-000003-001")
    yield "an empty checkpoint", lambda d: (d / "checkpoints/000004").mkdir()
    yield "an empty result", lambda d: (d / "running/task-000003-001").mkdir()
    yield "a file for a checkpoint", lambda d: (d / "checkpoints/000004").touch()
    yield "run.json is another run's", lambda d: shutil.copy(other / RUN, d / RUN)
    yield "run.json is missing", lambda d: (d / RUN).unlink()


def one_of_each_field(damages: Iterable[tuple[str, Damage]]) -> Iterator[tuple[str, Damage]]:
    """Of each place one damage, and of the next place the next."""
    by_place: dict[str, list[tuple[str, Damage]]] = {}
    for name, damage in damages:
        by_place.setdefault(name.partition(":")[0], []).append((name, damage))
    for number, of_place in enumerate(by_place.values()):
        yield of_place[number % len(of_place)]


def test_no_accident_goes_unseen(run: tuple[Path, str]) -> None:
    found = outcomes(run, [*one_of_each_field(accidents(run[0])), *text_damages(run[0], f"{CHECKPOINT}/state.json")])
    assert len(found.pop("refused")) > 300 and not found


def test_nothing_whole_is_taken_for_something_else(run: tuple[Path, str]) -> None:
    found = outcomes(run, swaps(run[0]))
    assert len(found.pop("refused")) > 20 and not found


GOES_ON = ("refused", "the same", "another θ⁰")
"""Who makes the hashes true may choose another value that might be true."""


def test_true_hashes_of_nonsense_give_no_traceback(run: tuple[Path, str]) -> None:
    found = outcomes(run, [d for d in one_of_each_field(harm(run[0])) if "history" not in d[0] and "best" not in d[0]])
    assert len(found["refused"]) > 100 and found.keys() <= set(GOES_ON)


@pytest.mark.slow
def test_all_damages(run: tuple[Path, str]) -> None:
    found = outcomes(run, accidents(run[0]))
    assert len(found.pop("refused")) > 2000 and not found
    found = outcomes(run, harm(run[0]))
    assert len(found["refused"]) > 1400 and found.keys() <= set(GOES_ON)


@pytest.mark.parametrize("file", ["state.json", "state.safetensors"])
def test_nobody_waits_for_what_a_pipe_has_to_say(run: tuple[Path, str], tmp_path: Path, file: str) -> None:
    shutil.copytree(run[0] / "checkpoints" / "000003", tmp_path / "000003")
    (tmp_path / "000003" / file).unlink()
    os.mkfifo(tmp_path / "000003" / file)
    with pytest.raises(CheckpointError, match="is no plain file"):
        read_state(tmp_path / "000003", dict)
