"""The terminal screen: a live table of every task. Draws what the inbox brings five times a second.

Never writes to the service, never ends because the connection does.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import deque
from typing import ClassVar

from textual import events, on
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.screen import Screen
from textual.widgets import Input
from textual.worker import Worker, WorkerState

from css.client import Endpoint
from css.query import InvalidFilter
from tui import chrome
from tui.follower import Follower
from tui.inbox import Facts, Inbox
from tui.paint import BAR
from tui.search import Search, read
from tui.widgets.help import Help
from tui.widgets.lines import Lines
from tui.widgets.prompt import Prompt
from tui.widgets.table import TaskTable
from tui.widgets.titles import Titles

_DRAIN = 1 / 5
_RATES = 20
_STOP_TIME = 2.0
_LOW = 28
"""Screens of fewer lines, or of fewer than `_NARROW` columns, do without the summary."""
_NARROW = 100


class CssApp(App[None]):
    """One screen so far. `url` as `css.client.watch` takes it."""

    CSS_PATH = "app.tcss"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        # With priority they act before the next key is looked at, so that fast typing goes where it belongs.
        Binding("slash", "filter", show=False, priority=True),
        Binding("enter", "keep", show=False, priority=True),
        Binding("escape,ctrl+u", "clear", show=False),
        Binding("s,greater_than_sign", "sort(1)", show=False),
        Binding("less_than_sign", "sort(-1)", show=False),
        Binding("S", "reverse", show=False),
        Binding("p", "pause", show=False),
        Binding("ctrl+r", "resync", show=False),
        Binding("question_mark", "help", show=False),
        Binding("q,ctrl+c", "quit", show=False),
    ]

    def __init__(self, url: str, *, token: str | None = None) -> None:
        # With the terminal's own colours NO_COLOR means none at all; with Textual's it would mean shades of grey.
        super().__init__(ansi_color="NO_COLOR" in os.environ)
        self.endpoint = Endpoint.parse(url).address
        self.failure: BaseException | None = None
        """The defect that ended the client, if one did."""
        self._inbox = Inbox()
        self._follower = Follower(url, self._inbox, token=token)
        self._search, self._problem = Search(), ""
        self._paused = False
        self._counted = 0
        self._tallied = False
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
        self.run_worker(self._follower.run, thread=True, exit_on_error=False)
        self.set_interval(_DRAIN, self.drain)
        self.set_interval(1.0, self._second)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._leave, number)
        self.drain()

    async def on_unmount(self) -> None:
        self._follower.stop()
        # Textual has given the worker up by now; its thread still closes the connection.
        await asyncio.to_thread(self._follower.wait_ended, _STOP_TIME)

    def _leave(self, number: int) -> None:
        """A signal ends the screen as `q` does, so that the terminal is left whole."""
        self.exit(return_code=128 + number)

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        if event.state is WorkerState.ERROR:
            self.failure = event.worker.error
            self.exit(return_code=1)

    @property
    def main(self) -> Screen[object]:
        """The screen of the table, also while another is in front of it."""
        return self.screen_stack[0]

    @property
    def table(self) -> TaskTable:
        return self.main.query_one(TaskTable)

    # --- What comes in ---

    def drain(self) -> None:
        """Take what has changed and show it."""
        facts = self._inbox.facts()
        if not self._paused:
            puts, gone = self._inbox.take()
            if puts or gone:
                self.table.take(puts, gone, self._now(facts))
                self._tallied = False
        self.show(facts)

    def show(self, facts: Facts) -> None:
        now, shown, table = time.time(), self._shown(), self.table
        width = self.size.width
        self._lines("header").show(chrome.header(self.endpoint, facts, list(self._rates), now, width))
        self._lines("breadcrumb").show(chrome.breadcrumb(shown))
        self._lines("keys").show(chrome.keys(width, typing=self.main.query_one(Prompt).display))
        self.main.query_one(Titles).show(table.header())
        table.say(chrome.nothing(self.endpoint, facts, shown))
        table.tick(self._now(facts), faded=_lost(facts))

    def _second(self) -> None:
        facts = self._inbox.facts()
        self._rates.append(facts.changes - self._counted)
        self._counted = facts.changes
        self.table.measure()
        if not self._tallied:
            self._tallied = True
            self._lines("summary").show([], chrome.summary(chrome.tally(self.table.rows.all()), self.size.width))

    def _now(self, facts: Facts) -> float:
        """The server's time; it stands still while the connection is lost, so that no age pretends to be known."""
        return (facts.fresh_at if _lost(facts) and facts.fresh_at else time.time()) + facts.clock

    def _shown(self) -> chrome.Shown:
        rows, table = self.table.rows, self.table
        sort = table.sorted_by.title.lower() + ("▼" if table.descending else "▲")
        waiting = self._inbox.waiting() if self._paused else 0
        return chrome.Shown(len(rows), rows.total, self._search.text, sort, self._paused, waiting, self._problem)

    def _lines(self, name: str) -> Lines:
        return self.main.query_one(f"#{name}", Lines)

    # --- What people do ---

    def on_resize(self, event: events.Resize) -> None:
        self.main.set_class(event.size.height < _LOW or event.size.width < _NARROW, "low")
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
        """The keys with priority mean something only on the table's screen, and `/` is also a letter of a filter."""
        if action not in ("filter", "keep"):
            return True
        if isinstance(self.screen, Help):
            return False
        return self.main.query_one(Prompt).display == (action == "keep")

    def action_filter(self) -> None:
        prompt = self.main.query_one(Prompt)
        prompt.display = True
        # Not `focus()`, which happens later.
        self.main.set_focus(prompt.entry)
        self.drain()

    def action_clear(self) -> None:
        self.main.query_one(Prompt).entry.value = ""
        self.action_keep()

    def action_keep(self) -> None:
        self.main.query_one(Prompt).display = False
        self.main.set_focus(self.table)
        self.drain()

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

    def action_resync(self) -> None:
        self._follower.restart()

    def action_help(self) -> None:
        self.push_screen(Help())


def _lost(facts: Facts) -> bool:
    return facts.state.phase in ("waiting", "refused", "connecting")
