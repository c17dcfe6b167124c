"""Whatever a stranger's folder holds: an initialization of the bytes that are there, or one line that says why not."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from leap_rl import Initialization, zoo
from leap_rl.cli import main
from leap_rl.core import InitializationError
from leap_rl.running.outside import printable
from leap_rl.zoo import artifacts
from leap_rl.zoo.cards import model_card

NUMPY = {"F32": "<f4", "F64": "<f8", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?"}
BITS = {"F4": 4, "F6_E2M3": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F16": 16, "BF16": 16}
BITS |= {"F32": 32, "F64": 64, "I8": 8, "I16": 16, "I32": 32, "I64": 64, "U8": 8, "U16": 16, "U32": 32, "U64": 64}
BITS |= {"BOOL": 8, "C64": 64, "C128": 128, "I4": 4, "Q": 8, "": 8, "F32\x1b[2J\n": 32}

CONTROL = "\x1b]0;x\x07\n\x1b[2J\u202e\u2028\ud800"
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    2**31,
    2**63,
    2**64,
    10**30,
    10**4000,
    1.5,
    float("nan"),
    float("inf"),
]
VALUES += [
    "",
    "x",
    CONTROL,
    "x" * 100_000,
    [],
    [1],
    ["x"],
    [CONTROL],
    [[1]],
    [None],
    [10**30],
    {},
    {"x": 1},
    {"name": 1},
]
VALUES += [{"name": CONTROL}, {"name": "x", CONTROL: CONTROL}, {"timesteps": "x"}, {"timesteps": 7}]

PARTS: dict[str, Any] = {
    "encoder.w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "encoder.b": {"dtype": "F64", "shape": [2], "data_offsets": [24, 40]},
    "buffer:encoder.n": {"dtype": "I64", "shape": [], "data_offsets": [40, 48]},
}
DATA = np.arange(6, dtype="<f4").tobytes() + np.array([1e300, -0.0], "<f8").tobytes() + np.array(2**40, "<i8").tobytes()
CONFIG: dict[str, Any] = {
    "network": "Small",
    "preprocessing": "none",
    "source": "a test",
    "tasks": ["Pong"],
    "action_meanings": ["NOOP"],
    "learner": {"name": "Leap"},
    "started_from": {"timesteps": 5, "learner": None, "started_from": {"tasks": []}},
    **dict.fromkeys(("timesteps", "meta_steps", "meta_batch_size", "steps_per_visit", "averaged_from"), 4),
    **dict.fromkeys(("recycled_units", "seed", "versions", "observation_shape", "games", "anything"), 4),
    "format": "leap-rl initialization",
    "format_version": 1,
    "scope": "encoder",
}


def write(folder: Path, header: Any = PARTS, data: bytes = DATA, length: int = 0, **changes: Any) -> None:
    """Consistent in all that is not changed, hash and shapes included, as a stranger would have it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    tensors = struct.pack("<Q", (len(text) + length) % 2**64) + text + data
    shapes = {}
    if isinstance(header, dict):
        shapes = {name: part.get("shape") for name, part in header.items() if isinstance(part, dict)}
    sha256 = hashlib.sha256(tensors).hexdigest()
    files(folder, json.dumps({**CONFIG, "sha256": sha256, "shapes": shapes, **changes}).encode(), tensors)


def files(folder: Path, config: bytes, tensors: bytes) -> None:
    folder.mkdir()
    (folder / "config.json").write_bytes(config)
    (folder / "model.safetensors").write_bytes(tensors)


def with_part(name: str, **changes: Any) -> dict[str, Any]:
    return {**PARTS, name: {**PARTS[name], **changes}}


def tensors() -> Iterator[Callable[[Path], None]]:
    for dtype, bits in BITS.items():
        for name in PARTS:
            others = {other: part for other, part in PARTS.items() if other != name}
            size = 8 * bits // 8
            header = {name: {"dtype": dtype, "shape": [8], "data_offsets": [0, size]}}
            at, data = size, bytes(size)
            for other, part in others.items():
                begin, end = part["data_offsets"]
                header[other] = {**part, "data_offsets": [at, at + end - begin]}
                at, data = at + end - begin, data + DATA[begin:end]
            yield lambda f, h=header, d=data: write(f, h, d)
    for name, part in PARTS.items():
        for key in part:
            for value in VALUES:
                yield lambda f, n=name, k=key, v=value: write(f, with_part(n, **{k: v}))
            yield lambda f, n=name, k=key: write(f, {**PARTS, n: {a: b for a, b in PARTS[n].items() if a != k}})
        for value in VALUES:
            yield lambda f, n=name, v=value: write(f, {**PARTS, n: v})
        for begin in (-1, 0, 8, 24, 40, 48, 2**63, 2**64):
            for end in (-1, 0, 8, 24, 40, 48, 49, 2**63, 2**64):
                yield lambda f, n=name, o=(begin, end): write(f, with_part(n, data_offsets=o))
        for shape in ([0], [0, 2**63], [0, 2**64 - 1], [0] * 70, [1] * 70, [1] * 9, [6, 1], [2**32, 2**32], [-2, -3]):
            yield lambda f, n=name, s=shape: write(f, with_part(n, shape=s))
        other = json.dumps({name: part})[1:]
        yield lambda f, o=other: write(f, (json.dumps(PARTS)[:-1] + ", " + o).encode(), shapes=SHAPES)
    for name in ("", CONTROL, "x" * 100_000, "buffer:", "buffer:buffer:x", "__metadata__", "encoder", "w\u0000"):
        yield lambda f, n=name: write(
            f, {**{k: v for k, v in PARTS.items() if k != "encoder.w"}, n: PARTS["encoder.w"]}
        )
    for metadata in VALUES:
        yield lambda f, m=metadata: write(f, {"__metadata__": m, **PARTS}, shapes=SHAPES)
    for header in (b"", b"{", b"[]", b"null", b"[" * 50_000, b'{"a":' * 50_000, b"\xff\xfe", b"{}", b"{}" + b" " * 64):
        yield lambda f, h=header: write(f, h)
    for length in (-10_000, -8, -1, 1, 8, 48, 49, 10**6, 10**8, 2**62, 2**63):
        yield lambda f, n=length: write(f, length=n)
    for value in (np.nan, np.inf, -np.inf):
        yield lambda f, v=value: write(f, data=np.full(1, v, "<f4").tobytes() + DATA[4:])
        yield lambda f, v=value: write(f, data=DATA[:32] + np.full(1, v, "<f8").tobytes() + DATA[40:])
    for data in (b"", DATA[:-1], DATA + b"\0", DATA * 2):
        yield lambda f, d=data: write(f, data=d)


SHAPES = {name: part["shape"] for name, part in PARTS.items()}


def configs() -> Iterator[Callable[[Path], None]]:
    for key in (*CONFIG, "sha256", "shapes"):
        for value in VALUES:
            yield lambda f, k=key, v=value: write(f, **{k: v})
        yield lambda f, k=key: edited(f, lambda c: {a: b for a, b in c.items() if a != k})
        yield lambda f, k=key: edited(f, lambda c: c, f', "{k}": 4}}')
    for field in ("tasks", "timesteps", "learner", "started_from", "network"):  # of what it started from
        for value in VALUES:
            yield lambda f, n=field, v=value: write(f, started_from={"started_from": {n: v}})
    for depth in (10, 100, 900):
        nested = json.loads('{"started_from": ' * depth + "{}" + "}" * depth)
        yield lambda f, n=nested: write(f, started_from=n)
    for text in ("", "{", "[]", "null", "[" * 100_000, '{"a":' * 100_000, "{}" * 2, "\ufeff{}", '{"format": 1e999}'):
        yield lambda f, t=text: edited(f, lambda c: None, t)


def edited(folder: Path, change: Callable[[Any], Any], end: str = "}") -> None:
    write(folder)
    config = change(json.loads((folder / "config.json").read_bytes()))
    text = "" if config is None else json.dumps(config)[:-1]
    (folder / "config.json").write_text(text + end)


def cuts() -> Iterator[Callable[[Path], None]]:
    """At every place of a file, with the hash made to fit or left."""

    def cut(folder: Path, file: str, share: float, fits: bool, put: bytes | None) -> None:
        write(folder)
        content = (folder / file).read_bytes()
        at = int(share * len(content))
        content = content[:at] + (b"" if put is None else put + content[at + 1 :])
        (folder / file).write_bytes(content)
        if fits and file == "model.safetensors":
            config = json.loads((folder / "config.json").read_bytes())
            config["sha256"] = hashlib.sha256(content).hexdigest()
            (folder / "config.json").write_text(json.dumps(config))

    for file in ("config.json", "model.safetensors"):
        for i in range(100):
            for put in (None, b"\0", b"\xff", b'"', b"9"):
                yield lambda f, n=file, s=i / 100, p=put, y=i % 3 > 0: cut(f, n, s, y, p)


def kinds() -> Iterator[Callable[[Path], None]]:
    """Of files."""
    makers: list[Callable[[Path], Any]] = [
        os.mkfifo,
        os.mkdir,
        lambda p: p.symlink_to("/dev/zero"),
        lambda p: p.symlink_to(p),
        lambda p: p.symlink_to("/nowhere"),
        lambda p: p.symlink_to(p.parent / "other"),
        lambda p: (p.write_bytes(b""), os.truncate(p, 2**40)),
        lambda p: p.write_bytes(b""),
        lambda p: socket.socket(socket.AF_UNIX).bind(os.path.relpath(p)),
    ]

    def made(folder: Path, file: str, make: Callable[[Path], Any]) -> None:
        write(folder)
        (folder / file).unlink(missing_ok=True)
        make(folder / file)

    for file in ("config.json", "model.safetensors", "README.md", "curves.json", CONTROL[:-1], ".x"):
        for make in makers:
            yield lambda f, n=file, m=make: made(f, n, m)


def check_outcome(folder: Path, load: Callable[[Path], Initialization]) -> str:
    """
    :return: ``"loaded"`` or ``"refused"``
    """
    try:
        found = load(folder)
    except InitializationError as error:
        message = str(error)
        assert message.isprintable() and 0 < len(message) < 700, message
        return "refused"
    raw = (folder / "model.safetensors").read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    header.pop("__metadata__", None)
    loaded = {**found.parameters, **{f"buffer:{name}": tensor for name, tensor in found.buffers.items()}}
    assert loaded.keys() == header.keys() and found.parameters
    for name, part in header.items():
        begin, end = part["data_offsets"]
        expected = np.frombuffer(data[begin:end], NUMPY[part["dtype"]]).reshape(part["shape"])
        assert np.array_equal(loaded[name].numpy(), expected) and np.isfinite(expected).all() and expected.size
    config = json.loads((folder / "config.json").read_bytes())
    assert {**config, **found.config} == config
    return "loaded"


@pytest.mark.parametrize("load", [zoo.check, Initialization.load], ids=["zoo", "core"])
@pytest.mark.parametrize("damages", [tensors, configs, cuts, kinds], ids=lambda d: d.__name__)
def test_whatever_a_folder_holds(tmp_path: Path, damages: Any, load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "good")
    assert check_outcome(tmp_path / "good", load) == "loaded"
    outcomes = []
    for i, damage in enumerate(damages()):
        damage(tmp_path / f"d{i}")
        outcomes.append(check_outcome(tmp_path / f"d{i}", load))
    assert "refused" in outcomes and "loaded" in outcomes, "some damages do no harm, such as another seed"


def test_one_bad_entry_is_shown_and_the_rest_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """A third of the damages of a config and every kind of file at once, in one zoo."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("LEAP_RL_ZOO", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    damages = [*[*configs()][::3], *kinds()]
    for i, damage in enumerate(damages):
        damage(tmp_path / f"d{i}")
    write(tmp_path / "good")
    write(tmp_path / ("long" * 30))
    bad = []
    for i in range(len(damages)):
        try:
            found = zoo.load(f"d{i}")
        except InitializationError:
            bad.append(f"d{i}")
        else:
            card = model_card(f"d{i}", found)
            json.dumps(artifacts.summary(f"d{i}"))
            assert printable(card, len(card), keep="\n") == card
    assert 200 < len(bad) < len(damages)
    assert main(["zoo", "list"]) == 0
    shown = capsys.readouterr().out
    assert printable(shown, len(shown), keep="\n") == shown
    rows = {line.split()[0]: line for line in shown.splitlines()[1:] if line}
    assert all("can't be trusted" in rows[name] for name in bad) and "Small" in rows["good"]
    (tmp_path / "good" / "README.md").write_text("# Card\n" + CONTROL[:-1] * (300_000 // len(CONTROL)))
    assert main(["zoo", "show", "good"]) == 0
    shown = capsys.readouterr().out
    assert printable(shown, len(shown), keep="\n") == shown and "# Card\n" in shown and len(shown) < 60_000
    assert main(["zoo", "verify"]) == 2
    out, err = capsys.readouterr()
    assert printable(out + err, len(out + err), keep="\n") == out + err
    there = len(damages) + 2 + len(list(artifacts.PUBLISHED.iterdir()))
    assert f"{len(bad) + 1} of {there} can't be trusted" in err and "\ngood: good; Small" in out
    assert len(out.splitlines()) == there and max(map(len, out.splitlines())) < 900
