"""A real etcd of one node on free loopback ports, for tests and benchmarks."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class EtcdServer:
    """Started on entry, ended on exit; between the two it can be killed, frozen and started again on the same data.

    `fsync=False` for tests that are about something else than durability.
    """

    def __init__(self, directory: Path, *, fsync: bool = True, flags: tuple[str, ...] = ()) -> None:
        self._directory = directory
        self._client, self._peer = _free_port(), _free_port()
        self._flags = (*(() if fsync else ("--unsafe-no-fsync",)), *flags)
        self._process: subprocess.Popen[bytes] | None = None
        self.endpoint = f"127.0.0.1:{self._client}"

    def __enter__(self) -> EtcdServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start, and wait until it answers."""
        self._directory.mkdir(parents=True, exist_ok=True)
        client, peer = f"http://127.0.0.1:{self._client}", f"http://127.0.0.1:{self._peer}"
        arguments = [
            str(Path(sys.executable).parent / "etcd"),
            f"--name=one --data-dir={self._directory / 'data'} --logger=zap --log-level=error",
            f"--listen-client-urls={client} --advertise-client-urls={client}",
            f"--listen-peer-urls={peer} --initial-advertise-peer-urls={peer} --initial-cluster=one={peer}",
        ]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*" ".join(arguments).split(" "), *self._flags], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        self._wait()

    def kill(self) -> None:
        """As a power switch for the process: SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """As an orderly shutdown does: SIGTERM."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Killed, and started again on the same data and ports."""
        self.kill()
        self.start()

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, what: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(what)

    def _wait(self) -> None:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            assert self._process is not None
            if self._process.poll() is not None:
                break
            try:
                with socket.create_connection(("127.0.0.1", self._client), 0.2) as probe:
                    probe.sendall(b"GET /health HTTP/1.0\r\n\r\n")
                    if b'"true"' in probe.recv(4096):
                        return
            except OSError:
                pass
            time.sleep(0.02)
        raise RuntimeError(f"etcd did not start: {(self._directory / 'log').read_text()[-2000:]}")
