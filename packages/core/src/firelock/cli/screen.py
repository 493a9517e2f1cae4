"""Output of commands: tables on a terminal, aligned text in a pipe, or JSON."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

STATE_STYLES = {
    "awaiting": "magenta",
    "scheduled": "cyan",
    "enqueued": "blue",
    "processing": "yellow",
    "succeeded": "green",
    "failed": "bold red",
    "deleted": "bright_black",
}
_GAP, _NARROWEST = 2, 8


class Cell:
    """A piece of text without invisible characters, and its colour on terminals that support colours."""

    __slots__ = ("style", "text")

    def __init__(self, text: object, style: str = "") -> None:
        self.text = visible(str(text))
        self.style = style


def state_cell(state: str) -> Cell:
    """Return a state's name in its colour."""
    return Cell(state, STATE_STYLES.get(state, ""))


class Column(NamedTuple):
    """A column's title, and its layout on a narrow terminal."""

    title: str
    is_number: bool = False  # whether the column is aligned to the right
    is_whole: bool = False  # whether values are never cut, so that they can be copied


Piece = Cell | str | int


class Screen:
    """The standard output and standard error of one command."""

    def __init__(self, *, is_json: bool = False, out: TextIO | None = None) -> None:
        self.is_json = is_json
        self._out: TextIO = out or sys.stdout
        self._error: TextIO = sys.stderr
        self._console: Console | None = None

    @property
    def is_terminal(self) -> bool:
        """Whether the output is a terminal that can show a table."""
        return not self.is_json and self._out.isatty() and os.environ.get("TERM") != "dumb"

    @property
    def console(self) -> Console:
        """The `Console` object of rich; NO_COLOR disables its colours."""
        if self._console is None:
            from rich.console import Console  # noqa: PLC0415 - loaded for terminals only

            self._console = Console(file=self._out, highlight=False, markup=False, emoji=False)
        return self._console

    # ---- output ------------------------------------------------------------------------------------------

    def json(self, answer: Mapping[str, object]) -> None:
        """Write the result as ASCII-only JSON, so that strings in jobs cannot control the terminal."""
        self._out.write(json.dumps(answer, indent=2) + "\n")

    def listing(
        self, name: str, values: Iterable[object], columns: Sequence[Column],
        rows: Iterable[Sequence[Piece]], *, empty: str, **more: object,
    ) -> None:  # fmt: skip
        """Write the values as JSON under this name, or the rows as a table, or `empty` if none exist."""
        if self.is_json:
            self.json({name: list(values), **more})
        elif shown := list(rows):
            self.table(columns, shown)
        else:
            self.note(empty)

    def each(self, names: Sequence[str], done: str, act: Callable[[str], object]) -> None:
        """Call `act` for each name, and print the word `done` after each call."""
        for name in names:
            act(name)
            if not self.is_json:
                self.line(name, "  ", Cell(done, "green"))
        if self.is_json:
            self.json({done: names})

    def heading(self, title: str, *pieces: Piece) -> None:
        """Write an empty line and a section's title."""
        self.line()
        self.line(Cell(title, "bold"), *pieces)

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[Piece]]) -> None:
        """Write the rows under the titles of the columns."""
        cells = [[_cell(piece) for piece in row] for row in rows]
        if self.is_terminal:
            self._rich_table(columns, cells)
        else:
            self._plain_table(columns, cells)

    def _rich_table(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
        from rich.table import Table  # noqa: PLC0415 - loaded for terminals only

        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        widths = [_widest(columns, rows, column) for column in columns]
        for column, wide in zip(columns, _fitted(columns, widths, self.console.width), strict=True):
            table.add_column(
                _text(Cell(column.title)),
                justify="right" if column.is_number else "left",
                no_wrap=True,
                overflow="ellipsis",
                width=wide,
            )
        for row in rows:
            table.add_row(*[_text(cell) for cell in row])
        self.console.print(table)

    def _plain_table(self, columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> None:
        widths = [_widest(columns, rows, column) for column in columns]
        self._plain_row(columns, widths, [Cell(column.title) for column in columns])
        for row in rows:
            self._plain_row(columns, widths, row)

    def _plain_row(self, columns: Sequence[Column], widths: Sequence[int], row: Sequence[Cell]) -> None:
        parts = []
        for column, wide, cell in zip(columns, widths, row, strict=True):
            room = " " * (wide - width(cell.text))
            parts.append(room + cell.text if column.is_number else cell.text + room)
        self._out.write("  ".join(parts).rstrip() + "\n")

    def facts(self, facts: Sequence[tuple[str, Piece]], *, indent: int = 0) -> None:
        """Write names and values, one pair per line; leave out names whose value is empty."""
        shown = [(name, _cell(piece)) for name, piece in facts if _cell(piece).text]
        wide = max((width(name) for name, _ in shown), default=0)
        for name, cell in shown:
            room = " " * (wide - width(name))
            self.line(" " * indent, Cell(name, "bright_black"), f"{room}  ", cell)

    def line(self, *pieces: Piece) -> None:
        """Write the pieces as one line, which is not wrapped, so that it can be copied."""
        cells = [_cell(piece) for piece in pieces]
        if self.is_terminal:
            from rich.text import Text  # noqa: PLC0415 - loaded for terminals only

            self.console.print(Text().join([_text(cell) for cell in cells]), soft_wrap=True)
        else:
            self._out.write("".join(cell.text for cell in cells).rstrip() + "\n")

    def flush(self) -> None:
        """Flush the output, so that its reader receives it."""
        self._out.flush()

    # ---- notes and progress ------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """Write the sentence to standard error, so that it is not part of the output."""
        self._error.write(f"{visible(text)}\n")

    def progress(self, text: str) -> None:
        """Show the progress in the terminal's last line; write nothing in a pipe."""
        if self._error.isatty():
            self._error.write(f"\r{visible(text)}\x1b[K")
            self._error.flush()

    def end_progress(self) -> None:
        """Clear the line of `progress`."""
        if self._error.isatty():
            self._error.write("\r\x1b[K")


def discard_output() -> None:
    """Discard the buffered standard output, which cannot be written.

    Otherwise, Python would try again to write it when the process exits, and exit with code 120.
    """
    descriptor = sys.stdout.fileno()
    original, discarding = os.dup(descriptor), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(discarding, descriptor)
        sys.stdout.flush()
    finally:
        os.dup2(original, descriptor)  # worker processes use it too, and it might be writable again later
        os.close(original)
        os.close(discarding)


def _cell(piece: Piece) -> Cell:
    return piece if isinstance(piece, Cell) else Cell(piece)


def _text(cell: Cell) -> Text:
    from rich.text import Text  # noqa: PLC0415 - loaded for terminals only

    return Text(cell.text, cell.style)


def _widest(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], column: Column) -> int:
    place = columns.index(column)
    return max(width(column.title), *(width(row[place].text) for row in rows), 0)


def _fitted(columns: Sequence[Column], widths: Sequence[int], room: int) -> list[int]:
    """Return widths that fit the available space; columns that can be cut shrink, starting from the last."""
    fitted = list(widths)
    excess = sum(fitted) + _GAP * (len(fitted) - 1) - room
    for place in reversed(range(len(columns))):
        if excess > 0 and not columns[place].is_whole and not columns[place].is_number:
            given = min(excess, max(0, fitted[place] - _NARROWEST))
            fitted[place] -= given
            excess -= given
    return fitted


_ASCII, _LATIN = 0x7F, 0xFF


def visible(text: str) -> str:
    """Return the text in one line; control, format and other invisible characters become escapes."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    if unicodedata.category(character) == "Zs":
        return " "
    if character in "\n\t\r":
        return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}[character]
    code = ord(character)
    if code <= _LATIN:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004 - as Python writes them


def visible_lines(text: str) -> list[str]:
    """Return the lines of a text without invisible characters; a tab becomes four spaces."""
    return [visible(line.removesuffix("\r").replace("\t", "    ")) for line in text.split("\n")]


def width(text: str) -> int:
    """Return the number of columns that the text occupies on a terminal."""
    if text.isascii():
        return len(text)
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if ord(character) <= _ASCII:
        return 1
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1
