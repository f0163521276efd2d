"""What every AWS client of ours has in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from css import __version__, aws
from css.config import Aws
from css.errors import ConfigError
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


def test_a_broken_configuration_file_is_a_wrong_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What boto3 cannot read of its own files is said as any other wrong setting, not as a defect."""
    file = tmp_path / "config"
    file.write_text("[[broken")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(file))
    with pytest.raises(ConfigError, match="aws"):
        aws.client(Aws(region="us-east-1"), "sqs", pool=1, read_timeout=1)
