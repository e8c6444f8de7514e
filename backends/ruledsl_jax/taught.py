"""A weight layer and its rule: the functions of the emitted module, each called with what it asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from inspect import signature
from typing import Any

from jax import Array

from ruledsl.assembly import Place
from ruledsl.emit.binding import Binding, Output, Pass
from ruledsl.program import TASK
from ruledsl_jax.layers import Activation
from ruledsl_jax.linear import Linear


@cache
def asked(function: Callable[..., Any]) -> frozenset[str]:
    """The names of a function's arguments."""
    return frozenset(signature(function).parameters)


@cache
def required(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of those arguments that have no value of their own."""
    return tuple(name for name, each in signature(function).parameters.items() if each.default is each.empty)


def call(function: Callable[..., Any], known: Mapping[str, Any]) -> Any:
    """A function, with those of its arguments that are known."""
    names = asked(function)
    return function(**{name: value for name, value in known.items() if name in names})


@dataclass(frozen=True, eq=False)
class Taught:
    """All that is known of a layer before it learns.

    linear      its map; `downstream`: those of the layers whose errors it may be told, by their paths
    phi         its activation
    classes     of the network
    sends       whether it has somebody to send an error to
    """

    path: str
    module: Any
    binding: Binding
    linear: Linear
    downstream: Mapping[str, Linear]
    phi: Activation | None
    classes: int | None
    sends: bool

    @classmethod
    def at(cls, path: str, place: Place, maps: Mapping[str, Linear], classes: int | None, sends: bool) -> Taught:
        """The layer of a place in an assembly."""
        program = place.part.program
        below = {name: maps[name] for name in place.downstream}
        return cls(path, program.module, program.binding, maps[path], below, place.phi, classes, sends)

    def run(self, name: str, **known: Any) -> Any:
        """A function of the module, by its name."""
        own = {"layer": self.linear, "phi": self.phi, "classes": self.classes, "sends": self.sends}
        return call(getattr(self.module, name), {**own, **known})

    def has(self, name: str) -> bool:
        """Whether the module has a function of this name."""
        return hasattr(self.module, name)

    def first(self, key: Any, W: Any, b: Any, parameters: Mapping[str, Any]) -> tuple[Any, Any]:
        """Params and State, for weights that there are."""
        below = list(self.downstream.values())
        return self.run("init", key=key, W=W, b=b, downstream=below, **parameters)  # type: ignore[no-any-return]

    def pass_of(self, phase: str) -> Pass | None:
        """Its pass in a phase in which errors travel; without one of its own, there is none."""
        return next((own for own in self.binding.passes if own.phase == phase and own.errors), None)

    def beside(self, params: Any) -> Any:
        """Second references to parameters, for what is computed of them beside their gradient; None without any."""
        if not hasattr(self.module, "Beside"):
            return None
        of = {o.receiver: o.target for own in self.binding.passes for o in own.outputs if o.receiver}
        return self.module.Beside(*(getattr(params, of[name]) for name in self.module.Beside._fields))

    def gradients(self, phase: str, params: Any, beside: Any) -> dict[tuple[str, str], Array]:
        """From the derivatives of a pass, the pseudo-gradients by (optimizer, tensor)."""
        own = self.pass_of(phase)
        found = {}
        for output in own.outputs if own else ():
            if output.kind == "grad":
                value = getattr(params, output.target) if output.own else getattr(beside, str(output.receiver))
                if value is not None:
                    found[output.optimizer, output.target] = value
        return found

    def own_pass(self, phase: str) -> tuple[Pass, str]:
        """Its pass in a phase in which errors travel, and the function that makes it: that of the task without another
        one."""
        own = self.pass_of(phase)
        name = "apply" if phase == TASK or own is None else f"apply_{phase}"
        own = own or self.binding.task
        assert own is not None
        return own, name

    @property
    def phased(self) -> bool:
        """Whether its rule has phases beside the task: then `advance` is what happens after a step alone."""
        return bool(self.binding.evoked or self.binding.driven)

    def sorted_results(self, phase: str, found: Any) -> tuple[dict[tuple[str, str], Array], tuple[Any, Any]]:
        """What a function of a phase without errors returns: pseudo-gradients, and next Params and State or None."""
        results = list(found) if type(found) in (tuple, list) else [found]
        outputs = self.outputs_of(phase)
        brought = {}
        for optimizer in dict.fromkeys(o.optimizer for o in outputs if o.kind == "grad"):
            values = results.pop(0)
            for output in outputs:
                if output.kind == "grad" and output.optimizer == optimizer:
                    value = getattr(values, output.target)
                    brought |= {} if value is None else {(optimizer, output.target): value}
        params = next((each for each in results if isinstance(each, self.module.Params)), None)
        state = next((each for each in results if isinstance(each, self.module.State)), None)
        return brought, (params, state)

    def outputs_of(self, phase: str) -> tuple[Output, ...]:
        """What a phase without errors computes."""
        driven = next((own for own in self.binding.driven if own.phase == phase), None)
        if driven is not None:
            return driven.outputs
        evoked = next(own for own in self.binding.evoked if own.phase == phase)
        return (*evoked.outputs, *evoked.later.outputs)
