"""A simulated service and its deployments, as DescribeServices shows them.

Pure. Decides nothing: the scheduler does.
"""

from __future__ import annotations

from css.simulator.catalogue import Launch, Workload
from css.simulator.engine import Engine
from css.simulator.inventory import Detail, Item, Shelf
from css.simulator.tasks import SimTask


class SimService(Item):
    """A service. `live` are its tasks that have not stopped; `revision` is the newest of its task definition."""

    __slots__ = ("attending", "bad", "base", "launch", "live", "revision", "settled", "shelf", "workload")

    def __init__(self, shelf: Shelf, detail: Detail, workload: Workload, launch: Launch, revision: int) -> None:
        super().__init__(detail["serviceArn"], shelf.arn, detail, {"team": workload.name.partition("-")[0]})
        self.shelf = shelf
        self.workload = workload
        self.launch = launch
        self.revision = revision
        self.base = self.desired
        self.live: dict[str, SimTask] = {}
        self.bad: set[str] = set()
        """Task definitions whose image cannot be pulled."""
        self.attending = False
        self.settled = True

    @property
    def desired(self) -> int:
        return int(self.detail["desiredCount"])

    @property
    def primary(self) -> Detail:
        deployment: Detail = self.detail["deployments"][0]
        return deployment

    def count(self, now: float) -> None:
        """Write down how many tasks there are, in all and of each deployment."""
        entries = {entry["id"]: entry for entry in self.detail["deployments"]}
        for entry in (self.detail, *entries.values()):
            entry["runningCount"] = entry["pendingCount"] = 0
        for task in self.live.values():
            if task.wanted:
                field = "runningCount" if task.running else "pendingCount"
                self.detail[field] += 1
                if entry := entries.get(task.detail["startedBy"]):
                    entry[field] += 1
        self.touch(now)

    def note(self, id_: str, text: str, now: float) -> None:
        """An entry of the service's own events, of which ECS keeps a hundred."""
        entry = {"id": id_, "createdAt": round(now, 3), "message": f"(service {self.id}) {text}"}
        self.detail["events"] = [entry, *self.detail["events"][:99]]
        self.touch(now)


def create(engine: Engine, shelf: Shelf, workload: Workload, launch: Launch, desired: int, name: str) -> SimService:
    """A service that has been there for some weeks, with one completed deployment and no tasks yet."""
    place, rng = engine.place, engine.rng
    revision = rng.randrange(3, 90)
    definition = place.arn("task-definition", f"{workload.name}:{revision}")
    first = deployment(engine, definition, desired, launch)
    first |= {"rolloutState": "COMPLETED", "rolloutStateReason": f"ECS deployment {first['id']} completed."}
    balanced = {"targetGroupArn": place.target_group(workload.name), "containerName": workload.name}
    detail: Detail = {
        "clusterArn": shelf.arn,
        "createdAt": round(engine.now - rng.randrange(10**6, 10**7), 3),
        "createdBy": f"arn:{place.partition}:iam::{place.account}:role/deployer",
        "deploymentConfiguration": {
            "deploymentCircuitBreaker": {"enable": True, "rollback": True},
            "maximumPercent": 200 if desired < 20 else 150,
            "minimumHealthyPercent": 100,
        },
        "deploymentController": {"type": "ECS"},
        "deployments": [first],
        "desiredCount": desired,
        "enableECSManagedTags": True,
        "enableExecuteCommand": False,
        "events": [],
        "healthCheckGracePeriodSeconds": 60 if workload.port else 0,
        **_launch(launch),
        "loadBalancers": [balanced | {"containerPort": workload.port}] if workload.port else [],
        "pendingCount": 0,
        "placementConstraints": [],
        "placementStrategy": []
        if launch != "EC2"
        else [{"type": "spread", "field": "attribute:ecs.availability-zone"}],
        "propagateTags": "SERVICE",
        "runningCount": 0,
        "schedulingStrategy": "REPLICA",
        "serviceArn": place.arn("service", shelf.name, name),
        "serviceName": name,
        "serviceRegistries": [],
        "status": "ACTIVE",
        "taskDefinition": definition,
    }
    return SimService(shelf, detail, workload, launch, revision)


def deployment(engine: Engine, definition: str, desired: int, launch: Launch) -> Detail:
    """A new primary deployment."""
    now = round(engine.now, 3)
    return {
        "id": f"ecs-svc/{engine.rng.randrange(10**18, 10**19)}",
        "status": "PRIMARY",
        "taskDefinition": definition,
        "desiredCount": desired,
        "pendingCount": 0,
        "runningCount": 0,
        "failedTasks": 0,
        "createdAt": now,
        "updatedAt": now,
        **_launch(launch),
        "rolloutState": "IN_PROGRESS",
        "rolloutStateReason": "ECS deployment in progress.",
    }


def _launch(launch: Launch) -> Detail:
    if launch == "EC2":
        return {"launchType": "EC2"}
    fargate: Detail = {"platformFamily": "Linux", "platformVersion": "1.4.0"}
    if launch == "FARGATE":
        return fargate | {"launchType": "FARGATE"}
    return fargate | {"capacityProviderStrategy": [{"capacityProvider": launch, "weight": 1, "base": 0}]}
