"""The daemon as users run it: `python -m css run` in a process of its own, on a free port."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def wait_for(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Poll until it is so; a refused connection is a no."""
    until = time.monotonic() + seconds
    while True:
        try:
            if true():
                return
        except OSError:
            pass
        assert time.monotonic() < until, "it did not become so in time"
        time.sleep(0.01)


class Daemon:
    """One process; `log` holds what it said."""

    def __init__(self, flags: Sequence[str], endpoint: str, log: Path, **environment: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.log = log
        self._arguments = [sys.executable, "-m", "css", "run", f"--bind=127.0.0.1:{self.port}", *flags]
        self._environment = {
            **os.environ,
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "simulated",
            "AWS_SECRET_ACCESS_KEY": "simulated",
            "AWS_REGION": "us-east-1",
            **environment,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self._arguments, env=self._environment, cwd=ROOT, stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )

    def send(self, what: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(what)

    def end(self, what: signal.Signals = signal.SIGTERM, seconds: float = 15.0) -> int:
        """Signal it and wait; the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(what)
        return self.process.wait(seconds)

    def ask(self, path: str, method: str = "GET", timeout: float = 10.0) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (lower case) and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        finally:
            connection.close()

    def json(self, path: str) -> Any:
        return json.loads(self.ask(path)[2])

    def is_ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        return self.ask("/readyz")[0] == 200


@contextmanager
def daemon(flags: Sequence[str], endpoint: str, log: Path, **environment: str) -> Iterator[Daemon]:
    """Started and ready; ended at the end, however."""
    service = Daemon(flags, endpoint, log, **environment)
    service.start()
    try:
        wait_for(service.is_ready)
        yield service
    finally:
        if service.process is not None and service.process.poll() is None:
            service.process.kill()
            service.process.wait()
