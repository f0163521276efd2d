"""How reading a queue goes: what its receivers and deletes meet becomes one condition, and a log line per change.

Sync; decides only. A single failure is no outage while another receiver does its work.
"""

from __future__ import annotations

import structlog

from css.status import Status

# So many failures of one activity in a row are an outage, whatever the others do.
_TOO_MANY = 3
# Different texts told in one outage; some errors carry a request's id.
_MOST_SAID = 20

_log = structlog.get_logger()


class Health:
    """Writes the condition "queue"."""

    def __init__(self, status: Status, queue: str, receivers: int) -> None:
        self._status = status
        self._queue = queue
        self._receivers = receivers
        self._failures: dict[str, int] = {}
        self._ok: bool | None = None
        self._said: set[str] = set()

    def __repr__(self) -> str:
        return f"<Health {self._queue} {self._failures or 'ok'}>"

    def failed(self, activity: str, why: str) -> None:
        """`activity` is "receiver N", or another."""
        self._failures[activity] = self._failures.get(activity, 0) + 1
        if self._is_outage():
            self._ok = False
            self._status.report("queue", False, why)
            self._say("cannot read the queue", why)

    def worked(self, activity: str) -> None:
        if self._failures.pop(activity, None) is None and self._ok:
            return
        if not self._is_outage() and self._ok is not True:
            self._ok = True
            self._said.clear()
            self._status.report("queue", True)
            _log.info("queue connected", queue=self._queue, receivers=self._receivers)

    def mention(self, why: str) -> None:
        """A call failed that reading can do without: worth telling while reading does well."""
        if self._ok:
            self._say("a call to the queue failed", why)

    def _say(self, what: str, why: str) -> None:
        """Once, until all is well again."""
        if why not in self._said and len(self._said) < _MOST_SAID:
            self._said.add(why)
            _log.warning(what, queue=self._queue, error=why)

    def _is_outage(self) -> bool:
        failing = sum(activity.startswith("receiver") for activity in self._failures)
        return failing >= self._receivers or max(self._failures.values(), default=0) >= _TOO_MANY
