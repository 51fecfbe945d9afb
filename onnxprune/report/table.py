"""Tables that are never wider than the terminal: names that are too long lose their middle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions

_SHORT, _SHORTEST = 12, 5  # cells that a column of names keeps, where possible and at least
_GAP = 2  # cells between two columns


@dataclass
class NameTable:
    """A table that is readable without colour and in a log file; rich prints it."""

    headings: Sequence[str]
    left: Sequence[int]  # columns that are aligned left: names and words
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def add_row(self, *cells: str) -> None:
        """Add a row."""
        self.rows.append(cells)

    @property
    def row_count(self) -> int:
        """How many rows it has."""
        return len(self.rows)

    def widths(self, most: int) -> list[int]:
        """Return the width of each column such that all take `most` cells; only columns of names become narrower."""
        from rich.cells import cell_len  # noqa: PLC0415 - only when something is printed

        columns = zip(self.headings, *self.rows, strict=False) if self.rows else zip(self.headings, strict=True)
        widths = [max(map(cell_len, column)) for column in columns]
        free = [i for i in self.left if self.headings[i] != "kind"]
        most -= _GAP * (len(widths) - 1)
        _narrow(widths, [i for i in free if i], most, _SHORT)  # names in the first column are what people type
        _narrow(widths, free, most, _SHORTEST)
        return widths

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        """Yield the table with its names cut to the width of the console."""
        from rich import box  # noqa: PLC0415
        from rich.table import Table  # noqa: PLC0415

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, 1, 0, 0))
        widths = self.widths(options.max_width)
        for i, heading in enumerate(self.headings):
            table.add_column(heading, justify="left" if i in self.left else "right", overflow="fold", no_wrap=True)
        for row in self.rows:
            table.add_row(*(middle(cell, width) for cell, width in zip(row, widths, strict=True)))
        yield table


def _narrow(widths: list[int], free: Sequence[int], most: int, least: int) -> None:
    """Take from the widest of the free columns, in place, until all columns take `most` cells; leave each `least`."""
    while (excess := sum(widths) - most) > 0:
        widest = max(free, key=lambda i: widths[i], default=None)
        if widest is None or widths[widest] <= least:
            return
        next_one = max((widths[i] for i in free if i != widest), default=0)
        widths[widest] -= min(excess, max(1, widths[widest] - max(next_one, least)))


def middle(text: str, width: int) -> str:
    """Return a text of at most so many cells of a terminal, without its middle where it is longer.

    >>> middle("model/layers.11/attention/query", 15)
    'model/l…n/query'
    >>> middle("层层层层层", 6)
    '层…层'
    """
    from rich.cells import cell_len, set_cell_size  # noqa: PLC0415

    if cell_len(text) <= width:
        return text
    head = (width - 1) // 2
    front = set_cell_size(text, head).rstrip(" ") if head else ""
    back = _last_cells(text, width - 1 - head)
    return f"{front}…{back}"


def _last_cells(text: str, width: int) -> str:
    """Return the end of a text that takes at most so many cells."""
    from rich.cells import cell_len  # noqa: PLC0415

    taken: list[str] = []
    for char in reversed(text):
        width -= cell_len(char)
        if width < 0:
            break
        taken.append(char)
    return "".join(reversed(taken))


def shortened(names: Iterable[str], width: int) -> list[str]:
    """Return names without their middle where they are longer than so many cells."""
    return [middle(name, width) for name in names]
