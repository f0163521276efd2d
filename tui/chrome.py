"""What stands around the table: the header, the summary, the line of the filter, the keys, the empty states. Pure."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec
from rich.style import Style

from tui.columns import GLYPHS, NONE, UNHEALTHY, UNKNOWN
from tui.inbox import Facts
from tui.paint import (
    ALARM,
    AMBER,
    BADGE,
    BLUE,
    BOLD,
    DIM,
    GREEN,
    NOTICE,
    ORANGE,
    PLAIN,
    PURPLE,
    RED,
    TITLE,
    Part,
    length,
    number,
    sparkline,
)
from tui.rows import Task

KEYS = (
    ("/", "filter"),
    ("s", "sort"),
    ("S", "reverse"),
    ("p", "pause"),
    ("j k", "move"),
    ("^f ^b", "page"),
    ("^r", "resync"),
    ("?", "help"),
    ("q", "quit"),
)
_ESSENTIAL = ("/", "s", "p", "?", "q")
_TYPING = (("Enter", "keep the filter"), ("Esc", "clear it"))
_GAP: Part = ("  ", PLAIN)


class Shown(msgspec.Struct, frozen=True):
    """What the table shows: `shown` of `total` tasks, found by `search`, in the order of `sort`."""

    shown: int
    total: int
    search: str
    sort: str
    paused: bool
    waiting: int
    """Tasks that have changed since the pause began."""
    problem: str = ""
    """Why what is typed is not understood."""


def header(endpoint: str, facts: Facts, rates: Sequence[int], now: float, width: int) -> list[Part]:
    """The state of the connection first; what follows gives way on a narrow screen, the least needed first."""
    left: list[Part] = [(" css ", BADGE), (" ", PLAIN), *state(facts, now)]
    optional: list[list[Part]] = [[_GAP, (endpoint, DIM)]]
    if facts.state.phase in ("live", "stale", "syncing"):
        optional += [
            [_GAP, ("lag ", DIM), _lag(facts.lag)],
            [_GAP, ("rev ", DIM), (number(facts.revision), TITLE)],
            [_GAP, ("chg/s ", DIM), (f"{rates[-1] if rates else 0:<4}", PURPLE)],
            [_GAP, (facts.region, DIM)] if facts.region else [],
            [_GAP, (sparkline(rates), PURPLE)],
        ]
    right: list[Part] = [("read-only ", DIM)]
    room = width - length(left) - length(right) - 1
    for parts in optional:
        if length(parts) > room:
            continue
        left += parts
        room -= length(parts)
    return [*left, (" " * (room + 1), PLAIN), *right] if room >= 0 else left


def state(facts: Facts, now: float) -> list[Part]:
    """The connection in a glyph and a word, with the reason where there is one."""
    told = facts.state
    match told.phase:
        case "live":
            return [("● LIVE", GREEN + BOLD)]
        case "syncing":
            return [(f"◔ SYNCING {told.percent}%", AMBER + BOLD)]
        case "stale":
            return [(" ◒ STALE ", NOTICE), (f" silent for {now - facts.since + 2:.0f}s", AMBER)]
        case "waiting":
            left = max(0.0, facts.since + told.retry_in - now)
            banner = f" ✖ RETRY in {left:.0f}s ({told.attempt}) "
            return [(banner, ALARM), (f" {told.reason}", RED), *_as_of(facts)]
        case "refused":
            return [(" ✖ REFUSED ", ALARM), (f" {told.reason}", RED)]
    again = f" again ({told.attempt})" if told.attempt else ""
    return [(f"◌ CONNECTING{again}", AMBER + BOLD)]


def _as_of(facts: Facts) -> list[Part]:
    if not facts.fresh_at:
        return []
    return [(time.strftime(" · as of %H:%M:%S", time.localtime(facts.fresh_at)), AMBER)]


def _lag(lag: float | None) -> Part:
    if lag is None:
        return (NONE, DIM)
    return (f"{lag:.1f}s" if lag < 100 else f"{lag:.0f}s", GREEN if lag < 5 else AMBER if lag < 30 else RED)


_GROUPS: tuple[tuple[str, Style, str], ...] = (
    ("●", GREEN, "running"),
    ("◔", AMBER, "provisioning"),
    ("◐", AMBER, "pending"),
    ("◒", ORANGE, "stopping"),
    ("○", DIM, "stopped"),
    ("✖", RED, "unhealthy"),
    ("?", AMBER, "unknown"),
)


def tally(tasks: Iterable[Task]) -> Counter[str]:
    """How many tasks there are of each glyph."""
    statuses = Counter((task.fields.last_status, task.unhealthy) for task in tasks)
    counts: Counter[str] = Counter()
    for (status, unhealthy), count in statuses.items():
        counts[UNHEALTHY[0] if unhealthy else GLYPHS.get(status, UNKNOWN)[0]] += count
    return counts


def summary(counts: Counter[str], width: int) -> list[Part]:
    """The share of each status as a bar, then as numbers."""
    total = counts.total()
    numbers: list[Part] = []
    for mark, style, _word in _GROUPS:
        if counts[mark]:
            numbers += [(f"{mark} ", style), (f"{number(counts[mark])}  ", style)]
    head: list[Part] = [(" tasks ", BOLD), (f"{number(total)} ", TITLE)]
    room = min(60, width - length(head) - length(numbers) - 4)
    return [*head, *_bar(counts, room), _GAP, *numbers] if total else head


def _bar(counts: Counter[str], room: int) -> list[Part]:
    if room < 10:
        return []
    total, done, cells = counts.total(), 0, 0
    parts: list[Part] = []
    for mark, style, _word in _GROUPS:
        done += counts[mark]
        until = room * done // total
        parts.append(("█" * (until - cells), style))
        cells = until
    return parts


def breadcrumb(shown: Shown) -> list[Part]:
    """What is shown of what, why, and in which order."""
    parts: list[Part] = [(" tasks ", BOLD), (f"{number(shown.shown)}/{number(shown.total)}", DIM)]
    if shown.search:
        parts += [_GAP, (f"/{shown.search}", AMBER + BOLD)]
    parts += [_GAP, (f"sort {shown.sort}", DIM)]
    if shown.paused:
        parts += [_GAP, (f" ‖ PAUSED +{number(shown.waiting)} ", NOTICE)]
    if shown.problem:
        parts += [_GAP, (f"✖ {shown.problem}", RED)]
    return parts


def keys(width: int, *, typing: bool) -> list[Part]:
    """The keys that mean something now, as many as there is room for."""
    for wanted in (_TYPING,) if typing else (KEYS, tuple(key for key in KEYS if key[0] in _ESSENTIAL)):
        parts: list[Part] = []
        for key, what in wanted:
            parts += [(f" {key} ", BLUE + BOLD), (f"{what} ", DIM)]
        if length(parts) <= width:
            break
    return parts


def nothing(endpoint: str, facts: Facts, shown: Shown) -> list[list[Part]]:
    """What stands where no rows are: why, and what to do."""
    told = facts.state
    if shown.total:
        return [
            [(f"0 of {number(shown.total)} tasks match ", TITLE), (f"/{shown.search}", AMBER + BOLD)],
            [],
            [("Esc", BLUE + BOLD), (" clears the filter", DIM)],
        ]
    match told.phase:
        case "live" | "stale":
            return [
                [(f"{endpoint} knows of no tasks", TITLE)],
                [],
                [("They appear here as soon as it hears of one.", DIM)],
            ]
        case "syncing":
            return [[(f"receiving the tasks of {endpoint} … {told.percent} %", TITLE)]]
        case "refused":
            return [
                [(f"✖ {endpoint} refused", RED + BOLD)],
                [(told.reason, RED)],
                [],
                [("^r", BLUE + BOLD), (" tries again   ", DIM), ("q", BLUE + BOLD), (" quits", DIM)],
            ]
        case "waiting":
            return [
                [(f"✖ {endpoint} cannot be reached: {told.reason}", RED + BOLD)],
                [],
                [("It is tried again by itself.  ", DIM), ("^r", BLUE + BOLD), (" tries now", DIM)],
            ]
    return [[(f"◌ connecting to {endpoint} …", TITLE)]]


HELP: tuple[tuple[str, str], ...] = (
    ("j k  ↑ ↓", "move by a line"),
    ("^f ^b  PgDn PgUp", "move by a page"),
    ("g G  Home End", "first, last"),
    ("/", "filter as you type: words, and key:value"),
    ("", "status:running  cluster:prod-*  service:web,api"),
    ("", "group:  family:  health:  az:  launchType:  stopCode:"),
    ("Enter", "keep the filter    Esc  clear it"),
    ("s S", "sort by the next column, reverse the order"),
    ("p", "pause: hold the screen still, changes are kept"),
    ("^r", "connect again now, and read everything anew"),
    ("? q", "this help, quit"),
)


def _legend(groups: Sequence[tuple[str, Style, str]]) -> list[Part]:
    parts: list[Part] = [("  ", PLAIN)]
    for mark, style, word in groups:
        parts += [(f"{mark} ", style), (f"{word}  ", DIM)]
    return parts


def helping() -> list[list[Part]]:
    """The help, as lines."""
    lines: list[list[Part]] = [[("  css tui ", TITLE), ("· a live, read-only view of every ECS task", DIM)], []]
    lines += [[(f"  {key:<17} ", BLUE + BOLD), (what, PLAIN)] for key, what in HELP]
    return [[], *lines, [], _legend(_GROUPS[:4]), _legend(_GROUPS[4:])]
