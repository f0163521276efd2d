"""The tasks in sorted order, the ones that match, and the line of the cursor. Pure.

Rows are held themselves in both lists and moved by bisection, so that a change costs a few comparisons and not a sort.
The cursor belongs to a task, never to a line: it follows its task wherever that moves.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Collection, Mapping, Sequence

from css.model import Key
from tui.rows import Task

SortValue = str | float
Rank = tuple[SortValue, str, str]

# Above this, one sort is cheaper than as many moves.
MANY = 1500


class Ordered:
    """`len()` and `at(line)` speak of the tasks that match, in the order of the sort."""

    def __init__(self, sort: Callable[[Task], SortValue]) -> None:
        self._rows: dict[Key, Task] = {}
        self._order: list[Task] = []
        self._view: list[Task] = self._order
        """The same list as `_order` when everything matches."""
        self._matches: Callable[[Task], bool] | None = None
        self._sort = sort
        self._descending = False
        self.cursor: Key | None = None
        """None: nothing was chosen yet, and the first line stays the current one."""
        self.line = 0

    def __len__(self) -> int:
        return len(self._view)

    def all(self) -> Sequence[Task]:
        """Every task, also those that do not match, in no particular order."""
        return self._order

    @property
    def total(self) -> int:
        return len(self._order)

    def at(self, line: int) -> Task:
        return self._view[len(self._view) - 1 - line if self._descending else line]

    def get(self, key: Key) -> Task | None:
        return self._rows.get(key)

    def line_of(self, key: Key) -> int | None:
        """Where a task is; None when it is not there or does not match."""
        row = self._rows.get(key)
        if row is None:
            return None
        place = bisect_left(self._view, self._rank(row), key=self._rank)
        if place == len(self._view) or self._view[place] is not row:
            return None
        return len(self._view) - 1 - place if self._descending else place

    def apply(self, puts: Mapping[Key, Task], gone: Collection[Key]) -> None:
        """Take in what changed. A key in both `puts` and `gone` is put."""
        if len(puts) + len(gone) > MANY:
            for key in gone:
                self._rows.pop(key, None)
            self._rows.update(puts)
            self._arrange()
        else:
            for key in gone:
                if key not in puts:
                    self._move(self._rows.pop(key, None), None)
            for key, row in puts.items():
                before, self._rows[key] = self._rows.get(key), row
                self._move(before, row)
        self._settle()

    def sort(self, sort: Callable[[Task], SortValue], *, descending: bool) -> None:
        self._sort, self._descending = sort, descending
        self._arrange()
        self._settle()

    def search(self, matches: Callable[[Task], bool] | None, *, narrower: bool = False) -> None:
        """Show what matches (None: everything); `narrower` promises that nothing new does."""
        source = self._view if narrower else self._order
        self._matches = matches
        self._view = self._order if matches is None else [row for row in source if matches(row)]
        self._settle()

    def move_to(self, line: int) -> None:
        """Put the cursor on the task of a line, or the nearest there is."""
        self.line = max(0, min(line, len(self._view) - 1))
        self.cursor = self.at(self.line).key if self._view else None

    def _rank(self, row: Task) -> Rank:
        return self._sort(row), row.key.id, row.key.cluster

    def _move(self, before: Task | None, after: Task | None) -> None:
        for rows in (self._order,) if self._view is self._order else (self._order, self._view):
            place = self._place(rows, before)
            wanted = after is not None and (rows is self._order or self._matches is None or self._matches(after))
            if place is not None:
                if wanted and after is not None and before is not None and self._rank(before) == self._rank(after):
                    rows[place] = after
                    continue
                del rows[place]
            if wanted and after is not None:
                rows.insert(bisect_left(rows, self._rank(after), key=self._rank), after)

    def _place(self, rows: list[Task], row: Task | None) -> int | None:
        if row is None:
            return None
        place = bisect_left(rows, self._rank(row), key=self._rank)
        return place if place < len(rows) and rows[place] is row else None

    def _arrange(self) -> None:
        self._order = sorted(self._rows.values(), key=self._rank)
        matches = self._matches
        self._view = self._order if matches is None else [row for row in self._order if matches(row)]

    def _settle(self) -> None:
        if self.cursor is None:
            self.line = 0
            return
        line = self.line_of(self.cursor)
        if line is None:
            self.move_to(self.line)
        else:
            self.line = line
