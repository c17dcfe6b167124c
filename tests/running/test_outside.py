"""What comes from outside."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from leap_rl.running.outside import first_line, printable, read_file, read_object
from leap_rl.running.record import typed


def test_what_is_shown_is_text_on_one_line() -> None:
    every = "".join(map(chr, range(0x3000)))
    shown = printable(every, len(every))
    bad = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}  # control, format, surrogates, unassigned, line separators
    assert len(shown) == len(every) and not bad & {unicodedata.category(c) for c in shown}
    assert all(was == is_now for was, is_now in zip(every, shown, strict=True) if was.isalnum() or was in " -[](){}'")
    assert printable("a\n\x1b[2J\tb", keep="\n\t") == "a\n?[2J\tb"
    assert printable(3) == "3" and printable("Pong’s é") == "Pong’s é"


def test_a_long_text_keeps_its_ends() -> None:
    shown = printable("what it is of" + "x" * 10**6 + "what to do", 100)
    assert shown.startswith("what it is of") and shown.endswith("what to do") and len(shown) < 110


def test_the_first_line_of_an_error() -> None:
    assert first_line(OSError("\n\x1bone\ntwo")) == "?one" and first_line(OSError()) == "OSError"


def test_only_plain_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    assert read_file(tmp_path / "file", 5) == read_file(tmp_path / "link", 5) == b"12345"
    with pytest.raises(ValueError, match="file has 5 bytes: more than 4 are refused"):
        read_file(tmp_path / "file", 4)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    for name in ("pipe", "endless", "."):
        with pytest.raises(ValueError, match="is no plain file"):
            read_file(tmp_path / name, 5)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('{"a": {"b": 1, "b": 1}}', "'b' is there twice"),
        ('{"a": [NaN]}', "NaN stands for no number"),
        (f'{{"a": {"1" * 41}}}', "an integer of 41 digits"),
        (f'{{"a": {"1" * 10_000}}}', "an integer of 10000 digits"),
        ('{"a": ' + "[" * 200 + "]" * 200 + "}", "nested too deeply"),
        ('{"a": ' + "[" * 10**6, "nested too deeply"),
        ("[]", "holds no object"),
        ("{", "Expecting"),
    ],
)
def test_json_is_read_strictly(text: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong):
        read_object(text.encode())


def test_json_that_is_read() -> None:
    assert read_object(b'{"a": [1, -2.5, null, Infinity], "b": {"a": "\\u00e9"}}') == {
        "a": [1, -2.5, None, float("inf")],
        "b": {"a": "é"},
    }


def test_what_is_read_has_as_many_levels_as_are_read() -> None:
    """An initialization that was gone on from has one for each time."""
    lineage: dict[str, Any] = {}
    for _ in range(100):
        lineage = {"started_from": lineage}
    assert typed(dict[str, Any], read_object(json.dumps(lineage).encode())) == lineage
