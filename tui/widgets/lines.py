"""A widget of whole lines, of which only those that changed are drawn again."""

from __future__ import annotations

from collections.abc import Sequence

from rich.style import Style
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from tui.paint import BASE, Part, strip


class Lines(Widget):
    """Shows what `show` was last given; its height comes from the style sheet."""

    def __init__(self, *, base: Style = BASE, id: str | None = None) -> None:  # noqa: A002 - Textual's own name
        super().__init__(id=id)
        self._base = base
        self._lines: list[list[Part]] = []

    def show(self, *lines: Sequence[Part]) -> None:
        new, old = [list(line) for line in lines], self._lines
        self._lines = new
        for y in range(max(len(old), len(new))):
            if old[y : y + 1] != new[y : y + 1]:
                self.refresh(Region(0, y, self.size.width, 1))

    def render_line(self, y: int) -> Strip:
        return strip(self._lines[y] if y < len(self._lines) else (), self.size.width, self._base)
