"""An ECS object as /v1 shows it: the Go service's field names, its omitted, null and empty fields, resources as texts.

Pure. Every object is shown: what has an unexpected shape is left out, field by field, never the object.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from css.envelope import is_object
from css.view import Row

_INITIALS = {"arn": "ARN", "id": "ID", "ip": "IP"}


def _go_name(field: str) -> str:
    """`container_instance_arn` -> `containerInstanceARN`."""
    first, *others = field.split("_")
    return "".join([first.replace("ec2", "EC2"), *(_INITIALS.get(part, part.capitalize()) for part in others)])


# --- Read and written alike --------------------------------------------------------------------------------------


class Binding(Struct, frozen=True, rename=_go_name):
    bind_ip: str = ""
    container_port: int = 0
    host_port: int = 0
    protocol: str | UnsetType = UNSET


class Variable(Struct, frozen=True):
    name: str = ""
    value: str = ""


class ContainerOverride(Struct, frozen=True):
    command: list[str] | None = None
    environment: list[Variable] | None = None
    name: str = ""


class Attribute(Struct, frozen=True):
    """Most capabilities have no value; the Go service wrote null."""

    name: str = ""
    value: str | None = None


class VersionInfo(Struct, frozen=True, rename="camel", omit_defaults=True):
    agent_hash: str = ""
    agent_version: str = ""
    docker_version: str = ""


# --- Read: the fields of an ECS object that /v1 has ---------------------------------------------------------------


class _Container(Struct, frozen=True, rename="camel"):
    container_arn: str = ""
    last_status: str = ""
    name: str = ""
    network_bindings: list[Binding] | None = None
    exit_code: int = 0
    reason: str = ""


class _Overrides(Struct, frozen=True, rename="camel"):
    container_overrides: list[ContainerOverride] = []
    task_role_arn: str = ""


class _Task(Struct, frozen=True, rename="camel"):
    cluster_arn: str = ""
    container_instance_arn: str = ""
    containers: list[_Container] = []
    created_at: str = ""
    desired_status: str = ""
    last_status: str = ""
    overrides: _Overrides = _Overrides()
    task_arn: str = ""
    task_definition_arn: str = ""
    started_at: str = ""
    started_by: str = ""
    stopped_at: str = ""
    stopped_reason: str = ""


class _Resource(Struct, frozen=True, rename="camel"):
    name: str = ""
    type: str = ""
    integer_value: int = 0
    long_value: int = 0
    double_value: float = 0.0
    string_set_value: list[str] = []


class _Instance(Struct, frozen=True, rename="camel"):
    agent_connected: bool = False
    attributes: list[Attribute] | None = None
    cluster_arn: str = ""
    container_instance_arn: str = ""
    registered_resources: list[_Resource] = []
    remaining_resources: list[_Resource] = []
    status: str = ""
    version_info: VersionInfo = VersionInfo()
    agent_update_status: str = ""
    ec2_instance_id: str = ""


# --- Written: fields that have a default are left out when they are equal to it ------------------------------------


class ContainerEntity(Struct, frozen=True, rename=_go_name, omit_defaults=True):
    container_arn: str
    last_status: str
    name: str
    network_bindings: list[Binding] | None
    exit_code: int = 0
    reason: str = ""


class OverridesEntity(Struct, frozen=True, rename="camel", omit_defaults=True):
    container_overrides: list[ContainerOverride]
    task_role_arn: str = ""


class TaskEntity(Struct, frozen=True, rename=_go_name, omit_defaults=True):
    cluster_arn: str
    container_instance_arn: str
    containers: list[ContainerEntity]
    created_at: str
    desired_status: str
    last_status: str
    overrides: OverridesEntity
    task_arn: str
    task_definition_arn: str
    started_at: str = ""
    started_by: str = ""
    stopped_at: str = ""
    stopped_reason: str = ""


class ResourceEntity(Struct, frozen=True):
    name: str
    type: str
    value: str


class InstanceEntity(Struct, frozen=True, rename=_go_name, omit_defaults=True):
    agent_connected: bool
    attributes: list[Attribute] | None
    cluster_arn: str
    container_instance_arn: str
    registered_resources: list[ResourceEntity]
    remaining_resources: list[ResourceEntity]
    status: str
    version_info: VersionInfo
    agent_update_status: str = ""
    ec2_instance_id: str = ""


# --- From one to the other ---------------------------------------------------------------------------------------

_T = TypeVar("_T", _Task, _Instance)
_tasks = msgspec.json.Decoder(_Task)
_instances = msgspec.json.Decoder(_Instance)
_encode = msgspec.json.Encoder().encode


def entity(row: Row) -> bytes:
    """The row as an entity of /v1, made once and kept in `Row.v1`."""
    if row.v1 is None:
        made: TaskEntity | InstanceEntity
        if row.key.kind == "task":
            made = _task(_read(_tasks, row.detail), told_by_reconcile=row.source == "reconcile")
        else:
            made = _instance(_read(_instances, row.detail))
        row.v1 = b'{"entity":%b,"metadata":{"entityVersion":"%d"}}' % (_encode(made), row.revision)
    return row.v1


def _task(task: _Task, *, told_by_reconcile: bool) -> TaskEntity:
    overrides = task.overrides.container_overrides
    created_at, started_at, stopped_at = task.created_at, task.started_at, task.stopped_at
    if told_by_reconcile:
        overrides = [ContainerOverride(o.command, o.environment or [], o.name) for o in overrides]
        created_at, started_at, stopped_at = _seconds(created_at), _seconds(started_at), _seconds(stopped_at)
    return TaskEntity(
        task.cluster_arn,
        task.container_instance_arn,
        [
            ContainerEntity(c.container_arn, c.last_status, c.name, c.network_bindings, c.exit_code, c.reason)
            for c in task.containers
        ],
        created_at,
        task.desired_status,
        task.last_status,
        OverridesEntity(overrides, task.overrides.task_role_arn),
        task.task_arn,
        task.task_definition_arn,
        started_at,
        task.started_by,
        stopped_at,
        task.stopped_reason,
    )


def _instance(instance: _Instance) -> InstanceEntity:
    return InstanceEntity(
        instance.agent_connected,
        instance.attributes,
        instance.cluster_arn,
        instance.container_instance_arn,
        [_resource(resource) for resource in instance.registered_resources],
        [_resource(resource) for resource in instance.remaining_resources],
        instance.status,
        instance.version_info,
        instance.agent_update_status,
        instance.ec2_instance_id,
    )


def _resource(resource: _Resource) -> ResourceEntity:
    match resource.type:
        case "STRINGSET":
            value = ",".join(resource.string_set_value)
        case "DOUBLE":
            value = f"{resource.double_value:.2f}"
        case "LONG":
            value = str(resource.long_value)
        case _:
            value = str(resource.integer_value)
    return ResourceEntity(resource.name, resource.type, value)


def _seconds(time: str) -> str:
    """`2016-12-06T16:41:05.702Z` -> `2016-12-06T16:41:05Z`."""
    return f"{time[:19]}Z" if time[19:20] == "." else time


def _read(decoder: msgspec.json.Decoder[_T], detail: bytes) -> _T:
    try:
        return decoder.decode(detail)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _read_what_fits(decoder.type, detail)


def _read_what_fits(type_: type[_T], detail: bytes) -> _T:
    """An object with nulls or values of another shape: whatever does not fit is as if it were not there."""
    try:
        value = _without_nulls(msgspec.json.decode(detail))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return type_()
    fitting = {}
    for field in msgspec.structs.fields(type_) if is_object(value) else ():
        try:
            fitting[field.name] = msgspec.convert(value[field.encode_name], field.type)
        except (KeyError, msgspec.ValidationError):
            continue
    return type_(**fitting)


def _without_nulls(value: Any) -> Any:
    if is_object(value):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value if inner is not None]
    return value
