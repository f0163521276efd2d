"""The model of an SQS queue: at least once, with visibility timeouts."""

from __future__ import annotations

import json
from hashlib import md5
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from css.simulator.queue import Queue


def receive(queue: Queue, now: float, most: int = 10, visibility: float | None = None) -> list[dict[str, Any]]:
    return [json.loads(message) for message in queue.receive(most, now, visibility)]


def bodies(queue: Queue, now: float, visibility: float | None = None) -> list[str]:
    return [message["Body"] for message in receive(queue, now, visibility=visibility)]


def test_messages_come_in_order_ten_at_a_time() -> None:
    """Without a window they are received as they were sent, at most ten, each with the MD5 of its body."""
    queue = Queue()
    for number in range(12):
        queue.send(f"é {number}", 0.0)
    first, second = receive(queue, 1.0), receive(queue, 1.0)
    assert [message["Body"] for message in first + second] == [f"é {number}" for number in range(12)]
    assert [len(first), len(second)] == [10, 2]
    assert first[3]["MD5OfBody"] == md5("é 3".encode()).hexdigest()  # noqa: S324 - as SQS does
    assert len({message["MessageId"] for message in first + second}) == 12


def test_an_undeleted_message_comes_again() -> None:
    """After its visibility timeout a message is received again, with a new handle; until then it is not."""
    queue = Queue(visibility_timeout=30)
    queue.send("a", 0.0)
    (first,) = receive(queue, 1.0)
    assert receive(queue, 30.9) == []
    (second,) = receive(queue, 31.0)
    assert second["MessageId"] == first["MessageId"]
    assert second["ReceiptHandle"] != first["ReceiptHandle"]
    assert queue.counts().redelivered == 1


def test_a_stale_handle_succeeds_without_deleting() -> None:
    """Only the newest handle deletes; an older one, or one of a deleted message, is accepted and does nothing."""
    queue = Queue(visibility_timeout=10)
    queue.send("a", 0.0)
    (first,), (second,) = receive(queue, 0.0), receive(queue, 10.0)
    assert queue.delete(first["ReceiptHandle"], 11.0)
    assert queue.counts().in_flight == 1
    assert queue.delete(second["ReceiptHandle"], 11.0)
    assert queue.delete(second["ReceiptHandle"], 11.0)
    assert receive(queue, 1000.0) == []
    assert (queue.counts().deleted, queue.counts().stale_deletes) == (1, 2)
    assert not queue.delete("nonsense", 11.0)
    assert not queue.delete("AQEB" + "z" * 18, 11.0)


def test_an_expired_but_newest_handle_still_deletes() -> None:
    """A message that became visible again and was not received by another can be deleted with its handle."""
    queue = Queue(visibility_timeout=10)
    queue.send("a", 0.0)
    (first,) = receive(queue, 0.0)
    assert queue.delete(first["ReceiptHandle"], 20.0)
    assert receive(queue, 21.0) == []
    assert queue.counts().visible == 0


def test_visibility_can_be_changed() -> None:
    """Longer: the message stays away; 0: it is back at once; not in flight: an error."""
    queue = Queue(visibility_timeout=10)
    queue.send("a", 0.0)
    (message,) = receive(queue, 0.0)
    handle = message["ReceiptHandle"]
    assert queue.change_visibility(handle, 60, 5.0) == ""
    assert bodies(queue, 64.9) == []
    assert queue.change_visibility(handle, 0, 64.9) == ""
    assert bodies(queue, 64.9) == ["a"]
    assert queue.change_visibility(handle, 5, 65.0) == "MessageNotInflight"
    assert queue.change_visibility("nonsense", 5, 65.0) == "ReceiptHandleIsInvalid"


def test_delayed_messages_come_when_they_are_due() -> None:
    """A message with a delay is not visible before; `refresh` says when to look again."""
    queue = Queue()
    queue.send("late", 0.0, delay=5.0)
    queue.send("now", 0.0)
    assert queue.refresh(0.0) == 5.0
    assert queue.counts().delayed == 1
    assert bodies(queue, 4.9) == ["now"]
    assert bodies(queue, 5.0) == ["late"]


def test_a_window_shuffles_within_its_size() -> None:
    """A window hands messages out in another order, the same for a seed, and none before its turn came near."""

    def order(seed: int, window: int) -> list[int]:
        queue = Queue(seed=seed)
        queue.window = window
        for number in range(100):
            queue.send(str(number), 0.0)
        return [int(body) for _ in range(10) for body in bodies(queue, 1.0)]

    assert order(1, 0) == list(range(100))
    assert order(1, 10) == order(1, 10) != order(2, 10)
    assert sorted(order(1, 10)) == list(range(100))
    assert all(number < position + 10 for position, number in enumerate(order(1, 10)))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["send", "receive", "delete", "extend", "return"]), st.integers(0, 9)), max_size=60
    )
)
def test_nothing_is_lost_and_nothing_counted_wrong(steps: list[tuple[str, int]]) -> None:
    """Whatever is done, a message is there until its newest handle deletes it, and the counts add up."""
    queue = Queue(visibility_timeout=3)
    sent: set[str] = set()
    handles: list[tuple[str, str]] = []
    newest: dict[str, str] = {}
    now = 0.0
    for number, (step, choice) in enumerate(steps):
        now += 1
        body, handle = handles[choice % len(handles)] if handles else ("", "AQEB" + "0" * 18)
        if step == "send":
            queue.send(str(number), now, delay=choice % 3)
            sent.add(str(number))
        elif step == "receive":
            for message in receive(queue, now, most=choice + 1):
                handles.append((message["Body"], message["ReceiptHandle"]))
                newest[message["Body"]] = message["ReceiptHandle"]
        elif step == "delete":
            queue.delete(handle, now)
            if newest.get(body) == handle:
                sent.discard(body)
        else:
            queue.change_visibility(handle, choice if step == "extend" else 0, now)
        counts = queue.counts()
        assert counts.visible + counts.in_flight + counts.delayed == len(sent)
    left = [body for _ in range(10) for body in bodies(queue, now + 100, visibility=1000)]
    assert sorted(left) == sorted(sent)
