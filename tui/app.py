"""The terminal program: its screens, and the client that feeds them through the inbox.

Never writes to the service, never ends because the connection does.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import ClassVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.worker import Worker, WorkerState

from css.client import Endpoint
from tui.follower import Follower
from tui.inbox import Inbox
from tui.screens.tasks import Tasks

_STOP_TIME = 2.0


class CssApp(App[None]):
    """`url` as `css.client.watch` takes it; a wrong one raises `ConfigError`."""

    TITLE = "css tui"
    CSS_PATH = "app.tcss"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+r", "resync", show=False),
        Binding("q,ctrl+c", "quit", show=False),
    ]

    def __init__(self, url: str, *, token: str | None = None) -> None:
        # With the terminal's own colours NO_COLOR means none at all; with Textual's it would mean shades of grey.
        super().__init__(ansi_color="NO_COLOR" in os.environ)
        self.failure: BaseException | None = None
        """The defect that ended the client, if one did."""
        inbox = Inbox()
        self.follower = Follower(url, inbox, token=token)
        self.tasks = Tasks(inbox, Endpoint.parse(url).address)

    def on_mount(self) -> None:
        self.run_worker(self.follower.run, thread=True, exit_on_error=False)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._leave, number)
        self.push_screen(self.tasks)

    async def on_unmount(self) -> None:
        self.follower.stop()
        # Textual has given the worker up by now; its thread still closes the connection.
        await asyncio.to_thread(self.follower.wait_ended, _STOP_TIME)

    def on_worker_state_changed(self, event: Worker.StateChanged) -> None:
        if event.state is WorkerState.ERROR:
            self.failure = event.worker.error
            self.exit(return_code=1)

    def action_resync(self) -> None:
        """Connect anew, now, and read everything again."""
        self.follower.restart()

    def _leave(self, number: int) -> None:
        """A signal ends the screen as `q` does, so that the terminal is left whole."""
        self.exit(return_code=128 + number)
