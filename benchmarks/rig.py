"""The processes of a measurement: a simulated region, an etcd, the daemon; and a bare HTTP client to ask them with."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import urlopen

ENVIRONMENT = {
    **os.environ,
    "AWS_ACCESS_KEY_ID": "simulated",
    "AWS_SECRET_ACCESS_KEY": "simulated",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "CSS_LOG_LEVEL": "warn",
}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def stop(process: subprocess.Popen[Any], how: signal.Signals = signal.SIGTERM) -> int:
    """Signal the process and wait; kills what has not ended after 15 s."""
    if process.poll() is None:
        process.send_signal(how)
    try:
        return process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait(5)


@contextmanager
def child(arguments: Sequence[str], **environment: str) -> Iterator[subprocess.Popen[Any]]:
    process = subprocess.Popen([sys.executable, *arguments], env={**ENVIRONMENT, **environment})
    try:
        yield process
    finally:
        stop(process)


def get(url: str, timeout: float = 30) -> Any:
    """The decoded JSON of an answer, whatever its status under 500 says."""
    with urlopen(url, timeout=timeout) as answer:  # noqa: S310 - our own loopback address
        return json.load(answer)


def wait_until(true: Any, seconds: float, what: str, every: float = 0.01) -> float:
    """Poll `true()` (False or an OSError: not yet) and return how long it took."""
    begun = time.perf_counter()
    while True:
        try:
            if true():
                return time.perf_counter() - begun
        except OSError:
            pass
        if time.perf_counter() - begun > seconds:
            raise TimeoutError(f"{what} took more than {seconds:.0f} s")
        time.sleep(every)


@contextmanager
def region(**settings: Any) -> Iterator[str]:
    """A simulated region in a process of its own; the URL of its endpoint."""
    url = f"http://127.0.0.1:{free_port()}"
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    with child(["-m", "css", "simulate", f"--bind={urlsplit(url).netloc}", *flags]) as process:

        def answers() -> bool:
            if process.poll() is not None:
                raise RuntimeError("the simulated region ended")
            with socket.create_connection(urlsplit(url).netloc.split(":")):  # type: ignore[arg-type]
                return True

        wait_until(answers, 60, "the simulated region's start")
        yield url


class Daemon:
    """`css run` as a child process."""

    def __init__(self, flags: Sequence[str], endpoint: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.flags = ["-m", "css", "run", f"--bind=127.0.0.1:{self.port}", *flags]
        self.endpoint = endpoint
        self.process: subprocess.Popen[Any] | None = None

    def start(self) -> None:
        environment = {**ENVIRONMENT, "AWS_ENDPOINT_URL": self.endpoint}
        self.process = subprocess.Popen([sys.executable, *self.flags], env=environment)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        return stop(self.process, how)

    def wait_ready(self, seconds: float = 120) -> float:
        def ready() -> bool:
            assert self.process is not None
            if self.process.poll() is not None:
                raise RuntimeError(f"the daemon ended with {self.process.returncode}")
            return bool(get(f"{self.url}/readyz")["ready"])

        return wait_until(ready, seconds, "readiness")

    @property
    def resident(self) -> float:
        """Resident memory in MB."""
        assert self.process is not None
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("VmRSS:")[1].split()[0]) / 1024


@contextmanager
def daemon(flags: Sequence[str], endpoint: str) -> Iterator[Daemon]:
    service = Daemon(flags, endpoint)
    service.start()
    try:
        yield service
    finally:
        service.stop()


def ask(port: int, path: str) -> bytes:
    """A request on a connection of its own; the body."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        pieces = []
        while piece := connection.recv(1 << 20):
            pieces.append(piece)
    return b"".join(pieces).partition(b"\r\n\r\n")[2]


def time_of(port: int, path: str, times: int) -> list[float]:
    """Seconds from the request's first byte to the answer's last, on a connection kept open."""
    taken = []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        for _ in range(times):
            begun = time.perf_counter()
            connection.sendall(request)
            _read_answer(connection)
            taken.append(time.perf_counter() - begun)
    return taken


def _read_answer(connection: socket.socket) -> int:
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(1 << 20)
        if not piece:
            raise ConnectionError("closed in the head")
        received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
    )
    have = len(body)
    buffer = bytearray(1 << 20)
    while have < length:
        count = connection.recv_into(buffer)
        if not count:
            raise ConnectionError("closed in the body")
        have += count
    return length
