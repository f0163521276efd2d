"""How long to wait before trying again: exponential, with full jitter, so that many do not come back at once."""

from __future__ import annotations

import random


class Backoff:
    """Delays in seconds, doubling from `first` to `most`; `reset` after a success that has lasted."""

    def __init__(self, first: float = 0.25, most: float = 15.0) -> None:
        self._first, self._most = first, most
        self._ceiling = first

    def reset(self) -> None:
        self._ceiling = self._first

    def next(self) -> float:
        delay = self._ceiling * random.uniform(0.5, 1.0)
        self._ceiling = min(self._most, self._ceiling * 2)
        return delay
