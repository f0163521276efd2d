"""What a source of messages is: a queue (`sqs`), a stream, a recorded file (`replay`). Only `source/*` reads messages.

A source has two halves, started side by side by css/service.py. `receive` hands messages on until it is cancelled
(stopping starts there: reading can always be abandoned, the queue delivers again). `acknowledge` deletes what has been
settled, and outlives `receive` until the writer has drained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import trio

from css.config import Config
from css.metrics import Metrics
from css.model import Message
from css.status import Status


class Source(Protocol):
    """See the module's text."""

    async def receive(self, messages: trio.MemorySendChannel[Sequence[Message]]) -> None:
        """Send messages, in the order they came, until cancelled or at the end of the source; closes the channel.

        An unreachable queue is reported to the status and tried again with backoff, for ever.
        """

    async def acknowledge(self) -> None:
        """Delete settled messages until `finish` was called and everything settled by then is deleted."""

    def finish(self) -> None:
        """Nothing more will be settled: `acknowledge` may return when it is done."""


def open_source(config: Config, status: Status, metrics: Metrics) -> Source:
    """The source that `source.queue` names. Raises `ConfigError`; reaches for nothing yet."""
    if config.source.queue.startswith("replay://"):
        from css.source.replay import ReplaySource

        return ReplaySource(config.source.queue, status, metrics)
    from css.source.sqs import SqsSource

    return SqsSource(config.source, config.aws, status, metrics)
