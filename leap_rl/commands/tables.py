"""What files hold as Markdown, in a terminal: the same text, its tables aligned."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text


def print_markdown(text: str) -> None:
    """
    Print text; tables as columns.

    :param text: Markdown, of which only the tables are looked at: a line of ``|---|`` below the names of the columns
    """
    console = Console()
    for part in _parts(text):
        if isinstance(part, str):
            console.print(Text(part))
        else:
            console.print(_table(part, console.width))


def _parts(text: str) -> Iterator[str | list[list[str]]]:
    """Text, and the cells of tables by row, the first row being the names of the columns."""
    lines: list[str] = []
    rows: list[list[str]] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|") and line.endswith("|"):
            rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]])
            continue
        if len(rows) > 1 and all(re.fullmatch(r":?-+:?", cell) for cell in rows[1]):
            if any(lines):
                yield "\n".join(lines)
            yield [rows[0], *rows[2:]]
            lines = []
        else:
            lines += ["| " + " | ".join(row) + " |" for row in rows]
        rows = []
        lines.append(line)
    if any(lines):
        yield "\n".join(lines).rstrip("\n")


def _table(rows: list[list[str]], width: int) -> Table:
    """
    :param rows: cells, those of the header first
    :param width: of the terminal
    """
    names, *body = rows
    table = Table(box=None, header_style="bold", padding=(0, 1))
    columns = [[name, *(row[n] for row in body if n < len(row))] for n, name in enumerate(names)]
    for cells, wide in zip(columns, _widths(columns, width - 2 * len(columns)), strict=True):
        numbers = any(cells[1:]) and all(re.match(r"[-+\d–.,]", cell) for cell in cells[1:] if cell)
        table.add_column(Text(cells[0]), justify="right" if numbers else "left", width=wide, overflow="fold")
    last: list[str] = []
    for row in body:
        # What the row above says in its first column, as the name of a game, is not said again.
        first = "" if last and row[0] == last[0] else row[0]
        table.add_row(*(Text(cell) for cell in (first, *row[1:])))
        last = row
    return table


def _widths(columns: list[list[str]], together: int) -> list[int]:
    """As wide as they must be, or as their longest words, if that is too much: the widest gives way."""
    widths = [max(map(len, cells)) for cells in columns]
    least = [max(len(word) for cell in cells for word in (cell.split() or [""])) for cells in columns]
    while sum(widths) > together and widths != least:
        _, n = max((width, n) for n, width in enumerate(widths) if width > least[n])
        widths[n] -= 1
    return widths
