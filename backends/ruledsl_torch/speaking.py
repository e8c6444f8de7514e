"""What a network says while it learns: once, through `warnings`, with the line that mends it."""

from __future__ import annotations

import warnings

from ruledsl.errors import RuleWarning


def warn_once(owner: object, key: str, message: str, help: str) -> None:
    """Warn of something in a network or layer, unless it was said of this one; `key` says what it is about.

    message  what happens; help  the line that mends it
    """
    said: set[str] = owner.__dict__.setdefault("_said", set())
    if key not in said:
        said.add(key)
        warnings.warn(f"{message}\n  help: {help}", RuleWarning, stacklevel=3)
