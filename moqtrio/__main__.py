"""The ``moqtrio`` command, also as ``python -m moqtrio``."""

from __future__ import annotations

import sys

_NEEDED = {"cyclopts", "rich", "psutil"}


def main() -> int:
    """Run the command line; returns its exit code.

    0 success, 1 failure, 2 wrong usage, 130 interrupted by Ctrl-C.
    """
    try:
        from .cli.app import run
    except ModuleNotFoundError as error:
        if error.name not in _NEEDED:
            raise
        print(
            f"moqtrio: the command needs {error.name}, which is not installed; "
            "pip install 'moqtrio[cli]' brings it",
            file=sys.stderr,
        )
        return 1
    except KeyboardInterrupt:
        return 130
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
