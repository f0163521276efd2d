"""The columns of the table of tasks: what they show, how they sort, which ones give way on a narrow screen. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from rich.style import Style

from tui.ordered import SortValue
from tui.paint import AMBER, BRIGHT, DIM, GREEN, ORANGE, PLAIN, RED, duration
from tui.rows import Task

GLYPHS: dict[str, tuple[str, Style]] = {
    "RUNNING": ("●", GREEN),
    "PENDING": ("◐", AMBER),
    "ACTIVATING": ("◐", AMBER),
    "PROVISIONING": ("◔", AMBER),
    "DEACTIVATING": ("◒", ORANGE),
    "STOPPING": ("◒", ORANGE),
    "DEPROVISIONING": ("◒", ORANGE),
    "STOPPED": ("○", DIM),
    "DELETED": ("○", DIM),
}
UNHEALTHY = ("✖", RED)
UNKNOWN = ("?", AMBER)
NONE = "\N{EN DASH}"


def glyph(task: Task) -> tuple[str, Style]:
    return UNHEALTHY if task.unhealthy else GLYPHS.get(task.fields.last_status, UNKNOWN)


class Column(msgspec.Struct, frozen=True):
    """`text(task, now)` and its style; `sort(task)`, ascending. A column with `grow` takes up to that much more."""

    title: str
    width: int
    text: Callable[[Task, float], str]
    sort: Callable[[Task], SortValue]
    style: Callable[[Task], Style]
    grow: int = 0
    right: bool = False


def _stopped(task: Task) -> bool:
    return task.fields.last_status == "STOPPED"


def _quiet(task: Task) -> Style:
    return DIM


def _normal(task: Task) -> Style:
    return DIM if _stopped(task) else PLAIN


def _name(task: Task) -> Style:
    return DIM if _stopped(task) else BRIGHT


def _status(task: Task) -> Style:
    return RED if task.unhealthy else glyph(task)[1]


_HEALTH = {"HEALTHY": ("ok", GREEN), "UNHEALTHY": ("UNHEALTHY", RED)}


def _health(task: Task) -> str:
    return _HEALTH.get(task.fields.health, (NONE, DIM))[0]


def _health_style(task: Task) -> Style:
    return DIM if _stopped(task) else _HEALTH.get(task.fields.health, (NONE, DIM))[1]


def _definition(task: Task) -> str:
    """`:49` where the family says no more than the service's name."""
    family, owner = task.fields.family, task.owner
    return task.definition[len(family) :] if family and family == owner else task.definition or NONE


def _amount(text: str) -> float:
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _zone(task: Task) -> str:
    return task.fields.availability_zone.rpartition("-")[2] or NONE


def _age(task: Task, now: float) -> str:
    return duration(now - task.created) if task.created else NONE


def _by(read: Callable[[Task], str]) -> Callable[[Task, float], str]:
    return lambda task, _now: read(task)


def _plain(
    title: str, width: int, read: Callable[[Task], str], style: Callable[[Task], Style], grow: int = 0
) -> Column:
    return Column(title, width, _by(read), read, style, grow)


AGE = Column("AGE", 4, _age, lambda task: -task.created, _quiet, right=True)
COLUMNS: tuple[Column, ...] = (
    _plain("SERVICE", 16, lambda task: task.owner or NONE, _name, grow=14),
    Column("TASK", 12, lambda task, _now: task.id[:12], lambda task: task.id, _quiet),
    _plain("STATUS", 14, lambda task: task.fields.last_status or NONE, _status),
    _plain("HEALTH", 9, _health, _health_style),
    AGE,
    _plain("CLUSTER", 10, lambda task: task.key.cluster, _normal, grow=6),
    Column("TASKDEF", 14, _by(_definition), lambda task: task.definition, _normal, grow=8),
    _plain("AZ", 4, _zone, _quiet),
    Column("CPU", 4, _by(lambda task: task.cpu or NONE), lambda task: _amount(task.cpu), _quiet, right=True),
    Column("MEM", 5, _by(lambda task: task.memory or NONE), lambda task: _amount(task.memory), _quiet, right=True),
    _plain("WHY STOPPED", 15, lambda task: task.note, _quiet, grow=50),
    _plain("LAUNCH", 8, lambda task: task.fields.launch_type or NONE, _quiet),
)
"""From left to right; those at the end give way first."""


def arrange(width: int, columns: Sequence[Column] = COLUMNS) -> list[tuple[Column, int]]:
    """Which columns there is room for, and how wide each is: two cells of gap between, the glyph's two in front."""
    room, chosen = width - 3, list[Column]()
    for column in columns:
        if room < column.width + 2 and chosen:
            break
        chosen.append(column)
        room -= column.width + 2
    widths = []
    for column in chosen:
        extra = max(0, min(column.grow, room))
        room -= extra
        widths.append((column, column.width + extra))
    return widths
