"""The help, in front of everything; any key closes it."""

from __future__ import annotations

from textual import events
from textual.app import ComposeResult
from textual.screen import ModalScreen

from tui.chrome import helping
from tui.paint import BAR
from tui.widgets.lines import Lines


class Help(ModalScreen[None]):
    def compose(self) -> ComposeResult:
        lines = Lines(base=BAR, id="help")
        lines.show(*helping())
        yield lines

    def on_key(self, event: events.Key) -> None:
        event.stop()
        self.dismiss()

    def on_click(self) -> None:
        self.dismiss()
