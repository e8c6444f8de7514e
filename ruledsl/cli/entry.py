"""The command `ruledsl`, before anything that takes time is imported."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def main() -> int:
    """Run one command; the exit status."""
    signal.signal(signal.SIGINT, _leave)
    from ruledsl.cli.main import main as run

    return run()


def _leave(number: int, frame: FrameType | None) -> None:
    """Ctrl-C while packages are imported, which would make of a KeyboardInterrupt whatever they like."""
    sys.stdout.flush()
    os.write(2, b"interrupted\n")
    os._exit(128 + number)


if __name__ == "__main__":
    sys.exit(main())
