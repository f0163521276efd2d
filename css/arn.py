"""Amazon Resource Names of ECS: every partition, short and long formats.

Short: `arn:aws:ecs:us-east-1:111122223333:task/<id>`; long: `arn:aws:ecs:us-east-1:111122223333:task/<cluster>/<id>`.
Pure: never touches a network, never guesses. Source: AWS, "Amazon Resource Names (ARNs) and IDs" of the ECS guide.
"""

from __future__ import annotations

import re

import msgspec

from css.errors import Rejected

# Cluster names: "up to 255 letters (uppercase and lowercase), numbers, underscores, and hyphens" (CreateCluster).
_CLUSTER_NAME = re.compile(r"[A-Za-z0-9_-]{1,255}")
_ARN = re.compile(
    r"arn:(?P<partition>aws[a-z0-9-]{0,30}):ecs:(?P<region>[a-z0-9-]{1,40}):(?P<account>[0-9]{12})"
    r":(?P<type>[a-z-]{1,40})/(?P<rest>[A-Za-z0-9_:/.-]{1,900})"
)


class Arn(msgspec.Struct, frozen=True):
    """A parsed ECS ARN. `cluster` is "" in the short format, and the name itself for a cluster's own ARN."""

    text: str
    partition: str
    region: str
    account: str
    type: str
    cluster: str
    id: str


def parse(text: object, *, type: str | None = None) -> Arn:  # noqa: A002 - the field's name in the ARN format
    """Parse an ECS ARN; `type` ("task", "container-instance", "cluster", ...) must match when given.

    Raises `Rejected("bad arn")`.
    """
    match = _ARN.fullmatch(text) if isinstance(text, str) and len(text) <= 1024 else None
    if match is None:
        raise Rejected("bad arn", f"not an ECS ARN: {str(text)[:120]!r}")
    if type is not None and match["type"] != type:
        raise Rejected("bad arn", f"a {type} ARN was expected: {match.string[:120]!r}")
    parts = match["rest"].split("/")
    if "" in parts or len(parts) > 3:
        raise Rejected("bad arn", f"empty or too many segments: {match.string[:120]!r}")
    cluster = parts[0] if len(parts) > 1 or match["type"] == "cluster" else ""
    if cluster and not is_cluster_name(cluster):
        raise Rejected("bad arn", f"not a cluster name: {cluster[:120]!r}")
    return Arn(match.string, match["partition"], match["region"], match["account"], match["type"], cluster, parts[-1])


def is_cluster_name(text: str) -> bool:
    """Whether ECS would accept this as a cluster's name."""
    return _CLUSTER_NAME.fullmatch(text) is not None


def cluster_name(text: str) -> str:
    """The cluster's name, given its name or its ARN. Raises `Rejected("bad arn")`."""
    if is_cluster_name(text):
        return text
    return parse(text, type="cluster").cluster


def short_id(text: str) -> str:
    """What people call the thing: the ARN's last segment (`text` itself when it has none)."""
    return text.rpartition("/")[2] or text
