"""The tensors of a rule in one layer: their first values, and those after a step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any

import jax
from jax import Array
from jax import numpy as jnp
from jax.typing import DTypeLike

from ruledsl.errors import UserError
from ruledsl.program import AFTER_STEP, INIT, TASK, Program
from ruledsl.program import Tensor as Declared
from ruledsl_jax.layer import Phi, Tensors
from ruledsl_jax.linear import Linear
from ruledsl_jax.plan import CLOCK, VISITS, Call, Plan, evaluate


def initialise(
    program: Program | Plan,
    linear: Linear,
    key: Array,
    *,
    W: Array | None = None,
    b: Array | None = None,
    classes: int | None = None,
    phi: Phi | None = None,
    dtype: DTypeLike | None = None,
    **parameters: float,
) -> dict[str, Array]:
    """W, b and the rule's own tensors, by name, in JAX's layout.

    W, b     where given, they stay; otherwise W is normal with variance 1 / fan_in, and b is zero
    classes  of the network, for maps from `out`
    dtype    of what is made; that of W, or JAX's default
    Raises UserError where a tensor's shape can't be known.
    """
    plan = program if isinstance(program, Plan) else Plan(program, parameters)
    key_of_W, key = jax.random.split(key)
    if W is None:
        W = jax.random.normal(key_of_W, linear.kernel_shape, dtype or float) / jnp.sqrt(1.0 * linear.fan_in)
        W = W.astype(dtype or W.dtype)
    if b is None:
        b = jnp.zeros((linear.units_out,), W.dtype)
    shapes = {
        declared.name: shape_of(declared, linear, classes, plan.program.rule)
        for declared in plan.program.tensors
        if declared.kind != "forward"
    }
    values = _scalars(plan, linear, phi, classes) | {"W": W, "b": b} | dict.fromkeys(plan.clocked, 0.0)
    made = _made((*plan.starts, *plan.draws), values, shapes, key, dtype or W.dtype)
    return {"W": W, "b": b, **made}


def slots(program: Program | Plan, tensors: Tensors) -> dict[str, Array]:
    """Zeros for `layer(..., slots=)`: the gradient with respect to them is what `<-` assigns. Empty for most rules."""
    plan = program if isinstance(program, Plan) else Plan(program)
    empty: dict[str, Array] = {}
    for slot in plan.slots:
        tensor = tensors[slot.removeprefix("next ")]
        assert tensor is not None
        empty[slot] = jnp.zeros_like(tensor)
    return {**empty, VISITS: jnp.zeros(())} if empty else {}


def advanced(
    program: Program | Plan,
    linear: Linear,
    tensors: Tensors,
    results: Tensors | None = None,
    *,
    key: Array | None = None,
    phi: Phi | None = None,
    classes: int | None = None,
    **scalars: Any,
) -> dict[str, Array | None]:
    """The tensors after a step: `<-`, then `after step`, then a new draw of what is `fresh`.

    tensors  W, b and the rule's own, as the optimizer left them
    results  the gradient with respect to `slots`, for a rule that has some; a layer that the backward pass did not
             reach keeps its values
    key      for a rule with `fresh` tensors
    scalars  `step epoch progress lr` as far as the rule reads them, and values for parameters
    """
    own = {name: value for name, value in scalars.items() if name not in CLOCK}
    plan = program if isinstance(program, Plan) else Plan(program, own)
    refuse_phases(plan)
    constants = {**_scalars(plan, linear, phi, classes), **scalars}
    new = dict(tensors)

    values = {**constants, **tensors}
    if plan.slots and results is None:
        raise UserError(f"{plan.program.rule} assigns {', '.join(plan.slots)}", "pass the gradients of the slots")
    evaluate(plan.needed(plan.later), values)
    for call in plan.later:
        new[call.target or ""] = _like(values[call.name], tensors[call.target or ""])
    for slot in plan.slots:
        assert results is not None
        name, visits, assigned = slot.removeprefix("next "), results[VISITS], results[slot]
        before = tensors[name]
        assert visits is not None and assigned is not None and before is not None
        new[name] = jnp.where(visits > 0, assigned / jnp.maximum(visits, 1).astype(assigned.dtype), before)

    values = evaluate(plan.phases.get(AFTER_STEP, ()), {**constants, **new})
    for call in plan.phases.get(AFTER_STEP, ()):
        if call.role == "assign" and call.target is not None:
            new[call.target] = _like(values[call.name], new[call.target])

    if plan.draws:
        if key is None:
            raise UserError(f"{plan.program.rule} draws {', '.join(plan.fresh)} at every step", "pass key=")
        drawn = {name: value for name in plan.fresh if (value := tensors[name]) is not None}
        dtype = next(iter(drawn.values())).dtype
        shapes = {name: value.shape for name, value in drawn.items()}
        new |= _made(plan.draws, {**constants, **new}, shapes, key, dtype)
    return new


def refuse_phases(plan: Plan) -> None:
    """Raises UserError for a rule with phases of its own, which functions and modules of this backend don't run."""
    own = [phase for phase in plan.phases if phase not in (TASK, AFTER_STEP, INIT)]
    if own:
        raise UserError(
            f"{plan.program.rule} has the phase {own[0]}, which a JAX layer does not run by itself",
            "train it with PyTorch, or call the functions of `program.module` in a loop of your own",
        )


def shape_of(declared: Declared, linear: Linear, classes: int | None, rule: str) -> tuple[int, ...]:
    """The shape in which a tensor of the rule is stored (see `ruledsl.program.Tensor`)."""
    units = {"pre": linear.units_in, "post": linear.units_out, "out": classes}
    activity = {"pre": linear.pre_shape, "post": linear.post_shape}
    match declared.space:
        case ():
            return ()
        case ("pre", "post") | ("post", "pre"):
            return linear.kernel_shape
        case ("out", *_) | (_, "out") if classes is None:
            raise UserError(f"{rule}: `{declared.name}` needs the number of classes", "pass classes=")
        case (space,) if units.get(space) is not None:
            return (units[space] or 0,)
        case ("out", space) | (space, "out") if space in activity and classes is not None:
            return (classes, *activity[space])
    raise UserError(f"{rule}: a layer can't hold `{declared.name}`, {' -> '.join(declared.space)}")


def _made(
    calls: Iterable[Call],
    values: dict[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    key: Array,
    dtype: DTypeLike,
) -> dict[str, Array]:
    """What `init` and `draw` functions give, each with randomness of its own."""
    made: dict[str, Array] = {}
    for index, call in enumerate(calls):
        shape = shapes.get(call.target or "", ())
        values |= {
            "shape": shape,
            "key": jax.random.fold_in(key, index),
            "sources": shape[0] if shape else 1,
            "targets": prod(shape[1:]),
        }
        evaluate((call,), values)
        if call.target is not None:
            made[call.target] = values[call.target] = _stored(values[call.name], shape, dtype)
    return made


def _scalars(plan: Plan, linear: Linear, phi: Phi | None, classes: int | None) -> dict[str, Any]:
    known: dict[str, Any] = {**plan.parameters, "fan_in": linear.fan_in, "fan_out": linear.fan_out, "layer": linear}
    return known | {name: value for name, value in (("phi", phi), ("classes", classes)) if value is not None}


def _like(value: Any, before: Array | None) -> Array:
    assert before is not None
    return _stored(value, before.shape, before.dtype)


def _stored(value: Any, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    value = jnp.asarray(value, dtype)
    return value.reshape(shape) if value.size == prod(shape) else jnp.broadcast_to(value, shape)
