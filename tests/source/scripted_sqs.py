"""An SQS endpoint that answers as a test tells it to and remembers what it was asked."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

SIGNED_BY = "signed by"
"""Among the parameters: the access key of the request's signature."""

Answer = tuple[int, dict[str, Any]]
Script = Callable[[str, dict[str, Any]], Answer | None]
"""Given the operation and its parameters: status and body, or None for the answer of a queue that never ends."""


def error(status: int, code: str) -> Answer:
    return status, {"__type": f"com.amazonaws.sqs#{code}", "message": f"told to answer {code}"}


class ScriptedSqs:
    """`asked` holds (operation, parameters) in their order; `script` may be replaced at any time."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.script: Script = lambda _operation, _parameters: None
        self._numbers = count()

    def answer(self, operation: str, parameters: dict[str, Any]) -> Answer:
        self.asked.append((operation, parameters))
        if told := self.script(operation, parameters):
            return told
        entries = [{"Id": entry["Id"]} for entry in parameters.get("Entries", ())]
        messages = [{"MessageId": f"{n}", "ReceiptHandle": f"r{n}", "Body": f"m{n}"} for n in self._ten()]
        answers: dict[str, dict[str, Any]] = {
            "GetQueueUrl": {"QueueUrl": f"{self.url}/1/q"},
            "GetQueueAttributes": {"Attributes": {"ApproximateNumberOfMessages": "7"}},
            "ReceiveMessage": {"Messages": messages},
        }
        return 200, answers.get(operation, {"Successful": entries})

    def parameters(self, operation: str) -> list[dict[str, Any]]:
        """What each call of `operation` came with."""
        return [parameters for name, parameters in self.asked if name == operation]

    def _ten(self) -> list[int]:
        return [next(self._numbers) for _ in range(10)]


@contextmanager
def scripted() -> Iterator[ScriptedSqs]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one write: no wait for the client's delayed acknowledgement

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body[SIGNED_BY] = self.headers["Authorization"].partition("Credential=")[2].partition("/")[0]
            status, answer = place.answer(self.headers["X-Amz-Target"].rpartition(".")[2], body)
            raw = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.0")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    place = ScriptedSqs(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield place
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
