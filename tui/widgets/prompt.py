"""The line in which the filter is typed; hidden until `/`."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Horizontal
from textual.widgets import Input

from tui.paint import AMBER, BAR, BOLD
from tui.sanitize import clean
from tui.widgets.lines import Lines

_HINT = "words, key:value    Enter keeps it    Esc clears it"


class Entry(Input):
    """Also what is pasted passes the boundary of tui/sanitize.py."""

    def validate_value(self, value: str) -> str:
        return clean(value)


class Prompt(Horizontal):
    """A slash and the entry."""

    def compose(self) -> ComposeResult:
        slash = Lines(base=BAR, id="slash")
        slash.show([(" /", AMBER + BOLD)])
        yield slash
        yield Entry(placeholder=_HINT, compact=True, select_on_focus=False, id="entry")

    @property
    def entry(self) -> Entry:
        return self.query_one(Entry)
