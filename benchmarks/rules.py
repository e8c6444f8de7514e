"""Which rules of the library a backend can emit."""

from __future__ import annotations

import ruledsl


def emitted(backend: str) -> dict[str, tuple[ruledsl.Rule, ruledsl.Program]]:
    """Name -> rule and program, for every rule (no optimizer, no constraint) that the backend can express."""
    found = {}
    for name in ruledsl.names():
        rule = ruledsl.load(name)
        if rule.kind != "rule":
            continue
        try:
            found[name] = rule, rule.compile(backend)
        except ruledsl.RuleError as error:  # E06xx: the backend says that it can't
            if any(not diagnostic.code.startswith("E06") for diagnostic in error.diagnostics):
                raise
    return found
