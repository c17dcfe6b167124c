"""
Put what benchmarks wrote into the documentation, between marks; the text around them stays.

    python benchmarks/document.py runs/benchmarks/*

Tables (NAME.md) go into docs/benchmarks.md, each between the marks of its name. Rows with a target (NAME.json) take the
place of those of their names in docs/evidence/benchmarks/rows.json; all of these stand in docs/evidence/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from report import about, keep

DOCS = Path(__file__).parents[1] / "docs"
TABLES, ROWS = DOCS / "benchmarks.md", DOCS / "evidence" / "benchmarks.md"
KEPT = DOCS / "evidence" / "benchmarks" / "rows.json"
"""Rows as they were measured, with their machines."""


def joined(known: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Rows that were measured anew take the place of those of their names; the others stay.

    :raises SystemExit: for what is no row
    """
    for row in new:
        if not isinstance(row, dict):
            raise SystemExit(f"{row!r} is no row with a target: a machine without a GPU has none of gpu.py")
        if lacks := {"name", "ours", "rival", "unit", "ratio", "target", "met", "what", "cpu"} - set(row):
            raise SystemExit(f"{row.get('name', row)} is no row with a target, it has no {', '.join(sorted(lacks))}")
    measured = {row["name"] for row in new}
    return [row for row in known if row["name"] not in measured] + list(new)


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """Of each machine and day."""
    days: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        days.setdefault(about(row), []).append(row)
    return "\n\n".join(f"{day}\n\n{table(of_day)}" for day, of_day in days.items())


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = ["| row | ours | rival | unit | ratio | target | | how |", "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        sign = "≤" if row.get("less") else "≥"
        met = "met" if row["met"] else "**missed**"
        lines.append(
            f"| `{row['name']}` | {row['ours']:,.4g} | {row['rival']:,.4g} | {row['unit']} | {row['ratio']:.3f} "
            f"| {sign} {row['target']} | {met} | {row['what']} |"
        )
    notes = {name: value for row in rows for name, value in row.get("notes", {}).items()}
    if notes:
        lines += ["", "Without a target:", "", "| | |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in notes.items()]
    return "\n".join(lines)


def put(document: Path, name: str, text: str) -> None:
    """
    :param name: of the marks
    :raises SystemExit: if they are not there
    """
    begin, end = f"<!-- {name}: written by benchmarks/document.py -->", f"<!-- end of {name} -->"
    before, _, rest = document.read_text().partition(begin)
    _, _, after = rest.partition(end)
    if not after:
        raise SystemExit(f"{document} has lost its marks: {begin} and {end}")
    document.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}")


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("files", nargs="+", type=Path)
    args = cli.parse_args()
    rows: list[dict[str, Any]] = []
    for file in args.files:
        if file.suffix == ".md":
            put(TABLES, file.stem, file.read_text())
        elif file.suffix == ".json":
            rows += json.loads(file.read_text())
    if rows:
        rows = joined(json.loads(KEPT.read_text()), rows)
        put(ROWS, "rows", tables(rows))
        keep(rows, KEPT)


if __name__ == "__main__":
    main()
