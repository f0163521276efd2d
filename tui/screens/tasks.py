"""The screen of all tasks: draws what the inbox brings five times a second, and what the keys ask for."""

from __future__ import annotations

import time
from collections import deque
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Input

from css.query import InvalidFilter
from tui import chrome
from tui.inbox import Facts, Inbox
from tui.paint import BAR
from tui.screens.help import Help
from tui.search import Search, read
from tui.widgets.lines import Lines
from tui.widgets.prompt import Prompt
from tui.widgets.table import TaskTable
from tui.widgets.titles import Titles

_DRAIN = 1 / 5
_RATES = 20
_LOW = 28
"""Screens of fewer lines, or of fewer than `_NARROW` columns, do without the summary."""
_NARROW = 100


class Tasks(Screen[None]):
    """`endpoint` is how the service is called on the screen."""

    BINDINGS: ClassVar[list[BindingType]] = [
        # With priority they act before the next key is looked at, so that fast typing goes where it belongs.
        Binding("slash", "filter", show=False, priority=True),
        Binding("enter", "keep", show=False, priority=True),
        Binding("escape,ctrl+u", "clear", show=False),
        Binding("s,greater_than_sign", "sort(1)", show=False),
        Binding("less_than_sign", "sort(-1)", show=False),
        Binding("S", "reverse", show=False),
        Binding("p", "pause", show=False),
        Binding("question_mark", "help", show=False),
    ]

    def __init__(self, inbox: Inbox, endpoint: str) -> None:
        super().__init__()
        self._inbox, self._endpoint = inbox, endpoint
        self._search, self._problem = Search(), ""
        self._paused = False
        self._tallied = False
        self._counted = 0
        self._rates: deque[int] = deque([0] * _RATES, _RATES)

    def compose(self) -> ComposeResult:
        yield Lines(base=BAR, id="header")
        yield Lines(id="summary")
        yield Lines(id="breadcrumb")
        yield Titles()
        yield TaskTable()
        yield Prompt()
        yield Lines(id="keys")

    def on_mount(self) -> None:
        self.table.focus()
        self.set_interval(_DRAIN, self.drain)
        self.set_interval(1.0, self._second)
        self.drain()

    @property
    def table(self) -> TaskTable:
        return self.query_one(TaskTable)

    # --- What comes in ---

    def drain(self) -> None:
        """Take what has changed and show it."""
        facts = self._inbox.facts()
        if not self._paused:
            puts, gone = self._inbox.take()
            if puts or gone:
                self.table.take(puts, gone, _now(facts))
                self._tallied = False
        self._show(facts)

    def _show(self, facts: Facts) -> None:
        shown, table, width = self._shown(), self.table, self.size.width
        header = chrome.header(self._endpoint, facts, list(self._rates), time.time(), width)
        self._lines("header").show(header)
        self._lines("breadcrumb").show(chrome.breadcrumb(shown))
        self._lines("keys").show(chrome.keys(width, typing=self.query_one(Prompt).display))
        self.query_one(Titles).show(table.header())
        table.say(chrome.nothing(self._endpoint, facts, shown))
        table.tick(_now(facts), faded=_lost(facts))

    def _second(self) -> None:
        """What is costly, or would flicker if it were done more often."""
        changes = self._inbox.facts().changes
        self._rates.append(changes - self._counted)
        self._counted = changes
        self.table.measure()
        if not self._tallied:
            self._tallied = True
            self._lines("summary").show([], chrome.summary(chrome.tally(self.table.rows.all()), self.size.width))

    def _shown(self) -> chrome.Shown:
        rows, table = self.table.rows, self.table
        sort = table.sorted_by.title.lower() + ("▼" if table.descending else "▲")
        waiting = self._inbox.waiting() if self._paused else 0
        return chrome.Shown(len(rows), rows.total, self._search.text, sort, self._paused, waiting, self._problem)

    def _lines(self, name: str) -> Lines:
        return self.query_one(f"#{name}", Lines)

    # --- What people do ---

    def on_resize(self, event: events.Resize) -> None:
        self.set_class(event.size.height < _LOW or event.size.width < _NARROW, "low")
        self._tallied = False
        self.call_after_refresh(self.drain)

    @on(Input.Changed)
    def _typed(self, event: Input.Changed) -> None:
        try:
            search, self._problem = read(event.value.strip()), ""
        except InvalidFilter as error:
            # The last filter that had a meaning stays.
            self._problem = f"{error.parameter}: {error.message}"
        else:
            before, self._search = self._search, search
            self.table.search(search, before)
        self.drain()

    @on(Titles.Clicked)
    def _sort_clicked(self, event: Titles.Clicked) -> None:
        table, column = self.table, self.table.column_at(event.x)
        if column is not None:
            table.sort(column, descending=not table.descending if column is table.sorted_by else False)
            self.drain()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """The keys with priority have another meaning while a filter is typed: `/` is a letter of it."""
        return action not in ("filter", "keep") or self.query_one(Prompt).display == (action == "keep")

    def action_filter(self) -> None:
        prompt = self.query_one(Prompt)
        prompt.display = True
        # Not `focus()`, which happens later.
        self.set_focus(prompt.entry)
        self.drain()

    def action_keep(self) -> None:
        self.query_one(Prompt).display = False
        self.set_focus(self.table)
        self.drain()

    def action_clear(self) -> None:
        self.query_one(Prompt).entry.value = ""
        self.action_keep()

    def action_sort(self, step: int) -> None:
        columns = [column for column, _ in self.table.columns]
        at = columns.index(self.table.sorted_by) if self.table.sorted_by in columns else -1
        self.table.sort(columns[(at + step) % len(columns)], descending=False)
        self.drain()

    def action_reverse(self) -> None:
        self.table.sort(self.table.sorted_by, descending=not self.table.descending)
        self.drain()

    def action_pause(self) -> None:
        self._paused = not self._paused
        self.drain()

    def action_help(self) -> None:
        self.app.push_screen(Help())


def _lost(facts: Facts) -> bool:
    return facts.state.phase in ("waiting", "refused", "connecting")


def _now(facts: Facts) -> float:
    """The server's time; it stands still while the connection is lost, so that no age pretends to be known."""
    return (facts.fresh_at if _lost(facts) and facts.fresh_at else time.time()) + facts.clock
