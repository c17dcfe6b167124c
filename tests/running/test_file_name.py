"""Names of tasks as files: inside their folder, each another, and TensorBoard finds what it is told to show."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout

from leap_rl.running.file_name import file_name
from leap_rl.running.logger import TensorBoardLogger

NAMES = [
    "/data/lvl1.txt",
    "data/lvl1.txt",
    "data%2Flvl1.txt",
    "../../x",
    "..",
    ".",
    "",
    "%",
    " ",
    ".hidden",
    "a.",
    "a ",
    "a",
    "level (easy)",
    "level [easy]",
    "gravity=+9.8",
    "gravity=9.8",
    "c:\\x",
    "con",
    "CON.txt",
    "x" * 300,
    "x" * 299 + "y",
    "é" * 200,
    "größe 1",
    "re\u0301",
    "r\u00e9",
    "\ud800",
    "a\nb",
    "a\x00b",
    "a|b",
    "*?^$",
    "a$",
]
ORDINARY = [
    "SpaceInvaders",
    "training-3",
    "SpaceInvaders from atari-a2c-leap seed 2",
    "Japanese_(hiragana)",
    "0.5 kg, 0.6 m",
    "a random policy",
]


@pytest.mark.parametrize("name", ORDINARY)
def test_ordinary_names_stay_as_they_are(name: str) -> None:
    assert file_name(name) == name


def test_all_names_make_files_of_their_own_inside_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{file_name(name)} from {file_name(name)} seed 2").mkdir()
        (folder / file_name(name)).mkdir()  # raises where it is there
    assert sorted(os.listdir(tmp_path)) == ["folder"]
    assert len(os.listdir(folder)) == 2 * len(NAMES)
    assert not any(file.startswith(".") for file in os.listdir(folder))


@given(st.lists(st.text(alphabet=st.characters(), max_size=120), unique=True, max_size=8))
def test_no_two_names_collide(names: list[str]) -> None:
    made = [file_name(name) for name in names]
    assert len(set(made)) == len(names)
    for file in made:
        assert len(file.encode()) <= 100 and os.path.normpath(f"/a/{file}") == f"/a/{file}" and file == Path(file).name
        assert file_name(file) == file or "%" in file


def test_the_charts_of_tasks_find_their_tags(tmp_path: Path) -> None:
    """With TensorBoard's own matching, of tags that it reads from the disk."""
    names = [name for name in NAMES if name and "\ud800" not in name and "\x00" not in name]
    logger = TensorBoardLogger(tmp_path)
    logger.describe({}, names)
    for number, name in enumerate(names):
        logger.record(f"area/task/{name}", number)
    logger.dump(1)
    logger.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    layout = Layout.FromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    charts = {chart.title: chart.multiline.tag[0] for chart in layout.category[1].chart}
    tags = events.Tags()["scalars"]
    for number, name in enumerate(names):
        found = [tag for tag in tags if re.compile(charts[name]).match(tag)]
        assert [events.Scalars(tag)[0].value for tag in found] == [number], name
