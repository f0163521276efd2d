"""Tasks at work: launching, stepping through their lives, stopping. Knows instances, not services.

Pure. `on_change` is told of every task that came to RUNNING or STOPPED, for whoever keeps their number.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from css.simulator import lifecycle, shapes
from css.simulator.catalogue import ZONES, Cause, Launch, Workload
from css.simulator.engine import TASK_CHANGE, Engine
from css.simulator.fleet import Fleet, SimInstance
from css.simulator.inventory import Detail, Item, Shelf


class Order(msgspec.Struct, frozen=True):
    """What to run, and for whom. `tag` names the image's version; `doomed`: its image cannot be pulled."""

    workload: Workload
    launch: Launch
    group: str
    started_by: str
    definition: str
    tag: str
    overrides: Detail | None = None
    doom: Cause | None = None


class SimTask(Item):
    """A task; `plan` numbers its present plan of steps, so that steps of an earlier one are passed over."""

    __slots__ = ("instance", "order", "plan", "shelf")

    def __init__(self, shelf: Shelf, detail: Detail, order: Order, instance: SimInstance | None) -> None:
        tags = {"team": order.workload.name.partition("-")[0], "environment": shelf.name}
        super().__init__(detail["taskArn"], shelf.arn, detail, tags)
        self.shelf = shelf
        self.order = order
        self.instance = instance
        self.plan = 0

    @property
    def wanted(self) -> bool:
        return bool(self.detail["desiredStatus"] == "RUNNING")

    @property
    def running(self) -> bool:
        return bool(self.detail["lastStatus"] == "RUNNING") and self.wanted


class Tasks:
    """All tasks that have not stopped: `live`, cluster -> id -> task."""

    def __init__(self, engine: Engine, fleet: Fleet, on_change: Callable[[SimTask], None]) -> None:
        self._engine = engine
        self._fleet = fleet
        self._on_change = on_change
        self.live: dict[str, dict[str, SimTask]] = {}

    def launch(self, shelf: Shelf, order: Order) -> SimTask | None:
        """Start a task; None: no container instance has room for it."""
        task = self._create(shelf, order)
        if task is not None:
            self._follow(task, lifecycle.starting(order.launch, order.workload))
        return task

    def found(self, shelf: Shelf, order: Order, age: float, ended: Cause | None = None) -> SimTask | None:
        """A task that came to be `age` seconds before the world begins, and perhaps `ended` since; None: no room."""
        task = self._create(shelf, order)
        if task is None:
            return None
        engine, now = self._engine, self._engine.now
        engine.now = now - age
        self._live_through(task, lifecycle.starting(order.launch, order.workload))
        if ended is not None:
            engine.now += engine.rng.uniform(0.2, 0.7) * age
            steps = lifecycle.stopping(task.detail, order.workload, ended)
            lifecycle.doom(task.detail, ended, engine.now, self._words(task))
            self._live_through(task, steps)
        engine.now = now
        return task

    def stop(self, task: SimTask, cause: Cause, words: dict[str, str] | None = None) -> None:
        """Begin to stop a task that is wanted; a task that is stopping goes on doing so, for its first reason."""
        if not task.wanted:
            return
        steps = lifecycle.stopping(task.detail, task.order.workload, cause)
        lifecycle.doom(task.detail, cause, self._engine.now, self._words(task) | (words or {}))
        self._follow(task, steps)

    def kill(self, task: SimTask, cause: Cause) -> None:
        """The task is gone at once, with its host."""
        task.plan += 1
        if task.wanted:
            lifecycle.doom(task.detail, cause, self._engine.now, self._words(task))
        self._enter(task, "STOPPED")

    def _create(self, shelf: Shelf, order: Order) -> SimTask | None:
        engine = self._engine
        instance = self._fleet.place(shelf, order.workload) if order.launch == "EC2" else None
        if order.launch == "EC2" and instance is None:
            return None
        detail = shapes.task(
            engine.rng,
            engine.place,
            shelf.name,
            order.workload,
            launch=order.launch,
            group=order.group,
            started_by=order.started_by,
            definition=order.definition,
            zone=engine.rng.choice(ZONES),
            tag=order.tag,
            instance_arn=instance.arn if instance else "",
            overrides=order.overrides,
        )
        if instance is not None:
            detail["availabilityZone"] = _zone_of(instance)
        task = SimTask(shelf, detail, order, instance)
        engine.inventory.add(shelf.tasks, task)
        self.live.setdefault(shelf.name, {})[task.id] = task
        if instance is not None:
            self._fleet.take(instance, task.id, order.workload)
        return task

    def _follow(self, task: SimTask, steps: list[lifecycle.Step]) -> None:
        """Take the first step now, the others in their time."""
        task.plan += 1
        plan, rest = task.plan, steps[1:]
        self._engine.promised += len(rest)
        self._enter(task, steps[0][0])
        self._continue(task, rest, plan)

    def _live_through(self, task: SimTask, steps: list[lifecycle.Step]) -> None:
        for step, delay in steps:
            self._engine.now += delay * self._engine.rng.uniform(0.5, 1.5)
            self._enter(task, step)

    def _continue(self, task: SimTask, steps: list[lifecycle.Step], plan: int) -> None:
        if not steps:
            return
        (step, delay), rest = steps[0], steps[1:]

        def act() -> None:
            if task.plan != plan:
                self._engine.promised -= len(steps)
                return
            self._engine.promised -= 1
            if step == "pulled" and task.order.doom is not None and task.wanted:
                self._engine.promised -= len(rest)
                self.stop(task, task.order.doom)
                return
            self._enter(task, step)
            self._continue(task, rest, plan)

        self._engine.after(delay, act)

    def _enter(self, task: SimTask, step: str) -> None:
        engine = self._engine
        lifecycle.enter(task.detail, task.order.workload, step, engine.now, engine.rng)
        engine.changed(task, TASK_CHANGE)
        if step == "STOPPED":
            del self.live[task.shelf.name][task.id]
            engine.forget_later(task.shelf.tasks, task)
            if task.instance is not None:
                self._fleet.release(task.instance, task.id, ran="startedAt" in task.detail)
        elif step == "RUNNING" and task.instance is not None:
            self._fleet.started(task.instance)
        if step in ("RUNNING", "STOPPED") and not engine.quiet:
            self._on_change(task)

    def _words(self, task: SimTask) -> dict[str, str]:
        """What the texts of causes may name."""
        name = task.order.workload.name
        return {
            "deployment": task.order.started_by,
            "image": task.detail["containers"][0]["image"],
            "instance": task.instance.ec2_id if task.instance else "",
            "target_group": self._engine.place.target_group(name),
        }


def _zone_of(instance: SimInstance) -> str:
    attributes = instance.detail["attributes"]
    return str(next(entry["value"] for entry in attributes if entry["name"] == "ecs.availability-zone"))
