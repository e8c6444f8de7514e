"""Where things are kept from one call to the next."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The user's own, in $XDG_CACHE_HOME or ~/.cache: it may be missing, and emptied at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "ruledsl")
