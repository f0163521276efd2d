"""The simple field filters: their syntax, what they are compared with, and that indexes change nothing but the time."""

from __future__ import annotations

import contextlib
import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from css import envelope, query
from css.model import Head, Key, Kind, Record
from css.query import InvalidFilter
from css.view import View

ACCOUNT = "arn:aws:ecs:us-east-1:111122223333"


def record(number: int, kind: Kind, cluster: str, name: str, **detail: Any) -> Record:
    body = envelope.encode(detail, detail_type=envelope.TASK_CHANGE, source=envelope.EVENT_SOURCE)
    return Record(Key(kind, cluster, name), number, 1, body)


def task(number: int, *, cluster: str = "prod", long: bool = True, **detail: Any) -> Record:
    name = f"{ACCOUNT}:task/{cluster}/{number:04x}" if long else f"{ACCOUNT}:task/{number:04x}"
    return record(number, "task", cluster, name, **detail)


def view_of(*records: Record) -> View:
    view = View()
    view.load(Head("epoch", 100_000), records)
    return view


def selected(view: View, kind: Kind = "task", /, **params: str) -> list[str]:
    return [row.key.id.rpartition("/")[2] for row in query.select(view, kind, query.parse(kind, params))]


WEB = task(
    1,
    lastStatus="RUNNING",
    desiredStatus="RUNNING",
    group="service:web",
    startedBy="ecs-svc/7",
    launchType="EC2",
    taskDefinitionArn=f"{ACCOUNT}:task-definition/web:3",
    containerInstanceArn=f"{ACCOUNT}:container-instance/prod/abc",
    availabilityZone="us-east-1a",
    healthStatus="HEALTHY",
    capacityProviderName="spot",
)
JOB = task(
    2,
    cluster="test",
    lastStatus="STOPPED",
    desiredStatus="STOPPED",
    group="family:job",
    startedBy="Nightly",
    launchType="FARGATE",
    taskDefinitionArn=f"{ACCOUNT}:task-definition/job:12",
    availabilityZone="us-east-1b",
    stopCode="EssentialContainerExited",
)


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("cluster", "prod"),
        ("cluster", f"{ACCOUNT}:cluster/prod"),
        ("cluster", "pr*"),
        ("service", "web"),
        ("service", "w*b"),
        ("service", f"{ACCOUNT}:service/prod/web"),
        ("service", f"{ACCOUNT}:service/web"),
        ("status", "running"),
        ("status", "PENDING,Running"),
        ("status", "!stopped"),
        ("desiredStatus", "Running"),
        ("family", "web"),
        ("family", "web:3"),
        ("family", f"{ACCOUNT}:task-definition/web:3"),
        ("family", f"{ACCOUNT}:task-definition/web"),
        ("group", "service:web"),
        ("group", "service:*"),
        ("launchType", "ec2"),
        ("instance", "abc"),
        ("instance", f"{ACCOUNT}:container-instance/prod/abc"),
        ("startedBy", "ecs-svc/7"),
        ("startedBy", "!Night*"),
        ("az", "us-east-1a"),
        ("health", "healthy"),
        ("capacityProvider", "spot"),
        ("capacityProvider", f"{ACCOUNT}:capacity-provider/spot"),
        ("name", "0001"),
        ("name", f"{ACCOUNT}:task/prod/0001"),
        ("name", "*1"),
        ("stopCode", "!essential*"),
    ],
)
def test_each_parameter_finds_its_object(parameter: str, value: str) -> None:
    """A parameter takes an ARN, a name or a short id where one is meant; enumerations in any case; globs; negation."""
    view = view_of(WEB, JOB)
    assert selected(view, **{parameter: value}) == ["0001"]


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("cluster", "pro"),
        ("cluster", "PROD"),
        ("cluster", "arn:aws:ecs:eu-west-1:111122223333:cluster/prod"),
        ("service", "we"),
        ("service", f"{ACCOUNT}:service/other/web"),
        ("family", "web:33"),
        ("family", f"{ACCOUNT}:task-definition/web:4"),
        ("startedBy", "nightly"),
        ("instance", "ab"),
        ("name", "000"),
        ("az", "us-east-1*c"),
    ],
)
def test_what_is_nearly_right_finds_nothing(parameter: str, value: str) -> None:
    """Names are compared whole and in their case; an ARN means its own account, region and cluster."""
    assert selected(view_of(WEB, JOB), **{parameter: value}) == []


def test_an_instance_is_found_by_its_ec2_id() -> None:
    """`instance` takes an EC2 instance id for container instances, and the objects of another kind stay out."""
    name = f"{ACCOUNT}:container-instance/prod/abc"
    view = view_of(WEB, record(9, "instance", "prod", name, containerInstanceArn=name, ec2InstanceId="i-0abc"))
    for value in ("i-0abc", "i-0*", "abc", name):
        assert selected(view, "instance", instance=value) == ["abc"]


def test_a_service_is_found_by_its_name() -> None:
    """`service` names the service itself where services are listed."""
    view = view_of(WEB, record(9, "service", "prod", f"{ACCOUNT}:service/prod/web"))
    assert selected(view, "service", service="web") == ["web"]
    assert selected(view, "service", service=f"{ACCOUNT}:service/prod/web", name="w*") == ["web"]
    assert selected(view, "service", service="!web") == []


@pytest.mark.parametrize(
    ("params", "parameter", "position"),
    [
        ({"colour": "red"}, "colour", 0),
        ({"Status": "running"}, "Status", 0),
        ({"status": ""}, "status", 0),
        ({"status": "!"}, "status", 0),
        ({"status": "running,,stopped"}, "status", 8),
        ({"status": "running,!stopped"}, "status", 8),
        ({"name": "a" * 5000}, "name", query.MAX_VALUE),
        ({"name": "*a" * 17}, "name", 0),
        ({"name": ",".join("abcd" for _ in range(101))}, "name", 500),
    ],
)
def test_what_cannot_be_meant_is_refused(params: dict[str, str], parameter: str, position: int) -> None:
    """An unknown parameter, an empty term, a `!` inside a list and oversized values say where they are wrong."""
    with pytest.raises(InvalidFilter) as caught:
        query.parse("task", params)
    assert (caught.value.parameter, caught.value.position) == (parameter, position)


def test_equal_takes_values_literally() -> None:
    """`equal` knows no syntax: commas, stars and exclamation marks are part of the value."""
    view = view_of(task(1, startedBy="!a,b*"), task(2, startedBy="a"), task(3, startedBy="b2"))
    found = query.select(view, "task", query.equal({"startedBy": "!a,b*", "cluster": "prod"}))
    assert [row.key.id for row in found] == [f"{ACCOUNT}:task/prod/0001"]


def test_find_takes_an_id_a_short_id_or_its_unique_beginning() -> None:
    """One object by ARN or beginning of its short id, inside its cluster only; several when it is not unique."""
    view = view_of(task(0x1A1), task(0x1A2), task(0x2B1, long=False), task(0x1A3, cluster="test"))

    def found(cluster: str, name: str) -> list[str]:
        return [row.key.id.rpartition(":")[2] for row in query.find(view, "task", cluster, name)]

    assert found("prod", f"{ACCOUNT}:task/prod/01a1") == ["task/prod/01a1"]
    assert found("prod", "01a1") == ["task/prod/01a1"]
    assert found(f"{ACCOUNT}:cluster/prod", "02") == ["task/02b1"]
    assert found("prod", "01") == ["task/prod/01a1", "task/prod/01a2"]
    for cluster, name in [("prod", "prod"), ("prod", ""), ("no such", "01a1"), ("nosuch", "01a1"), ("prod", "1a1")]:
        assert found(cluster, name) == []


def test_find_prefers_the_whole_short_id() -> None:
    """A short id that is also the beginning of another one is still unique."""
    view = view_of(task(1, lastStatus="A"), record(2, "task", "prod", f"{ACCOUNT}:task/prod/00012"))
    assert [row.revision for row in query.find(view, "task", "prod", "0001")] == [1]


def test_a_filter_is_a_value() -> None:
    """The same parameters, in any order of terms, give an equal filter with an equal hash: followers share it."""
    one = query.parse("task", {"status": "running,pending", "cluster": "a*"})
    other = query.parse("task", {"cluster": "a*", "status": "PENDING,RUNNING"})
    assert one == other
    assert hash(one) == hash(other)
    assert len({one, other, query.parse("task", {})}) == 2


_word = st.sampled_from(["a", "b", "ab", "abc", "A", ""])
_status = st.sampled_from(["RUNNING", "PENDING", "STOPPED", "", "ODD"])
_detail = st.fixed_dictionaries(
    {
        "lastStatus": _status,
        "desiredStatus": _status,
        "group": st.sampled_from(["service:a", "service:ab", "family:a", ""]),
        "startedBy": _word,
        "stopCode": st.sampled_from(["UserInitiated", ""]),
        "taskDefinitionArn": st.sampled_from([f"{ACCOUNT}:task-definition/a:1", f"{ACCOUNT}:task-definition/ab:2", ""]),
        "containerInstanceArn": st.sampled_from([f"{ACCOUNT}:container-instance/a/b", ""]),
        "availabilityZone": _word,
    }
)
_records = st.lists(st.tuples(st.sampled_from(["a", "ab", "b"]), st.booleans(), _detail), max_size=40)
_term = st.one_of(
    st.sampled_from(["running", "Pending", "stopped", "a:1", "a/b", "service:ab", "family:*", "userinitiated"]),
    st.sampled_from([f"{ACCOUNT}:cluster/a", f"{ACCOUNT}:service/a/ab", f"{ACCOUNT}:service/ab"]),
    st.sampled_from([f"{ACCOUNT}:task-definition/a:1", f"{ACCOUNT}:container-instance/a/b", f"{ACCOUNT}:*"]),
    st.text(alphabet="ab*", min_size=1, max_size=4),
    st.from_regex(r"000[0-9a-f]", fullmatch=True),
)
_value = st.builds(lambda terms, no: "!" * no + ",".join(terms), st.lists(_term, min_size=1, max_size=3), st.booleans())
_wild = st.dictionaries(st.sampled_from(sorted(query.PARAMETERS)), _value, max_size=3)
_likely = st.fixed_dictionaries(
    {},
    optional={
        "status": st.sampled_from(["running", "running,pending,stopped", "!stopped"]),
        "cluster": st.sampled_from(["a,b", "ab", f"{ACCOUNT}:cluster/a", "a*", "!b"]),
        "startedBy": st.sampled_from(["a,b,ab", "a"]),
        "group": st.sampled_from(["service:a,family:a", "service:*"]),
        "service": st.sampled_from(["a,ab", f"{ACCOUNT}:service/a/ab"]),
        "family": st.sampled_from(["a,ab", "a:1", "ab:2,a:1"]),
        "instance": st.sampled_from(["b", f"{ACCOUNT}:container-instance/a/b"]),
    },
)
_params = st.one_of(_wild, _likely)


@settings(deadline=None, max_examples=200)
@given(_records, _params, st.sampled_from([0, 200]))
def test_select_equals_going_through_all_rows(
    rows: list[tuple[str, bool, dict[str, str]]], params: dict[str, str], others: int
) -> None:
    """With indexes or without (few hits among many, or many among few), the same rows in the same order."""
    records = [task(n, cluster=c, long=long, **detail) for n, (c, long, detail) in enumerate(rows, 1)]
    view = view_of(*records, *(task(n, cluster="other", lastStatus="X") for n in range(1000, 1000 + others)))
    asked = query.parse("task", params)
    expected = [row for row in view.rows("task") if asked.matches(row.key, row.fields)]
    assert query.select(view, "task", asked) == expected
    assert [row.key for row in expected] == sorted(row.key for row in expected)


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet="ab*", max_size=12), st.text(alphabet="ab", max_size=12))
def test_globs_mean_what_shell_globs_mean(pattern: str, value: str) -> None:
    """`*` stands for any text, also for none; everything else for itself."""
    if not pattern:
        return
    asked = query.parse("task", {"startedBy": pattern})
    wanted = re.fullmatch(re.escape(pattern).replace(r"\*", ".*"), value) is not None
    view = view_of(task(1, startedBy=value))
    assert bool(query.select(view, "task", asked)) is wanted


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(st.sampled_from(sorted(query.PARAMETERS)), st.text(max_size=60), max_size=4))
def test_any_text_is_a_filter_or_refused(params: dict[str, str]) -> None:
    """Hostile values end in a filter or in `InvalidFilter`, and a filter can be applied."""
    view = view_of(WEB, JOB)
    with contextlib.suppress(InvalidFilter):
        query.select(view, "task", query.parse("task", params))


def test_a_glob_made_to_be_slow_is_not() -> None:
    """Many stars over a long value take linear time."""
    view = view_of(*(task(number, startedBy="a" * 5000 + "c") for number in range(1, 20)))
    started = time.perf_counter()
    assert selected(view, startedBy="*a" * 15 + "b*") == []
    assert time.perf_counter() - started < 1


def test_few_hits_among_many_rows_are_found_by_index() -> None:
    """A selective filter does not look at all rows: 30 of 10,000 take well under a millisecond."""
    view = view_of(*(task(n, lastStatus="RUNNING", startedBy=f"ecs-svc/{n % 333}") for n in range(1, 10_001)))
    asked = query.parse("task", {"startedBy": "ecs-svc/7", "status": "running"})
    best = 1.0
    for _ in range(20):
        started = time.perf_counter()
        found = query.select(view, "task", asked)
        best = min(best, time.perf_counter() - started)
    assert len(found) == 31
    assert best < 0.001
