"""The materialised view: what the store holds, decoded once per change, with the indexes that filters need.

Pure: imports no trio, wakes nobody, reads no clock. One writer (css/follow.py) applies the store's batches; every
reader on the same thread sees whole revisions. Nothing is decoded or encoded per request: rows carry the bytes to send.
"""

from __future__ import annotations

import sys
from bisect import bisect_left, insort
from collections.abc import Collection, Mapping, Sequence
from operator import attrgetter

import msgspec

from css import envelope
from css.errors import Rejected
from css.model import FORGOTTEN, KINDS, Batch, Head, Key, Kind, Record


class Health(msgspec.Struct, rename="camel", frozen=True, gc=False):
    """How ECS describes the health of a container instance; a task's is a word."""

    overall_status: str = ""


class Fields(msgspec.Struct, rename="camel", frozen=True, gc=False):
    """The fields of an ECS object that filters look at; "" where the object has none. Names as in the ECS API."""

    last_status: str = ""
    status: str = ""
    desired_status: str = ""
    group: str = ""
    started_by: str = ""
    launch_type: str = ""
    task_definition_arn: str = ""
    container_instance_arn: str = ""
    ec2_instance_id: str = ""
    availability_zone: str = ""
    stop_code: str = ""
    health_status: str | Health = ""
    capacity_provider_name: str = ""
    agent_connected: bool | None = None

    @property
    def state(self) -> str:
        """`lastStatus` of a task, `status` of anything else."""
        return self.last_status or self.status

    @property
    def health(self) -> str:
        """`healthStatus` of a task, its `overallStatus` of a container instance."""
        told = self.health_status
        return told if isinstance(told, str) else told.overall_status

    @property
    def service(self) -> str:
        """The service's name, of a task that a service started."""
        return self.group[8:] if self.group.startswith("service:") else ""

    @property
    def family(self) -> str:
        """`web` of `arn:aws:ecs:...:task-definition/web:3`."""
        return self.task_definition_arn.rpartition("/")[2].partition(":")[0]


class Row(msgspec.Struct):
    """One live object. `detail` is the ECS object as JSON, `updated_at` when it was told, `source` by whom."""

    key: Key
    revision: int
    version: int
    updated_at: str
    source: str
    fields: Fields
    detail: bytes
    head: bytes
    """With `detail` and `}` after it: the object as an item of /v2."""
    v1: bytes | None = None
    """The object as an entity of /v1, made on first use by css/server/v1.py."""

    @property
    def item(self) -> bytes:
        """The object as an item of /v2: `{"key", "revision", "updatedAt", "source", "detail"}`."""
        return b"%b%b}" % (self.head, self.detail)


class Tombstone(msgspec.Struct, frozen=True, gc=False):
    """What is left of a removed object: the version that a late duplicate must exceed."""

    revision: int
    version: int


class RowChange(msgspec.Struct, frozen=True):
    """One object's change: `before` the fields it had (None: it was not there), `after` the row (None: it is gone)."""

    key: Key
    before: Fields | None
    after: Row | None


class Step(msgspec.Struct, frozen=True):
    """What one revision changed in the view."""

    revision: int
    changes: tuple[RowChange, ...]


INDEXED: Mapping[str, attrgetter[str]] = {
    "cluster": attrgetter("key.cluster"),
    "status": attrgetter("fields.state"),
    "group": attrgetter("fields.group"),
    "startedBy": attrgetter("fields.started_by"),
    "instance": attrgetter("fields.container_instance_arn"),
    "family": attrgetter("fields.family"),
}
"""Fields with an index. Values are compared as they are (statuses are upper case in ECS)."""

_SERVED: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind != "quarantine")
_fields = msgspec.json.Decoder(Fields)
_encode = msgspec.json.Encoder().encode
_key_of = attrgetter("key")


class View:
    """Rows by key, in key order per kind, and by indexed field. `epoch` and `revision` say which state it is."""

    def __init__(self) -> None:
        self.epoch = ""
        self.revision = 0
        self._rows: dict[Key, Row] = {}
        self._tombstones: dict[Key, Tombstone] = {}
        self._order: dict[Kind, list[Row]] = {kind: [] for kind in KINDS}
        self._index: dict[tuple[Kind, str, str], dict[Key, Row]] = {}

    def __repr__(self) -> str:
        return (
            f"<View {self.revision} of {self.epoch[:8]!r}: {len(self._rows)} rows, {len(self._tombstones)} tombstones>"
        )

    def load(self, head: Head, records: Sequence[Record]) -> None:
        """Become the state of a snapshot. Faster than applying it; nobody is told what changed."""
        self.epoch, self.revision = head.epoch, head.revision
        self._rows.clear()
        self._tombstones.clear()
        self._index.clear()
        for order in self._order.values():
            order.clear()
        for record in records:
            known = self.known(record.key)
            if known is None or known.revision < record.revision:
                self._remember(record)
        for row in self._rows.values():
            self._order[row.key.kind].append(row)
            self._file(row)
        for order in self._order.values():
            order.sort(key=_key_of)

    def apply(self, batch: Batch) -> Step:
        """Take in what one revision changed, and say what that was."""
        changes = []
        for record in batch.records:
            before = self._rows.get(record.key)
            after = self._remember(record)
            if before is not after:
                self._reorder(record.key, before, after)
                changes.append(RowChange(record.key, None if before is None else before.fields, after))
        self.revision = batch.revision
        return Step(batch.revision, tuple(changes))

    def row(self, key: Key) -> Row | None:
        return self._rows.get(key)

    def known(self, key: Key) -> Row | Tombstone | None:
        """What the store holds of a key: both kinds have `revision` and `version`."""
        return self._rows.get(key) or self._tombstones.get(key)

    def rows(self, kind: Kind) -> Sequence[Row]:
        """All rows of a kind in key order: a live list, to be read without waiting in between."""
        return self._order[kind]

    def indexed(self, kind: Kind, field: str, value: str) -> Collection[Row]:
        """The rows whose `INDEXED` field has exactly this value, in no order."""
        found = self._index.get((kind, field, value))
        return () if found is None else found.values()

    def values(self, kind: Kind, field: str) -> list[str]:
        """The values an indexed field has now, in no order."""
        return [value for (k, f, value) in self._index if k == kind and f == field]

    def count(self, kind: Kind) -> int:
        return len(self._order[kind])

    def _remember(self, record: Record) -> Row | None:
        key = record.key
        if record.forgets_tombstone:
            self._tombstones.pop(key, None)
            return self._rows.get(key)
        if record.body is None:
            self._rows.pop(key, None)
            if record.version == FORGOTTEN:
                self._tombstones.pop(key, None)
            else:
                self._tombstones[key] = Tombstone(record.revision, record.version)
            return None
        self._tombstones.pop(key, None)
        row = self._rows[key] = decode_row(record, record.body)
        return row

    def _reorder(self, key: Key, before: Row | None, after: Row | None) -> None:
        order = self._order[key.kind]
        if before is not None:
            self._unfile(before)
        if after is not None:
            self._file(after)
            if before is None:
                insort(order, after, key=_key_of)
            else:
                order[bisect_left(order, key, key=_key_of)] = after
        elif before is not None:
            del order[bisect_left(order, key, key=_key_of)]

    def _file(self, row: Row) -> None:
        key, index = row.key, self._index
        for field, value in INDEXED.items():
            place = (key.kind, field, value(row))
            rows = index.get(place)
            if rows is None:
                rows = index[place] = {}
            rows[key] = row

    def _unfile(self, row: Row) -> None:
        key = row.key
        for field, value in INDEXED.items():
            place = (key.kind, field, value(row))
            rows = self._index[place]
            del rows[key]
            if not rows:
                del self._index[place]


def decode_row(record: Record, body: bytes) -> Row:
    """Decode a stored value. One that is no envelope (a stranger's) becomes a row without fields, never an error."""
    try:
        read = envelope.read(body)
        detail, updated_at = bytes(read.detail), read.time
        source = "event" if read.source == envelope.EVENT_SOURCE else "reconcile"
    except Rejected:
        detail, updated_at, source = b"{}", "", "reconcile"
    try:
        fields = _shared(_fields.decode(detail))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        fields = Fields()
    key = record.key
    head = b'{"key":%b,"revision":%d,"updatedAt":%b,"source":"%b","detail":' % (
        _encode(key),
        record.revision,
        _encode(updated_at),
        source.encode(),
    )
    return Row(key, record.revision, record.version, updated_at, source, fields, detail, head)


def _shared(fields: Fields) -> Fields:
    """The same fields, with one copy in memory of the values that many objects have."""
    intern = sys.intern
    return Fields(
        intern(fields.last_status),
        intern(fields.status),
        intern(fields.desired_status),
        intern(fields.group),
        intern(fields.started_by),
        intern(fields.launch_type),
        intern(fields.task_definition_arn),
        intern(fields.container_instance_arn),
        fields.ec2_instance_id,
        intern(fields.availability_zone),
        intern(fields.stop_code),
        intern(fields.health),
        intern(fields.capacity_provider_name),
        fields.agent_connected,
    )
