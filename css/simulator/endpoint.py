"""The HTTP face of a simulated region: AWS's JSON protocols for SQS and ECS, and a small control interface.

Unmodified boto3 works against it with one endpoint URL for both. Signatures are not checked.

Control, never touched by faults: `GET /_simulator/truth[?only=queue]`, `GET|POST /_simulator/faults` (a JSON object of
knobs; what is left out is reset), `POST /_simulator/pause`, `resume`, `quiesce` (finish what has begun, then pause).
"""

from __future__ import annotations

from typing import Any

import msgspec
import trio

from css.server.http import Answer, Request, Response
from css.simulator import shapes
from css.simulator.ecs_api import EcsApi
from css.simulator.faults import FaultPlan
from css.simulator.inventory import World
from css.simulator.protocol import AwsError, answer, decode, refuse
from css.simulator.queue import Queue
from css.simulator.settings import Faults, Simulation
from css.simulator.sqs_api import SqsApi

_SERVICES = {"AmazonSQS": ("sqs", "1.0"), "AmazonEC2ContainerServiceV20141113": ("ecs", "1.1")}
_CONTROL = "/_simulator/"

_encode = msgspec.json.Encoder().encode


class Endpoint:
    """`handle` answers requests; `carry` brings events to the queue. `paused` is what the world's clock looks at."""

    def __init__(self, world: World, settings: Simulation, *, epoch: float = 0.0) -> None:
        self._world = world
        self._plan = FaultPlan(settings.faults, settings.seed)
        self._queue = Queue(seed=settings.seed, epoch=epoch)
        self._queue.window = settings.faults.reorder
        self._sqs = SqsApi(self._queue, settings.queue, shapes.Place(settings.region, settings.account))
        self._ecs = EcsApi(world.inventory, self._plan.describe_fails)
        self._knobs_changed = trio.lowlevel.ParkingLot()
        self._requests: dict[str, int] = {}
        self._events = 0
        self.paused = False

    def __repr__(self) -> str:
        return f"<Endpoint {self._queue!r}>"

    async def handle(self, request: Request) -> Answer:
        """Answer one request; a `css.server.http.Handler`."""
        if request.path.startswith(_CONTROL):
            return self._control(request)
        prefix, _, operation = request.headers.get("x-amz-target", "").partition(".")
        service, version = _SERVICES.get(prefix, ("", "1.0"))
        if request.method != "POST" or not service:
            return refuse(AwsError("UnknownOperationException", "Send POST with X-Amz-Target of SQS or ECS."), version)
        self._requests[operation] = self._requests.get(operation, 0) + 1
        try:
            await self._suffer(service)
            fields = decode(request.body)
            if service == "ecs":
                return answer(self._ecs.call(operation, fields), version)
            base_url = f"http://{request.headers.get('host', 'localhost')}"
            return answer(await self._sqs.call(operation, fields, base_url), version)
        except AwsError as error:
            return refuse(error, version)

    def carry(self, events: list[bytes]) -> None:
        """Bring events to the queue, by the faults' leave."""
        now = trio.current_time()
        self._events += len(events)
        for event in events:
            body = event.decode()
            for delay in self._plan.deliveries():
                self._queue.send(body, now, delay)
        if events:
            self._sqs.arrived()

    async def _suffer(self, service: str) -> None:
        """Wait and fail as the faults demand. Raises `AwsError`."""
        while self._plan.hangs(service):
            await self._knobs_changed.park()
        if latency := self._plan.latency(service):
            await trio.sleep(latency)
        match self._plan.request(service, trio.current_time()):
            case "throttled":
                raise AwsError("ThrottlingException", "Rate exceeded")
            case "error":
                code = "ServerException" if service == "ecs" else "com.amazonaws.sqs#InternalFailure"
                raise AwsError(code, "The request failed; it is a simulated fault.", 500)

    # --- control --------------------------------------------------------------------------------------------------

    def _control(self, request: Request) -> Response:
        name = request.path.removeprefix(_CONTROL)
        match request.method, name:
            case "GET", "truth":
                return Response(200, _encode(self._truth(only_queue=request.query == "only=queue")))
            case "GET", "faults":
                return Response(200, _encode(self._plan.knobs))
            case "POST", "faults":
                return self._set_faults(request.body)
            case "POST", "pause" | "resume":
                self.paused = name == "pause"
                return Response(200, _encode({"paused": self.paused}))
            case "POST", "quiesce":
                self.paused = True
                self.carry(self._world.settle())
                return Response(200, _encode({"paused": True, **self._counts()}))
            case _:
                return Response(404, _encode({"error": "not a control of the simulator"}))

    def _set_faults(self, body: bytes) -> Response:
        try:
            knobs = msgspec.json.decode(body, type=Faults)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            return Response(400, _encode({"error": str(error)}))
        self._plan.knobs = knobs
        self._queue.window = knobs.reorder
        self._knobs_changed.unpark_all()
        return Response(200, _encode(knobs))

    def _truth(self, *, only_queue: bool) -> dict[str, Any]:
        """What is, in the form of events; and what was done."""
        if only_queue:
            return self._counts()
        inventory = self._world.inventory
        return {
            "tasks": {item.arn: shapes.event_form(item) for item in inventory.tasks()},
            "instances": {item.arn: shapes.event_form(item) for item in inventory.instances()},
            **self._counts(),
        }

    def _counts(self) -> dict[str, Any]:
        self._queue.refresh(trio.current_time())
        return {
            "queue": self._queue.counts(),
            "faults": self._plan.counts,
            "events": self._events,
            "requests": self._requests,
        }
