"""One door for initializations: folders, names, the Hub; and a zoo that nobody's folder shadows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from leap_rl import Initialization, zoo
from leap_rl.cli import main
from leap_rl.core import InitializationError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LEAP_RL_ZOO", str(tmp_path / "zoo"))
    return tmp_path / "zoo"


def small(value: float) -> Initialization:
    return Initialization({"encoder.w": torch.full((2,), value)}, "encoder", {}, {"network": "Mine"})


def test_names_and_folders_and_what_lies_here_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Initialization.load("atari-a2c-reptile")
    assert found.sha256 == zoo.load("atari-a2c-reptile").sha256
    assert Initialization.load(zoo.folder_of("atari-a2c-reptile")).sha256 == found.sha256
    monkeypatch.chdir(tmp_path)
    small(1.0).save("atari-a2c-reptile")
    assert Initialization.load("atari-a2c-reptile").parameters["encoder.w"].tolist() == [1.0, 1.0]
    assert zoo.load("atari-a2c-reptile").sha256 == found.sha256


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (
            "atari-a2c-reptil",
            r"^atari-a2c-reptil is no initialization: there is no such folder.*did you mean atari-a2c",
        ),
        ("runs/mine", r"^runs/mine is no initialization: there is no such folder$"),
        ("hf://owner", "is no name of an initialization"),
        ("hf://owner/na me", "is no name of an initialization"),
        (Path("atari-a2c-reptile"), "is no initialization: config.json is missing"),
    ],
)
def test_what_is_not_there(what: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InitializationError, match=message):
        Initialization.load(what)
    assert not list(tmp_path.iterdir())


def in_a_folder_with_a_zoo(folder: Path, script: str) -> str:
    """Where somebody's own package is called zoo."""
    (folder / "zoo").mkdir()
    (folder / "zoo" / "__init__.py").write_text("animals = ['okapi']\n")
    (folder / "script.py").write_text(script)
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "LEAP_RL_ZOO": str(folder / "cache")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_users_own_folder_called_zoo_is_theirs_and_shadows_nothing(tmp_path: Path) -> None:
    printed = in_a_folder_with_a_zoo(
        tmp_path,
        """
import zoo
print(zoo.animals)
from leap_rl import Initialization
from leap_rl.cli import main
from leap_rl.zoo import load
print(len(Initialization.load("atari-a2c-leap").parameters), len(load("atari-a2c-leap").parameters))
assert main(["zoo", "verify", "atari-a2c-reptile"]) == 0
""",
    )
    lines = printed.splitlines()
    assert lines[0] == "['okapi']" and lines[1] == "8 8" and lines[2].startswith("atari-a2c-reptile: good; NatureCNN")


def test_the_short_name_has_what_it_had_and_a_star_import_replaces_no_builtin(tmp_path: Path) -> None:
    import zoo as short

    for name in (*zoo.__all__, "list"):
        assert getattr(short, name) is getattr(zoo, name)
    assert set(dir(short)) >= {*zoo.__all__, "list"} and short.__all__ == zoo.__all__
    assert "atari-a2c-leap" in short.list()
    names: dict[str, Any] = {}
    exec("from zoo import *\nassert list is __builtins__['list']", names)
    assert names["load"] is zoo.load
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        _ = short.lod


def test_the_hub_without_its_extra_is_one_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delitem(sys.modules, "leap_rl.zoo.hub", raising=False)
    assert main(["train", "Pong", "--init", "hf://owner/name", "--run-dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert re.fullmatch(r"leap-rl: huggingface_hub is not installed: pip install .*\[hub\]'?\n", said), said
