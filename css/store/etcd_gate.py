"""The gated transaction: one request that applies each write only if its key still is as expected. Pure.

A live object is `<prefix>task/<cluster>/<arn>` as the Go service wrote it; its tombstone, which that service must not
take for a task, is `<prefix>tombstone/task/<cluster>/<arn>` with the version as its value. At most one of them exists.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from etcd3 import etcdrpc

from css import envelope
from css.model import Forget, Gone, Key, Put, Record, Write

MAX_WRITES = 100
"""Each is one operation of the transaction and up to four below it; etcd counts 128 along the longest way down."""

MAX_BYTES = 1_400_000
"""Of values in one request; etcd refuses 1.5 MiB."""

_TOMBSTONE = "tombstone/"


class Keys:
    """The names of things under a prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix.encode()

    def live(self, key: Key) -> bytes:
        return self.prefix + key.path.encode()

    def tombstone(self, key: Key) -> bytes:
        return self.prefix + _TOMBSTONE.encode() + key.path.encode()

    def parse(self, name: bytes) -> tuple[Key, bool] | None:
        """The key, and whether this is its tombstone; None for a stranger's."""
        try:
            path = name[len(self.prefix) :].decode()
        except UnicodeDecodeError:
            return None
        key = Key.from_path(path.removeprefix(_TOMBSTONE))
        return None if key is None else (key, path.startswith(_TOMBSTONE))

    def record(self, pair: Any) -> Record | None:
        """What a key and its value say; None for a stranger's."""
        parsed = self.parse(pair.key)
        if parsed is None:
            return None
        key, is_tombstone = parsed
        if is_tombstone:
            text = pair.value.decode("ascii", "replace")
            return Record(key, pair.mod_revision, int(text) if text.isdigit() else 0, None)
        return Record(key, pair.mod_revision, envelope.stored_version(pair.value), pair.value)


def transaction(writes: Sequence[Write], keys: Keys, lease: Callable[[Write], int]) -> Any:
    """The request: a transaction of one nested transaction a write."""
    return etcdrpc.TxnRequest(
        success=[etcdrpc.RequestOp(request_txn=_gated(write, keys, lease(write))) for write in writes]
    )


def outcomes(answer: Any, writes: Sequence[Write], keys: Keys) -> list[tuple[Write, Record | None]]:
    """The writes that expected wrongly, each with what the store really holds."""
    lost = []
    for write, response in zip(writes, answer.responses, strict=True):
        inner = response.response_txn
        while not inner.succeeded and inner.responses and inner.responses[0].WhichOneof("response") == "response_txn":
            inner = inner.responses[0].response_txn
        if not inner.succeeded:
            found = [keys.record(pair) for each in inner.responses for pair in each.response_range.kvs]
            lost.append((write, found[0] if found else None))
    return lost


def _gated(write: Write, keys: Keys, lease: int) -> Any:
    live, tombstone = keys.live(write.change.key), keys.tombstone(write.change.key)
    current = [_range(live), _range(tombstone)]
    if not write.expected:
        absent = [_version(live, 0), _version(tombstone, 0)]
        return etcdrpc.TxnRequest(
            compare=absent, success=_effect(write, live, tombstone, False, lease), failure=current
        )
    # What was expected is live, or else a tombstone: only the store can tell, by the revision.
    buried = etcdrpc.TxnRequest(
        compare=[_revision(tombstone, write.expected), _version(live, 0)],
        success=_effect(write, live, tombstone, True, lease),
        failure=current,
    )
    return etcdrpc.TxnRequest(
        compare=[_revision(live, write.expected)],
        success=_effect(write, live, tombstone, False, lease),
        failure=[etcdrpc.RequestOp(request_txn=buried)],
    )


def _effect(write: Write, live: bytes, tombstone: bytes, buried: bool, lease: int) -> list[Any]:
    match write.change:
        case Put(_, _, body):
            put = [_put(live, body, lease)]
            return [*put, _delete(tombstone)] if buried else put
        case Gone(_, version):
            put = [_put(tombstone, b"%d" % version, lease)]
            return put if buried else [_delete(live), *put]
        case Forget():
            return [_delete(tombstone if buried else live)]


def _put(name: bytes, value: bytes, lease: int) -> Any:
    return etcdrpc.RequestOp(request_put=etcdrpc.PutRequest(key=name, value=value, lease=lease))


def _delete(name: bytes) -> Any:
    return etcdrpc.RequestOp(request_delete_range=etcdrpc.DeleteRangeRequest(key=name))


def _range(name: bytes) -> Any:
    return etcdrpc.RequestOp(request_range=etcdrpc.RangeRequest(key=name))


def _version(name: bytes, version: int) -> Any:
    return etcdrpc.Compare(result=etcdrpc.Compare.EQUAL, target=etcdrpc.Compare.VERSION, key=name, version=version)


def _revision(name: bytes, revision: int) -> Any:
    return etcdrpc.Compare(result=etcdrpc.Compare.EQUAL, target=etcdrpc.Compare.MOD, key=name, mod_revision=revision)
