"""Settings: the example file, what is said of a wrong one, and which layer wins."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from css.cli.settings import Setting, assemble, check, decode, load, settle
from css.config import Auth, Aws, Config, Reconcile, Server, Source, Store, Token
from css.errors import ConfigError

EXAMPLE = Path(__file__).parent.parent / "config.example.toml"
DIGEST = "0" * 64


def keys_of(shape: type[msgspec.Struct], prefix: str = "") -> Iterator[str]:
    for field in msgspec.structs.fields(shape):
        if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
            yield from keys_of(field.type, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}"


def refusal(toml: str) -> str:
    with pytest.raises(ConfigError) as caught:
        decode(toml, "css.toml")
    return str(caught.value)


# --- the example ----------------------------------------------------------------------------------------------------


def test_the_example_is_the_defaults() -> None:
    """config.example.toml as it is changes nothing."""
    assert load(EXAMPLE) == Config()


def test_the_example_shows_every_setting() -> None:
    """A setting that is added to the code is missing from the example until it is written there."""
    document = tomllib.loads(EXAMPLE.read_text())
    for key in keys_of(Config):
        here = document
        for part in key.split("."):
            assert part in here, f"{key} is missing from {EXAMPLE.name}"
            here = here[part]


def test_the_example_says_why() -> None:
    """Every setting stands under a comment, its own or one that it shares with its neighbours."""
    said = False
    for line in EXAMPLE.read_text().splitlines():
        if line.startswith("#"):
            said = True
        elif not line or line.startswith("["):
            said = False
        else:
            assert said, f"no word on {line}"


# --- what is wrong --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ('[source]\nreceivers = "two"', 'source.receivers: expected an integer from 1 to 64, found "two"'),
        ("[source]\nreceivers = 65", "source.receivers: expected an integer from 1 to 64, found 65"),
        ("[source]\nwait = 2.5", "source.wait: expected an integer from 0 to 20, found 2.5"),
        ("[source]\nwait = 1979-05-27", "source.wait: expected an integer from 0 to 20, found a date"),
        ("[source]\nrecievers = 2", "source.recievers: unknown setting; did you mean receivers?"),
        ("[sauce]\nwait = 2", "sauce: unknown setting; did you mean source?"),
        ("[log]\nfrobnicate = 2", "log.frobnicate: unknown setting; known here: level, format, file"),
        ('[log]\nlevel = "loud"', 'log.level: expected one of "debug", "error", "info", "warning", found "loud"'),
        ("[reconcile]\nrate = true", "reconcile.rate: expected a number from 0 to 10000, found true"),
        ("[reconcile]\nrate = inf", "reconcile.rate: expected a number from 0 to 10000, found inf"),
        ("[reconcile]\nrate = nan", "reconcile.rate: expected a number from 0 to 10000, found nan"),
        ("[reconcile]\ninterval = 0", "reconcile.interval: expected a number above 0 and at most 604800, found 0"),
        ("[reconcile]\nenabled = 1", "reconcile.enabled: expected true or false, found 1"),
        ('[source]\naccount = "12"', 'source.account: expected 12 digits, or nothing, found "12"'),
        ('[store]\netcd_endpoints = "a:1"', 'store.etcd_endpoints: expected a list of text, found "a:1"'),
        ('[store]\netcd_endpoints = ["a:1", 3]', "store.etcd_endpoints[1]: expected text, found 3"),
        ("source = 3", "source: expected a table, found 3"),
        ("auth.token = 3", "auth.token: expected a list of tables, found 3"),
        ('[[auth.token]]\nname = "x"', "auth.token[0].sha256: expected 64 lowercase hexadecimal digits, found nothing"),
        ('[store]\npath = "a\\u0000b"', 'store.path: expected text without control characters, found "a\\x00b"'),
        ('[server]\nbind = "3000"', 'server.bind: expected HOST:PORT, [IPv6]:PORT or :PORT, found "3000"'),
        ('[server]\nbind = "localhost:70000"', "server.bind: expected HOST:PORT"),
        ('[server]\nallowed_origins = ["example.com"]', "server.allowed_origins[0]: expected HTTP(S)://HOST"),
        ('[aws]\nendpoint_url = "localhost:4566"', "aws.endpoint_url: expected a URL"),
        ('[source]\nqueue = "kinesis://events"', "source.queue: expected the name, sqs://NAME, URL or ARN"),
        ('[store]\netcd_cert = "c.pem"', "store.etcd_key: expected a value because store.etcd_cert is set"),
        ('[store]\netcd_password_file = "p"', "store.etcd_user: expected a value because store.etcd_password_file"),
        ('[store]\netcd_endpoints = ["localhost"]', "store.etcd_endpoints[0]: expected HTTP(S)://HOST:PORT"),
        ('[store]\netcd_endpoints = ["http://a:1", "https://b:1"]', "store.etcd_endpoints: expected https:// for all"),
        ('[store]\netcd_ca = "ca"\netcd_endpoints = ["a:1"]', "store.etcd_endpoints: expected https:// endpoints"),
        ('[store]\netcd_endpoints = ["a:1"]\netcd_prefix = "ecs"', 'expected text that ends with "/", found "ecs"'),
        ("[source]\nwait = \n", "expected TOML: Invalid value (at line 2, column 8)"),
        ("x = " + "[" * 5000, "expected TOML, found tables or lists too deep to read"),
    ],
)
def test_a_wrong_setting_is_named(toml: str, said: str) -> None:
    """The error has the file, the key, what was expected and what was found, on one line."""
    text = refusal(toml)
    assert text.startswith("css.toml: ")
    assert said in text
    assert text.isprintable()


def test_two_tokens_of_one_name_are_refused() -> None:
    """A token's name is what the log calls its holder."""
    token = f'[[auth.token]]\nname = "a"\nsha256 = "{DIGEST}"\n'
    assert 'auth.token[1].name: expected a name of its own, found "a"' in refusal(token * 2)


def test_a_secret_in_the_place_of_its_digest_is_not_repeated() -> None:
    """Who writes the secret itself into the file does not find it in the log as well."""
    text = refusal('[[auth.token]]\nname = "a"\nsha256 = "hunter2hunter2"')
    assert "hunter2" not in text
    assert "found other text" in text


def test_hostile_keys_and_values_cannot_forge_a_line() -> None:
    """Control and bidirectional characters of a file are escaped in what is said of it."""
    assert refusal('"a\\nb\\u202e" = 1').isprintable()
    assert refusal('[log]\nlevel = "\\u001b[31m\\n"').isprintable()


@given(
    st.dictionaries(
        st.sampled_from(["source", "log", "auth", "store", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.dictionaries(
                    st.sampled_from(["queue", "token", "level", "etcd_endpoints", "name"]), inner, max_size=2
                )
            ),
            max_leaves=6,
        ),
    )
)
def test_any_document_is_settings_or_one_clear_error(document: dict[str, object]) -> None:
    """No shape of data brings out another exception."""
    try:
        config = assemble(document, "css.toml")
    except ConfigError as error:
        said = str(error)
    else:
        assert list(check(config)) == []
        return
    assert re.match(r"css\.toml: [^ ]+: ", said)
    assert said.isprintable()


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"x = 1" + b"0" * 5000])
def test_an_unreadable_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    """A missing file, one that is no text, and a number without end."""
    path = tmp_path / "css.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(str(path))):
        load(path)


@pytest.mark.parametrize(
    "config",
    [
        *(
            Config(source=Source(queue=queue))
            for queue in (
                "event_stream",
                "events.fifo",
                "sqs://event_stream",
                "arn:aws-cn:sqs:cn-north-1:123456789012:events",
                "https://sqs.us-east-1.amazonaws.com/123456789012/events",
                "http://127.0.0.1:4566/000000000000/events",
                "replay://events.jsonl?speed=60",
                "replay:///var/events.jsonl",
            )
        ),
        *(Config(server=Server(bind=bind)) for bind in ("localhost:3000", ":3000", "[::1]:0", "0.0.0.0:65535")),
        Config(store=Store(etcd_endpoints=("localhost:2379", "http://10.0.0.1:2379", "http://[::1]:2379"))),
        Config(store=Store(etcd_endpoints=("https://e:1",), etcd_ca="ca", etcd_cert="c", etcd_key="k")),
        Config(store=Store(etcd_user="u", etcd_password_file="p")),
        Config(server=Server(allowed_hosts=("css.internal", "css:80"), allowed_origins=("https://a.b",))),
        Config(auth=Auth(token=(Token(name="a", sha256=DIGEST), Token(name="b", sha256=DIGEST)))),
        Config(aws=Aws(endpoint_url="http://127.0.0.1:4566", region="us-gov-west-1")),
        Config(reconcile=Reconcile(rate=0)),
    ],
)
def test_right_settings_pass(config: Config) -> None:
    """Every form that the documentation names is taken."""
    assert list(check(config)) == []


# --- layers ---------------------------------------------------------------------------------------------------------

FILE = '[log]\nlevel = "error"\n[aws]\nregion = "eu-west-1"\nprofile = "p"\nendpoint_url = "http://file:1"\n'


@pytest.mark.parametrize(
    ("file", "environment", "flag", "level"),
    [
        (False, False, False, "info"),
        (True, False, False, "error"),
        (False, True, False, "debug"),
        (True, True, False, "debug"),
        (False, False, True, "warning"),
        (True, False, True, "warning"),
        (False, True, True, "warning"),
        (True, True, True, "warning"),
    ],
)
def test_flags_beat_the_environment_beats_the_file_beats_defaults(
    tmp_path: Path, file: bool, environment: bool, flag: bool, level: str
) -> None:
    """All eight combinations of the three layers over the default."""
    path = tmp_path / "css.toml"
    path.write_text(FILE)
    settled = settle(
        path if file else None,
        {"CSS_LOG_LEVEL": "debug"} if environment else {},
        [Setting("log.level", "warning", "--log-level")] if flag else [],
    )
    assert settled.config.log.level == level
    origin = "--log-level" if flag else "CSS_LOG_LEVEL" if environment else str(path) if file else None
    assert settled.origins.get("log.level") == origin


@pytest.mark.parametrize(
    ("go", "ours"),
    [("debug", "debug"), ("INFO", "info"), ("warn", "warning"), ("Error", "error"), ("fatal", "error"), ("", "info")],
)
def test_the_go_services_log_levels_are_understood(go: str, ours: str) -> None:
    """CSS_LOG_LEVEL as it was, in any case; empty is as unset."""
    assert settle(None, {"CSS_LOG_LEVEL": go}, []).config.log.level == ours


def test_a_wrong_variable_is_named() -> None:
    """The error names the variable, not a file that does not say it."""
    with pytest.raises(ConfigError, match=r"^CSS_LOG_LEVEL: log\.level: expected one of .*, found \"loud\"$"):
        settle(None, {"CSS_LOG_LEVEL": "loud"}, [])


def test_the_log_file_of_the_go_service_is_understood() -> None:
    """CSS_LOG_FILE names the file."""
    assert settle(None, {"CSS_LOG_FILE": "/var/log/css.log"}, []).config.log.file == "/var/log/css.log"


@pytest.mark.parametrize(
    ("environment", "region"),
    [
        ({}, "eu-west-1"),
        ({"AWS_REGION": "us-west-2"}, "us-west-2"),
        ({"AWS_DEFAULT_REGION": "us-east-2", "AWS_REGION": "us-west-2"}, "us-east-2"),
    ],
)
def test_the_region_of_the_environment_wins(tmp_path: Path, environment: dict[str, str], region: str) -> None:
    """boto3's variable first, then the one that the Go service read, then the file."""
    (tmp_path / "css.toml").write_text(FILE)
    assert settle(tmp_path / "css.toml", environment, []).config.aws.region == region


def test_a_profile_or_endpoint_of_the_environment_is_left_to_boto3(tmp_path: Path) -> None:
    """What boto3 reads by itself is not given to it a second time, where it would mean more than it does there."""
    (tmp_path / "css.toml").write_text(FILE)
    config = settle(tmp_path / "css.toml", {"AWS_PROFILE": "q", "AWS_ENDPOINT_URL": "http://env:1"}, []).config
    assert (config.aws.profile, config.aws.endpoint_url) == ("", "")


def test_the_go_services_ecs_endpoint_is_for_ecs_alone(tmp_path: Path) -> None:
    """ECS_ENDPOINT becomes boto3's variable of that service; the file's endpoint stays for the others."""
    (tmp_path / "css.toml").write_text(FILE)
    settled = settle(tmp_path / "css.toml", {"ECS_ENDPOINT": "ecs.internal"}, [])
    assert settled.exports == {"AWS_ENDPOINT_URL_ECS": "https://ecs.internal", "AWS_ENDPOINT_URL": "http://file:1"}
    assert settled.config.aws.endpoint_url == ""


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SQS", "ECS_ENDPOINT"])
def test_an_endpoint_that_is_no_url_is_refused(name: str) -> None:
    """boto3 would say so only when the first client is made, and not where it stands."""
    with pytest.raises(ConfigError, match=rf"^{name}|^AWS_ENDPOINT_URL_ECS"):
        settle(None, {name: "ftp://x"}, [])


def test_a_table_that_is_none_is_refused_under_a_flag(tmp_path: Path) -> None:
    """A flag does not hide that the file is wrong around it."""
    (tmp_path / "css.toml").write_text("log = 3")
    with pytest.raises(ConfigError, match=r"css\.toml: log: expected a table, found 3"):
        settle(tmp_path / "css.toml", {}, [Setting("log.level", "info", "--log-level")])
