"""The gated transaction: one request that applies each write only if its key still is as expected. Pure.

A live object is `<prefix>task/<cluster>/<arn>` as the Go service wrote it; its tombstone, which that service must not
take for a task, is `<prefix>tombstone/task/<cluster>/<arn>` with the version as its value. We leave one of the two at
most; where that service has put an object back beside its tombstone, the object counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from etcd3 import etcdrpc

from css import envelope
from css.errors import Rejected
from css.model import Change, Forget, Gone, Key, Put, Record, Write

MAX_WRITES = 124
"""etcd counts at most 128 operations along the longest way down: the outer ones, and twice two within each."""

MAX_BYTES = 1_400_000
"""Of one request; etcd refuses 1.5 MiB."""

_TOMBSTONE = "tombstone/"
_EQUAL, _LESS, _MOD = etcdrpc.Compare.EQUAL, etcdrpc.Compare.LESS, etcdrpc.Compare.MOD


class Keys:
    """The names of things under a prefix."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix.encode()
        self.end = prefix_end(self.prefix)

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
        key, buried = parsed
        if buried:
            return Record(key, pair.mod_revision, int(pair.value) if pair.value.isdigit() else 0, None)
        value = pair.value
        return Record(key, pair.mod_revision, envelope.stored_version(value), value)


def prefix_end(prefix: bytes) -> bytes:
    """The end of the range of all keys that begin with `prefix`."""
    head = prefix.rstrip(b"\xff")
    return head[:-1] + bytes([head[-1] + 1]) if head else b"\0"


def transaction(writes: Sequence[Write], keys: Keys, lease: Callable[[Write], int]) -> Any:
    """The request: a transaction of one nested transaction a write."""
    request = etcdrpc.TxnRequest()
    operations = request.success
    for write in writes:
        _gate(operations.add().request_txn, write, keys, lease(write))
    return request


def outcomes(answer: Any, writes: Sequence[Write], keys: Keys) -> list[tuple[Write, Record | None]]:
    """The writes that expected wrongly, each with what the store really holds."""
    lost = []
    for write, response in zip(writes, answer.responses, strict=True):
        gate = response.response_txn
        if write.expected and not gate.succeeded:
            gate = gate.responses[0].response_txn
            applied = gate.succeeded
        else:
            applied = gate.succeeded and not write.expected
        if not applied:
            found = [pair for each in gate.responses for pair in each.response_range.kvs]
            lost.append((write, keys.record(found[0]) if found else None))
    return lost


def parts(writes: Sequence[Write]) -> Iterator[Sequence[Write]]:
    """The writes in as few requests as their size permits. Raises `Rejected` for one that fits in none."""
    weights = [_weight(write) for write in writes]
    for write, weight in zip(writes, weights, strict=True):
        if weight > MAX_BYTES:
            raise Rejected("too large", f"{write.change.key.kind} of {weight:,} bytes; etcd takes {MAX_BYTES:,}")
    start = size = 0
    for end, weight in enumerate(weights):
        if size + weight > MAX_BYTES:
            yield writes[start:end]
            start, size = end, 0
        size += weight
    if start < len(writes):
        yield writes[start:]


def _weight(write: Write) -> int:
    change = write.change
    body = len(change.body) if isinstance(change, Put) else 0
    # The key is named ten times: compared, changed and, where the gate is closed, asked for.
    return body + 10 * 4 * len(change.key.path) + 500


def _gate(gate: Any, write: Write, keys: Keys, lease: int) -> None:
    live, tombstone = keys.live(write.change.key), keys.tombstone(write.change.key)
    if not write.expected:
        _compare(gate, _EQUAL, 0, live, tombstone)
    else:
        # What is expected may be live or a tombstone, and etcd knows no "or": older than expected is lost; what is not,
        # and not younger either, is just that. So the body travels once.
        _compare(gate, _LESS, write.expected, live, tombstone)
        _ask(gate.success, live, tombstone)
        gate = gate.failure.add().request_txn
        _compare(gate, _LESS, write.expected + 1, live, tombstone)
    _change(gate.success, write.change, live, tombstone, lease)
    _ask(gate.failure, live, tombstone)


def _compare(gate: Any, result: Any, revision: int, live: bytes, tombstone: bytes) -> None:
    gate.compare.add(result=result, target=_MOD, key=live, mod_revision=revision)
    gate.compare.add(result=result, target=_MOD, key=tombstone, mod_revision=revision)


def _ask(operations: Any, live: bytes, tombstone: bytes) -> None:
    operations.add().request_range.key = live
    operations.add().request_range.key = tombstone


def _change(operations: Any, change: Change, live: bytes, tombstone: bytes, lease: int) -> None:
    match change:
        case Put(_, _, body):
            _put(operations, live, body, lease)
            operations.add().request_delete_range.key = tombstone
        case Gone(_, version):
            _put(operations, tombstone, b"%d" % version, lease)
            operations.add().request_delete_range.key = live
        case Forget():
            operations.add().request_delete_range.key = live
            operations.add().request_delete_range.key = tombstone


def _put(operations: Any, name: bytes, value: bytes, lease: int) -> None:
    put = operations.add().request_put
    put.key, put.value = name, value
    if lease:
        put.lease = lease
