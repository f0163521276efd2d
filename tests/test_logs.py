"""Logs: one record is one line, whatever it holds; levels, places and the records of libraries."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from css.config import Log
from css.errors import ConfigError
from css.logsetup import LONGEST, Lines, configure

RECORD = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (debug|info|warning|error|critical) *[^\n]*")
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.sampled_from(["\n", "\r\n2026-01-01T00:00:00.000Z info ", "\x1b[2J", "\x9b31m", "\u202e", "\u2028", "\x7f"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
NAMES = st.text(min_size=1, max_size=20).filter(lambda name: name not in {"event", "exc_info", "stack_info"})


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    if isinstance(lines := structlog.get_config()["logger_factory"], Lines):
        lines.close()
    structlog.reset_defaults()
    logging.captureWarnings(False)
    logging.root.handlers[:], logging.root.level = handlers, level


def lines(monkeypatch: pytest.MonkeyPatch, log: Log, stream: io.StringIO) -> structlog.typing.FilteringBoundLogger:
    monkeypatch.setattr("sys.stderr", stream)
    configure(log)
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger


@settings(max_examples=200, deadline=None)
@given(title=st.text(), values=st.dictionaries(NAMES, VALUES, max_size=4))
def test_a_json_record_is_one_line_of_printable_ascii(title: str, values: dict[str, object]) -> None:
    """No text, name or nesting ends a line or reaches a terminal as a control character."""
    with pytest.MonkeyPatch.context() as patch:
        stream = io.StringIO()
        lines(patch, Log(format="json"), stream).info(title, **values)
    text = stream.getvalue()
    assert text.endswith("\n")
    assert re.fullmatch(r"[ -~]+", text[:-1])
    record = json.loads(text)
    assert record["level"] == "info"
    assert record["event"] == (title if len(title) <= LONGEST else record["event"])


@settings(max_examples=200, deadline=None)
@given(title=st.text(), values=st.dictionaries(NAMES, VALUES, max_size=4))
def test_a_human_record_is_one_printable_line(title: str, values: dict[str, object]) -> None:
    """The same holds on a terminal, where escape sequences and bidirectional marks would do the harm."""
    with pytest.MonkeyPatch.context() as patch:
        stream = io.StringIO()
        lines(patch, Log(format="human"), stream).warning(title, **values)
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    assert RECORD.fullmatch(text[:-1])


@pytest.mark.parametrize("form", ["human", "json"])
def test_a_traceback_cannot_forge_a_record(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """The text of an exception may come from outside: its lines never look like the start of a record."""
    stream = io.StringIO()
    logger = lines(monkeypatch, Log(format=form), stream)  # type: ignore[arg-type]
    logger.error("failed", exc_info=ValueError("bad\n2026-01-01T00:00:00.000Z info     all is well\r\x1b[2J"))
    first, *others = stream.getvalue().splitlines()
    assert "failed" in first
    assert all(line.startswith("  | ") and line.isprintable() for line in others)
    assert "all is well" in stream.getvalue()
    assert bool(others) == (form == "human")


def test_texts_have_a_bound_and_bytes_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """A huge value is cut and counted; bytes, which may be a message's body, are only measured."""
    stream = io.StringIO()
    logger = lines(monkeypatch, Log(format="json"), stream)
    logger.info("x", long="a" * (LONGEST + 7), body=b"secret", nested=[["b" * 100] * 50] * 50, huge=10**6000)
    record = json.loads(stream.getvalue())
    assert record["long"] == "a" * LONGEST + "... (7 more)"
    assert record["body"] == "<6 bytes>"
    assert len(record["nested"]) < LONGEST + 100
    assert len(stream.getvalue()) < 3 * LONGEST


@pytest.mark.parametrize(
    ("form", "stream", "human", "colour"),
    [
        ("auto", Terminal(), True, True),
        ("auto", io.StringIO(), False, False),
        ("human", io.StringIO(), True, False),
        ("json", Terminal(), False, False),
    ],
)
def test_the_form_follows_the_place(
    monkeypatch: pytest.MonkeyPatch, form: str, stream: io.StringIO, human: bool, colour: bool
) -> None:
    """Human on a terminal, JSON otherwise, unless chosen; colour only on a terminal."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    lines(monkeypatch, Log(format=form), stream).info("hello", cluster="prod")  # type: ignore[arg-type]
    text = stream.getvalue()
    assert text.startswith("{") != human
    assert ("\x1b[" in text) == colour


def test_no_color_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The usual variable turns colours off on a terminal too."""
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    lines(monkeypatch, Log(), stream).error("hello")
    assert RECORD.fullmatch(stream.getvalue().strip())


@pytest.mark.parametrize("level", ["debug", "info", "warning", "error"])
def test_the_level_is_heeded(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    """Records below the level are not written, all others are."""
    stream = io.StringIO()
    logger = lines(monkeypatch, Log(level=level, format="json"), stream)  # type: ignore[arg-type]
    known = ["debug", "info", "warning", "error", "critical"]
    for name in known:
        getattr(logger, name)("said")
    assert [json.loads(line)["level"] for line in stream.getvalue().splitlines()] == known[known.index(level) :]


def test_a_file_is_appended_to(tmp_path: Path) -> None:
    """A restart keeps what was said before; text that is no text is escaped, not refused."""
    path = tmp_path / "css.log"
    path.write_text("before\n")
    configure(Log(file=str(path), format="human"))
    structlog.get_logger().info("lone \ud800 surrogate", name="zürich")
    first, second = path.read_text(encoding="utf-8").splitlines()
    assert first == "before"
    assert "lone \\ud800 surrogate" in second
    assert "name=zürich" in second


def test_a_log_file_that_cannot_be_opened_is_a_wrong_setting(tmp_path: Path) -> None:
    """The key and the reason are said."""
    with pytest.raises(ConfigError, match=r"^log\.file: .*: No such file or directory$"):
        configure(Log(file=str(tmp_path / "missing" / "css.log")))


def test_a_log_that_cannot_be_written_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk costs lines, not the service."""
    configure(Log(file="/dev/full", format="json"))
    structlog.get_logger().info("lost")
    structlog.get_config()["logger_factory"].close()
    structlog.get_logger().info("lost")
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr("sys.stderr", stream)
    with pytest.raises(ValueError, match="closed"):
        stream.write("x")
    configure(Log(format="json"))
    structlog.get_logger().info("lost")


def test_records_of_libraries_join_ours_from_warning_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore and gRPC log through the standard library: bodies at debug are never asked for."""
    stream = io.StringIO()
    lines(monkeypatch, Log(level="debug", format="json"), stream)
    logging.getLogger("botocore.endpoint").debug("body %s", "secret")
    logging.getLogger("botocore.endpoint").info("quiet")
    logging.getLogger("botocore.endpoint").warning("slow %s", "a\nb")
    logging.getLogger("grpc").log(35, "between")
    records = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(r["level"], r["event"], r["logger"]) for r in records] == [
        ("warning", "slow a\nb", "botocore.endpoint"),
        ("warning", "between", "grpc"),
    ]


def test_capture_logs_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests look at records with structlog's own tool, also after the logs were configured."""
    stream = io.StringIO()
    logger = lines(monkeypatch, Log(format="json"), stream)
    logger.info("before")
    with structlog.testing.capture_logs() as captured:
        logger.info("during", n=1)
    assert captured == [{"event": "during", "n": 1, "log_level": "info"}]
    assert len(stream.getvalue().splitlines()) == 1
