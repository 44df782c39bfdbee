"""Tables of plain cells, as aligned text and as HTML."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from html import escape


def align(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Rows as lines with aligned columns.

    >>> align([("a", "bb", "1"), ("ccc", "d", "23")], {2})
    ['a    bb   1', 'ccc  d   23']
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


@dataclass(frozen=True)
class Table:
    """Cells under headings.

    Attributes:
        headings: one per column.
        rows: as many cells each; spaces at the start of a cell indent it.
        numbers: headings of the columns that are aligned on the right.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: frozenset[str] = field(default=frozenset())

    def text(self) -> str:
        """One line per row.

        >>> print(Table(("name", "bytes"), [("a", "12"), ("long name", "3")], frozenset({"bytes"})).text())
        name       bytes
        a             12
        long name      3
        """
        right = {column for column, heading in enumerate(self.headings) if heading in self.numbers}
        return "\n".join(align([self.headings, *self.rows], right))

    def html(self) -> str:
        """A table element with the same cells."""
        head = "".join(f"<th>{escape(heading)}</th>" for heading in self.headings)
        body = "".join(f"<tr>{''.join(map(self._cell, row, self.headings))}</tr>" for row in self.rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def _cell(self, cell: str, heading: str) -> str:
        side = "right" if heading in self.numbers else "left"
        inside = cell.lstrip(" ")
        indent = f"; padding-left: {len(cell) - len(inside) + 1}ch" if inside != cell else ""
        return f'<td style="text-align: {side}{indent}">{escape(inside)}</td>'


def as_html(title: str, *parts: Table | str) -> str:
    """A heading over tables and paragraphs.

    >>> as_html("a model", "<fast>")
    '<div><p><strong>a model</strong></p><p>&lt;fast&gt;</p></div>'
    """
    made = [part.html() if isinstance(part, Table) else f"<p>{escape(part)}</p>" for part in parts if part]
    return f"<div><p><strong>{escape(title)}</strong></p>{''.join(made)}</div>"


_THOUSAND, _KIBI = 1000, 1024


def mebibytes(count: float) -> str:
    """Bytes in the largest unit that they fill.

    >>> mebibytes(512), mebibytes(3 * 2**20), mebibytes(150.4 * 2**20)
    ('512 B', '3.00 MiB', '150 MiB')
    """
    return _scaled(count, _KIBI, (" B", " KiB", " MiB", " GiB", " TiB"))


def amount(count: float) -> str:
    """A count with a decimal unit.

    >>> amount(7), amount(2048), amount(139_420_416)
    ('7', '2.05 K', '139 M')
    """
    return _scaled(count, _THOUSAND, ("", " K", " M", " G", " T"))


def _scaled(count: float, step: int, units: Sequence[str]) -> str:
    power = 0
    while count >= step and power < len(units) - 1:
        count, power = count / step, power + 1
    digits = 0 if power == 0 or count >= 100 else 1 if count >= 10 else 2
    return f"{count:.{digits}f}{units[power]}"
