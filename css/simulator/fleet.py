"""Container instances: where tasks are placed, what is left on them, how they come and go.

Pure. Never stops a task: whoever drains or terminates an instance does.
"""

from __future__ import annotations

from css.simulator import shapes
from css.simulator.catalogue import INSTANCE_TYPES, ZONES, Workload
from css.simulator.engine import INSTANCE_CHANGE, Engine
from css.simulator.inventory import Detail, Item, Shelf

_CPU, _MEMORY = 0, 1
_FULL = 0.8


class SimInstance(Item):
    """A container instance; `load` is what it holds: task id -> workload."""

    __slots__ = ("load", "shelf")

    def __init__(self, shelf: Shelf, detail: Detail) -> None:
        super().__init__(detail["containerInstanceArn"], shelf.arn, detail, {"Name": f"ecs-{shelf.name}"})
        self.shelf = shelf
        self.load: dict[str, Workload] = {}

    @property
    def usable(self) -> bool:
        return bool(self.detail["status"] == "ACTIVE" and self.detail["agentConnected"])

    @property
    def ec2_id(self) -> str:
        return str(self.detail["ec2InstanceId"])

    def remaining(self, resource: int) -> int:
        return int(self.detail["remainingResources"][resource]["integerValue"])

    @property
    def used_cpu(self) -> int:
        return sum(workload.cpu for workload in self.load.values())

    def add_remaining(self, cpu: int, memory: int) -> None:
        self.detail["remainingResources"][_CPU]["integerValue"] += cpu
        self.detail["remainingResources"][_MEMORY]["integerValue"] += memory


class Fleet:
    """All container instances. `live` are those of a cluster that are not INACTIVE, oldest first."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.live: dict[str, dict[str, SimInstance]] = {}

    def found(self, shelf: Shelf) -> SimInstance:
        """An instance that has been there for some days when the world begins."""
        instance = self._create(shelf)
        instance.detail |= {"status": "ACTIVE", "version": self._engine.rng.randrange(100, 20_000)}
        instance.detail["registeredAt"] -= self._engine.rng.randrange(40_000, 2_000_000)
        return instance

    def register(self, shelf: Shelf) -> SimInstance:
        """A new instance begins to register; it is ACTIVE a little later."""
        instance = self._create(shelf)
        self.changed(instance)
        self._engine.after(5.0, lambda: self._activate(instance))
        return instance

    def place(self, shelf: Shelf, workload: Workload) -> SimInstance | None:
        """The best of a few instances with room (spread by remaining CPU); None: there is no room."""
        rng = self._engine.rng
        fleet = list(self.live.get(shelf.name, {}).values())
        fit = [instance for instance in rng.sample(fleet, min(len(fleet), 6)) if _fits(instance, workload)]
        fit = fit or [instance for instance in fleet if _fits(instance, workload)]
        return max(fit, key=lambda instance: instance.remaining(_CPU), default=None)

    def take(self, instance: SimInstance, task_id: str, workload: Workload) -> None:
        """A task is placed."""
        instance.load[task_id] = workload
        instance.add_remaining(-workload.cpu, -workload.memory)
        instance.detail["pendingTasksCount"] += 1
        self.changed(instance)

    def started(self, instance: SimInstance) -> None:
        """A placed task has begun to run."""
        instance.detail["pendingTasksCount"] -= 1
        instance.detail["runningTasksCount"] += 1
        self.changed(instance)

    def release(self, instance: SimInstance, task_id: str, *, ran: bool) -> None:
        """A placed task has stopped."""
        workload = instance.load.pop(task_id)
        instance.add_remaining(workload.cpu, workload.memory)
        instance.detail["runningTasksCount" if ran else "pendingTasksCount"] -= 1
        self.changed(instance)
        if instance.detail["status"] == "DRAINING" and not instance.load:
            self._engine.after(10.0, lambda: self.deregister(instance))

    def set_agent(self, instance: SimInstance, *, connected: bool) -> None:
        if instance.detail["status"] != "INACTIVE" and instance.detail["agentConnected"] is not connected:
            instance.detail["agentConnected"] = connected
            self.changed(instance)

    def is_short_without(self, leaving: SimInstance) -> bool:
        """Whether the others would be too full to take over what an instance holds."""
        others = [one for one in self.live[leaving.shelf.name].values() if one is not leaving and one.usable]
        needed = sum(one.used_cpu for one in (leaving, *others))
        return needed > _FULL * sum(one.remaining(_CPU) + one.used_cpu for one in others)

    def drain(self, instance: SimInstance) -> None:
        """Nothing more is placed; when empty it goes."""
        instance.detail["status"] = "DRAINING"
        self.changed(instance)
        if not instance.load:
            self._engine.after(10.0, lambda: self.deregister(instance))

    def deregister(self, instance: SimInstance) -> None:
        """The instance is gone: ECS shows it as INACTIVE for a while."""
        if instance.detail["status"] == "INACTIVE":
            return
        instance.detail |= {"status": "INACTIVE", "agentConnected": False}
        self.changed(instance)
        del self.live[instance.shelf.name][instance.id]
        self._engine.forget_later(instance.shelf.instances, instance)

    def changed(self, instance: SimInstance) -> None:
        self._engine.changed(instance, INSTANCE_CHANGE)

    def _create(self, shelf: Shelf) -> SimInstance:
        engine = self._engine
        kind = engine.rng.choice(INSTANCE_TYPES)
        # Zones in turn, as an Auto Scaling group balances them.
        fleet = self.live.setdefault(shelf.name, {})
        zone = ZONES[len(fleet) % len(ZONES)]
        instance = SimInstance(shelf, shapes.instance(engine.rng, engine.place, shelf.name, kind, zone, engine.now))
        engine.inventory.add(shelf.instances, instance)
        fleet[instance.id] = instance
        return instance

    def _activate(self, instance: SimInstance) -> None:
        if instance.detail["status"] == "REGISTERING":
            instance.detail["status"] = "ACTIVE"
            self.changed(instance)


def _fits(instance: SimInstance, workload: Workload) -> bool:
    return (
        instance.usable and instance.remaining(_CPU) >= workload.cpu and instance.remaining(_MEMORY) >= workload.memory
    )
