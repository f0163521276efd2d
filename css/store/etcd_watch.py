"""One watch stream of etcd: a thread of its own reads it, and hands over whole revisions, bounded and in order.

Never falls silent: a stream that says nothing is asked for its progress, and given up when it does not answer.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import grpc
import trio
from etcd3 import etcdrpc
from google.protobuf.unknown_fields import UnknownFieldSet  # type: ignore[import-untyped] # publishes no types

from css.errors import Compacted, CssError, Unavailable
from css.model import FORGOTTEN, TOMBSTONE_FORGOTTEN, Batch, Head, Key, Record
from css.store.etcd_gate import Keys
from css.store.etcd_wire import Wire

# A silent stream is asked for its progress, then given up: 13 s in all.
_QUIET = 5.0
_SILENT = 8.0

# Two fields that the messages of `etcd3` do not know. Without `fragment`, catching up answers with a thousand
# revisions in one message, 150 MB of them; with it, in pieces of 2 MiB, all but the last of them marked.
_ASK_FOR_FRAGMENTS = b"\x40\x01"  # WatchCreateRequest.fragment, field 8: true
_IS_FRAGMENT = 7  # WatchResponse.fragment


class Assembly:
    """Makes whole batches of events. Pure: what a fragment may have cut is held back until the rest has come."""

    def __init__(self, keys: Keys, after: int) -> None:
        self._keys = keys
        self._done = after
        self._revision = 0
        self._records: dict[Key, Record] = {}

    def add(self, events: Iterable[Any], more: bool) -> list[Batch]:
        """What is whole now; `more`: the last revision may go on. Revisions already given are passed over."""
        batches: list[Batch] = []
        for event in events:
            revision = event.kv.mod_revision
            if revision <= self._done:
                continue
            if revision != self._revision:
                self._complete(batches)
                self._revision = revision
            self._take(event, revision)
        if not more:
            self._complete(batches)
        return batches

    def _take(self, event: Any, revision: int) -> None:
        record: Record | None
        if event.type == event.PUT:
            record = self._keys.record(event.kv)
        else:
            parsed = self._keys.parse(event.kv.key)
            record = _removal(*parsed, revision) if parsed else None
        # A removal is two events, and so is a put over a tombstone: what was put is what there is now, and a removed
        # object says more than its removed tombstone.
        if record is None:
            return
        before = self._records.get(record.key)
        if before is None or event.type == event.PUT or before.forgets_tombstone:
            self._records[record.key] = record

    def _complete(self, batches: list[Batch]) -> None:
        if self._records:
            batches.append(Batch(self._revision, tuple(self._records.values())))
            self._records = {}
        self._done = max(self._done, self._revision)


class EtcdWatch:
    """A position in etcd's changes. `start`, then `wait_created`, then `receive` again and again; `aclose` at last."""

    def __init__(self, wire: Wire, keys: Keys, after: int) -> None:
        self._wire = wire
        self._keys = keys
        self._after = after
        self._peer = wire.peer
        self._assembly = Assembly(keys, after)
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._stream: Any = None
        # One response (2 MiB) waits here while the one before is applied; the thread then waits, and etcd with it.
        self._sender, self._receiver = trio.open_memory_channel[list[Batch] | Head | CssError](1)
        self._ended = trio.Event()

    def __repr__(self) -> str:
        return f"<EtcdWatch of {self._keys.prefix!r} after {self._after} at {self._peer.target}>"

    async def wait_created(self) -> Head:
        """Start; the state of the server that serves the watch. Raises `Unavailable`, `Compacted`."""
        token = trio.lowlevel.current_trio_token()
        threading.Thread(target=self._read, args=(token,), name="etcd watch", daemon=True).start()
        while not isinstance(item := await self._next(), Head):
            pass
        return item

    async def receive(self) -> Sequence[Batch]:
        while True:
            item = await self._next()
            if item and not isinstance(item, Head):
                return item

    async def aclose(self) -> None:
        self._requests.put(None)
        self._receiver.close()
        if self._stream is not None:
            self._stream.cancel()
        # The thread ends by this; a shield of two seconds, so that a closed watch leaves nothing behind.
        with trio.move_on_after(2, shield=True):
            await self._ended.wait()

    async def _next(self) -> list[Batch] | Head:
        item: list[Batch] | Head | CssError | None = None
        with trio.move_on_after(_QUIET):
            item = await self._receiver.receive()
        if item is None:
            self._requests.put(etcdrpc.WatchRequest(progress_request=etcdrpc.WatchProgressRequest()))
            with trio.move_on_after(_SILENT):
                item = await self._receiver.receive()
        if item is None:
            raise Unavailable("etcd", f"{self._peer.target}: the watch is silent")
        if isinstance(item, CssError):
            raise item
        return item

    # --- the thread -----------------------------------------------------------------------------------------------

    def _read(self, token: trio.lowlevel.TrioToken) -> None:
        try:
            for item in self._items():
                trio.from_thread.run(self._sender.send, item, trio_token=token)
        except (trio.BrokenResourceError, trio.Cancelled):
            pass  # nobody is listening any more
        finally:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(self._finished)

    def _finished(self) -> None:
        self._sender.close()
        self._ended.set()

    def _items(self) -> Iterable[list[Batch] | Head | CssError]:
        try:
            self._stream = self._wire.watch(self._peer, iter(self._requests.get, None))
            self._requests.put(self._create_request())
            for response in self._stream:
                if response.canceled:
                    yield self._refusal(response)
                    return
                if response.created:
                    yield Head(f"{response.header.cluster_id:x}", response.header.revision)
                else:
                    yield self._assembly.add(response.events, _is_fragment(response))
            yield Unavailable("etcd", f"{self._peer.target}: the watch ended")
        except grpc.RpcError as error:
            yield self._wire.translated(error, self._peer)
        except Unavailable as error:  # no token to be had
            yield error

    def _create_request(self) -> Any:
        # From the last revision seen, not from the next: it must still be held for what follows to be complete (etcd
        # before 3.5.14 may lose a removal at just the revision it was compacted to). The first revision is 1.
        create = etcdrpc.WatchCreateRequest(
            key=self._keys.prefix, range_end=self._keys.end, start_revision=max(1, self._after)
        )
        create.MergeFromString(_ASK_FOR_FRAGMENTS)
        return etcdrpc.WatchRequest(create_request=create)

    def _refusal(self, response: Any) -> CssError:
        if response.compact_revision:
            return Compacted(response.compact_revision)
        # So etcd answers a token whose time is over, right at the start of a watch.
        self._wire.forget_token()
        return Unavailable("etcd", f"{self._peer.target}: the watch was cancelled: {response.cancel_reason}")


def _removal(key: Key, buried: bool, revision: int) -> Record:
    return Record(key, revision, TOMBSTONE_FORGOTTEN if buried else FORGOTTEN, None)


def _is_fragment(response: Any) -> bool:
    return any(field.field_number == _IS_FRAGMENT and field.data for field in UnknownFieldSet(response))
