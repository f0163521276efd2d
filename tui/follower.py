"""The client in a thread of its own: trio there, Textual's asyncio here, and the inbox between them.

Never touches the screen. Everything but its end is told through the inbox.
"""

from __future__ import annotations

from threading import Event, Lock

import trio

from css.client import Known, Update, watch
from tui.inbox import Inbox
from tui.rows import decode


class Follower:
    """`run` blocks its thread until `stop`, which may be called from any other thread, also before `run`."""

    def __init__(self, url: str, inbox: Inbox, *, token: str | None = None) -> None:
        self._url, self._inbox, self._token = url, inbox, token
        self._known = Known()
        self._lock = Lock()
        self._stopped = False
        self._ended = Event()
        self._trio: trio.lowlevel.TrioToken | None = None
        self._scope = trio.CancelScope()

    def run(self) -> None:
        try:
            trio.run(self._run)
        finally:
            self._ended.set()

    def wait_ended(self, timeout: float) -> bool:
        """Block until `run` has returned; whether it did in time."""
        return self._ended.wait(timeout)

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
        self.restart()

    def restart(self) -> None:
        """Connect anew, now, with a new snapshot (also after a refusal)."""
        with self._lock:
            token = self._trio
        if token is not None:
            try:
                token.run_sync_soon(self._cancel)
            except trio.RunFinishedError:
                return

    def _cancel(self) -> None:
        self._scope.cancel()

    async def _run(self) -> None:
        with self._lock:
            self._trio = trio.lowlevel.current_trio_token()
        while not self._is_stopped():
            with trio.CancelScope() as self._scope:
                # `stop` may have come between the check and the scope.
                if self._is_stopped():
                    return
                await watch(self._url, deliver=self._deliver, token=self._token)
                await trio.sleep_forever()

    def _is_stopped(self) -> bool:
        with self._lock:
            return self._stopped

    def _deliver(self, update: Update) -> None:
        items, gone = self._known.take(update)
        self._inbox.post(update, [decode(item) for item in items if item.key.kind == "task"], gone)
