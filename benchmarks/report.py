"""What the benchmarks of this folder share: rows with a target, as a table and as JSON."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from leap_rl.running.files import write_text


@dataclass
class Row:
    """
    One comparison.

    :param name: of the row
    :param ours: what was measured of ours
    :param rival: what was measured of the rival, in the same run
    :param unit: of both
    :param target: that the ratio (ours by rival) must reach, or must not exceed where ``less`` is better
    :param less: whether a smaller ratio is better
    :param what: what is compared, with threads and processes
    """

    name: str
    ours: float
    rival: float
    unit: str
    target: float
    what: str
    less: bool = False

    @property
    def ratio(self) -> float:
        return self.ours / self.rival

    @property
    def met(self) -> bool:
        return self.ratio <= self.target if self.less else self.ratio >= self.target


def machine() -> dict[str, Any]:
    """What a figure depends on."""
    flags, model = "", platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        text = cpuinfo.read_text()
        fields = dict(line.split("\t: ", 1) for line in text.split("\n\n")[0].splitlines() if "\t: " in line)
        fields = {k.strip(): v for k, v in fields.items()}
        model, flags = fields.get("model name", model), fields.get("flags", "")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": model,
        "cores": os.cpu_count(),
        "flags": [f for f in flags.split() if f.startswith(("avx", "amx"))],
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch_threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "stable-baselines3", "ale-py", "numpy")},
    }


def about(machine: Mapping[str, Any]) -> str:
    """When, on what, and with which versions something was measured, in a line."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    cpu = f"{machine['cpu']}, {machine['cores']} cores ({', '.join(machine['flags'])})"
    return f"{machine['date']}; {cpu}, GPU: {machine['gpu'] or 'none'}; Python {machine['python']}, {versions}."


def at_least_one(text: str) -> int:
    """
    Type of an argument that counts: of no repeats, say, there is no median, which only shows after the runs.

    :raises ArgumentTypeError: if it is less than 1
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return int(text)


def parser(description: str | None) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--quick", action="store_true", help="under 60 seconds; noisy")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the rows there, too")
    return made


def keep(content: object, file: Path | None) -> None:
    """
    :param content: what JSON holds
    :param file: to write, whole or not at all; ``None`` writes nothing
    """
    if file is not None:
        write_text(file, json.dumps(content, indent=1) + "\n")


def publish(rows: list[Row], file: Path | None, notes: Mapping[str, str] | None = None) -> None:
    """
    Print the rows and write them.

    :param file: JSON to write: a list of rows, each with the machine
    :param notes: more figures, without a target; in the JSON they are with the first row
    """
    print(f"\n{'row':22}{'ours':>12}{'rival':>12}  {'unit':12}{'ratio':>8}{'target':>9}")
    for row in rows:
        sign = "≤" if row.less else "≥"
        figures = (
            f"{row.ours:12,.4g}{row.rival:12,.4g}  {row.unit:12}{row.ratio:8.3f}{sign + format(row.target, '.3g'):>9}"
        )
        print(f"{row.name:22}{figures}  {'met' if row.met else 'MISSED'}  {row.what}")
    for name, value in (notes or {}).items():
        print(f"{name}: {value}")
    if file is not None:
        made = [{**asdict(row), "ratio": row.ratio, "met": row.met, **machine()} for row in rows]
        made[0]["notes"] = dict(notes or {})
        keep(made, file)


def alternate(ways: Mapping[str, Callable[[], float]], repeats: int) -> dict[str, float]:
    """
    Medians of figures that are measured in turn, so that a machine that slows down slows all of them.

    :param ways: each gives its figure
    :param repeats: how often
    """
    figures: dict[str, list[float]] = {name: [] for name in ways}
    for name, way in tqdm([*ways.items()] * repeats, unit="measurement", disable=None):
        figures[name].append(way())
    return {name: statistics.median(values) for name, values in figures.items()}


def seconds(what: Callable[[], object]) -> float:
    started = time.perf_counter()
    what()
    return time.perf_counter() - started
