"""A compiled rule: the source text that a backend's templates made, and what a runtime has to know of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import ModuleType
from typing import Literal

from ruledsl.ir.phases import AFTER_STEP as AFTER_STEP
from ruledsl.ir.phases import INIT as INIT
from ruledsl.ir.phases import TASK as TASK
from ruledsl.ir.phases import Schedule as Schedule

Role = Literal["send", "grad", "assign", "init", "draw", "drive", "term"]
Scalar = float | bool


@dataclass(frozen=True)
class Function:
    """One function of an emitted module.

    role      what it computes: `send` the error for the layer below; `grad` the pseudo-gradient of `target`;
              `assign` the next value of `target` (`<-`); `init` the first value and `draw` the value in this step of a
              `fresh` tensor; `drive` the activity that a phase puts in place of `target` (`x`);
              `term` a value that several functions of the same phase read under the function's own name
    name      its name in the module
    arguments in the order of its signature: tensors of the rule, signals (`x u delta e target`, `delta_k` for the
              list of `delta[k]`), scalars (`lr step epoch progress fan_in fan_out batch_size`), parameters, earlier
              terms, `layer` (the linear map, see the backends' `linear` module), `phi`, `generator` or `key`, `shape`
    phase     `task`, `after step`, `init`, or the name of a phase of the rule
    optimizer who receives a `grad`: `task` or the name given by `by`
    """

    role: Role
    name: str
    arguments: tuple[str, ...]
    phase: str = TASK
    target: str | None = None
    optimizer: str = TASK


@dataclass(frozen=True)
class Tensor:
    """A `weight`, `fixed`, `fresh` or `state` of the rule, or the layer's own `W` and `b`.

    space   `("pre", "post")` for a map pre -> post; `("post",)` for one number per neuron; `()` for a scalar.
            Maps between pre and post, in either direction, are stored in the forward kernel's layout; maps from
            `out` as [classes, *space]; maps from `post[k]` as one [*post of layer k, *pre] per layer k downstream.
    learns  `grad`: it has a pseudo-gradient (a parameter of the layer); `assign`: `<-` stores it; None: it stays
    feedback_only  read by nothing but `send` and its own updates: a layer that sends to nobody need not learn it
    own_decay      its pseudo-gradient has a term `c * P` of its own: no optimizer decays it too
    """

    name: str
    kind: Literal["weight", "fixed", "fresh", "state", "forward"]
    space: tuple[str, ...]
    learns: Literal["grad", "assign"] | None = None
    feedback_only: bool = False
    own_decay: bool = False


@dataclass(frozen=True)
class Program:
    """A rule compiled for one backend. `source` is text that needs no ruledsl to run; `module` is that text, live."""

    rule: str
    backend: str
    source: str
    functions: tuple[Function, ...]
    tensors: tuple[Tensor, ...]
    parameters: Mapping[str, float]
    optimizers: Mapping[str, tuple[str, Mapping[str, Scalar]]] = field(default_factory=dict)
    schedule: Schedule = field(default_factory=Schedule)

    @cached_property
    def module(self) -> ModuleType:
        """The emitted module, imported from its text (tracebacks show its lines)."""
        name = f"ruledsl_compiled_{self.backend}_{self.rule}_{id(self):x}"
        module = ModuleType(name)
        filename = f"<ruledsl {self.backend} {self.rule} {id(self):x}>"
        _remember_lines(filename, self.source)
        sys.modules[name] = module
        exec(compile(self.source, filename, "exec"), module.__dict__)
        return module

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


def _remember_lines(filename: str, source: str) -> None:
    import linecache

    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
