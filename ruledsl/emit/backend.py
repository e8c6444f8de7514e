"""What a backend is, and how one is found: a package with an entry point in the group `ruledsl.backends`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

from ruledsl.analysis.names import suggestion
from ruledsl.errors import UserError

if TYPE_CHECKING:
    from ruledsl.emit.expressions import Form

GROUP = "ruledsl.backends"
BUNDLED = {"torch": "ruledsl_torch", "jax": "ruledsl_jax"}


@dataclass(frozen=True)
class Backend:
    """Everything that the emitter needs to know of a framework.

    name        as in `--backend name`
    operations  a `Form` for each operation that is no plain arithmetic (those are the same everywhere)
    random      a `Form` for each distribution; `shape` and `generator` name the arguments that every draw has
    generator   the argument of initialisers that randomness comes from, with its default
    imports     the statements that a module needs, by the module's name in the code; only those used are emitted
    templates   the folder with `module.py.j2`
    reserved    names that an emitted module uses itself, and that no argument of it may take
    """

    name: str
    operations: Mapping[str, Form]
    random: Mapping[str, Form]
    generator: str
    imports: Mapping[str, str]
    templates: Path
    reserved: frozenset[str] = field(default_factory=frozenset)


@cache
def backends() -> Mapping[str, str]:
    """The names of the installed backends, with the object that each entry point names."""
    found = {point.name: point.value for point in entry_points(group=GROUP)}
    return {**{name: f"{package}:BACKEND" for name, package in BUNDLED.items()}, **found}


@cache
def backend(name: str) -> Backend:
    """The backend called `name`. Raises UserError where there is none. Loads no framework."""
    if name not in backends():
        known = ", ".join(sorted(backends()))
        raise UserError(f"there is no backend called {name!r}", suggestion(name, backends()) or f"installed: {known}")
    module, _, attribute = backends()[name].partition(":")
    import importlib

    return getattr(importlib.import_module(module), attribute)  # type: ignore[no-any-return]
