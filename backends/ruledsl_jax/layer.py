"""One weight layer as a function whose derivative is what its rule says.

    f = layer(program, Dense(784, 100))
    u = f(params, x)                                    # params: W, b and the rule's own tensors
    gradients = jax.grad(loss)(params, ...)             # the rule's pseudo-gradients

A rule that reads e, the error at the network's output, gets it as the gradient of a zero that the network adds to its
output: nothing of this needs a side channel, and all of it works under `jit`, `grad` and `vmap`.

    u, zero = f(params, x)                              # zero: [batch, classes]
    logits = ... + zero
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import jax
from jax import Array
from jax import numpy as jnp
from jax.custom_derivatives import SymbolicZero

from ruledsl.errors import UserError, suggest
from ruledsl.program import Program
from ruledsl_jax.linear import Linear
from ruledsl_jax.plan import CLOCK, VISITS, Call, Plan, evaluate

Phi = Callable[[Array], Array]
Tensors = Mapping[str, Array | None]


class Layer(Protocol):
    """`f(params, x, slots=, target=, **scalars) -> u`, or `(u, zero)` for a rule that reads e.

    params   by name `W`, `b` (which may be absent) and the rule's own tensors
    x        [batch, *pre]
    slots    for a rule with `<-` on activity: what `ruledsl_jax.initial.slots` makes; the gradient with respect to
             them is what `ruledsl_jax.initial.advanced` stores
    target   one-hot [batch, classes], for a rule that reads it
    scalars  `step epoch progress lr` as far as the rule reads them, and parameters of the rule that change in time

    The gradient of x is the rule's `send`; that of a tensor that doesn't learn by `grad` is zero. A layer whose x needs
    no gradient sends to nobody, and then neither `send` nor what only serves it is computed.
    """

    def __call__(
        self, params: Tensors, x: Array, *, slots: Tensors | None = None, target: Array | None = None, **scalars: Any
    ) -> Any: ...


def layer(
    program: Program, linear: Linear, *, classes: int | None = None, phi: Phi | None = None, **parameters: float
) -> Layer:
    """The layer with linear map `linear` that follows a rule.

    classes     of the network, for a rule that reads e
    phi         the layer's activation, for a rule that reads it
    parameters  values for the rule's parameters
    Raises UserError for what the rule needs and isn't given, and for parameters that it doesn't have.
    """
    return bind(Plan(program, parameters), linear, classes, phi)


@cache
def bind(plan: Plan, linear: Linear, classes: int | None, phi: Phi | None) -> Layer:
    """The same, for a plan."""
    if plan.needs_phi and phi is None:
        raise UserError(f"{plan.program.rule} reads phi, and this layer declares no activation", "pass phi=")
    if plan.direct and classes is None:
        raise UserError(f"{plan.program.rule} reads e, and the number of classes is unknown", "pass classes=")
    differentiable = _differentiable(plan, linear, classes, phi)
    needed = {name for name in plan.inputs if name in CLOCK}

    def follow_rule(
        params: Tensors, x: Array, *, slots: Tensors | None = None, target: Array | None = None, **scalars: Any
    ) -> Any:
        known = {*CLOCK, *plan.parameters}
        for name in scalars:
            if name not in known:
                raise UserError(f"{plan.program.rule} reads no `{name}`", suggest(name, known))
        for name in sorted(needed - scalars.keys()):
            raise UserError(f"{plan.program.rule} reads {name}, which the layer was not given", f"pass {name}=")
        if "target" in plan.inputs and target is None:
            raise UserError(f"{plan.program.rule} reads target, which the layer was not given", "pass target=")
        told = {**scalars} if target is None else {**scalars, "target": target}
        return differentiable(dict(params), x, dict(slots or {}), told)

    return follow_rule


@jax.tree_util.register_static
@dataclass(frozen=True)
class _Backward:
    """What the backward pass is to do, known when the function is traced: calls, and the shapes of what it returns."""

    calls: tuple[Call, ...]
    shapes: tuple[tuple[str, tuple[int, ...], Any], ...]
    tensors: tuple[str, ...]
    slots: tuple[str, ...]


def _differentiable(plan: Plan, linear: Linear, classes: int | None, phi: Phi | None) -> Callable[..., Any]:
    constants: dict[str, Any] = {**plan.parameters, "fan_in": linear.fan_in, "fan_out": linear.fan_out, "layer": linear}
    if classes is not None:
        constants["classes"] = classes
    if phi is not None:
        constants |= {"phi": phi, "dphi": _slope(phi)}

    def primal(tensors: Tensors, x: Array, slots: Tensors, told: Tensors) -> Any:
        W, b = tensors["W"], tensors.get("b")
        assert W is not None
        u = linear.apply(W, x, b)
        return (u, jnp.zeros((x.shape[0], classes), u.dtype)) if plan.direct and classes else u

    def forward(tensors: Any, x: Any, slots: Any, told: Any) -> tuple[Any, Any]:
        # Of each input we are told whether its gradient is wanted: a layer computes for nobody what nobody reads.
        inputs = {**tensors, **slots, "x": x}
        moving = {name for name, value in inputs.items() if value is not None and value.perturbed}
        tensors, x, slots, told = jax.tree.map(lambda leaf: leaf.value, (tensors, x, slots, told))
        calls = plan.backward_calls(tuple(name in moving for name in plan.inputs))
        result = primal(tensors, x, slots, told)
        available = {**tensors, **told, "x": x, "u": result[0] if plan.direct else result}
        read = {name for call in calls for name in call.reads}
        read |= {"u"} if "y" in read else set()
        saved = {name: value for name, value in available.items() if name in read}
        shaped = {**tensors, **slots, "x": x}
        shapes = tuple((name, value.shape, value.dtype) for name, value in shaped.items() if value is not None)
        return result, (_Backward(calls, shapes, tuple(tensors), tuple(slots)), saved, jnp.empty((x.shape[0], 0)))

    def backward(residuals: Any, cotangent: Any) -> tuple[Any, ...]:
        todo, saved, batch = residuals
        delta, e = cotangent if plan.direct else (cotangent, None)
        if isinstance(e, SymbolicZero) and not isinstance(delta, SymbolicZero):
            raise UserError(
                f"{plan.program.rule} reads e, but this layer's zeros were not added to the network's output",
                "u, zero = f(params, x), and then logits + zero",
            )
        values = {**constants, **saved, "delta": _instantiated(delta), "e": _instantiated(e)}
        values["batch_size"] = batch.shape[0]
        if phi is not None and "u" in saved:
            values["y"] = phi(saved["u"])
        evaluate(todo.calls, values)
        computed = {call.name for call in todo.calls}
        gradients: dict[str, Any] = {}
        for name, shape, dtype in todo.shapes:
            call = plan.outputs.get(name)
            if call is not None and call.name in computed:
                gradients[name] = jnp.broadcast_to(jnp.asarray(values[call.name], dtype), shape)
            elif name == VISITS:
                gradients[name] = jnp.ones(shape, dtype)
        to_tensors = {name: gradients.get(name) for name in todo.tensors}
        to_slots = {name: gradients.get(name) for name in todo.slots}
        return to_tensors, gradients.get("x"), to_slots, None

    function = jax.custom_vjp(primal)
    function.defvjp(forward, backward, symbolic_zeros=True)
    return function


def _slope(phi: Phi) -> Phi:
    """The derivative of an elementwise function."""

    def slope(u: Array) -> Array:
        return jnp.asarray(jax.vjp(phi, u)[1](jnp.ones_like(u))[0])

    return slope


def _instantiated(cotangent: Any) -> Any:
    if isinstance(cotangent, SymbolicZero):
        aval: Any = cotangent.aval
        return jnp.zeros(aval.shape, aval.dtype)
    return cotangent
