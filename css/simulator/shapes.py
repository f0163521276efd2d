"""New ECS objects with the full set of real fields, and their form as events.

Pure: random choices come from the generator that is given. Form of `detail`: that of the API (epoch seconds).
Sources: real events (2016-2024), botocore's model of ECS 2014-11-13, the ECS guide's "Amazon ECS events".
"""

from __future__ import annotations

from random import Random

import msgspec

from css.simulator.catalogue import CAPABILITIES, SIDECAR_IMAGES, InstanceType, Launch, Workload
from css.simulator.inventory import Detail, Item
from css.status import rfc3339

_TIMES = (
    "connectivityAt",
    "createdAt",
    "executionStoppedAt",
    "pullStartedAt",
    "pullStoppedAt",
    "registeredAt",
    "startedAt",
    "stoppedAt",
    "stoppingAt",
)
_API_ONLY = frozenset({"capacityProviderName", "healthStatus", "platformFamily"})

_encode = msgspec.json.Encoder().encode


class Place(msgspec.Struct, frozen=True):
    """Where a world is: what every ARN in it begins with."""

    region: str
    account: str

    @property
    def partition(self) -> str:
        return (
            "aws-cn" if self.region.startswith("cn-") else "aws-us-gov" if self.region.startswith("us-gov-") else "aws"
        )

    def arn(self, kind: str, *path: str) -> str:
        return f"arn:{self.partition}:ecs:{self.region}:{self.account}:{kind}/{'/'.join(path)}"

    def image(self, repository: str, tag: str) -> str:
        return f"{self.account}.dkr.ecr.{self.region}.amazonaws.com/{repository}:{tag}"

    def target_group(self, name: str) -> str:
        owner = f"arn:{self.partition}:elasticloadbalancing:{self.region}:{self.account}"
        return f"{owner}:targetgroup/{name}/73e2d6bc24d8a067"


def hexadecimal(rng: Random, digits: int) -> str:
    return f"{rng.getrandbits(4 * digits):0{digits}x}"


def uuid(rng: Random) -> str:
    text = hexadecimal(rng, 32)
    return f"{text[:8]}-{text[8:12]}-4{text[13:16]}-a{text[17:20]}-{text[20:]}"


def task(
    rng: Random,
    place: Place,
    cluster: str,
    workload: Workload,
    *,
    launch: Launch,
    group: str,
    started_by: str,
    definition: str,
    zone: str,
    tag: str,
    instance_arn: str = "",
    overrides: Detail | None = None,
) -> Detail:
    """A task that does not exist yet: version 0, no status and no times (see `lifecycle`)."""
    id_ = hexadecimal(rng, 32)
    arn = place.arn("task", cluster, id_)
    fargate = launch != "EC2"
    detail: Detail = {
        "attachments": [_network(rng, place)] if fargate else [],
        "attributes": [{"name": "ecs.cpu-architecture", "value": "x86_64"}],
        "availabilityZone": place.region + zone,
        "clusterArn": place.arn("cluster", cluster),
        "containers": [_container(rng, place, cluster, arn, workload.name, place.image(workload.name, tag))]
        + [_container(rng, place, cluster, arn, name, SIDECAR_IMAGES[name]) for name in workload.sidecars],
        "cpu": str(workload.cpu),
        "desiredStatus": "RUNNING",
        "enableExecuteCommand": False,
        "group": group,
        "healthStatus": "UNKNOWN",
        "launchType": "FARGATE" if fargate else "EC2",
        "memory": str(workload.memory),
        "overrides": overrides
        or {"containerOverrides": [{"name": name} for name in (workload.name, *workload.sidecars)]},
        "startedBy": started_by,
        "taskArn": arn,
        "taskDefinitionArn": definition,
        "version": 0,
    }
    if fargate:
        detail |= {
            "capacityProviderName": launch,
            "ephemeralStorage": {"sizeInGiB": 20},
            "platformFamily": "Linux",
            "platformVersion": "1.4.0",
        }
    else:
        detail["containerInstanceArn"] = instance_arn
    return detail


def _container(rng: Random, place: Place, cluster: str, task_arn: str, name: str, image: str) -> Detail:
    return {
        "containerArn": place.arn("container", cluster, task_arn.rpartition("/")[2], uuid(rng)),
        "cpu": "0",
        "healthStatus": "UNKNOWN",
        "image": image,
        "lastStatus": "PENDING",
        "name": name,
        "networkInterfaces": [],
        "taskArn": task_arn,
    }


def _network(rng: Random, place: Place) -> Detail:
    """The elastic network interface of a Fargate task, not attached yet."""
    address = [rng.randrange(16, 32), rng.randrange(256), rng.randrange(4, 250)]
    dashed = "-".join(map(str, address))
    domain = "ec2.internal" if place.region == "us-east-1" else f"{place.region}.compute.internal"
    mac = hexadecimal(rng, 10)
    values = {
        "subnetId": f"subnet-0{hexadecimal(rng, 16)}",
        "networkInterfaceId": f"eni-0{hexadecimal(rng, 16)}",
        "macAddress": "0a:" + ":".join(mac[at : at + 2] for at in range(0, 10, 2)),
        "privateDnsName": f"ip-172-{dashed}.{domain}",
        "privateIPv4Address": f"172.{'.'.join(map(str, address))}",
    }
    details = [{"name": name, "value": value} for name, value in values.items()]
    return {"id": uuid(rng), "type": "eni", "status": "PRECREATED", "details": details}


def instance(rng: Random, place: Place, cluster: str, kind: InstanceType, zone: str, now: float) -> Detail:
    """A container instance that is registering, with nothing placed on it."""
    attributes: list[Detail] = [{"name": name} for name in CAPABILITIES]
    values = {
        "ecs.ami-id": "ami-0" + hexadecimal(rng, 16),
        "ecs.availability-zone": place.region + zone,
        "ecs.cpu-architecture": kind.architecture,
        "ecs.instance-type": kind.name,
        "ecs.os-family": "LINUX",
        "ecs.os-type": "linux",
        "ecs.subnet-id": f"subnet-0{hexadecimal(rng, 16)}",
        "ecs.vpc-id": "vpc-0a1b2c3d4e5f60718",
    }
    attributes += [{"name": name, "value": value} for name, value in values.items()]
    return {
        "agentConnected": True,
        "attachments": [],
        "attributes": attributes,
        "containerInstanceArn": place.arn("container-instance", cluster, hexadecimal(rng, 32)),
        "ec2InstanceId": f"i-0{hexadecimal(rng, 16)}",
        "pendingTasksCount": 0,
        "registeredAt": round(now, 3),
        "registeredResources": _resources(kind),
        "remainingResources": _resources(kind),
        "runningTasksCount": 0,
        "status": "REGISTERING",
        "version": 0,
        "versionInfo": {"agentHash": "17b62a0b", "agentVersion": "1.89.2", "dockerVersion": "DockerVersion: 25.0.8"},
    }


def _resources(kind: InstanceType) -> list[Detail]:
    numbers = {"doubleValue": 0.0, "longValue": 0}
    ports = ["22", "2375", "2376", "51678", "51679"]
    return [
        {"name": "CPU", "type": "INTEGER", **numbers, "integerValue": kind.cpu},
        {"name": "MEMORY", "type": "INTEGER", **numbers, "integerValue": kind.memory},
        {"name": "PORTS", "type": "STRINGSET", **numbers, "integerValue": 0, "stringSetValue": ports},
        {"name": "PORTS_UDP", "type": "STRINGSET", **numbers, "integerValue": 0, "stringSetValue": []},
    ]


def event_form(item: Item) -> Detail:
    """The `detail` of the event about a task or container instance: what differs from the API is mended here."""
    form = {name: value for name, value in item.detail.items() if name not in _API_ONLY}
    for name in _TIMES:
        if name in form:
            form[name] = rfc3339(form[name])
    if "containers" in form:
        form["containers"] = [
            {name: value for name, value in container.items() if name not in _API_ONLY}
            for container in form["containers"]
        ]
    return form | {"clusterArn": item.cluster_arn, "updatedAt": rfc3339(item.changed_at)}


def envelope(place: Place, id_: str, kind: str, resource: str, now: float, detail: Detail) -> bytes:
    """An EventBridge event; its own time has whole seconds, as there."""
    time = rfc3339(now) or ""
    return _encode(
        {
            "version": "0",
            "id": id_,
            "detail-type": kind,
            "source": "aws.ecs",
            "account": place.account,
            "time": time[:19] + "Z",
            "region": place.region,
            "resources": [resource],
            "detail": detail,
        }
    )
