"""A world that lives: clusters with services, container instances and tasks, deterministic for its settings.

Pure: time passes by `step`, chance comes from the seed. Two worlds of equal settings and start that are stepped alike
say the same, byte for byte. It never talks to anyone: `ecs_api` shows its inventory, `region` carries its events.
"""

from __future__ import annotations

from css.simulator import founding, shapes
from css.simulator.engine import INSTANCE_CHANGE, TASK_CHANGE, Engine
from css.simulator.fleet import Fleet
from css.simulator.incidents import Incidents
from css.simulator.inventory import Detail, Inventory
from css.simulator.scheduler import Scheduler
from css.simulator.settings import Simulation

_BEAT = 0.2
"""Seconds between looks at whether more should happen."""
_MOST_PER_BEAT = 500
_ARREARS = 5.0
"""Seconds of changes that a world which could not keep up makes good later; more would come as a flood."""


class LivingWorld:
    """See the module's text. `start` is the time at which it begins, in seconds since the epoch."""

    def __init__(self, settings: Simulation, start: float) -> None:
        self._engine = Engine(settings, start)
        self._fleet = Fleet(self._engine)
        self._scheduler = Scheduler(self._engine, self._fleet)
        self._incidents = Incidents(self._engine, self._fleet, self._scheduler)
        self._budget = 0.0
        self._next_beat = start + _BEAT
        founding.found(self._engine, self._fleet, self._scheduler, self._incidents)
        self._engine.quiet = False

    def __repr__(self) -> str:
        return f"<LivingWorld {self._engine!r}>"

    @property
    def inventory(self) -> Inventory:
        return self._engine.inventory

    @property
    def now(self) -> float:
        return self._engine.now

    @property
    def emitted(self) -> int:
        """Events since the beginning."""
        return self._engine.emitted

    def tasks(self) -> dict[str, Detail]:
        """The truth: every task ECS would tell of, by ARN, in the form of events."""
        return {item.arn: shapes.event_form(item) for item in self.inventory.tasks()}

    def instances(self) -> dict[str, Detail]:
        """The truth: every container instance, likewise."""
        return {item.arn: shapes.event_form(item) for item in self.inventory.instances()}

    def step(self, dt: float) -> list[bytes]:
        """Let `dt` seconds pass; the events of that time, as EventBridge envelopes in JSON, in order."""
        until = self._engine.now + dt
        while self._next_beat <= until:
            self._engine.run(self._next_beat)
            self._beat()
            self._next_beat += _BEAT
        self._engine.run(until)
        return self._engine.take()

    def rest(self, dt: float) -> None:
        """Time passes and nothing happens."""
        self._engine.rest(dt)
        self._next_beat += dt

    def settle(self) -> list[bytes]:
        """Finish at once what has begun, and begin nothing more; the events of it."""
        self._engine.finish()
        return self._engine.take()

    def history(self, events: int) -> list[bytes]:
        """Events that lead to where the world is afterwards: one for each object as it is now, then of a fast life.

        At least `events` of them, if anything lives; afterwards the world is settled.
        """
        engine = self._engine
        objects = [(item, TASK_CHANGE) for item in self.inventory.tasks()]
        objects += [(item, INSTANCE_CHANGE) for item in self.inventory.instances()]
        for item, kind in objects:
            engine.tell(kind, item.arn, shapes.event_form(item))
        told = engine.take()
        rate, engine.rate = engine.rate, max(50.0, events / 60)
        silent = 0
        while len(told) < events and silent < 1000:
            heard = self.step(_BEAT)
            told += heard
            silent = 0 if heard else silent + 1
            if len(told) + engine.promised >= events:
                told += self.settle()
        engine.rate = rate
        self._budget = float(engine.emitted)
        return told

    def _beat(self) -> None:
        """As many incidents as keep the changes, told and to come, at the rate."""
        engine = self._engine
        self._budget = min(self._budget, engine.emitted + engine.promised + engine.rate * _ARREARS)
        self._budget += engine.rate * _BEAT
        for _ in range(_MOST_PER_BEAT):
            if engine.emitted + engine.promised + 1 > self._budget:
                break
            self._incidents.one()
