"""Lines of styled text: the colours, and the one way from text to a strip of the screen. Pure.

Colour never says anything alone: a glyph or a word beside it says the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from tui.sanitize import clean

BACKGROUND = "#0b0f14"
BASE = Style(color="#c9d1d9", bgcolor=BACKGROUND)
BAR = Style(color="#c9d1d9", bgcolor="#111820")
CURSOR = Style(color="#e6edf3", bgcolor="#1d3450")
PLAIN = Style()
BOLD = Style(bold=True)
BRIGHT = Style(color="#e6edf3")
TITLE = Style(color="#e6edf3", bold=True)
DIM = Style(color="#6e7681")
GREEN = Style(color="#6ccf8e")
AMBER = Style(color="#f0b95b")
ORANGE = Style(color="#d98b3f")
RED = Style(color="#ff6b6b")
BLUE = Style(color="#6cb6ff")
PURPLE = Style(color="#c297ff")
BADGE = Style(color="#0b0f14", bgcolor="#6cb6ff", bold=True)
ALARM = Style(color="#0b0f14", bgcolor="#ff6b6b", bold=True)
NOTICE = Style(color="#0b0f14", bgcolor="#f0b95b", bold=True)
FLASH = Style(bgcolor="#4a3a17", bold=True)

Part = tuple[str, Style]


def strip(parts: Iterable[Part], width: int, base: Style = BASE) -> Strip:
    """Exactly `width` cells."""
    segments = [Segment(clean(text), base + style) for text, style in parts if text]
    return Strip(segments).adjust_cell_length(width, base)


def fit(text: str, width: int, *, right: bool = False) -> str:
    """The text in `width` cells: padded, or cut with an ellipsis."""
    text = clean(text)
    size = cell_len(text)
    if size > width:
        return set_cell_size(text, width - 1) + "…" if width > 1 else set_cell_size(text, width)
    padding = " " * (width - size)
    return padding + text if right else text + padding


def length(parts: Iterable[Part]) -> int:
    return sum(cell_len(clean(text)) for text, _ in parts)


def number(value: int) -> str:
    return f"{value:,}"


_BARS = " ▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[int]) -> str:
    """A bar of one cell per value, the highest one full."""
    most = max(values, default=0)
    return "".join(_BARS[0 if value <= 0 else 1 + value * 7 // most] for value in values)


def duration(seconds: float) -> str:
    """`9s`, `14m`, `3h`, `21d`: two or three cells for what people ask about."""
    value = max(0, int(seconds))
    for size, unit in ((60, "s"), (60, "m"), (48, "h")):
        if value < size:
            return f"{value}{unit}"
        value //= size if unit != "h" else 24
    return f"{value}d"
