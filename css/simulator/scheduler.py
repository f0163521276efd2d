"""The service scheduler: keeps each service's tasks at the desired count and rolls new revisions out.

Pure. Follows ECS's rolling update: new tasks within `maximumPercent`, old ones go as new ones run, and the circuit
breaker rolls a deployment back whose tasks do not start. It acts a moment after anything changes, never in between.
"""

from __future__ import annotations

from css.simulator import shapes
from css.simulator.catalogue import NO_IMAGE, SCALED
from css.simulator.engine import DEPLOYMENT_CHANGE, SERVICE_ACTION, Engine
from css.simulator.fleet import Fleet
from css.simulator.inventory import Detail
from css.simulator.service import SimService, deployment
from css.simulator.tasks import Order, SimTask, Tasks
from css.status import rfc3339

_BREAKER = 3
"""So many failed starts fail a deployment (ECS: between 3 and 200, by the desired count)."""


class Scheduler:
    """All services. `attend` is called whenever something of a service may have to be done."""

    def __init__(self, engine: Engine, fleet: Fleet) -> None:
        self._engine = engine
        self._fleet = fleet
        self.tasks = Tasks(engine, fleet, self._task_changed)
        self.services: dict[str, SimService] = {}
        """By cluster ARN and group: what a task knows of its service."""

    # --- what is asked of a service -------------------------------------------------------------------------------

    def deploy(self, service: SimService, *, bad: bool = False) -> None:
        """Roll out a new revision of the task definition; of a `bad` one the image cannot be pulled."""
        service.revision += 1
        definition = self._engine.place.arn("task-definition", f"{service.workload.name}:{service.revision}")
        if bad:
            service.bad.add(definition)
        deployments = service.detail["deployments"]
        deployments[0]["status"] = "ACTIVE"
        deployments.insert(0, deployment(self._engine, definition, service.desired, service.launch))
        service.detail["taskDefinition"] = definition
        self._set_rollout(service, "IN_PROGRESS", f"ECS deployment {deployments[0]['id']} in progress.")
        self.attend(service)

    def scale(self, service: SimService, count: int) -> None:
        """Set the desired count."""
        service.detail["desiredCount"] = service.primary["desiredCount"] = count
        self._say(service, f"has set desired count to {count}.", "SERVICE_DESIRED_COUNT_UPDATED", desiredCount=count)
        self.attend(service)

    def order(self, service: SimService) -> Order:
        """What to run for the primary deployment."""
        definition = service.primary["taskDefinition"]
        return Order(
            workload=service.workload,
            launch=service.launch,
            group=f"service:{service.id}",
            started_by=service.primary["id"],
            definition=definition,
            tag=f"v1.{definition.rpartition(':')[2]}.0",
            doom=NO_IMAGE if definition in service.bad else None,
        )

    def attend(self, service: SimService) -> None:
        """See to the service a moment later, once for all that happens until then."""
        service.settled = False
        if not service.attending:
            service.attending = True
            self._engine.after(1.0, lambda: self._attend(service))

    # --- the scheduler itself -------------------------------------------------------------------------------------

    def _attend(self, service: SimService) -> None:
        service.attending = False
        primary = service.primary["id"]
        wanted = [task for task in service.live.values() if task.wanted]
        current = [task for task in wanted if task.detail["startedBy"] == primary]
        old = [task for task in wanted if task.detail["startedBy"] != primary]
        self._start(service, current, old)
        for task in current[service.desired :]:
            self.tasks.stop(task, SCALED)
        # Old tasks that do not run serve nobody; of those that do, so many stay as are missing of the new ones.
        running = [task for task in old if task.running]
        spare = len(running) - max(0, service.desired - sum(task.running for task in current))
        for task in [task for task in old if not task.running] + running[: max(0, spare)]:
            self.tasks.stop(task, SCALED)
        service.count(self._engine.now)
        self._conclude(service, current, [task for task in wanted if task.wanted])

    def _start(self, service: SimService, current: list[SimTask], old: list[SimTask]) -> None:
        percent = service.detail["deploymentConfiguration"]["maximumPercent"]
        ceiling = max(service.desired + 1, service.desired * percent // 100)
        under_way = sum(not task.running for task in current)
        # A big service does not start all at once: the pace of the world bounds the wave.
        wave = max(2, int(self._engine.rate))
        room = min(service.desired - len(current), ceiling - len(current) - len(old), wave - under_way)
        started = []
        for _ in range(room):
            task = self.tasks.launch(service.shelf, self.order(service))
            if task is None:
                self._no_room(service)
                break
            service.live[task.id] = task
            started.append(f"(task {task.id})")
        if started:
            text = f"has started {len(started)} tasks: {' '.join(started[:10])}."
            service.note(shapes.uuid(self._engine.rng), text, self._engine.now)

    def _no_room(self, service: SimService) -> None:
        """Placement failed: capacity is added, and the service tries again when it is there."""
        reason = (
            "was unable to place a task because no container instance met all of its requirements. "
            "The closest matching container-instance has insufficient CPU units available."
        )
        self._say(service, reason, "SERVICE_TASK_PLACEMENT_FAILURE", "ERROR", reason="RESOURCE:CPU")
        self._fleet.register(service.shelf)
        self._engine.after(20.0, lambda: self.attend(service))

    def _conclude(self, service: SimService, current: list[SimTask], wanted: list[SimTask]) -> None:
        """Whether what was begun has succeeded or failed."""
        primary = service.primary
        if primary["failedTasks"] >= _BREAKER and len(service.detail["deployments"]) > 1:
            self._roll_back(service)
        elif len(current) == len(wanted) == service.desired and all(task.running for task in current):
            if primary["rolloutState"] == "IN_PROGRESS":
                self._set_rollout(service, "COMPLETED", f"ECS deployment {primary['id']} completed.")
                del service.detail["deployments"][1:]
            if not service.settled:
                service.settled = True
                self._say(service, "has reached a steady state.", "SERVICE_STEADY_STATE")

    def _roll_back(self, service: SimService) -> None:
        deployments = service.detail["deployments"]
        self._say(service, "is unable to consistently start tasks successfully.", "SERVICE_TASK_START_IMPAIRED", "WARN")
        self._set_rollout(service, "FAILED", "ECS deployment circuit breaker: tasks failed to start.")
        del deployments[0]
        deployments[0] |= {"status": "PRIMARY", "desiredCount": service.desired}
        service.detail["taskDefinition"] = deployments[0]["taskDefinition"]
        self._set_rollout(service, "IN_PROGRESS", f"ECS deployment rolling back to {deployments[0]['id']}.")
        self.attend(service)

    def _set_rollout(self, service: SimService, state: str, reason: str) -> None:
        engine, primary = self._engine, service.primary
        primary |= {"rolloutState": state, "rolloutStateReason": reason, "updatedAt": round(engine.now, 3)}
        service.note(shapes.uuid(engine.rng), f"(deployment {primary['id']}) {reason}", engine.now)
        detail: Detail = {
            "eventType": "ERROR" if state == "FAILED" else "INFO",
            "eventName": f"SERVICE_DEPLOYMENT_{state}",
            "deploymentId": primary["id"],
            "updatedAt": rfc3339(engine.now),
            "reason": reason,
        }
        engine.tell(DEPLOYMENT_CHANGE, service.arn, detail)

    def _task_changed(self, task: SimTask) -> None:
        service = self.services.get(task.cluster_arn + task.order.group)
        if service is None:
            return
        if task.detail["lastStatus"] == "STOPPED":
            service.live.pop(task.id, None)
            if task.detail["stopCode"] == "TaskFailedToStart":
                for entry in service.detail["deployments"]:
                    entry["failedTasks"] += entry["id"] == task.detail["startedBy"]
        service.count(self._engine.now)
        self.attend(service)

    def _say(self, service: SimService, text: str, name: str, kind: str = "INFO", **more: object) -> None:
        """A service action: an entry of the service's own events, and an event."""
        engine = self._engine
        service.note(shapes.uuid(engine.rng), text, engine.now)
        detail: Detail = {
            "eventType": kind,
            "eventName": name,
            "clusterArn": service.cluster_arn,
            "createdAt": rfc3339(engine.now),
        }
        engine.tell(SERVICE_ACTION, service.arn, detail | more)
