"""Why a document is not what it should be: key, what was expected, what was found. Pure; knows no setting by name.

msgspec says where it stopped; this walks the type and the document to that place and puts it into a person's words.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from css.errors import ConfigError

T = TypeVar("T")

_PATH = re.compile(r"\[(\d+)\]|\.([^.\[\]`]+)")
_FIELD = re.compile(r"(unknown|missing required) field `(.*?)`", re.DOTALL)
_SECRETS = {"sha256"}
"""Keys beside which a secret itself may stand by mistake: what was found is not repeated."""


def convert(document: object, shape: type[T], origin: str, overrides: Mapping[str, str] | None = None) -> T:
    """`document` as a `shape`. Raises `ConfigError` with where the wrong value came from.

    That is `origin`, except for the keys (`log.level`) that `overrides` maps to another origin (`CSS_LOG_LEVEL`).
    """
    try:
        return msgspec.convert(document, shape)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        keys = [number or name for number, name in _PATH.findall(path)]
        field = _FIELD.search(message)
        if field:
            keys.append(field[2])
        key = spell(keys)
        why = _explain(document, shape, keys, field[1] if field else "")
        raise ConfigError(f"{origin_of(key, origin, overrides)}: {key}: {why}") from error


def spell(keys: list[str]) -> str:
    """`["token", "0", "name"]` as `token[0].name`."""
    return re.sub(r"\.(\d+)(?=[.\[]|$)", r"[\1]", ".".join(map(printable, keys)))


def origin_of(key: str, origin: str, overrides: Mapping[str, str] | None) -> str:
    """Where the value of `key`, or of what it is a part of, came from."""
    return (overrides or {}).get(key.partition("[")[0], origin)


def printable(text: str) -> str:
    """`text` without anything that could move a cursor or begin a line: such characters become escapes."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def number(text: str) -> int | float | str:
    """A number, or the text itself: what is wrong with it is then said by `convert`."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def show(value: object) -> str:
    """A value in short, on one line."""
    match value:
        case str():
            return f'"{printable(value[:80])}{"..." if len(value) > 80 else ""}"'
        case bool():
            return str(value).lower()
        case int() | float():
            return f"{value:.10g}" if isinstance(value, float) else str(value)[:40]
        case list() | tuple():
            return "a list"
        case Mapping():
            return "a table"
        case _:
            return f"a {type(value).__name__}"


def _explain(document: object, shape: object, keys: list[str], field: str) -> str:
    expected: inspect.Type = inspect.type_info(shape)
    found, description = document, ""
    for key in keys:
        if isinstance(expected, inspect.StructType):
            fields = {known.encode_name: known.type for known in expected.fields}
            if key not in fields:
                return _nearest(key, list(fields))
            expected = fields[key]
            found = found.get(key) if isinstance(found, Mapping) else None
        elif isinstance(expected, inspect.VarTupleType):
            expected = expected.item_type
            found = found[int(key)] if isinstance(found, list | tuple) else None
        if isinstance(expected, inspect.Metadata):
            description = (expected.extra_json_schema or {}).get("description", "")
            expected = expected.type
    if field:
        return f"expected {description or _expected(expected)}, found nothing"
    secret = isinstance(found, str) and keys and keys[-1] in _SECRETS
    return f"expected {description or _expected(expected)}, found {'other text' if secret else show(found)}"


def _nearest(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return "unknown setting" + (f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(known)}")


def _expected(kind: Any) -> str:
    match kind:
        case inspect.IntType(ge=None, le=None):
            return "an integer"
        case inspect.IntType(ge=low, le=high):
            return f"an integer from {low} to {high}"
        case inspect.FloatType(gt=None, ge=low, le=high) if low is not None and high is not None:
            return f"a number from {low:g} to {high:.10g}"
        case inspect.FloatType(gt=low, le=high) if low is not None and high is not None:
            return f"a number above {low:g} and at most {high:.10g}"
        case inspect.FloatType():
            return "a number"
        case inspect.StrType(pattern=None):
            return "text"
        case inspect.StrType(pattern=pattern):
            return f"text like {pattern}"
        case inspect.BoolType():
            return "true or false"
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(map(show, values))
        case inspect.VarTupleType(item_type=inspect.StrType()):
            return "a list of text"
        case inspect.VarTupleType():
            return "a list of tables"
        case _:
            return "a table"
