"""
Put the rows of benchmarks into docs/benchmarks.md, between its two marks; the text around them stays.

    python benchmarks/document.py throughput.json observation.json ...
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).parents[1] / "docs" / "benchmarks.md"
BEGIN, END = "<!-- rows: written by benchmarks/document.py -->", "<!-- end of rows -->"


def table(rows: list[dict[str, Any]]) -> str:
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
    machine = rows[0]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    flags = ", ".join(machine["flags"])
    about = f"{machine['date']}; {machine['cpu']}, {machine['cores']} cores ({flags}), GPU: {machine['gpu'] or 'none'}"
    return f"{about}; Python {machine['python']}, {versions}.\n\n" + "\n".join(lines)


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.add_argument("files", nargs="+", type=Path)
    args = cli.parse_args()
    rows = [row for file in args.files for row in json.loads(file.read_text())]
    before, _, rest = DOCUMENT.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    if not rest or not after:
        raise SystemExit(f"{DOCUMENT} has lost its marks: {BEGIN} and {END}")
    DOCUMENT.write_text(f"{before}{BEGIN}\n\n{table(rows)}\n\n{END}{after}")


if __name__ == "__main__":
    main()
