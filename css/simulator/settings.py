"""What can be chosen of a simulated region. Only frozen structs; does nothing."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

Probability = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86_400)]
Rate = Annotated[float, msgspec.Meta(ge=0, le=1_000_000)]


class Faults(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What goes wrong on the way; nothing by default. Switchable while the region runs."""

    duplicates: Probability = 0.0
    """The share of events that come twice."""
    reorder: Annotated[int, msgspec.Meta(ge=0, le=100_000)] = 0
    """Messages are received in any order within a window of so many; 0: as they came."""
    loss: Probability = 0.0
    """The share of events that never come."""
    late: Probability = 0.0
    """The share of events (and of their duplicates) that come up to `late_seconds` after their time."""
    late_seconds: Seconds = 30.0
    errors: Probability = 0.0
    """The share of requests answered with a 5xx."""
    describe_failures: Probability = 0.0
    """The share of described ECS objects that are answered as a failure although they exist."""
    throttle: Rate = 0.0
    """ECS calls per second beyond which a call is throttled; 0: never."""
    throttle_burst: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 100
    latency: Seconds = 0.0
    """Seconds that each request waits, give or take a half."""
    hang: bool = False
    """Requests are not answered while this is set."""
    services: tuple[Literal["ecs", "sqs"], ...] = ("ecs", "sqs")
    """Whose requests `errors`, `latency` and `hang` apply to."""


class Simulation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A region. The same settings and seed make the same world."""

    region: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,40}$")] = "us-east-1"
    account: Annotated[str, msgspec.Meta(pattern=r"^[0-9]{12}$")] = "123456789012"
    clusters: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 4
    services: Annotated[int, msgspec.Meta(ge=1, le=1_000)] = 6
    """Of each cluster."""
    tasks: Annotated[int, msgspec.Meta(ge=0, le=200_000)] = 200
    """Running at the start, over all clusters; scaling moves about this number."""
    rate: Rate = 5.0
    """Changes per second, in the long run; 0: a still world."""
    seed: int = 1
    retention: Annotated[float, msgspec.Meta(gt=0)] = 3600.0
    """Seconds after which ECS forgets a stopped task (or an inactive container instance)."""
    preload: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    """How many events lie in the queue at the start."""
    queue: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_-]{1,80}$")] = "event_stream"
    bind: Annotated[str, msgspec.Meta(pattern=r"^.+:[0-9]{1,5}$")] = "127.0.0.1:0"
    """Address and port; port 0 takes a free one."""
    faults: Faults = Faults()
