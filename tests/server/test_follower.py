"""What followers share: the same bytes at the same place, bounded however many there are, never of another log."""

from __future__ import annotations

import tracemalloc

import pytest

from css import envelope, wire
from css.errors import Compacted
from css.follow import Live
from css.model import Batch, Head, Key, Record
from css.query import Filter, parse
from css.server.follower import PIECE, Interest, Shared

TASKS = Interest((("task", Filter()),))
NONE = Interest((("task", parse("task", {"status": "pending"})),))


def record(number: int, revision: int, padding: int = 1500) -> Record:
    detail = {"lastStatus": "RUNNING", "padding": "x" * padding}
    body = envelope.encode(detail, detail_type="t", source="aws.ecs")
    return Record(Key("task", "c", f"{number}"), revision, revision, body)


def living(revisions: int) -> Live:
    live = Live()
    live.load(Head("first", 0), [])
    for revision in range(1, revisions + 1):
        live.apply(Batch(revision, (record(revision, revision),)))
    return live


def caught_up(live: Live, shared: Shared, interest: Interest, after: int) -> list[bytes]:
    messages = []
    while after < live.log.head:
        chunk = shared.changes(interest, after)
        assert chunk.upto > after
        after = chunk.upto
        messages += [] if chunk.message is None else [chunk.message]
    return messages


def test_a_chunk_is_made_once_for_all_at_its_place() -> None:
    """Whoever comes to the same place with the same filter gets the same bytes."""
    live = living(5)
    shared = Shared(live)
    assert shared.changes(TASKS, 3) is shared.changes(Interest((("task", Filter()),)), 3)


def test_what_is_shared_is_bounded() -> None:
    """However many subscribers catch up from however many places, a few megabytes are kept, in pieces."""
    live = living(1000)
    shared = Shared(live)
    tracemalloc.start()
    try:
        for after in range(60):
            assert max(map(len, caught_up(live, shared, TASKS, after))) < PIECE + 4000
        assert tracemalloc.get_traced_memory()[0] < 9 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_catching_up_tells_every_change_once() -> None:
    """The chunks together are what happened, in order, and lead to the head."""
    live = living(1000)
    told = [wire.decode(message) for message in caught_up(live, Shared(live), TASKS, 10)]
    assert [change.revision for message in told if isinstance(message, wire.Changes) for change in message.changes] == [
        *range(11, 1001)
    ]
    assert [message.revision for message in told if isinstance(message, wire.Changes)][-1] == 1000


def test_what_is_of_no_interest_moves_on_in_steps_and_silently() -> None:
    """A filter that nothing passes is led to the head without a message, not all in one go."""
    live = living(5000)
    shared = Shared(live)
    assert caught_up(live, shared, NONE, 0) == []
    assert shared.changes(NONE, 0).upto < 5000


def test_another_log_has_other_changes() -> None:
    """After a listing the same revisions may mean other data: nothing of the old is told."""
    live = living(0)
    shared = Shared(live)
    live.apply(Batch(1, (record(1, 1),)))
    old = shared.changes(TASKS, 0)
    live.load(Head("second", 0), [])
    live.apply(Batch(1, (record(2, 1),)))
    new = shared.changes(TASKS, 0)
    assert old.message is not None
    assert new.message is not None
    assert b'"id":"1"' in old.message
    assert b'"id":"2"' in new.message
    live.load(Head("third", 9), [])
    with pytest.raises(Compacted):
        shared.changes(TASKS, 0)
