"""The route table: where things are, who is let in, what is counted, and what the service says of itself."""

from __future__ import annotations

import json
import tracemalloc
from typing import Any

import pytest

from css.server.http import Request, Response, Stream
from tests.served import Served, header, whole

PATHS = [
    *("/", "/healthz", "/readyz", "/version", "/metrics", "/v1/tasks", "/v1/instances", "/v1/tasks/c/id"),
    *("/v1/stream/tasks", "/v1/stream/instances", "/v2/tasks", "/v2/instances", "/v2/services", "/v2/clusters"),
    *(
        "/v2/events",
        "/v2/quarantine",
        "/v2/drift",
        "/v2/tasks/c/id",
        "/nosuch",
        "/v1/nosuch",
        "/v1/tasks/",
        "/v2/tasks/",
    ),
]


class Closed:
    """Lets nobody in."""

    def check(self, request: Request) -> Response | None:
        return Response(401, b'{"error":{}}')


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
async def test_every_route_asks_for_access_first(path: str, method: str) -> None:
    """Whoever is refused learns nothing, not even which paths there are."""
    assert (await Served(Closed()).ask(path, method)).status == 401


@pytest.mark.parametrize(
    "path", ["/nosuch", "/v2", "/v2/", "/v2/nosuch", "/v2/nosuch/a/b", "/v10/tasks", "", "*", "//v1/tasks"]
)
async def test_unknown_paths_outside_v1_are_json(path: str) -> None:
    """404 in the service's own error shape."""
    answer = await Served().ask(path)
    assert (answer.status, answer.content_type) == (404, "application/json")
    assert json.loads(whole(answer))["error"]["code"] == "not_found"


@pytest.mark.parametrize("path", ["/", "/healthz", "/metrics", "/v2/tasks", "/v2/tasks/a/b", "/v2/drift"])
async def test_other_methods_are_refused(path: str) -> None:
    """405 with what is allowed; an unknown path stays a 404."""
    answer = await Served().ask(path, "POST")
    assert (answer.status, header(answer, "Allow")) == (405, "GET, HEAD")
    assert json.loads(whole(answer))["error"]["code"] == "method_not_allowed"
    assert (await Served().ask(path.rstrip("/") + "/nosuch", "POST")).status in (404, 405)


async def test_ready_says_what_is_missing() -> None:
    """503 with each part that is not ready and why, and when to ask again; 200 once nothing is missing."""
    served = Served()
    served.status.report("store", True)
    served.status.report("reconcile", False, "3 of 10 clusters listed")
    answer = await served.ask("/readyz")
    assert answer.status == 503
    assert header(answer, "Retry-After")
    assert json.loads(whole(answer)) == {
        "ready": False,
        "missing": {"reconcile": "3 of 10 clusters listed"},
        "revision": 0,
    }
    served.status.report("reconcile", True)
    assert (await served.json("/readyz"))["ready"] is True


async def test_state_is_served_before_the_service_is_ready() -> None:
    """What is known is served while the rest is still being read."""
    served = Served()
    served.status.report("reconcile", False, "starting")
    served.tell_task(1)
    assert len((await served.json("/v1/tasks"))["items"]) == 1
    assert (await served.json("/healthz")) == {"status": "ok"}


async def test_version_names_the_service_and_its_data() -> None:
    """Which software, since when, which data."""
    body = await Served().json("/version")
    assert body == {
        "name": "css",
        "version": "1.2.3",
        "region": "us-east-1",
        "started": "1970-01-01T00:00:00.000Z",
        "epoch": "",
        "revision": 0,
    }


async def test_requests_are_counted_by_route() -> None:
    """One series per route and status, however many paths are asked: labels are bounded."""
    served = Served()
    served.tell_task(1)
    for number in range(5):
        await served.ask(f"/v1/tasks/default/{number}")
        await served.ask(f"/nosuch/{number}")
    await served.ask("/v2/tasks?x=1")
    assert isinstance(await served.answer("/v1/stream/tasks"), Stream)
    text = whole(await served.ask("/metrics")).decode()
    counted = {line for line in text.splitlines() if line.startswith("css_http_requests_total")}
    assert counted == {
        'css_http_requests_total{route="/v1/tasks/{cluster}/{id}",status="404"} 5.0',
        'css_http_requests_total{route="none",status="404"} 5.0',
        'css_http_requests_total{route="/v2/tasks",status="400"} 1.0',
        'css_http_requests_total{route="/v1/stream/tasks",status="200"} 1.0',
    }


async def test_the_page_links_to_what_there_is() -> None:
    """Every link of the page for people leads somewhere, and what others said is no markup in it."""
    served = Served()
    served.status.report("reconcile", False, "<script>alert(1)</script>")
    answer = await served.ask("/")
    text = whole(answer).decode()
    assert answer.content_type == "text/html; charset=utf-8"
    assert "<script>" not in text
    links = [piece.partition('"')[0] for piece in text.split('href="')[1:]]
    assert len(links) > 10
    for link in links:
        found: Any = await served.answer(link.replace("&amp;", "&"))
        assert found.status in (200, 503), link


async def test_nothing_is_not_said_before_it_is_known() -> None:
    """Until the store is loaded lists, objects, streams and watches are 503: an empty answer would be believed."""
    served = Served()
    served.live.loaded = False
    for path in ("/v1/tasks", "/v1/stream/tasks", "/v2/tasks", "/v2/tasks/a/b", "/v1/tasks/a/arn:x", "/v2/watch"):
        answer = await served.answer(path)
        assert isinstance(answer, Response), path
        assert (answer.status, dict(answer.headers)["Retry-After"]) == (503, "2"), path
    for path in ("/healthz", "/version", "/metrics", "/v2/drift", "/"):
        assert (await served.ask(path)).status == 200


@pytest.mark.parametrize("target", ["/v1/tasks", "/v2/tasks", "/v1/tasks?cluster=default", "/v2/tasks?cluster=default"])
async def test_lists_that_slow_clients_take_cost_no_copy_each(target: str) -> None:
    """While a client takes it, a list is references to what is held anyway, and the state that was asked for."""
    served = Served()
    for number in range(300):
        served.tell_task(number, padding="x" * 3000)
    before = whole(await served.ask(target))
    tracemalloc.start()
    try:
        taking = [await served.ask(target) for _ in range(20)]
        assert tracemalloc.get_traced_memory()[0] < len(before)
    finally:
        tracemalloc.stop()
    for number in range(0, 400, 2):
        served.tell_task(number, version=2, lastStatus="STOPPED")
    assert {_items(whole(answer)) for answer in taking} == {_items(before)}
    assert _items(whole(await served.ask(target))) != _items(before)


def _items(body: bytes) -> str:
    return json.dumps(json.loads(body)["items"])
