"""The ECS API: pages of ARNs, and objects as events would tell them. Never more calls than the rate allows.

boto3 signs, retries and names the errors, but does not parse the answers: its parser drops every member that its model
does not know, and takes 0.3 ms a task. The bodies are decoded here, complete.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import trio

from css import arn, aws, envelope
from css.backoff import Backoff
from css.config import Aws
from css.config import Reconcile as Settings
from css.envelope import JsonObject, is_object
from css.errors import Rejected, Unavailable
from css.metrics import Metrics
from css.model import MAX_VERSION, Key, Kind, Put
from css.normalize import Policy
from css.status import rfc3339

PAGE = 100
"""The most ARNs that a listing gives and a Describe takes."""

# Calls at once: enough to keep the bucket busy at 50 ms a call.
_PARALLEL = 8

_CLUSTER_GONE = "ClusterNotFoundException"

# Tries of one call: throttled, with the backoff about a minute in all; failing, a few seconds, and then it is told of.
_TRIES = 8
_TRIES_FAILING = 3


class Operation(msgspec.Struct, frozen=True):
    """How objects of a kind are listed and described."""

    list: str
    variants: tuple[Mapping[str, str], ...]
    describe: str
    member: str
    """Of the request and of the answer: the ARNs, the objects."""
    arn_member: str
    arns_member: str
    detail_type: str


OPERATIONS: Mapping[Kind, Operation] = {
    "task": Operation(
        "ListTasks",
        ({"desiredStatus": "RUNNING"}, {"desiredStatus": "STOPPED"}),
        "DescribeTasks",
        "tasks",
        "taskArn",
        "taskArns",
        envelope.TASK_CHANGE,
    ),
    "instance": Operation(
        "ListContainerInstances",
        ({},),  # without a status: all but INACTIVE, which ECS no longer holds
        "DescribeContainerInstances",
        "containerInstances",
        "containerInstanceArn",
        "containerInstanceArns",
        envelope.INSTANCE_CHANGE,
    ),
}


class Described(msgspec.Struct, frozen=True):
    """An answer: the objects, and the ARNs about which ECS said neither what they are nor that they are missing."""

    puts: tuple[Put, ...]
    unsure: frozenset[str]


class TokenBucket:
    """`rate` a second in the long run, `burst` at once; a rate of 0 is no limit."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate, self._burst = rate, burst
        self._tokens = float(burst)
        self._then: float | None = None

    def __repr__(self) -> str:
        return f"<TokenBucket {self._tokens:.1f} of {self._burst}, {self._rate:g}/s>"

    async def take(self) -> None:
        """Wait for one's turn, in order of arrival."""
        if self._rate <= 0:
            return
        now = trio.current_time()
        if self._then is not None:
            self._tokens = min(self._burst, self._tokens + (now - self._then) * self._rate)
        self._then = now
        self._tokens -= 1
        if self._tokens < 0:
            await trio.sleep(-self._tokens / self._rate)


class EcsApi:
    """Reads of one account and region."""

    def __init__(self, aws_settings: Aws, settings: Settings, policy: Policy, metrics: Metrics) -> None:
        self.region = ""
        self._connection = aws.Connection(partial(self._connect, aws_settings))
        self._threads = trio.CapacityLimiter(_PARALLEL)
        self._bucket = TokenBucket(settings.rate, settings.burst)
        self._policy = policy
        self._metrics = metrics
        self.calls = 0
        """Made so far."""

    def __repr__(self) -> str:
        return f"<EcsApi {self.region} {self.calls} calls {self._bucket!r}>"

    def _connect(self, aws_settings: Aws) -> Any:
        # One attempt: botocore's own second ones would not be counted by the bucket.
        client = aws.client(aws_settings, "ecs", pool=_PARALLEL, read_timeout=30, attempts=1)
        client.meta.events.register("before-parse.ecs", _take_body)
        self.region = str(client.meta.region_name)
        return client

    async def clusters(self) -> list[str]:
        """The ARNs of all clusters. Raises `Unavailable`."""
        return [text for text in await self._pages("ListClusters", "clusterArns", {}) if _is_cluster(text)]

    async def arns(self, kind: Kind, cluster: str) -> list[str]:
        """The ARNs of a cluster's objects of a kind, each once. Raises `Unavailable`: then nothing is complete.

        A cluster that was deleted a moment ago has none.
        """
        operation = OPERATIONS[kind]
        found: dict[str, None] = {}
        for variant in operation.variants:
            try:
                arns = await self._pages(operation.list, operation.arns_member, {"cluster": cluster, **variant})
            except Unavailable as error:
                if _no_cluster(error):
                    return []
                raise
            found.update(dict.fromkeys(arns))
        return [*found]

    async def describe(self, kind: Kind, cluster: str, arns: Sequence[str]) -> Described:
        """At most `PAGE` objects of a cluster (its ARN), as puts of the events' shape. Raises `Unavailable`.

        All are unsure when the cluster was deleted a moment ago: the next list of clusters will say so.
        """
        operation = OPERATIONS[kind]
        request = {"cluster": cluster, operation.member: [*arns], "include": ["TAGS"]}
        try:
            body = await self._call(operation.describe, request)
        except Unavailable as error:
            if _no_cluster(error):
                return Described((), frozenset(arns))
            raise
        make = partial(described, body, kind, cluster, rfc3339(time.time()) or "", self._policy)
        return await trio.to_thread.run_sync(make, limiter=self._threads)

    async def _pages(self, operation: str, member: str, request: Mapping[str, Any]) -> list[str]:
        found: list[str] = []
        token: Any = None
        while True:
            page = {"maxResults": PAGE, **request, **({"nextToken": token} if token else {})}
            answer = _decode(await self._call(operation, page))
            found += [text for text in _listed(answer, member) if isinstance(text, str)]
            before, token = token, answer.get("nextToken")
            if not token:
                return found
            if token == before:
                raise Unavailable("ecs", f"{operation} leads from a page to the same page")

    async def _call(self, operation: str, request: Mapping[str, Any]) -> bytes:
        call = partial(self._connection.call, operation, dict(request))
        backoff = Backoff(first=0.5)
        for attempt in range(1, _TRIES + 1):
            await self._bucket.take()
            self.calls += 1
            try:
                answer = await trio.to_thread.run_sync(call, limiter=self._threads, abandon_on_cancel=True)
            except aws.TRANSLATED as error:
                throttled = aws.code_of(error) in aws.THROTTLED
                self._metrics.ecs_calls.labels(operation, "throttled" if throttled else "failed").inc()
                if attempt == _TRIES or not (throttled or (aws.is_passing(error) and attempt < _TRIES_FAILING)):
                    raise aws.unavailable("ecs", error) from error
                await trio.sleep(backoff.next())
            else:
                self._metrics.ecs_calls.labels(operation, "ok").inc()
                return bytes(answer["css_body"])
        raise AssertionError("unreachable")


def described(body: bytes, kind: Kind, cluster: str, now: str, policy: Policy) -> Described:
    """A Describe answer's objects as puts; pure. What cannot be read is left out and counts as unsure."""
    operation = OPERATIONS[kind]
    answer = _decode(body)
    puts, unsure = [], set()
    for detail in _listed(answer, operation.member):
        try:
            puts.append(_put(detail, kind, cluster, now, policy))
        except (Rejected, RecursionError):
            unsure.add(str(detail.get(operation.arn_member)) if is_object(detail) else "")
    for failure in _listed(answer, "failures"):
        if is_object(failure) and failure.get("reason") != "MISSING":
            unsure.add(str(failure.get("arn")))
    return Described(tuple(puts), frozenset(unsure))


def _put(detail: Any, kind: Kind, cluster: str, now: str, policy: Policy) -> Put:
    operation = OPERATIONS[kind]
    if not is_object(detail):
        raise Rejected("not an object")
    this, owner = arn.parse(detail.get(operation.arn_member)), arn.parse(cluster, type="cluster")
    version = detail.get("version", 0)
    if type(version) is not int or not 0 <= version <= MAX_VERSION:
        raise Rejected("bad version")
    if detail.setdefault("clusterArn", cluster) != cluster:  # a container instance is described without it
        raise Rejected("another cluster")
    as_told_by_events(detail)
    if policy.redact_environment:
        envelope.redact(detail)
    body = envelope.encode(
        detail,
        detail_type=operation.detail_type,
        source=envelope.RECONCILE_SOURCE,
        account=this.account,
        time=now,
        region=this.region,
        resources=(this.text,),
    )
    return Put(Key(kind, owner.id, this.text), version, body)


# Members that the API gives as seconds since the epoch and events as RFC 3339. Source: the API model's timestamps.
_TIMES = frozenset(
    {
        "connectivityAt", "createdAt", "executionStoppedAt", "pullStartedAt", "pullStoppedAt", "startedAt", "stoppedAt",
        "stoppingAt", "updatedAt", "registeredAt", "lastStartedAt", "lastUpdated", "lastStatusChange",
    }
)  # fmt: skip


def as_told_by_events(value: Any) -> None:
    """Bring an object of the API to the events' shape, in place: times as texts, a managed agent's `status`."""
    if is_object(value):
        for name, inner in value.items():
            if name in _TIMES and isinstance(inner, int | float):
                value[name] = _as_text(inner)
            elif isinstance(inner, dict | list):
                as_told_by_events(inner)
        for agent in _listed(value, "managedAgents"):
            if is_object(agent) and "lastStatus" in agent:
                agent.setdefault("status", agent["lastStatus"])
    elif isinstance(value, list):
        for inner in value:
            as_told_by_events(inner)


def _as_text(seconds: float) -> str | float | None:
    try:
        return rfc3339(seconds)
    except (OverflowError, ValueError, OSError):
        return seconds  # no time of any calendar: kept as it is


def _no_cluster(error: Unavailable) -> bool:
    cause = error.__cause__
    return isinstance(cause, Exception) and aws.code_of(cause).rpartition("#")[2] == _CLUSTER_GONE


def _listed(value: JsonObject, name: str) -> Sequence[Any]:
    found = value.get(name)
    return found if isinstance(found, list) else ()


def _is_cluster(text: str) -> bool:
    try:
        arn.parse(text, type="cluster")
    except Rejected:
        return False  # nothing that we could ask about
    return True


def _take_body(response_dict: JsonObject, customized_response_dict: JsonObject, **_: Any) -> None:
    """Hand the body of a good answer past boto3's parser."""
    if response_dict["status_code"] < 300:
        customized_response_dict["css_body"] = response_dict["body"]
        response_dict["body"] = b"{}"


def _decode(body: bytes) -> JsonObject:
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise Unavailable("ecs", f"an answer that is no JSON: {error}") from error
    return answer if is_object(answer) else {}
