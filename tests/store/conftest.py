"""Both stores, each test on data of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from css.config import Store as Settings
from css.store import Retention
from css.store.embedded import open_embedded
from css.store.etcd import open_etcd
from tests.etcd_server import EtcdServer

Open = Callable[..., AbstractAsyncContextManager[Any]]

_numbers = itertools.count()
_FOREVER = Retention()


@pytest.fixture(params=["embedded", "etcd"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens the same store of its kind, again and again."""
    if request.param == "embedded":
        return lambda retention=_FOREVER: open_embedded(tmp_path / "css.db", retention)
    etcd: EtcdServer = request.getfixturevalue("etcd")
    settings = Settings(etcd_endpoints=(etcd.endpoint,), etcd_prefix=f"test{next(_numbers)}/")
    return lambda retention=_FOREVER: open_etcd(settings, retention)
