"""The view and the log, against a plain dictionary as the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from css import envelope
from css.errors import Compacted
from css.log import RevisionLog
from css.model import FORGOTTEN, TOMBSTONE_FORGOTTEN, Batch, Head, Key, Record
from css.view import INDEXED, View

KEYS = [Key(kind, cluster, f"{cluster}/{n}") for kind in ("task", "instance") for cluster in "ab" for n in range(3)]  # type: ignore[arg-type]
STATUSES = ["RUNNING", "STOPPED", ""]


def body(version: int, status: str, group: str = "service:web") -> bytes:
    detail = {"version": version, "lastStatus": status, "group": group, "note": 'é "quoted"'}
    return envelope.encode(detail, detail_type="t", source="aws.ecs", time="2026-01-01T00:00:00Z")


def record(key: Key, revision: int, what: tuple[str, str]) -> Record:
    kind, status = what
    if kind == "gone":
        return Record(key, revision, revision, None)
    if kind == "forgotten":
        return Record(key, revision, FORGOTTEN, None)
    return Record(key, revision, revision, body(revision, status))


WHAT = st.tuples(st.sampled_from(["put", "put", "gone", "forgotten"]), st.sampled_from(STATUSES))
BATCHES = st.lists(st.dictionaries(st.sampled_from(KEYS), WHAT, min_size=1, max_size=4), max_size=15)


@given(BATCHES)
@settings(max_examples=150, deadline=None)
def test_applying_changes_equals_loading_the_outcome(batches: list[dict[Key, tuple[str, str]]]) -> None:
    """After any history the view equals one loaded from the final records: rows, order, indexes, tombstones."""
    view, final = View(), dict[Key, Record]()
    for revision, changes in enumerate(batches, 1):
        records = tuple(record(key, revision, what) for key, what in changes.items())
        before = {key: view.row(key) for key in changes}
        step = view.apply(Batch(revision, records))
        assert {c.key for c in step.changes} == {r.key for r in records if before[r.key] or r.body is not None}
        final |= {r.key: r for r in records}
    fresh = View()
    fresh.load(Head("e", len(batches)), [r for r in final.values() if r.version != FORGOTTEN or r.body])
    for key in KEYS:
        assert view.row(key) == fresh.row(key)
        known, wanted = view.known(key), fresh.known(key)
        assert (known and (known.revision, known.version)) == (wanted and (wanted.revision, wanted.version))
    for kind in ("task", "instance"):
        assert [*view.rows(kind)] == [*fresh.rows(kind)] == sorted(view.rows(kind), key=lambda row: row.key)  # type: ignore[arg-type]
        for field, value in INDEXED.items():
            assert sorted(view.values(kind, field)) == sorted(fresh.values(kind, field))  # type: ignore[arg-type]
            for wanted_value in view.values(kind, field):  # type: ignore[arg-type]
                found = {row.key for row in view.indexed(kind, field, wanted_value)}  # type: ignore[arg-type]
                assert found == {row.key for row in view.rows(kind) if value(row) == wanted_value}  # type: ignore[arg-type]


def test_a_tombstone_ends_alone() -> None:
    """That a tombstone is over removes it, never a live row of the same key, and is no change to anybody."""
    view = View()
    view.apply(Batch(1, (record(KEYS[0], 1, ("put", "RUNNING")), record(KEYS[1], 1, ("gone", "")))))
    row = view.row(KEYS[0])
    step = view.apply(Batch(2, tuple(Record(key, 2, TOMBSTONE_FORGOTTEN, None) for key in KEYS[:2])))
    assert (step.revision, step.changes) == (2, ())
    assert view.row(KEYS[0]) is row is not None
    assert view.known(KEYS[1]) is None


def test_an_item_is_the_object_complete() -> None:
    """A row's item bytes are JSON with key, revision, time, source and the ECS object with every field."""
    view = View()
    view.load(Head("e", 3), [Record(KEYS[0], 3, 2, body(2, "RUNNING"))])
    assert json.loads(view.rows("task")[0].item) == {
        "key": {"kind": "task", "cluster": "a", "id": "a/0"},
        "revision": 3,
        "updatedAt": "2026-01-01T00:00:00Z",
        "source": "event",
        "detail": {"version": 2, "lastStatus": "RUNNING", "group": "service:web", "note": 'é "quoted"'},
    }


@pytest.mark.parametrize("value", [b"", b"garbage", b"[]", b'{"detail": 5}', b'{"detail": {"lastStatus": 5}}', b"\xff"])
def test_a_strangers_value_is_a_row_without_fields(value: bytes) -> None:
    """A value in a shared store that is no envelope never ends the view."""
    view = View()
    view.apply(Batch(1, (Record(KEYS[0], 1, 0, value),)))
    assert view.rows("task")[0].fields.state == ""
    assert json.loads(view.rows("task")[0].item)["key"]["id"] == "a/0"


def test_real_events_are_filed_by_their_fields() -> None:
    """The fields that filters look at are found in real events."""
    event: dict[str, Any] = json.loads((Path(__file__).parent / "data/events/task-fargate-2020.json").read_text())
    view, key = View(), Key("task", "FargateCluster", event["detail"]["taskArn"])
    view.apply(Batch(1, (Record(key, 1, 1, json.dumps(event).encode()),)))
    fields = view.rows("task")[0].fields
    assert (fields.launch_type, fields.state) == ("FARGATE", event["detail"]["lastStatus"])
    assert fields.family in event["detail"]["taskDefinitionArn"]
    assert [row.key for row in view.indexed("task", "family", fields.family)] == [key]


def test_what_the_go_services_reconciler_wrote_is_read() -> None:
    """`Detail` for `detail`, and Go's names for the members whose tags were malformed."""
    read = envelope.read(b'{"id":"","Detail":{"ClusterArn":"c","containers":[{"Reason":"r","name":"n"}],"version":3}}')
    assert json.loads(bytes(read.detail)) == {
        "clusterArn": "c",
        "containers": [{"reason": "r", "name": "n"}],
        "version": 3,
    }
    assert envelope.version(read.detail) == 3


class Entry:
    def __init__(self, revision: int) -> None:
        self.revision = revision

    def __repr__(self) -> str:
        return f"<{self.revision}>"


@given(st.lists(st.integers(1, 5), min_size=1, max_size=60), st.integers(2, 10))
def test_the_log_is_complete_above_its_floor(gaps: list[int], capacity: int) -> None:
    """Reading after any revision gives exactly the later entries, or says that they are gone: never a silent gap."""
    log: RevisionLog[Entry] = RevisionLog(0, capacity=capacity, weigh=lambda _: 1)
    revisions: list[int] = []
    for gap in gaps:
        revisions.append(log.head + gap)
        log.append(Entry(revisions[-1]))
    assert len(log.read(log.floor)) <= capacity
    for after in range(revisions[-1] + 3):
        if log.floor <= after <= log.head:
            assert [entry.revision for entry in log.read(after)] == [r for r in revisions if r > after]
        else:
            with pytest.raises(Compacted):
                log.read(after)
    with pytest.raises(ValueError, match="does not follow"):
        log.append(Entry(log.head))
