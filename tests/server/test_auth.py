"""Who may ask, from where, and on which address the service starts at all."""

from __future__ import annotations

import hashlib

import pytest

from css.config import Auth, Config, Server, Token
from css.errors import ConfigError
from css.server.auth import Access, is_loopback, refuse_open
from css.server.http import Request

SECRET = "correct horse"
TOKEN = Token(name="ci", sha256=hashlib.sha256(SECRET.encode()).hexdigest())
LOCAL = Config()
GUARDED = Config(auth=Auth(token=(TOKEN,)))
PUBLIC = Config(server=Server(bind="0.0.0.0:3000"), auth=Auth(insecure=True))
BEHIND = Config(
    server=Server(bind="0.0.0.0:3000", allowed_hosts=("css.example.com",), allowed_origins=("https://ui.example.com",)),
    auth=Auth(token=(TOKEN,)),
)
BEARER = {"authorization": f"Bearer {SECRET}"}


@pytest.mark.parametrize(
    ("config", "path", "headers", "status"),
    [
        (LOCAL, "/v2/tasks", {"host": "127.0.0.1:3000"}, None),
        (LOCAL, "/v2/tasks", {"host": "localhost"}, None),
        (LOCAL, "/v2/tasks", {"host": "LOCALHOST:3000"}, None),
        (LOCAL, "/v2/tasks", {"host": "[::1]:3000"}, None),
        (LOCAL, "/v2/tasks", {"host": "evil.example"}, 403),
        (LOCAL, "/v2/watch", {"host": "127.0.0.1.evil.example:3000"}, 403),
        (LOCAL, "/metrics", {"host": "10.0.0.7:3000"}, 403),
        (LOCAL, "/healthz", {"host": "10.0.0.7:3000"}, None),
        (LOCAL, "/v2/tasks", {}, 403),
        (LOCAL, "/v2/watch", {"host": "localhost:3000", "origin": "http://localhost:3000"}, None),
        (LOCAL, "/v2/watch", {"host": "localhost:3000", "origin": "http://evil.example"}, 403),
        (LOCAL, "/v2/watch", {"host": "localhost:3000", "origin": "null"}, 403),
        (LOCAL, "/v2/watch", {"host": "localhost:3000", "origin": "http://["}, 403),
        (LOCAL, "/v2/watch", {"host": "localhost:3000", "origin": "http://[::1"}, 403),
        (LOCAL, "/v2/watch", {"host": "localhost:3000", "origin": "localhost:3000"}, 403),
        (LOCAL, "/v2/watch", {"host": "[::1]:3000", "origin": "http://[::1]:3000"}, None),
        (PUBLIC, "/v2/watch", {"host": "", "origin": "null"}, 403),
        (GUARDED, "/v2/tasks", {"host": "localhost"}, 401),
        (GUARDED, "/v2/tasks", {"host": "localhost", "authorization": f"Basic {SECRET}"}, 401),
        (GUARDED, "/v2/tasks", {"host": "localhost", "authorization": "Bearer wrong"}, 401),
        (GUARDED, "/v2/tasks", {"host": "localhost", "authorization": "Bearer \xff"}, 401),
        (GUARDED, "/v2/tasks", {"host": "localhost", **BEARER}, None),
        (GUARDED, "/metrics", {"host": "localhost"}, 401),
        (GUARDED, "/healthz", {"host": "localhost"}, None),
        (PUBLIC, "/v2/tasks", {"host": "10.0.0.7:3000"}, None),
        (BEHIND, "/v2/tasks", {"host": "css.example.com", **BEARER}, None),
        (BEHIND, "/v2/tasks", {"host": "other.example.com", **BEARER}, 403),
        (BEHIND, "/healthz", {"host": "10.0.0.7:3000"}, None),
        (BEHIND, "/readyz", {"host": "10.0.0.7:3000"}, 403),
        (BEHIND, "/healthz", {"host": "10.0.0.7:3000", "origin": "http://evil.example"}, 403),
        (BEHIND, "/v2/watch", {"host": "css.example.com", "origin": "https://ui.example.com", **BEARER}, None),
    ],
)
def test_access(config: Config, path: str, headers: dict[str, str], status: int | None) -> None:
    """Origin is checked on every request, Host and token on all but /healthz: its probes ask by address."""
    answer = Access.of(config).check(Request("GET", path, "", headers, b"", ""))
    assert (answer and answer.status) == status


@pytest.mark.parametrize(
    ("bind", "config", "starts"),
    [
        ("127.0.0.1:3000", LOCAL, True),
        ("127.3.2.1:0", LOCAL, True),
        ("localhost:3000", LOCAL, True),
        ("[::1]:3000", LOCAL, True),
        ("0.0.0.0:3000", LOCAL, False),
        ("[::]:3000", LOCAL, False),
        (":3000", LOCAL, False),
        ("192.168.1.5:3000", LOCAL, False),
        ("css.example.com:3000", LOCAL, False),
        ("0.0.0.0:3000", GUARDED, True),
        ("0.0.0.0:3000", PUBLIC, True),
    ],
)
def test_an_open_port_is_refused(bind: str, config: Config, starts: bool) -> None:
    """Other machines are served only with tokens, or when `insecure` says that it is wanted; the error says both."""
    config = Config(server=Server(bind=bind), auth=config.auth)
    if starts:
        refuse_open(config)
        return
    with pytest.raises(ConfigError, match=r"token.*--insecure"):
        refuse_open(config)


def test_what_is_loopback() -> None:
    """Only addresses that no other machine can reach count as loopback."""
    assert is_loopback("127.0.0.1")
    assert not is_loopback("")
    assert not is_loopback("::ffff:10.0.0.1")
