"""A compiled rule: the source text that a backend's templates made, and what a runtime has to know of it."""

from __future__ import annotations

import copyreg
import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from types import ModuleType
from typing import Any, cast

from ruledsl.emit.binding import Binding, bind
from ruledsl.emit.functions import Function as Function
from ruledsl.emit.functions import Role as Role
from ruledsl.emit.functions import Tensor as Tensor
from ruledsl.ir.phases import AFTER_STEP as AFTER_STEP
from ruledsl.ir.phases import INIT as INIT
from ruledsl.ir.phases import TASK as TASK
from ruledsl.ir.phases import Schedule as Schedule

Scalar = float | bool
PROGRAM = "__program__"  # where an emitted module has the program that it came from


@dataclass(frozen=True)
class Program:
    """A rule compiled for one backend. `source` is text; `module` is that text, live.

    maps_x_alone   whether x is only ever mapped or multiplied (`W @ x`, `outer(v, x)`), so that it may be indices
    """

    rule: str
    backend: str
    source: str
    functions: tuple[Function, ...]
    tensors: tuple[Tensor, ...]
    parameters: Mapping[str, float]
    optimizers: Mapping[str, tuple[str, Mapping[str, Scalar]]] = field(default_factory=dict)
    schedule: Schedule = field(default_factory=Schedule)
    maps_x_alone: bool = False

    @cached_property
    def module(self) -> ModuleType:
        """The emitted module, imported from its text (tracebacks show its lines). The same text is the same module."""
        digest = hashlib.sha256(self.source.encode()).hexdigest()[:16]
        name = f"ruledsl_compiled_{self.backend}_{self.rule}_{digest}"
        if name not in sys.modules:
            module = ModuleType(name, self.rule)
            filename = f"<ruledsl {self.backend} {self.rule} {digest}>"
            _remember_lines(filename, self.source)
            module.__dict__[PROGRAM] = self
            exec(compile(self.source, filename, "exec"), module.__dict__)
            sys.modules[name] = module
            for made in list(vars(module).values()):
                if isinstance(made, type) and made.__module__ == name:
                    pickle_by_text(made)
        return sys.modules[name]

    @cached_property
    def binding(self) -> Binding:
        """What its functions are called for, and when."""
        return bind(self.functions, self.tensors, self.parameters)

    def __deepcopy__(self, memo: dict[int, Any]) -> Program:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # The live module has no place in a pickle: the text makes it anew.
        return type(self), tuple(getattr(self, each.name) for each in fields(self))

    def of_phase(self, phase: str) -> tuple[Function, ...]:
        """The functions of one phase, terms before their readers."""
        return tuple(f for f in self.functions if f.phase == phase)

    def tensor(self, name: str) -> Tensor:
        """The tensor called `name`; raises KeyError."""
        for tensor in self.tensors:
            if tensor.name == name:
                return tensor
        raise KeyError(name)

    def reads(self, name: str, phase: str = TASK) -> bool:
        """Whether any function of the phase takes the argument `name`."""
        return any(name in f.arguments for f in self.of_phase(phase))


def program_of(instance: object) -> Program:
    """The program whose emitted module has the class of an object, or a class that it was made from."""
    modules = [vars(sys.modules[kind.__module__]) for kind in type(instance).__mro__ if kind.__module__ in sys.modules]
    program: Program = next(module[PROGRAM] for module in modules if PROGRAM in module)
    return program


def pickle_by_text(made: type) -> None:
    """Let instances of a class of an emitted module be copied and pickled: no other process can import it by name."""
    copyreg.pickle(made, _reduced)


def _reduced(instance: Any) -> tuple[Any, ...]:
    kind = type(instance)
    _, arguments, *state = cast(tuple[Any, ...], object.__reduce_ex__(instance, 2))
    return _remade, (program_of(instance), kind.__name__, *arguments[1:]), *state


def _remade(program: Program, name: str, *arguments: Any) -> Any:
    kind = getattr(program.module, name)
    return kind.__new__(kind, *arguments)


def _remember_lines(filename: str, source: str) -> None:
    import linecache

    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
