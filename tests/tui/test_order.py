"""The table's order, what it shows and where its cursor is, whatever comes in and whatever is asked."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from watched import TIME, item, task_key

from css.model import Key
from css.query import InvalidFilter
from tui.columns import COLUMNS, Column
from tui.ordered import MANY, Ordered
from tui.rows import Task, decode
from tui.search import Search, read

STATUSES = ("PENDING", "RUNNING", "STOPPED")
SEARCHES = (
    "",
    "web",
    "web 1",
    "status:running",
    "status:!stopped cluster:prod-*",
    "service:api,web",
    "nothing-has-this",
)


def task(number: int, revision: int, service: str, status: str) -> Task:
    body = {"lastStatus": status, "group": f"service:{service}", "createdAt": TIME, "cpu": str(128 * (number % 3))}
    return decode(item(task_key(number, f"prod-{number % 2}"), revision, body))


CHANGE = st.one_of(st.none(), st.tuples(st.sampled_from(("api", "web")), st.sampled_from(STATUSES)))
BATCHES = st.lists(
    st.one_of(
        st.tuples(
            st.just("batch"),
            st.dictionaries(st.integers(0, 24), CHANGE),
        ),
        st.tuples(st.just("sort"), st.tuples(st.sampled_from(COLUMNS), st.booleans())),
        st.tuples(st.just("search"), st.sampled_from(SEARCHES)),
        st.tuples(st.just("move"), st.integers(0, 30)),
    ),
    max_size=25,
)


class Model:
    """The same table, sorted and filtered from nothing each time."""

    def __init__(self) -> None:
        self.rows: dict[Key, Task] = {}
        self.column, self.descending, self.search = COLUMNS[0], False, Search()

    def view(self) -> list[Task]:
        def rank(row: Task) -> tuple[str | float, str, str]:
            return self.column.sort(row), row.key.id, row.key.cluster

        kept = [row for row in self.rows.values() if self.search.matches(row)]
        return sorted(kept, key=rank, reverse=self.descending)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(BATCHES, st.booleans())
def test_order_view_and_cursor_are_exact(steps: list[tuple[str, object]], many: bool) -> None:
    """After any batches, sorts, searches and moves the view equals one sorted anew, and the cursor is on its task.

    Where that task is gone, the cursor is on the nearest line; before anything was chosen, on the first.
    """
    table, model, revision = Ordered(COLUMNS[0].sort), Model(), 0
    for what, value in steps:
        cursor, line = table.cursor, table.line
        match what, value:
            case "batch", dict() as changes:
                revision += 1
                puts, gone = _batch(changes, revision)
                if many:
                    # Beyond this many the table sorts instead of moving: keys nobody has change nothing else.
                    gone |= {task_key(number) for number in range(10_000, 10_000 + MANY)}
                table.apply(puts, gone)
                for key in gone:
                    model.rows.pop(key, None)
                model.rows.update(puts)
            case "sort", (Column() as column, bool() as descending):
                table.sort(column.sort, descending=descending)
                model.column, model.descending = column, descending
            case "search", str() as text:
                search = read(text)
                table.search(search.matches if text else None, narrower=search.narrows(model.search))
                model.search = search
            case "move", int() as to:
                table.move_to(to)
                cursor, line = table.cursor, table.line
        _check(table, model, cursor, line)


def _batch(changes: Mapping[int, tuple[str, str] | None], revision: int) -> tuple[dict[Key, Task], set[Key]]:
    puts = {task_key(n, f"prod-{n % 2}"): task(n, revision, *c) for n, c in changes.items() if c is not None}
    return puts, {task_key(n, f"prod-{n % 2}") for n, c in changes.items() if c is None}


def _check(table: Ordered, model: Model, cursor: Key | None, line: int) -> None:
    view = model.view()
    assert [table.at(n) for n in range(len(table))] == view
    assert table.total == len(model.rows)
    assert [table.line_of(row.key) for row in view] == list(range(len(view)))
    if cursor is None and table.cursor is None:
        assert table.line == 0
    elif any(row.key == cursor for row in view):
        assert table.cursor == cursor
        assert view[table.line].key == cursor
    elif view:
        assert table.line == max(0, min(line, len(view) - 1))
        assert table.cursor == view[table.line].key
    else:
        assert table.cursor is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", [1, 2, 3, 4]),
        ("web", [1, 3]),
        ("WEB stop", [3]),
        ("service:web", [1, 3]),
        ("service:w*", [1, 3]),
        ("Status:running cluster:prod-1", [1]),
        ("status:!running", [3, 4]),
        ("status:", [1, 2, 3, 4]),
        ("status:running,pending", [1, 2, 4]),
        ("nokey:web", []),
    ],
)
def test_a_search_is_words_and_fields(text: str, found: list[int]) -> None:
    """All terms must match; case does not matter; a key without a value, and one that is none, filter no field."""
    tasks = {
        1: task(1, 1, "web", "RUNNING"),
        2: task(2, 1, "api", "RUNNING"),
        3: task(3, 1, "web", "STOPPED"),
        4: task(4, 1, "api", "PENDING"),
    }
    assert [number for number, one in tasks.items() if read(text).matches(one)] == found


def test_a_value_without_meaning_is_said() -> None:
    """So that the screen can keep the last filter that had one."""
    with pytest.raises(InvalidFilter, match="status"):
        read("status:running,,stopped")


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b'"text"',
        b'{"cpu":{"a":1},"createdAt":5,"lastStatus":7,"memory":[1]}',
        b"[" * 200 + b"]" * 200,
        b'{"createdAt":"soon"}',
    ],
)
def test_any_object_becomes_a_row(body: bytes) -> None:
    """What cannot be read is blank; it never raises."""
    strange = msgspec.structs.replace(item(task_key(1), 1, {}), detail=msgspec.Raw(body))
    for column in COLUMNS:
        column.text(decode(strange), 0.0)
        column.sort(decode(strange))
