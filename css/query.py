"""The simple field filters of lists and of the watch, and how a list is selected with the view's indexes.

Pure: imports no trio, reads no clock. A filter is a value (frozen, hashable): whoever sends the same parameters shares
it. `select` answers exactly what `Filter.matches` would keep of all rows, in key order, only sooner.

Syntax of a parameter's value: `a,b` any of these; `!` in front of it: none of these; `*` in a term stands for any text.
A term that begins with `arn:` is compared with an ARN, any other with a name or short id. Case does not matter for
enumerations (statuses, launch types, stop codes, health).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from operator import attrgetter

import msgspec

from css import arn
from css.errors import Rejected
from css.model import Key, Kind
from css.view import INDEXED, Fields, Row, View

MAX_VALUE = 4096
MAX_TERMS = 100
MAX_STARS = 16

Read = Callable[[Key, Fields], str]


class InvalidFilter(ValueError):
    """A parameter that cannot be understood; `position` is the offset in its value where that begins."""

    def __init__(self, parameter: str, message: str, position: int = 0) -> None:
        super().__init__(f"{parameter}: {message}")
        self.parameter = parameter
        self.message = message
        self.position = position


class Comparison(msgspec.Struct, frozen=True):
    """One reading of an object (a name of `_READ`) against exact texts and globs; true when any of them fits."""

    read: str
    exact: frozenset[str] = frozenset()
    globs: frozenset[tuple[str, ...]] = frozenset()
    """The pieces between the stars."""

    def passes(self, key: Key, fields: Fields) -> bool:
        value = _READ[self.read](key, fields)
        return value in self.exact or (bool(self.globs) and any(_glob(pieces, value) for pieces in self.globs))


class Clause(msgspec.Struct, frozen=True):
    """One parameter: any of the tests, or with `negated` none of them."""

    tests: tuple[Comparison, ...]
    negated: bool = False

    def passes(self, key: Key, fields: Fields) -> bool:
        return any(test.passes(key, fields) for test in self.tests) is not self.negated


class Filter(msgspec.Struct, frozen=True):
    """All clauses must pass. The empty filter keeps everything."""

    clauses: tuple[Clause, ...] = ()

    def matches(self, key: Key, fields: Fields) -> bool:
        return all(clause.passes(key, fields) for clause in self.clauses)


def parse(kind: Kind, params: Mapping[str, str]) -> Filter:
    """The filter that query parameters (decoded) ask for. Raises `InvalidFilter`, for an unknown parameter too."""
    clauses = []
    for parameter in sorted(params):
        if parameter not in PARAMETERS:
            raise InvalidFilter(parameter, f"no filter of a {kind}; there are: {', '.join(sorted(PARAMETERS))}")
        clauses.append(_clause(parameter, params[parameter]))
    return Filter(tuple(clauses))


def equal(values: Mapping[str, str]) -> Filter:
    """The filter for exactly these values (of cluster, status, startedBy, ...), taken literally: no syntax at all."""
    return Filter(tuple(Clause((Comparison(field, frozenset((values[field],))),)) for field in sorted(values)))


def select(view: View, kind: Kind, asked: Filter) -> list[Row]:
    """The rows of a kind that match, in key order."""
    rows: Sequence[Row] = view.rows(kind)
    found = min((_found(view, kind, clause, rows) for clause in asked.clauses), key=len, default=rows)
    # Sorting a quarter of all rows costs about as much as going through all of them, which are in order.
    few = len(found) * 4 < len(rows)
    if few:
        rows = list(found)
    for clause in asked.clauses:
        rows = _keep(kind, rows, clause)
    rows = list(rows)
    if few:
        # Two stable sorts by a text cost less than one by a key.
        rows.sort(key=_id_of)
        rows.sort(key=_cluster_of)
    return rows


def find(view: View, kind: Kind, cluster: str, name: str) -> list[Row]:
    """The object with this id, or all whose short id begins with `name`, in a cluster given by name or ARN."""
    try:
        cluster = arn.cluster_name(cluster)
    except Rejected:
        return []
    row = view.row(Key(kind, cluster, name))
    if row is not None:
        return [row]
    if not name or name.startswith("arn:"):
        return []
    inside = "/" + name
    rows = [
        row
        for row in view.indexed(kind, "cluster", cluster)
        if (inside in row.key.id or row.key.id.startswith(name)) and arn.short_id(row.key.id).startswith(name)
    ]
    return [row for row in rows if arn.short_id(row.key.id) == name] or sorted(rows, key=_id_of)


def _found(view: View, kind: Kind, clause: Clause, rows: Sequence[Row]) -> Collection[Row]:
    """Few rows among which are all that the clause keeps; all rows when no index can tell."""
    place = _place(kind, clause)
    if place is None:
        return rows
    field, values = place
    found = [view.indexed(kind, field, value) for value in values]
    return found[0] if len(found) == 1 else [row for part in found for row in part]


def _keep(kind: Kind, rows: Sequence[Row], clause: Clause) -> list[Row]:
    passes = clause.passes
    fields = {_indexed(kind, comparison.read) for comparison in clause.tests}
    field = fields.pop() if len(fields) == 1 else None
    if field is None:
        return [row for row in rows if passes(row.key, row.fields)]
    # Many rows have the same value: one of them answers for all.
    get = INDEXED[field]
    having = {get(row): row for row in rows}
    kept = {value for value, row in having.items() if passes(row.key, row.fields)}
    if len(kept) == len(having):  # so it is for the clause whose index these rows come from
        return list(rows)
    return [row for row in rows if get(row) in kept]


_id_of = attrgetter("key.id")
_cluster_of = attrgetter("key.cluster")


# --- What is read of an object -----------------------------------------------------------------------------------


def _owner(key: Key) -> str:
    """`arn:aws:ecs:us-east-1:111122223333` of an object's ARN; "" for ids that are none (event log entries)."""
    return ":".join(key.id.split(":", 5)[:5]) if key.id.startswith("arn:") else ""


def _service(key: Key, fields: Fields) -> str:
    return arn.short_id(key.id) if key.kind == "service" else fields.service


_READ: dict[str, Read] = {
    "cluster": lambda key, _: key.cluster,
    "cluster arn": lambda key, _: f"{_owner(key)}:cluster/{key.cluster}",
    "service": _service,
    "service arn": lambda key, fields: f"{_owner(key)}:service/{key.cluster}/{_service(key, fields)}",
    "service arn, short": lambda key, fields: f"{_owner(key)}:service/{_service(key, fields)}",
    "status": lambda _, fields: fields.state,
    "desiredStatus": lambda _, fields: fields.desired_status,
    "family": lambda _, fields: fields.family,
    "family:revision": lambda _, fields: fields.task_definition_arn.rpartition("/")[2],
    "task definition arn": lambda _, fields: fields.task_definition_arn,
    "group": lambda _, fields: fields.group,
    "launchType": lambda _, fields: fields.launch_type,
    "instance": lambda _, fields: arn.short_id(fields.container_instance_arn),
    "instance arn": lambda _, fields: fields.container_instance_arn,
    "ec2 instance": lambda _, fields: fields.ec2_instance_id,
    "startedBy": lambda _, fields: fields.started_by,
    "az": lambda _, fields: fields.availability_zone,
    "stopCode": lambda _, fields: fields.stop_code.upper(),
    "health": lambda _, fields: fields.health,
    "capacityProvider": lambda _, fields: fields.capacity_provider_name,
    "name": lambda key, _: arn.short_id(key.id),
    "arn": lambda key, _: key.id,
}

_ENUMERATIONS = frozenset({"status", "desiredStatus", "launchType", "stopCode", "health"})


def _as_read(parameter: str, term: str) -> tuple[str, str]:
    """Which reading a term of a parameter is compared with, and as what."""
    if parameter in _ENUMERATIONS:
        return parameter, term.upper()
    is_arn = term.startswith("arn:")
    match parameter:
        case "cluster" if is_arn:
            return "cluster arn", term
        case "service" if is_arn:
            return "service arn" if term.count("/") > 1 else "service arn, short", term
        case "family" if is_arn and ":" in term.partition("/")[2]:
            return "task definition arn", term
        case "family":
            name = arn.short_id(term)
            return "family:revision" if ":" in name else "family", name
        case "instance" if is_arn:
            return "instance arn", term
        case "instance" if term.startswith("i-"):
            return "ec2 instance", term
        case "capacityProvider":
            return parameter, arn.short_id(term)
        case "name" if is_arn:
            return "arn", term
    return parameter, term


PARAMETERS = frozenset(
    {
        *("cluster", "service", "status", "desiredStatus", "family", "group", "launchType", "instance", "startedBy"),
        *("az", "stopCode", "health", "capacityProvider", "name"),
    }
)
"""The query parameters that are filters."""


def _indexed(kind: Kind, read: str) -> str | None:
    """The indexed field that a reading depends on, if it is all that it depends on."""
    match read:
        case "cluster" | "status" | "group" | "startedBy" | "family":
            return read
        case "instance" | "instance arn":
            return "instance"
        case "service" if kind == "task":
            return "group"
    return None


def _place(kind: Kind, clause: Clause) -> tuple[str, frozenset[str]] | None:
    """The values of an indexed field that the clause's rows must have: one reading, no globs, no negation."""
    if clause.negated or len(clause.tests) != 1 or clause.tests[0].globs:
        return None
    (test,) = clause.tests
    match test.read:
        case "cluster" | "status" | "group" | "startedBy" | "family":
            return test.read, test.exact
        case "instance arn":
            return "instance", test.exact
        case "service" if kind == "task":
            return "group", _each("service:{}".format, test.exact)
        case "cluster arn":
            return "cluster", _each(arn.short_id, test.exact)
        case "service arn":
            return "cluster", _each(lambda text: text.split("/")[1], test.exact)
        case "family:revision" | "task definition arn":
            return "family", _each(_family, test.exact)
    return None


def _each(change: Callable[[str], str], texts: Iterable[str]) -> frozenset[str]:
    return frozenset(map(change, texts))


def _family(text: str) -> str:
    return arn.short_id(text).partition(":")[0]


# --- Reading a parameter's value ---------------------------------------------------------------------------------


def _clause(parameter: str, value: str) -> Clause:
    if len(value) > MAX_VALUE:
        raise InvalidFilter(parameter, f"longer than {MAX_VALUE} characters", MAX_VALUE)
    negated = value.startswith("!")
    exact: dict[str, set[str]] = {}
    globs: dict[str, set[tuple[str, ...]]] = {}
    position = 0
    for count, written in enumerate(value.split(",")):
        term = written.strip()
        if count >= MAX_TERMS:
            raise InvalidFilter(parameter, f"more than {MAX_TERMS} terms", position)
        if term.startswith("!"):
            if not negated:
                raise InvalidFilter(parameter, "`!` negates the whole list and stands in front of it", position)
            term = term[1:]
        if not term:
            raise InvalidFilter(parameter, "empty; to filter by nothing, leave the parameter out", position)
        if term.count("*") > MAX_STARS:
            raise InvalidFilter(parameter, f"more than {MAX_STARS} stars", position)
        read, text = _as_read(parameter, term)
        if "*" in text:
            globs.setdefault(read, set()).add(tuple(text.split("*")))
        else:
            exact.setdefault(read, set()).add(text)
        position += len(written) + 1
    tests = (
        Comparison(read, frozenset(exact.get(read, ())), frozenset(globs.get(read, ())))
        for read in sorted({*exact, *globs})
    )
    return Clause(tuple(tests), negated)


def _glob(pieces: tuple[str, ...], value: str) -> bool:
    """Whether the pieces come in this order, the first at the start and the last at the end; linear in `value`."""
    first, last = pieces[0], pieces[-1]
    if not value.startswith(first) or not value.endswith(last) or len(value) < len(first) + len(last):
        return False
    at, end = len(first), len(value) - len(last)
    for piece in pieces[1:-1]:
        at = value.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True
