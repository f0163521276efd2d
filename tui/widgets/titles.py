"""The titles of the columns; a click sorts."""

from __future__ import annotations

from textual import events
from textual.message import Message

from tui.paint import BAR
from tui.widgets.lines import Lines


class Titles(Lines):
    class Clicked(Message):
        """`x` is the cell of the line that was clicked."""

        def __init__(self, x: int) -> None:
            super().__init__()
            self.x = x

    def __init__(self) -> None:
        super().__init__(base=BAR, id="titles")

    def on_click(self, event: events.Click) -> None:
        self.post_message(self.Clicked(event.x))
