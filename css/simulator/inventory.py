"""What the simulated ECS has: clusters with their tasks, container instances and services, as its API describes them.

Pure. Knows nothing of how the objects change; each is encoded at most once per change.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any, Protocol, TypeVar

import msgspec

Detail = dict[str, Any]
T = TypeVar("T", bound="Item")

_encode = msgspec.json.Encoder().encode


class Item:
    """An object: `detail` is what the API describes (times in epoch seconds, no tags), changed in place.

    Whoever changes it calls `touch`. `serial` orders listings and only grows.
    """

    __slots__ = ("_api", "arn", "changed_at", "cluster_arn", "detail", "id", "serial", "tags")

    def __init__(self, arn: str, cluster_arn: str, detail: Detail, tags: Mapping[str, str] | None = None) -> None:
        self.arn = arn
        self.id = short_id(arn)
        self.cluster_arn = cluster_arn
        self.detail = detail
        self.tags = dict(tags or {})
        self.changed_at = 0.0
        self.serial = 0
        self._api: bytes | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.arn} version {self.detail.get('version')}>"

    def touch(self, now: float) -> None:
        """The object has changed."""
        self.changed_at = now
        self._api = None

    def api(self, *, tags: bool = False) -> bytes:
        """As the API describes it; tags are included on demand, as ECS does, and empty otherwise."""
        if self._api is None:
            # Cut open at the end: tags follow.
            self._api = _encode(self.detail)[:-1] + b',"tags":'
        listed = [{"key": key, "value": value} for key, value in self.tags.items()] if tags else []
        return self._api + _encode(listed) + b"}"


class Shelf:
    """A cluster and what is in it, by short id (services by name)."""

    def __init__(self, cluster: Item) -> None:
        self.cluster = cluster
        self.arn = cluster.arn
        self.name = cluster.id
        self.tasks: dict[str, Item] = {}
        self.instances: dict[str, Item] = {}
        self.services: dict[str, Item] = {}

    def cluster_api(self, *, tags: bool = False) -> bytes:
        """The cluster with its counts, which are taken when it is asked for."""
        status = [task.detail.get("lastStatus") for task in self.tasks.values()]
        self.cluster.detail |= {
            "registeredContainerInstancesCount": sum(
                item.detail.get("status") in ("ACTIVE", "DRAINING") for item in self.instances.values()
            ),
            "runningTasksCount": status.count("RUNNING"),
            "pendingTasksCount": sum(status.count(name) for name in ("PROVISIONING", "PENDING", "ACTIVATING")),
            "activeServicesCount": len(self.services),
        }
        self.cluster.touch(self.cluster.changed_at)
        return self.cluster.api(tags=tags)


class Inventory:
    """All clusters of the region, by name."""

    def __init__(self) -> None:
        self.shelves: dict[str, Shelf] = {}
        self._serial = count(1)

    def open(self, cluster_arn: str, tags: Mapping[str, str] | None = None) -> Shelf:
        """Add a cluster."""
        name = short_id(cluster_arn)
        detail: Detail = {
            "clusterArn": cluster_arn,
            "clusterName": name,
            "status": "ACTIVE",
            "statistics": [],
            "settings": [{"name": "containerInsights", "value": "disabled"}],
            "capacityProviders": ["FARGATE", "FARGATE_SPOT"],
            "defaultCapacityProviderStrategy": [],
        }
        shelf = Shelf(Item(cluster_arn, cluster_arn, detail, tags))
        shelf.cluster.serial = next(self._serial)
        self.shelves[name] = shelf
        return shelf

    def add(self, place: dict[str, T], item: T) -> None:
        """Put a new object into one of a shelf's places; it is listed after all that came before."""
        item.serial = next(self._serial)
        place[item.id] = item

    def find(self, reference: str) -> Shelf | None:
        """A cluster by name or ARN."""
        shelf = self.shelves.get(short_id(reference))
        return shelf if shelf is not None and reference in (shelf.name, shelf.arn) else None

    def tasks(self) -> Iterator[Item]:
        for shelf in self.shelves.values():
            yield from shelf.tasks.values()

    def instances(self) -> Iterator[Item]:
        for shelf in self.shelves.values():
            yield from shelf.instances.values()

    def services(self) -> Iterator[Item]:
        for shelf in self.shelves.values():
            yield from shelf.services.values()


class World(Protocol):
    """What the region needs of a world."""

    @property
    def inventory(self) -> Inventory: ...

    def step(self, dt: float) -> list[bytes]:
        """Let `dt` seconds pass; the events of that time, as EventBridge envelopes in JSON, in order."""

    def rest(self, dt: float) -> None:
        """Let `dt` seconds pass in which nothing happens."""

    def settle(self) -> list[bytes]:
        """Finish at once what has begun, and begin nothing more; the events of it."""

    def history(self, events: int) -> list[bytes]:
        """Live fast, until so many events lead to where the world then is; the events."""


class StillWorld:
    """A world of fixed objects in which nothing happens: cluster ARN -> `tasks`, `instances`, `services`.

    Each of these maps ARNs to what the API describes (the `world` step of the recorded conformance scenarios).
    """

    def __init__(self, clusters: Mapping[str, Mapping[str, Mapping[str, Detail]]]) -> None:
        self.inventory = Inventory()
        for cluster_arn, kinds in clusters.items():
            shelf = self.inventory.open(cluster_arn)
            for kind, place in (
                ("tasks", shelf.tasks),
                ("instances", shelf.instances),
                ("services", shelf.services),
            ):
                for arn, detail in kinds.get(kind, {}).items():
                    self.inventory.add(place, Item(arn, cluster_arn, detail))

    def step(self, dt: float) -> list[bytes]:
        return []

    def rest(self, dt: float) -> None:
        pass

    def settle(self) -> list[bytes]:
        return []

    def history(self, events: int) -> list[bytes]:
        return []


def short_id(arn: str) -> str:
    """The last segment of an ARN; a short id itself."""
    return arn.rpartition("/")[2]
