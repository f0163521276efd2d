"""The table of tasks: draws only the lines in sight, and of these only the ones that look different now.

Textual's DataTable measures every cell and takes most of a core at 1,000 rows that change; this one asks `Ordered` for
the rows in sight and compares them with what is on the screen.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from css.model import Key
from tui.columns import AGE, COLUMNS, Column, arrange, glyph
from tui.ordered import Ordered
from tui.paint import BASE, BLUE, BOLD, CURSOR, DIM, FLASH, PLAIN, Part, fit, strip
from tui.rows import Task
from tui.search import Search

_FLASH_TIME = 1.0
_CACHED = 2000
_SORTED = BLUE + BOLD

Look = tuple[Task, bool, bool, bool, str]
"""All that a line's picture depends on, besides the width: task, current, faded, flashing, age."""


class TaskTable(ScrollView, can_focus=True):
    """Rows in order with a cursor that stays on its task. `now` is the time that ages are counted to."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j,down", "move(1)", show=False),
        Binding("k,up", "move(-1)", show=False),
        Binding("g,home", "first", show=False),
        Binding("G,end", "last", show=False),
        Binding("ctrl+f,pagedown,space", "page(1)", show=False),
        Binding("ctrl+b,pageup", "page(-1)", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.sorted_by: Column = COLUMNS[0]
        self.descending = False
        self.rows = Ordered(self.sorted_by.sort)
        self.columns: list[tuple[Column, int]] = []
        self._empty: list[list[Part]] = []
        self._now = 0.0
        self._faded = False
        self._flashing: dict[Key, float] = {}
        self._drawn: dict[int, Look | None] = {}
        self._strips: dict[tuple[int, bool, bool, bool, str], tuple[Task, Strip]] = {}

    # --- What changes ---

    def take(self, puts: Mapping[Key, Task], gone: Collection[Key], now: float) -> None:
        for key, task in puts.items():
            before = self.rows.get(key)
            if before is not None and (before.fields.last_status, before.fields.health) != (
                task.fields.last_status,
                task.fields.health,
            ):
                self._flashing[key] = now + _FLASH_TIME
        self._keeping_place(lambda: self.rows.apply(puts, gone))

    def search(self, search: Search, before: Search) -> None:
        matches = search.matches if search.words or search.filters else None
        self._keeping_place(lambda: self.rows.search(matches, narrower=search.narrows(before)))
        self.measure()

    def sort(self, column: Column, *, descending: bool) -> None:
        self.sorted_by, self.descending = column, descending
        self._keeping_place(lambda: self.rows.sort(column.sort, descending=descending))

    def tick(self, now: float, *, faded: bool) -> None:
        """The time that ages are counted to; `faded` when it stands still because the connection is lost."""
        self._now, self._faded = now, faded
        self._flashing = {key: until for key, until in self._flashing.items() if until > now}
        self.draw()

    def say(self, lines: list[list[Part]]) -> None:
        """What stands in the middle while there is no row."""
        if lines != self._empty:
            self._empty = lines
            if not len(self.rows):
                self.refresh()

    def measure(self) -> None:
        """Tell Textual how many rows there are: it lays the screen out again, so not at every change."""
        size = Size(self.size.width, len(self.rows))
        if size != self.virtual_size:
            self.virtual_size = size

    def draw(self) -> None:
        """Draw again the lines in sight that look different."""
        top = self.scroll_offset.y
        for y in range(self.size.height):
            if self._drawn.get(y, ()) != self._look(top + y):
                self.refresh_line(top + y)

    def _keeping_place(self, change: Callable[[], None]) -> None:
        """Keep the current task at its place on the screen while others come, go and move."""
        offset = self.rows.line - self.scroll_offset.y
        change()
        top = self.rows.line - offset
        if top > self.max_scroll_y or self.virtual_size.height <= self.size.height:
            self.measure()
        if self.rows.cursor is not None:
            self.scroll_to(y=top, animate=False, force=True)
        self.draw()

    # --- What is drawn ---

    def _look(self, line: int) -> Look | None:
        if line >= len(self.rows):
            return None
        task = self.rows.at(line)
        age = AGE.text(task, self._now)
        return task, line == self.rows.line, self._faded, task.key in self._flashing, age

    def render_line(self, y: int) -> Strip:
        look = self._look(self.scroll_offset.y + y)
        self._drawn[y] = look
        width = self.size.width
        if look is None:
            return strip(self._notice(y), width)
        task = look[0]
        # A task's identity is its key here, as hashing it would take longer than drawing it; `is` makes that safe.
        place = (id(task), *look[1:])
        found = self._strips.get(place)
        if found is not None and found[0] is task and found[1].cell_length == width:
            return found[1]
        if len(self._strips) >= _CACHED:
            self._strips.clear()
        drawn = strip(self._parts(*look), width, CURSOR if look[1] else BASE)
        self._strips[place] = task, drawn
        return drawn

    def _notice(self, y: int) -> list[Part]:
        first = max(0, (self.size.height - len(self._empty)) // 2 - 1)
        if len(self.rows) or not first <= y < first + len(self._empty):
            return []
        parts = self._empty[y - first]
        return [(" " * max(1, (self.size.width - sum(len(text) for text, _ in parts)) // 2), PLAIN), *parts]

    def _parts(self, task: Task, current: bool, faded: bool, flashing: bool, _age: str) -> list[Part]:
        mark, mark_style = glyph(task)
        parts: list[Part] = [("▌" if current else " ", DIM if faded else PLAIN), (mark, DIM if faded else mark_style)]
        for column, width in self.columns:
            style = DIM if faded else column.style(task)
            if flashing and column.title in ("STATUS", "HEALTH") and not faded:
                style += FLASH
            if current and column is COLUMNS[0]:
                style += BOLD
            text = fit(column.text(task, self._now), width, right=column.right)
            parts += [(" ", PLAIN), (text, style), (" ", PLAIN)]
        return parts

    def header(self) -> list[Part]:
        """The titles, the sorted one marked."""
        return [("  ", PLAIN), *(part for column, width in self.columns for part in self._title(column, width))]

    def column_at(self, x: int) -> Column | None:
        """The column whose title is at a cell of the line."""
        left = 2
        for column, width in self.columns:
            if left <= x < left + width + 2:
                return column
            left += width + 2
        return None

    def _title(self, column: Column, width: int) -> list[Part]:
        sorted_by = column is self.sorted_by
        text = column.title + ("▼" if self.descending else "▲") if sorted_by else column.title
        return [(" ", PLAIN), (fit(text, width, right=column.right), _SORTED if sorted_by else DIM), (" ", PLAIN)]

    # --- What people do ---

    def on_resize(self, event: events.Resize) -> None:
        self.columns = arrange(event.size.width)
        self._strips.clear()
        self._drawn.clear()
        self.measure()
        self.refresh()
        self._follow_cursor()

    def on_click(self, event: events.Click) -> None:
        line = self.scroll_offset.y + event.y
        if line < len(self.rows):
            self._move_to(line)

    def action_move(self, step: int) -> None:
        self._move_to(self.rows.line + step)

    def action_page(self, step: int) -> None:
        self._move_to(self.rows.line + step * max(1, self.size.height - 1))

    def action_first(self) -> None:
        self._move_to(0)

    def action_last(self) -> None:
        self._move_to(len(self.rows) - 1)

    def _move_to(self, line: int) -> None:
        self.rows.move_to(line)
        self.measure()
        self._follow_cursor()
        self.draw()

    def _follow_cursor(self) -> None:
        top, height, line = self.scroll_offset.y, self.size.height, self.rows.line
        if line < top:
            self.scroll_to(y=line, animate=False, force=True)
        elif height and line >= top + height:
            self.scroll_to(y=line - height + 1, animate=False, force=True)
