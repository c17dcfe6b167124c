"""
Put what benchmarks wrote into the documentation, between marks; the text around them stays.

    python benchmarks/document.py runs/benchmarks/*

Tables (NAME.md) go into docs/benchmarks.md, each between the marks of its name, rows with a target (NAME.json)
into docs/evidence/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from report import about

DOCS = Path(__file__).parents[1] / "docs"
TABLES, ROWS = DOCS / "benchmarks.md", DOCS / "evidence" / "benchmarks.md"


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
    return f"{about(rows[0])}\n\n" + "\n".join(lines)


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
    rows = []
    for file in args.files:
        if file.suffix == ".md":
            put(TABLES, file.stem, file.read_text())
        elif file.suffix == ".json":
            rows += json.loads(file.read_text())
    if rows:
        put(ROWS, "rows", table(rows))


if __name__ == "__main__":
    main()
