"""The client and the screen over the service itself: its server and view, and the daemon as users run it."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.lowlevel
from test_watching_client import Subscriber

from css import envelope, wire
from css.client import watch
from css.drift import DriftLedger
from css.follow import Live
from css.metrics import Metrics
from css.model import Batch, Head, Key, Record
from css.server.http import Request, Response
from css.server.listener import listen, serve
from css.server.routes import Context, routes
from css.status import Status
from tests.daemon import ROOT, Daemon, daemon, wait_for
from tests.simulated_region import Region


class _Open:
    def check(self, request: Request) -> Response | None:
        return None


def _record(number: int, revision: int, *, gone: bool = False) -> Record:
    detail = {"version": revision, "lastStatus": "RUNNING", "group": "service:web"}
    body = envelope.encode(detail, detail_type=envelope.TASK_CHANGE, source=envelope.EVENT_SOURCE, time="2026-01-01")
    key = Key("task", "prod", f"arn:aws:ecs:us-east-1:111122223333:task/prod/{number}")
    return Record(key, revision, revision, None if gone else body)


@asynccontextmanager
async def _serving(live: Live, port: int) -> AsyncIterator[int]:
    listeners = await listen(f"127.0.0.1:{port}")
    handler = routes(Context(live, Status(), Metrics(), DriftLedger(), _Open(), "1.0", "us-east-1"))
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve, handler, listeners))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()
    for listener in listeners:
        await listener.aclose()


async def test_the_client_follows_the_view_through_restarts_and_a_new_epoch() -> None:
    """Whatever happens while the server is away, the replica ends equal to the view; no change comes twice."""
    rng, live, subscriber = random.Random(5), Live(), Subscriber()
    live.load(Head("first", 40), [_record(number, number + 1) for number in range(40)])
    revision, port = 40, 0

    def change() -> None:
        nonlocal revision
        revision += 1
        live.apply(Batch(revision, (_record(rng.randrange(60), revision, gone=rng.random() < 0.3),)))

    def equal() -> bool:
        return bool(subscriber.told) and subscriber.replica == {row.key: row.revision for row in live.view.rows("task")}

    async with trio.open_nursery() as nursery:
        for round_ in range(3):
            async with _serving(live, port) as port:
                if round_ == 0:
                    nursery.start_soon(lambda: watch(f"127.0.0.1:{port}", deliver=subscriber.deliver))
                for _ in range(30):
                    change()
                    await trio.lowlevel.checkpoint()
                await subscriber.until(equal)
            for _ in range(5):
                change()
        live.load(Head("second", 900), [_record(number, 900) for number in range(7)])
        async with _serving(live, port):
            await subscriber.until(equal)
            assert len(subscriber.replica) == 7
        nursery.cancel_scope.cancel()
    revisions = [revision for _, revision in subscriber.changes]
    assert revisions == sorted(set(revisions))
    assert sum(isinstance(update, wire.Snapshot) for update in subscriber.told) == 2


async def test_an_unknown_filter_is_refused_with_the_servers_words() -> None:
    """The client does not ask again what can never be answered."""
    live = Live()
    live.load(Head("first", 0), [])
    async with _serving(live, 0) as port:
        with trio.fail_after(5):
            refused = await watch(f"127.0.0.1:{port}", deliver=lambda _: None, params={"colour": "red"})
    assert refused.phase == "refused"
    assert "colour" in refused.reason


class Terminal:
    """A tmux server of our own, with one window in it."""

    def __init__(self, home: Path) -> None:
        self._socket = f"css-test-{os.getpid()}"
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "LANG": "C.UTF-8",
            "TMUX_TMPDIR": str(home),
            "PS1": "prompt$ ",
        }
        self("-f", os.devnull, "new-session", "-d", "-x", "120", "-y", "34", "sh")

    def __call__(self, *arguments: str) -> str:
        command = ["tmux", "-u", "-L", self._socket, *arguments]
        answer = subprocess.run(command, env=self._environment, cwd=ROOT, capture_output=True, text=True, timeout=10)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    def type(self, *keys: str) -> None:
        self("send-keys", *keys)

    def screen(self) -> str:
        return self("capture-pane", "-p")

    def see(self, *words: str, seconds: float = 15.0) -> None:
        give_up = time.monotonic() + seconds
        while not all(word in (shown := self.screen()) for word in words):
            assert time.monotonic() < give_up, f"{words} not in:\n{shown}"
            time.sleep(0.05)

    def modes(self) -> str:
        """Whether the alternate screen, any mouse mode, and the cursor are on."""
        return self("display-message", "-p", "#{alternate_on} #{mouse_any_flag} #{cursor_flag}").strip()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    if shutil.which("tmux") is None:
        pytest.skip("tmux is not installed")
    terminal = Terminal(tmp_path)
    try:
        yield terminal
    finally:
        terminal("kill-server")


def _start(terminal: Terminal, service: Daemon, log: Path) -> None:
    python = f"exec {sys.executable} -m tui http://127.0.0.1:{service.port} --log-file {log}"
    terminal.type(f"sh -c '{python}'; echo status=$?", "Enter")
    terminal.see("● LIVE", "SERVICE▲", "RUNNING")


def test_the_screen_over_the_daemon_in_a_real_terminal(
    terminal: Terminal, region: Callable[..., Region], tmp_path: Path
) -> None:
    """Rows, filter, resize, a killed daemon and its return; `q` and SIGTERM both leave the terminal as it was."""
    log = tmp_path / "tui.log"
    flags = ["--queue=sqs://event_stream", f"--store={tmp_path / 'css.db'}", "--reconcile-rate=0"]
    with daemon(flags, region(tasks=60).url, tmp_path / "daemon.log") as service:
        assert terminal.modes() == "0 0 1"
        _start(terminal, service, log)
        assert terminal.modes() == "1 1 0"
        terminal.type("/", "no-such-task")
        terminal.see("tasks match", "/no-such-task")
        terminal.type("Escape")
        terminal.see(["●", "RUNNING"][1], "sort service▲")
        terminal("resize-window", "-x", "80", "-y", "24")
        terminal.see("● LIVE", "read-only", "/ filter")
        service.end(signal.SIGKILL)
        terminal.see("✖ RETRY in", "connection refused", "RUNNING")
        service.start()
        wait_for(service.is_ready)
        terminal.type("C-r")
        terminal.see("● LIVE", "RUNNING")
        terminal.type("q")
        terminal.see("status=0")
        assert terminal.modes() == "0 0 1"
        terminal.type("clear", "Enter")
        _start(terminal, service, log)
        pid = terminal("display-message", "-p", "#{pane_pid}").strip()
        os.kill(_child(int(pid)), signal.SIGTERM)
        terminal.see("status=143")
        assert terminal.modes() == "0 0 1"
    assert not log.exists(), log.read_text()


def _child(parent: int) -> int:
    """The process that the window's shell runs."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return int(children[0])
