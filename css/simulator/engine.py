"""The clockwork of a world: its time, its agenda, its inventory, and the events of what changes.

Pure: time passes only when it is told to, and all chance comes from one seeded generator. Decides nothing.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from random import Random

from css.simulator import shapes
from css.simulator.inventory import Detail, Inventory, Item
from css.simulator.settings import Simulation

Action = Callable[[], None]

TASK_CHANGE = "ECS Task State Change"
INSTANCE_CHANGE = "ECS Container Instance State Change"
SERVICE_ACTION = "ECS Service Action"
DEPLOYMENT_CHANGE = "ECS Deployment State Change"


class Engine:
    """See the module's text. `emitted` counts events; `promised` the changes that are on the agenda."""

    def __init__(self, settings: Simulation, now: float) -> None:
        self.settings = settings
        self.place = shapes.Place(settings.region, settings.account)
        self.rng = Random(settings.seed)
        self.inventory = Inventory()
        self.now = now
        self.rate = settings.rate
        self.quiet = True
        self.emitted = 0
        self.promised = 0
        self._order = count()
        self._agenda: list[tuple[float, int, Action]] = []
        self._events: list[bytes] = []
        self._forgettable: list[tuple[float, int, dict[str, Item], str]] = []

    def __repr__(self) -> str:
        return f"<Engine at {self.now:.1f}, {self.emitted} events, {len(self._agenda)} things to come>"

    @property
    def pace(self) -> float:
        """How long a phase lasts, against life: a small world that shall change fast must hurry."""
        return min(1.0, max(self.settings.tasks, 10) / (10 * self.rate)) if self.rate else 1.0

    def after(self, seconds: float, action: Action) -> None:
        """Do something that many seconds (at a pace of 1, give or take a half) from now."""
        delay = seconds * self.pace * self.rng.uniform(0.5, 1.5)
        heapq.heappush(self._agenda, (self.now + delay, next(self._order), action))

    def run(self, until: float) -> None:
        """Let time pass: whatever is due by then happens at its time."""
        while self._agenda and self._agenda[0][0] <= until:
            self.now, _, action = heapq.heappop(self._agenda)
            action()
        self.now = until
        self._forget()

    def rest(self, seconds: float) -> None:
        """Time passes and nothing happens: what is on the agenda comes so much later."""
        self.now += seconds
        # All by the same time: the heap keeps its order.
        self._agenda = [(when + seconds, order, action) for when, order, action in self._agenda]

    def finish(self) -> None:
        """Everything on the agenda, and all that comes of it, happens now, in its order."""
        while self._agenda:
            heapq.heappop(self._agenda)[2]()

    def take(self) -> list[bytes]:
        """The events since the last call."""
        events, self._events = self._events, []
        return events

    def changed(self, item: Item, kind: str) -> None:
        """A task or container instance has changed: count its version and tell of it."""
        item.detail["version"] += 1
        item.touch(self.now)
        if not self.quiet:
            self._tell(kind, item.arn, shapes.event_form(item))

    def tell(self, kind: str, resource: str, detail: Detail) -> None:
        """An event that is not the state of anything."""
        if not self.quiet:
            self._tell(kind, resource, detail)

    def forget_later(self, place: dict[str, Item], item: Item) -> None:
        """ECS keeps what has ended for a while, then no longer knows it; no event tells of that."""
        heapq.heappush(self._forgettable, (self.now + self.settings.retention, next(self._order), place, item.id))

    def _tell(self, kind: str, resource: str, detail: Detail) -> None:
        self.emitted += 1
        self._events.append(shapes.envelope(self.place, shapes.uuid(self.rng), kind, resource, self.now, detail))

    def _forget(self) -> None:
        while self._forgettable and self._forgettable[0][0] <= self.now:
            _, _, place, id_ = heapq.heappop(self._forgettable)
            place.pop(id_, None)
