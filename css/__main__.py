"""`python -m css`, and the script `css`."""

from __future__ import annotations

import sys

from css.cli import main as run


def main() -> int:
    """The exit status of the command that was given."""
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
