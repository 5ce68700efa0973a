"""How the rows of one input are read: by the format of its first rows, or each by the one format that it fits itself.

A row that lacks what the input's format needs may be of another: files of several formats are read row by row, where
each row alone is plain. Only such rows are looked at twice.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from spice_select.errors import PoolError
from spice_select.pool.fields import is_absent, is_empty
from spice_select.pool.formats import FORMATS, PROBED_ROWS, Format, Layout, find_format, fitting_formats
from spice_select.pool.messages import Conversation
from spice_select.pool.problems import RowProblem, one_line

REJECTED = ""
"""Stands for the format of rows that cannot be read."""


@dataclass(frozen=True, slots=True)
class Layouts:
    """The layouts of one input."""

    main: Layout | None  # of the format that its first rows fit together; None where each row has its own
    all: Mapping[str, Layout]  # by format; `main` alone where the user has named the format
    columns: Mapping[str, str]  # role -> column of the file, the same in all

    def read(self, row: Mapping[str, Any]) -> tuple[Layout, Conversation]:
        """The layout of a row, and its checked messages. Raises `RowProblem`."""
        if self.main is None:
            layout = self._own(row)
            return layout, layout.conversation(row)
        try:
            return self.main, self.main.conversation(row)
        except RowProblem:
            if all(not is_empty(row.get(self.main.column(role))) for role in self.main.format.required):
                raise
            fitting = plain_formats(row, self.columns)
            if len(fitting) != 1 or fitting[0].name not in self.all or fitting[0] is self.main.format:
                raise
        layout = self.all[fitting[0].name]
        return layout, layout.conversation(row)

    def used_columns(self) -> dict[str, frozenset[str]]:
        """By format, the columns that become part of a chat or of a row's name."""
        used = {name: layout.used_columns() for name, layout in self.all.items()}
        rejected = used[self.main.format.name] if self.main else frozenset[str]().union(*used.values())
        return {**used, REJECTED: rejected}

    def _own(self, row: Mapping[str, Any]) -> Layout:
        fitting = plain_formats(row, self.columns)
        if len(fitting) == 1:
            return self.all[fitting[0].name]
        names = one_line(", ".join(row), 200) or "none"
        if fitting:
            formats = " and ".join(found.name for found in fitting)
            raise RowProblem(f"its fields ({names}) fit more than one format: {formats}")
        raise RowProblem(f"its fields ({names}) fit no known format")


def find_layouts(
    label: str, rows: Sequence[Mapping[str, Any]], name: str | None, columns: Mapping[str, str], filled_nulls: bool
) -> Layouts:
    """The layouts of the input `label` from its first rows; `name` is the format that the user gave.

    Raises `PoolError` as `find_format` does, unless the rows fit different formats, each row exactly one: at least half
    of them one, the others none.
    """
    layouts = {found.name: Layout(found, columns, filled_nulls) for found in FORMATS}
    try:
        main = layouts[find_format(label, rows, name, columns).name]
    except PoolError:
        probed = rows[:PROBED_ROWS]
        fits = Counter(min(2, len(plain_formats(row, columns))) for row in probed)
        if name is not None or fits[2] or 2 * fits[1] < len(probed):
            raise
        return Layouts(None, layouts, columns)
    return Layouts(main, layouts if name is None else {main.format.name: main}, columns)


def plain_formats(row: Mapping[str, Any], columns: Mapping[str, str]) -> list[Format]:
    """The formats that one row fits, empty fields counted as missing where only that makes it one."""
    fitting: list[Format] = []
    for is_missing in (is_empty, is_absent):
        fitting = fitting_formats([field for field, value in row.items() if not is_missing(value)], columns)
        if len(fitting) == 1:
            break
    return fitting
