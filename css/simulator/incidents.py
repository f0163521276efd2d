"""What befalls a world: releases, scaling, crashes, lost hosts, flapping agents, jobs that come and go.

Pure. Each incident picks its victim by the world's own generator and says whether it found one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from css.simulator import catalogue, shapes
from css.simulator.catalogue import JOBS, TEAMS, Cause
from css.simulator.engine import Engine
from css.simulator.fleet import Fleet, SimInstance
from css.simulator.inventory import Detail, Shelf
from css.simulator.scheduler import Scheduler
from css.simulator.service import SimService
from css.simulator.tasks import Order, SimTask

T = TypeVar("T")

_CRASHES: tuple[tuple[Cause, int], ...] = (
    (catalogue.OUT_OF_MEMORY, 4),
    (catalogue.CRASHED, 5),
    (catalogue.SEGFAULT, 1),
    (catalogue.UNHEALTHY_CONTAINER, 2),
    (catalogue.BY_USER, 1),
)


class Incidents:
    """`one` makes the next thing happen."""

    def __init__(self, engine: Engine, fleet: Fleet, scheduler: Scheduler) -> None:
        self._engine = engine
        self._fleet = fleet
        self._scheduler = scheduler
        self._services: list[SimService] = []
        self._weighted: tuple[tuple[Callable[[], bool], int], ...] = (
            (self._crash, 25),
            (self._unhealthy_target, 10),
            (self._scale, 20),
            (self._job, 25),
            (self._deploy, 8),
            (self._bad_deploy, 2),
            (self._spot, 6),
            (self._flap, 12),
            (self._drain, 2),
            (self._terminate, 1),
        )

    def one(self) -> bool:
        """False: nothing was there for it to happen to."""
        happen = self._weigh(self._weighted)
        return happen()

    def job(self, shelf: Shelf) -> Order:
        """A standalone task that somebody or something runs, with overrides."""
        rng = self._engine.rng
        workload = rng.choice(JOBS)
        environment = [
            {"name": "RUN_ID", "value": shapes.hexadecimal(rng, 12)},
            {
                "name": "DATABASE_URL",
                "value": f"postgres://jobs:{shapes.hexadecimal(rng, 16)}@db.{shelf.name}:5432/app",
            },
            {"name": "API_TOKEN", "value": f"tok_{shapes.hexadecimal(rng, 24)}"},
        ]
        overrides: Detail = {
            "containerOverrides": [
                {"name": workload.name, "command": ["bin/run", workload.name], "environment": environment}
            ]
        }
        definition = self._engine.place.arn("task-definition", f"{workload.name}:{rng.randrange(3, 9)}")
        return Order(
            workload=workload,
            launch=rng.choice(("FARGATE", "FARGATE_SPOT")),
            group=f"family:{workload.name}",
            started_by=f"{rng.choice(TEAMS)}-scheduler",
            definition=definition,
            tag="stable",
            overrides=overrides,
        )

    # --- to tasks -------------------------------------------------------------------------------------------------

    def _crash(self) -> bool:
        task = self._victim(lambda task: task.running)
        if task is not None:
            self._scheduler.tasks.stop(task, self._weigh(_CRASHES))
        return task is not None

    def _unhealthy_target(self) -> bool:
        task = self._victim(lambda task: task.running and task.order.workload.port > 0)
        if task is not None:
            self._scheduler.tasks.stop(task, catalogue.UNHEALTHY_TARGET)
        return task is not None

    def _spot(self) -> bool:
        task = self._victim(lambda task: task.running and task.order.launch == "FARGATE_SPOT")
        if task is not None:
            self._scheduler.tasks.stop(task, catalogue.SPOT)
        return task is not None

    def _job(self) -> bool:
        """A job ends, another begins: their number stays."""
        old = self._victim(lambda task: task.running and task.order.group.startswith("family:"))
        if old is None:
            return False
        failed = self._engine.rng.random() < 0.2
        self._scheduler.tasks.stop(old, catalogue.JOB_FAILED if failed else catalogue.FINISHED)
        return self._scheduler.tasks.launch(old.shelf, self.job(old.shelf)) is not None

    # --- to services ----------------------------------------------------------------------------------------------

    def _deploy(self, *, bad: bool = False) -> bool:
        service = self._quiet_service()
        if service is not None:
            self._scheduler.deploy(service, bad=bad)
        return service is not None

    def _bad_deploy(self) -> bool:
        return self._deploy(bad=True)

    def _scale(self) -> bool:
        """Out or in by a fifth, never far from where the service began."""
        service = self._quiet_service()
        if service is None:
            return False
        by = max(1, service.desired // 5)
        most, least = service.base * 13 // 10 + 1, max(1, service.base * 7 // 10)
        count = service.desired + self._engine.rng.choice((by, -by))
        self._scheduler.scale(service, min(most, max(least, count)))
        return True

    # --- to container instances -----------------------------------------------------------------------------------

    def _flap(self) -> bool:
        instance = self._instance()
        if instance is None:
            return False
        self._fleet.set_agent(instance, connected=False)
        self._engine.promised += 1

        def back() -> None:
            self._engine.promised -= 1
            self._fleet.set_agent(instance, connected=True)

        self._engine.after(20.0, back)
        return True

    def _drain(self) -> bool:
        """An instance is replaced, or saved: its tasks go one by one, then itself."""
        instance = self._instance()
        if instance is None:
            return False
        if self._fleet.is_short_without(instance):
            self._fleet.register(instance.shelf)
        self._fleet.drain(instance)
        for task in self._tasks_on(instance):
            self._engine.promised += 1
            self._engine.after(8.0, self._evict(task))
        return True

    def _evict(self, task: SimTask) -> Callable[[], None]:
        def act() -> None:
            self._engine.promised -= 1
            if task.detail["lastStatus"] != "STOPPED":
                self._scheduler.tasks.stop(task, catalogue.DRAINED)

        return act

    def _terminate(self) -> bool:
        """A host is lost, and everything on it."""
        instance = self._instance()
        if instance is None:
            return False
        if self._fleet.is_short_without(instance):
            self._fleet.register(instance.shelf)
        self._fleet.set_agent(instance, connected=False)
        for task in self._tasks_on(instance):
            self._scheduler.tasks.kill(task, catalogue.HOST_GONE)
        self._fleet.deregister(instance)
        return True

    # --- who it happens to ----------------------------------------------------------------------------------------

    def _victim(self, fits: Callable[[SimTask], bool]) -> SimTask | None:
        tasks = self._scheduler.tasks.live
        name = self._choose([name for name, live in tasks.items() if live])
        return self._choose([task for task in tasks[name].values() if fits(task)]) if name is not None else None

    def _quiet_service(self) -> SimService | None:
        self._services = self._services or list(self._scheduler.services.values())
        picked = [self._engine.rng.choice(self._services) for _ in range(8)] if self._services else []
        return next((service for service in picked if service.settled and service.base), None)

    def _instance(self) -> SimInstance | None:
        name = self._choose([name for name, fleet in self._fleet.live.items() if len(fleet) > 1])
        if name is None:
            return None
        return self._choose([instance for instance in self._fleet.live[name].values() if instance.usable])

    def _tasks_on(self, instance: SimInstance) -> list[SimTask]:
        return [self._scheduler.tasks.live[instance.shelf.name][id_] for id_ in instance.load]

    def _choose(self, candidates: Sequence[T]) -> T | None:
        return self._engine.rng.choice(candidates) if candidates else None

    def _weigh(self, weighted: Sequence[tuple[T, int]]) -> T:
        return self._engine.rng.choices([one for one, _ in weighted], [weight for _, weight in weighted])[0]
