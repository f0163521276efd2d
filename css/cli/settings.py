"""From a TOML file, the environment and the command line to a checked `Config`: flags beat variables, these the file.

Does no I/O but reading the one file it is given, and changes no environment: `Settled.exports` says what to set.
Endpoints and profiles that boto3 reads from the environment by itself are left to it; only what the file says
against them is dropped.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from css.config import Config
from css.errors import ConfigError
from css.explain import convert, origin_of, show

_LEVELS = {"warn": "warning", "fatal": "error", "crit": "error", "critical": "error"}
"""The Go service's levels that have another name here."""
_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_ECS", "AWS_ENDPOINT_URL_SQS")

_HOST = r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+)"
_PORT = r":([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_NAME = r"[A-Za-z0-9_-]{1,80}(\.fifo)?"
_QUEUE = rf"((sqs://)?{_NAME}|arn:[a-z0-9-]+:sqs:[a-z0-9-]+:[0-9]{{12}}:{_NAME}|https?://[^/\s]+/\S+|replay://.+)?"
_URL = rf"(https?://{_HOST}({_PORT})?(/\S*)?)?"


class Setting(msgspec.Struct, frozen=True):
    """A value that does not come from the file, and what gave it: a flag or a variable."""

    key: str
    value: object
    origin: str


class Settled(msgspec.Struct, frozen=True):
    """The result: the settings, where each came from (a key that is missing: its default), what boto3 has to see."""

    config: Config
    origins: Mapping[str, str]
    exports: Mapping[str, str]


def settle(file: Path | None, environment: Mapping[str, str], flags: list[Setting]) -> Settled:
    """Put the layers together. Raises `ConfigError`."""
    origin = str(file) if file else "settings"
    document = parse(read(file), origin) if file else {}
    origins = dict.fromkeys(_keys(document), origin)
    overrides: dict[str, str] = {}
    for setting in [*_from_environment(environment), *flags]:
        _put(document, setting.key, setting.value)
        overrides[setting.key] = setting.origin
    config = assemble(document, origin, overrides)
    exports = _endpoints(environment)
    if exports and config.aws.endpoint_url:
        # An endpoint that is given to boto3 outright would beat the variables of one service.
        exports.setdefault("AWS_ENDPOINT_URL", config.aws.endpoint_url)
        config = msgspec.structs.replace(config, aws=msgspec.structs.replace(config.aws, endpoint_url=""))
    return Settled(config, {**origins, **overrides}, exports)


def decode(text: str, origin: str) -> Config:
    """Decode and check TOML. Raises `ConfigError` with `origin`, the key, what was found and what was expected."""
    return assemble(parse(text, origin), origin)


def load(path: Path) -> Config:
    """Read, decode and check a file. Raises `ConfigError`."""
    return decode(read(path), str(path))


def read(path: Path) -> str:
    """The text of a file. Raises `ConfigError`."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected UTF-8 text, found another byte at {error.start}") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def parse(text: str, origin: str) -> dict[str, object]:
    """TOML as it is, not yet settings. Raises `ConfigError`."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ConfigError(f"{origin}: expected TOML, found tables or lists too deep to read") from error
    except ValueError as error:  # also a number of too many digits, which tomllib does not translate
        raise ConfigError(f"{origin}: expected TOML: {error}") from error


def assemble(document: object, origin: str, overrides: Mapping[str, str] | None = None) -> Config:
    """Typed and checked settings; `origin` and `overrides` as in `explain.convert`. Raises `ConfigError`."""
    config = convert(document, Config, origin, overrides)
    for key, why in check(config):
        raise ConfigError(f"{origin_of(key, origin, overrides)}: {key}: {why}")
    return config


def level(text: str) -> str:
    """The name here of a log level of the Go service, in any case; another text as it is."""
    name = text.strip().lower()
    return _LEVELS.get(name, name)


def check(config: Config) -> Iterator[tuple[str, str]]:
    """What no type can say: the wrong keys, and why."""
    yield from _check_text("", msgspec.to_builtins(config))
    yield from _check_forms(config)
    store, tokens = config.store, config.auth.token
    if store.etcd_endpoints and not store.etcd_prefix.endswith("/"):
        yield "store.etcd_prefix", f'expected text that ends with "/", found {show(store.etcd_prefix)}'
    for one, other in (("etcd_cert", "etcd_key"), ("etcd_user", "etcd_password_file")):
        for given, needed in ((one, other), (other, one)):
            if getattr(store, given) and not getattr(store, needed):
                yield f"store.{needed}", f"expected a value because store.{given} is set, found nothing"
    if {endpoint.startswith("https://") for endpoint in store.etcd_endpoints} == {True, False}:
        yield "store.etcd_endpoints", "expected https:// for all or for none, found both"
    tls = next((name for name in ("etcd_ca", "etcd_cert") if getattr(store, name)), None)
    if tls and any(not endpoint.startswith("https://") for endpoint in store.etcd_endpoints):
        yield "store.etcd_endpoints", f"expected https:// endpoints because store.{tls} is set, found others"
    for number, token in enumerate(tokens):
        if not token.name or token.name in {earlier.name for earlier in tokens[:number]}:
            yield f"auth.token[{number}].name", f"expected a name of its own, found {show(token.name)}"


def _check_text(key: str, value: object) -> Iterator[tuple[str, str]]:
    """No setting needs a control character, and a file name or address with one would surprise later."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _check_text(f"{key}.{name}" if key else name, inner)
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from _check_text(f"{key}[{number}]", inner)
    elif isinstance(value, str) and any(ord(character) < 32 or ord(character) == 127 for character in value):
        yield key, f"expected text without control characters, found {show(value)}"


def _check_forms(config: Config) -> Iterator[tuple[str, str]]:
    queue = "the name, sqs://NAME, URL or ARN of an SQS queue, or replay://FILE"
    if config.source.queue.startswith("kinesis://"):
        queue += " (a Kinesis stream cannot be read yet)"
    forms: list[tuple[str, str, str, str]] = [
        ("source.queue", config.source.queue, _QUEUE, queue),
        ("server.bind", config.server.bind, rf"{_HOST}?{_PORT}", "HOST:PORT, [IPv6]:PORT or :PORT"),
        ("aws.endpoint_url", config.aws.endpoint_url, _URL, "a URL, http://HOST:PORT or https://HOST"),
        ("aws.region", config.aws.region, r"([a-z0-9-]{1,63})?", "a region such as us-east-1"),
    ]
    lists = [
        ("store.etcd_endpoints", config.store.etcd_endpoints, rf"(https?://)?{_HOST}{_PORT}/?", "HTTP(S)://HOST:PORT"),
        ("server.allowed_hosts", config.server.allowed_hosts, rf"{_HOST}({_PORT})?", "a host name, with a port or not"),
        ("server.allowed_origins", config.server.allowed_origins, rf"https?://{_HOST}({_PORT})?", "HTTP(S)://HOST"),
    ]
    forms += [(f"{key}[{n}]", text, form, means) for key, texts, form, means in lists for n, text in enumerate(texts)]
    for key, text, form, means in forms:
        if not re.fullmatch(form, text):
            yield key, f"expected {means}, found {show(text)}"


def _from_environment(environment: Mapping[str, str]) -> Iterator[Setting]:
    if environment.get("CSS_LOG_LEVEL"):
        yield Setting("log.level", level(environment["CSS_LOG_LEVEL"]), "CSS_LOG_LEVEL")
    if environment.get("CSS_LOG_FILE"):
        yield Setting("log.file", environment["CSS_LOG_FILE"], "CSS_LOG_FILE")
    # boto3 reads only the first; the Go service's SDK read the second.
    region = next((name for name in ("AWS_DEFAULT_REGION", "AWS_REGION") if environment.get(name)), None)
    if region:
        yield Setting("aws.region", environment[region], region)
    for name in ("AWS_DEFAULT_PROFILE", "AWS_PROFILE"):
        if environment.get(name):
            yield Setting("aws.profile", "", name)
    if environment.get("AWS_ENDPOINT_URL"):
        yield Setting("aws.endpoint_url", "", "AWS_ENDPOINT_URL")


def _endpoints(environment: Mapping[str, str]) -> dict[str, str]:
    """The endpoints that the environment gives to boto3, `ECS_ENDPOINT` of the Go service among them."""
    found = {name: environment[name] for name in _ENDPOINTS if environment.get(name)}
    ecs = environment.get("ECS_ENDPOINT")
    if ecs:
        found.setdefault("AWS_ENDPOINT_URL_ECS", ecs if "://" in ecs else f"https://{ecs}")
    for name, url in found.items():
        if not re.fullmatch(_URL, url):
            raise ConfigError(f"{name}: expected a URL, http://HOST:PORT or https://HOST, found {show(url)}")
    return found


def _put(document: dict[str, object], key: str, value: object) -> None:
    """Set a dotted key; a table that is no table is left for the types to refuse."""
    *tables, name = key.split(".")
    for table in tables:
        inner = document.setdefault(table, {})
        if not isinstance(inner, dict):
            return
        document = inner
    document[name] = value


def _keys(document: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    for name, value in document.items():
        if isinstance(value, Mapping):
            yield from _keys(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
