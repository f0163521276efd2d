"""`css tui [URL]`: reads the command line, runs the screen, says in one line what went wrong. Logs to a file only."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from css.errors import ConfigError
from tui.app import CssApp

DEFAULT_URL = "http://127.0.0.1:3000"


def main(argv: Sequence[str] | None = None) -> int:
    """Run until `q` or a signal; the exit status is 0, 128 plus the signal, 2 for wrong arguments, 1 for a defect."""
    parser = argparse.ArgumentParser(
        prog="css tui", description="A live, read-only view of every ECS task, fed by a running css."
    )
    parser.add_argument("url", nargs="?", default=os.environ.get("CSS_URL", DEFAULT_URL), help="default: %(default)s")
    parser.add_argument("--token-file", type=Path, metavar="FILE", help="a file with the bearer token (or $CSS_TOKEN)")
    parser.add_argument("--log-file", type=Path, metavar="FILE", default=_log_file(), help="default: %(default)s")
    asked = parser.parse_args(argv)
    try:
        app = CssApp(asked.url, token=_token(asked.token_file))
    except ConfigError as error:
        print(f"css tui: {error}", file=sys.stderr)
        return 2
    _log_to(asked.log_file)
    app.run()
    if app.failure is not None:
        logging.getLogger("tui").error("the client failed", exc_info=app.failure)
        print(f"css tui: a defect ended it: {app.failure!r} (details: {asked.log_file})", file=sys.stderr)
    return app.return_code or 0


def _token(file: Path | None) -> str | None:
    """Raises `ConfigError` for a file that cannot be read."""
    if file is None:
        return os.environ.get("CSS_TOKEN")
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file: {error}") from error


def _log_file() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "css" / "tui.log"


def _log_to(file: Path) -> None:
    """The screen is drawn on stderr, where a library's warning would tear it. The file is made when there is need."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handler: logging.Handler = logging.FileHandler(file, delay=True)
    except OSError:
        handler = logging.NullHandler()
    logging.basicConfig(handlers=[handler], level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")


if __name__ == "__main__":
    sys.exit(main())
