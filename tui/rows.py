"""A task as the screen needs it, decoded once per change, away from the screen's thread. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from css.model import Key
from css.view import Fields
from css.wire import Item


class Task(msgspec.Struct, frozen=True, gc=False):
    """One task. `created` is seconds since 1970 (0: not known); `haystack` what a bare word is looked for in."""

    key: Key
    revision: int
    fields: Fields
    id: str
    definition: str
    cpu: str
    memory: str
    instance: str
    created: float
    note: str
    """Why it stopped, where it has."""
    haystack: str

    @property
    def owner(self) -> str:
        """The service's name, the group, or the family of a task that was run by hand."""
        return self.fields.service or self.fields.group.removeprefix("family:") or self.fields.family

    @property
    def unhealthy(self) -> bool:
        return self.fields.health == "UNHEALTHY" and self.fields.last_status == "RUNNING"


class _Detail(msgspec.Struct, rename="camel"):
    """What else the screen shows. Any type is let in: a strange object is shown as far as it goes."""

    cpu: Any = None
    memory: Any = None
    created_at: Any = None
    stopped_reason: Any = None


_detail = msgspec.json.Decoder(_Detail)
_fields = msgspec.json.Decoder(Fields)


def decode(item: Item) -> Task:
    """Never fails: what cannot be read is blank."""
    try:
        fields = _fields.decode(item.detail)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        fields = Fields()
    try:
        detail = _detail.decode(item.detail)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        detail = _Detail()
    key, reason = item.key, _text(detail.stopped_reason)
    task = Task(
        key=key,
        revision=item.revision,
        fields=fields,
        id=_last(key.id),
        definition=_last(fields.task_definition_arn),
        cpu=_text(detail.cpu),
        memory=_text(detail.memory),
        instance=_last(fields.container_instance_arn),
        created=timestamp(_text(detail.created_at) or item.updated_at),
        note=" · ".join(text for text in (fields.stop_code, reason) if text),
        haystack="",
    )
    return msgspec.structs.replace(task, haystack=_haystack(task))


def timestamp(text: str) -> float:
    """Seconds since 1970 of an RFC 3339 time; 0 for anything else."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return 0.0
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _haystack(task: Task) -> str:
    fields = task.fields
    return "\n".join(
        (
            *(task.owner, task.key.cluster, task.id, fields.last_status, fields.desired_status, fields.health),
            *(task.definition, fields.group, fields.availability_zone, fields.launch_type, task.instance, task.note),
            *(fields.capacity_provider_name, fields.started_by),
        )
    ).lower()


def _last(text: str) -> str:
    return text.rpartition("/")[2]


def _text(value: object) -> str:
    return value if isinstance(value, str) else str(value) if isinstance(value, int) else ""
