"""What a backend is, and how one is found: a package with an entry point in the group `ruledsl.backends`."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruledsl.analysis.names import suggestion
from ruledsl.errors import UserError

if TYPE_CHECKING:
    from ruledsl.emit.binding import Binding
    from ruledsl.emit.expressions import Form
    from ruledsl.emit.functions import Function
    from ruledsl.emit.naming import Names
    from ruledsl.ir.nodes import Node
    from ruledsl.ir.phases import Schedule

GROUP = "ruledsl.backends"


@dataclass(frozen=True)
class Module:
    """What a backend's templates are to print.

    kind        `rule`, `optimizer` or `constraint`
    binding     what the functions of the module are called for, and when
    names       Python names; a backend takes those for its classes from here
    optimizers  by name, those that the rule brings along: what they are, and their parameters
    standalone  whether it is to be of use by itself, on a whole network
    values      by function, the node that it computes; `terms`: by the id of a node, the term that holds it
    title       what the rule is called in words, as text for a docstring
    joint       the phases in which replicas bring together what functions compute; `unlike`: the equations of which
                they can't compute each its share; `rescaled`: the phases in which replicas compute with the errors of
                the joint batch (see `ruledsl.emit.replicas`)
    """

    kind: str
    rule: str
    binding: Binding
    names: Names
    schedule: Schedule
    functions: tuple[Function, ...]
    optimizers: Mapping[str, tuple[str, Mapping[str, float | bool]]]
    values: Mapping[str, Node] = field(default_factory=dict)
    terms: Mapping[int, str] = field(default_factory=dict)
    title: str = ""
    standalone: bool = False
    joint: frozenset[str] = frozenset()
    unlike: tuple[str, ...] = ()
    rescaled: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Backend:
    """The contract of a backend: what the emitter needs to know of a framework, and where the rest of it is.

    name        as in `--backend name`
    packages    the framework: the packages that running what is emitted takes, by their import names
    executor    the module with `executor`, and where it can be told `dependent` (see `ruledsl.verification.executor`)
    convert     the function that lets a network of the framework learn by a rule, as `module:name`
    engine      the class that trains, as `module:name` (see `ruledsl.training.engine.Engine`); None where there is none
    preferred   whether it is meant where nobody names one
    operations  a `Form` for each operation that is no plain arithmetic (those are the same everywhere)
    random      a `Form` for each distribution; `shape` and `generator` name the arguments that every draw has
    generator   the argument of initialisers that randomness comes from, with its default
    imports     by name, the statement that imports it, for all names that a module may use: those used are emitted
    templates   the folder with `module.py.j2`
    reserved    names that an emitted module uses itself, and that no argument of it may take
    attributes  names that a layer has already: a tensor or parameter of a rule takes an underscore instead
    shown       what the templates are given, beside the functions
    completes   whether what counts once a step has a function of its own, which its optimizers' steps call
    traced      whether the parameters of an optimizer may be arrays, which no `if` or `math.sqrt` takes
    """

    name: str
    operations: Mapping[str, Form]
    random: Mapping[str, Form]
    generator: str
    imports: Mapping[str, str]
    templates: Path
    shown: Callable[[Module], Mapping[str, object]]
    reserved: frozenset[str] = field(default_factory=frozenset)
    attributes: frozenset[str] = field(default_factory=frozenset)
    completes: bool = False
    traced: bool = False
    packages: tuple[str, ...] = ()
    executor: str = ""
    convert: str = ""
    engine: str | None = None
    preferred: bool = False

    @property
    def runs_here(self) -> bool:
        """Whether its framework is installed."""
        return all(importlib.util.find_spec(package) is not None for package in self.packages)


@cache
def backends() -> Mapping[str, str]:
    """The names of the installed backends, with the object that each entry point names."""
    return {point.name: point.value for point in entry_points(group=GROUP)}


@cache
def default_backend() -> str:
    """The backend that is meant where nobody names one."""
    names = sorted(backends(), key=lambda name: (not backend(name).preferred, name))
    if not names:
        raise UserError("no backend is installed", "install the package again: its entry points are missing")
    return names[0]


@cache
def backend(name: str) -> Backend:
    """The backend called `name`. Raises UserError where there is none. Loads no framework."""
    if name not in backends():
        known = ", ".join(sorted(backends()))
        raise UserError(f"there is no backend called {name!r}", suggestion(name, backends()) or f"installed: {known}")
    found: Backend = named(backends()[name])
    return found


def named(place: str) -> Any:
    """What `module:name` names. Raises ImportError."""
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)
