"""What every AWS client of ours has in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from css import __version__, aws
from css.config import Aws
from tests.simulated_region import Region


def test_calls_say_who_asks(region: Callable[..., Region], monkeypatch: pytest.MonkeyPatch) -> None:
    """The account's owner finds css and its version in the trail of API calls."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "simulated")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "simulated")
    client = aws.client(
        Aws(region="us-east-1", endpoint_url=region(tasks=0, rate=0).url), "sqs", pool=1, read_timeout=5
    )
    sent = []

    def look(request: Any, **_: Any) -> None:
        sent.append(request.headers["User-Agent"].decode())

    client.meta.events.register("before-send.sqs", look)
    client.list_queues()
    client.close()
    assert sent[0].startswith(f"css/{__version__} Botocore/")
