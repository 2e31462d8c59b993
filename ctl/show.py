"""How an answer reaches the terminal: a table for people, JSON or YAML for programs.

A command builds one :class:`Answer`: the rows that a person reads and the data that a program reads. The two are made
side by side so that `-o json` never depends on the width of a terminal, and stays stable while tables change.
"""

from __future__ import annotations

import enum
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text


class Format(enum.StrEnum):
    """What `-o` accepts."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """One table. `wide_columns` are shown by `-o wide` alone and stand at the end of every row."""

    title: str = ""
    columns: tuple[str, ...]
    wide_columns: tuple[str, ...] = ()
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """`data` is JSON-able; `grids` and `notes` are the same for people."""

    data: object
    grids: tuple[Grid, ...] = ()
    notes: tuple[str, ...] = field(default=())


def render(answer: Answer, *, output: Format) -> str:
    """The whole text of `answer` in `output`, without colour, ending in a newline."""
    match output:
        case Format.JSON:
            return json.dumps(answer.data, indent=2) + "\n"
        case Format.YAML:
            return yaml.safe_dump(answer.data, sort_keys=False)
        case Format.TABLE | Format.WIDE:
            console = Console(width=10_000, no_color=True, force_terminal=False)
            with console.capture() as captured:
                _print_grids(answer, console=console, output=output)
            return "".join(line.rstrip() + "\n" for line in captured.get().splitlines())


def emit(answer: Answer, *, output: Format) -> None:
    """Print `answer`; colour only where standard output is a terminal, as rich decides (and `NO_COLOR`)."""
    if output in (Format.JSON, Format.YAML) or not sys.stdout.isatty():
        sys.stdout.write(render(answer, output=output))
    else:
        _print_grids(answer, console=Console(), output=output)


def _print_grids(answer: Answer, *, console: Console, output: Format) -> None:
    for grid in answer.grids:
        if grid.title:
            console.print(grid.title, style="bold", markup=False, highlight=False)
        console.print(_table(grid, output=output))
    for note in answer.notes:
        console.print(note, markup=False, highlight=False)


def _table(grid: Grid, *, output: Format) -> Table:
    columns = grid.columns + (grid.wide_columns if output is Format.WIDE else ())
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, no_wrap=True)
    for row in grid.rows:
        table.add_row(*(Text(printable(cell)) for cell in row[: len(columns)]))
    return table


def printable(text: str) -> str:
    """`text` with every control character as `?`: what a router or a user wrote must not steer the terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)
