"""The ECS API's reading operations over an inventory: ListX in pages, DescribeX from bytes that were encoded once.

Pure: fields in, bytes out. Writes nothing and knows nothing of time. Limits and errors as in botocore's model of ECS
2014-11-13 and the API reference; unlike moto it pages, counts, and answers failures for what is missing.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping

import msgspec

from css.simulator.inventory import Detail, Inventory, Item, Shelf, short_id
from css.simulator.protocol import AwsError, Fields, text, texts, whole

_encode = msgspec.json.Encoder().encode

_DESIRED = ("RUNNING", "PENDING", "STOPPED")
_INSTANCE_STATUS = ("ACTIVE", "DRAINING", "REGISTERING", "DEREGISTERING", "REGISTRATION_FAILED")

Body = bytes | list[bytes]


class EcsApi:
    """`call(operation, fields)` answers the body. `fails` says of a described object to answer a failure instead."""

    def __init__(self, inventory: Inventory, fails: Callable[[], bool] = lambda: False) -> None:
        self._inventory = inventory
        self._fails = fails
        self._operations: Mapping[str, Callable[[Fields], Body]] = {
            "ListClusters": self._list_clusters,
            "DescribeClusters": self._describe_clusters,
            "ListTasks": self._list_tasks,
            "DescribeTasks": self._describe_tasks,
            "ListContainerInstances": self._list_instances,
            "DescribeContainerInstances": self._describe_instances,
            "ListServices": self._list_services,
            "DescribeServices": self._describe_services,
        }

    def call(self, operation: str, fields: Fields) -> Body:
        """Raises `AwsError`."""
        act = self._operations.get(operation)
        if act is None:
            raise AwsError("UnsupportedFeatureException", f"{operation} is not simulated.")
        return act(fields)

    # --- lists ----------------------------------------------------------------------------------------------------

    def _list_clusters(self, fields: Fields) -> Body:
        return _page("clusterArns", (shelf.cluster for shelf in self._inventory.shelves.values()), fields)

    def _list_tasks(self, fields: Fields) -> Body:
        shelf = self._shelf(fields)
        wanted: Detail = {"desiredStatus": _one_of(fields, "desiredStatus", "RUNNING", _DESIRED)}
        if service := text(fields, "serviceName", ""):
            if short_id(service) not in shelf.services:
                raise AwsError("ServiceNotFoundException", "Service not found.")
            wanted["group"] = f"service:{short_id(service)}"
        for member, name in (("startedBy", "startedBy"), ("launchType", "launchType")):
            if value := text(fields, member, ""):
                wanted[name] = value
        if instance := text(fields, "containerInstance", ""):
            found = shelf.instances.get(short_id(instance))
            wanted["containerInstanceArn"] = found.arn if found else instance
        family = text(fields, "family", "")
        tasks = (
            task
            for task in shelf.tasks.values()
            if all(
                task.detail.get(name, "RUNNING" if name == "desiredStatus" else "") == value
                for name, value in wanted.items()
            )
            and (not family or _family(task) == family)
        )
        return _page("taskArns", tasks, fields)

    def _list_instances(self, fields: Fields) -> Body:
        status = _one_of(fields, "status", "", _INSTANCE_STATUS)
        instances = self._shelf(fields).instances.values()
        # Without a status: all but the inactive ones, which nobody can list.
        chosen = (
            item
            for item in instances
            if (item.detail.get("status") == status if status else item.detail.get("status") != "INACTIVE")
        )
        return _page("containerInstanceArns", chosen, fields)

    def _list_services(self, fields: Fields) -> Body:
        return _page("serviceArns", self._shelf(fields).services.values(), fields, default=10)

    # --- descriptions ---------------------------------------------------------------------------------------------

    def _describe_clusters(self, fields: Fields) -> Body:
        tags = "TAGS" in texts(fields, "include")
        found, missing = [], []
        for reference in _references(fields, "clusters", 100, least=0) or ["default"]:
            shelf = self._inventory.find(reference)
            if shelf is None:
                missing.append(reference)
            else:
                found.append(shelf.cluster_api(tags=tags))
        return _described("clusters", found, missing)

    def _describe_tasks(self, fields: Fields) -> Body:
        shelf = self._shelf(fields)
        return self._describe(fields, "tasks", shelf.tasks, 100, shelf.arn.replace(":cluster/", ":task/"))

    def _describe_instances(self, fields: Fields) -> Body:
        shelf = self._shelf(fields)
        prefix = shelf.arn.replace(":cluster/", ":container-instance/")
        return self._describe(fields, "containerInstances", shelf.instances, 100, prefix)

    def _describe_services(self, fields: Fields) -> Body:
        shelf = self._shelf(fields)
        return self._describe(fields, "services", shelf.services, 10, shelf.arn.replace(":cluster/", ":service/"))

    def _describe(self, fields: Fields, member: str, place: Mapping[str, Item], most: int, prefix: str) -> Body:
        tags = "TAGS" in texts(fields, "include")
        found, missing = [], []
        for reference in _references(fields, member, most):
            item = place.get(short_id(reference))
            if item is None or (":" in reference and reference != item.arn) or self._fails():
                missing.append(reference if ":" in reference else f"{prefix}/{reference}")
            else:
                found.append(item.api(tags=tags))
        return _described(member, found, missing)

    def _shelf(self, fields: Fields) -> Shelf:
        shelf = self._inventory.find(text(fields, "cluster", "default"))
        if shelf is None:
            raise AwsError("ClusterNotFoundException", "Cluster not found.")
        return shelf


def _page(member: str, items: Iterable[Item], fields: Fields, default: int = 100) -> bytes:
    """The next page in the order of creation. What comes to be meanwhile is listed later, what goes is not."""
    after = _after(text(fields, "nextToken", ""))
    most = whole(fields, "maxResults", default, 1, 100)
    page: list[str] = []
    last = 0
    for item in items:
        if item.serial > after:
            if len(page) == most:
                token = base64.b64encode(f"after:{last}".encode()).decode()
                return _encode({member: page, "nextToken": token})
            page.append(item.arn)
            last = item.serial
    return _encode({member: page})


def _after(token: str) -> int:
    if not token:
        return 0
    try:
        word, _, number = base64.b64decode(token, validate=True).decode().partition(":")
        if word == "after":
            return int(number)
    except (binascii.Error, ValueError):
        pass
    raise AwsError("InvalidParameterException", "Invalid token.")


def _described(member: str, found: list[bytes], missing: list[str]) -> list[bytes]:
    failures = _encode([{"arn": reference, "reason": "MISSING"} for reference in missing])
    return [f'{{"{member}":['.encode(), b",".join(found), b'],"failures":', failures, b"}"]


def _references(fields: Fields, member: str, most: int, least: int = 1) -> list[str]:
    references = texts(fields, member)
    if not least <= len(references) <= most:
        raise AwsError("InvalidParameterException", f"{member} must have {least} to {most} members.")
    return references


def _one_of(fields: Fields, name: str, default: str, allowed: tuple[str, ...]) -> str:
    value = text(fields, name, default)
    if value != default and value not in allowed:
        raise AwsError("InvalidParameterException", f"{name} must be one of {', '.join(allowed)}.")
    return value


def _family(task: Item) -> str:
    return short_id(str(task.detail.get("taskDefinitionArn", ""))).partition(":")[0]
