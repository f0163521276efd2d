"""`css tui`: its arguments, and what it says when they are wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tui.__main__ import main


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["ftp://host"], "found 'ftp://host', expected http://"),
        (["http://host", "--token-file", "/nowhere/token"], "--token-file"),
    ],
)
def test_wrong_arguments_are_one_line_and_status_2(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before the terminal is touched, naming what was found and what was expected."""
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_help_needs_no_terminal_and_no_daemon(tmp_path: Path) -> None:
    """It names the default address, and writes nowhere."""
    answer = subprocess.run(
        [sys.executable, "-m", "tui", "--help"],
        cwd=Path(__file__).parent.parent.parent,
        env={"HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert answer.returncode == 0
    assert "http://127.0.0.1:3000" in answer.stdout
    assert not list(tmp_path.iterdir())
