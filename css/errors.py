"""The closed vocabulary of errors: each name says what to do about it.

| error         | what to do                                                        |
| ------------- | ----------------------------------------------------------------- |
| `Rejected`    | shelve the message with its reason and count it; never retry      |
| `Unavailable` | retry with backoff and jitter; nothing is acknowledged meanwhile  |
| `Compacted`   | list again, then watch from the listing's revision                |
| `ConfigError` | say file, key, what was found and what was expected; exit 2       |

A lost compare-and-set is not an exception but part of `model.Receipt`: the writer re-reads and decides again.
Foreign exceptions are translated into these in the edge file that meets them. Anything else is a defect and ends the
process with a traceback: a supervisor restarts it, and acknowledging only after the commit makes that safe.
"""

from __future__ import annotations


class CssError(Exception):
    """The base of the vocabulary; never raised itself."""


class Rejected(CssError):
    """A message that cannot be read. `reason` is a short constant, fit for a metric label; `detail` is for people."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail


class Unavailable(CssError):
    """A peer (etcd, the queue, the ECS API, the disk) cannot serve now. `peer` names it, the text says why."""

    def __init__(self, peer: str, why: str) -> None:
        super().__init__(f"{peer}: {why}")
        self.peer = peer
        self.why = why


class Compacted(CssError):
    """Changes after the asked revision are no longer held; `floor` is the oldest to watch after (0: unknown)."""

    def __init__(self, floor: int = 0) -> None:
        super().__init__(f"changes up to revision {floor} are gone")
        self.floor = floor


class ConfigError(CssError):
    """A wrong setting. The text names where it came from, the key, what was found and what was expected."""
