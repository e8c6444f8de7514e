"""Execute equations as they were written, before any simplification, on NumPy float64.

Nothing here is fast. It is what a rule means: when a backend disagrees with it, one of the two is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ruledsl.ir.equations import Equation, Equations
from ruledsl.ir.nodes import Node, walk
from ruledsl.ir.operations import OPERATIONS
from ruledsl.ir.types import OUT, PER_UNIT

Array = Any


@dataclass
class Outputs:
    """What one phase of one layer gives.

    send     the error for the neurons that feed the layer, [batch, *pre], or None in a phase that sends none
    grads    pseudo-gradients by (tensor, optimizer)
    assigned the next values of the tensors that `<-` changes
    """

    send: Array | None = None
    grads: dict[tuple[str, str], Array] = field(default_factory=dict)
    assigned: dict[str, Array] = field(default_factory=dict)


def evaluate(root: Node, layer: Any, values: Mapping[str, Any], dtype: Any = np.float64) -> Array:
    """The value of a node.

    `values` holds, by name: signals (`x u delta e target`, each [batch, *space]; `delta_k`, a list over the layers
    downstream), tensors (maps between pre and post in the forward kernel's layout; maps from `out` and `post[k]` as
    [*source, *pre], the latter in a list), scalars, and `phi` and `dphi` as functions where the rule uses them.
    `layer` is one of `ruledsl.reference.maps`. float32 is for judging how well conditioned a rule is.
    """
    memo: dict[int, Array] = {}
    with np.errstate(all="ignore"):  # infinities and NaN are values like others: what they come to is what is meant
        for node in walk(root):
            if id(node) not in memo and node.op != "sum_k" and not _indexed(node):
                memo[id(node)] = _value(node, [memo[id(arg)] for arg in node.args], layer, values, dtype)
            elif node.op == "sum_k":
                memo[id(node)] = _sum_over_layers(node, layer, values, dtype)
    return memo[id(root)]


def _indexed(node: Node) -> bool:
    """Whether the value depends on the layer downstream that a surrounding `sum(k, ...)` is at."""
    summed = {str(n.attrs[0]) for n in walk(node) if n.op == "sum_k"}
    leaves = (n for n in walk(node) if n.op in ("signal", "tensor") and n.attrs[1])
    return any(str(leaf.attrs[1]) not in summed for leaf in leaves)


def _sum_over_layers(node: Node, layer: Any, values: Mapping[str, Any], dtype: Any) -> Array:
    (term,) = node.args
    families = {str(n.attrs[0]) for n in walk(term) if n.op == "tensor" and n.attrs[1] == node.attrs[0]}
    total: Array = 0.0
    for k, delta in enumerate(values["delta_k"]):
        at_k = {**values, **{name: values[name][k] for name in families}, "delta[k]": delta}
        memo: dict[int, Array] = {}
        for part in walk(term):
            memo[id(part)] = _value(part, [memo[id(arg)] for arg in part.args], layer, at_k, dtype)
        total = total + memo[id(term)]
    return total


def _value(node: Node, args: list[Array], layer: Any, values: Mapping[str, Any], dtype: Any) -> Array:
    match node.op:
        case "const":
            return node.attrs[0] if isinstance(node.attrs[0], bool) else dtype(node.attrs[0])
        case "scalar":
            return dtype(values[str(node.attrs[0])])
        case "signal":
            name = "delta[k]" if node.attrs[1] else str(node.attrs[0])
            return np.asarray(values[name], dtype=dtype)
        case "tensor":
            value = np.asarray(values[str(node.attrs[0])], dtype=dtype)
            per_unit = node.type.kind == "vector" and node.type.axes == PER_UNIT and node.type.target != OUT
            return layer.spread(value) if per_unit else value
        case "phi" | "dphi":
            return values[node.op](args[0])
    operation = OPERATIONS[node.op]
    assert operation.numpy is not None
    return operation.numpy(np, *args) if operation.elementwise else operation.numpy(np, node, layer, *args)


def run_phase(
    equations: Equations, phase: str, layer: Any, values: Mapping[str, Any], dtype: Any = np.float64
) -> Outputs:
    """Everything that a phase computes, from the values before the phase; nothing is stored."""
    outputs = Outputs()
    for equation in equations.equations:
        if equation.phase != phase or equation.role in ("draw", "drive", "init"):
            continue
        value = evaluate(equation.value, layer, values, dtype)
        if equation.role == "send":
            outputs.send = np.broadcast_to(value, np.shape(values["x"]))
        elif equation.role == "grad":
            outputs.grads[equation.target, equation.optimizer] = _stored(equation, equations, value, values)
        else:
            outputs.assigned[equation.target] = _stored(equation, equations, value, values)
    return outputs


def _stored(equation: Equation, equations: Equations, value: Array, values: Mapping[str, Any]) -> Array:
    """In the shape of the tensor that it is for: one number per unit is stored as [units]."""
    shape = np.shape(values[equation.target])
    if np.size(value) == np.prod(shape):
        return np.reshape(value, shape)
    return np.broadcast_to(value, shape)


def initial(
    equations: Equations,
    layer: Any,
    shapes: Mapping[str, tuple[int, ...]],
    values: Mapping[str, Any],
    rng: np.random.Generator,
) -> dict[str, Array]:
    """First values of everything that the rule declares, and the first draw of what is `fresh`.

    `shapes` gives the stored shape of every declared tensor; `values` holds W, b and the scalars.
    """
    known: dict[str, Any] = dict(values)
    made: dict[str, Array] = {}
    for equation in equations.of("init", "draw"):
        name = equation.target
        if equation.value.op == "random":
            made[name] = draw(equation.value, shapes[name], layer, known, rng)
        else:
            value = evaluate(equation.value, layer, known)
            made[name] = _stored(equation, equations, value, {name: np.zeros(shapes[name])})
        known[name] = made[name]
    return made


def draw(node: Node, shape: tuple[int, ...], layer: Any, values: Mapping[str, Any], rng: np.random.Generator) -> Array:
    """A draw from the distribution of a `random` node."""
    kind = str(node.attrs[0])
    args = [float(evaluate(arg, layer, {**sizes(node, shape, layer), **values})) for arg in node.args]
    match kind:
        case "normal":
            return rng.normal(args[0], args[1], shape)
        case "uniform":
            return rng.uniform(args[0], args[1], shape)
        case "signs":
            return np.where(rng.random(shape) < args[0], -1.0, 1.0)
        case "orthogonal":
            rows, columns = shape[0], int(np.prod(shape[1:]))
            q, r = np.linalg.qr(rng.normal(size=(max(rows, columns), min(rows, columns))))
            q = q * np.sign(np.diag(r))
            return np.reshape(q.T if rows < columns else q, shape)
        case "ones":
            return np.ones(shape)
        case _:
            return np.zeros(shape)


def sizes(node: Node, shape: tuple[int, ...], layer: Any) -> dict[str, float]:
    """`sources` and `targets`: how many synapses of a dense map end on, and start from, one neuron."""
    return {"sources": float(shape[0]) if shape else 1.0, "targets": float(np.prod(shape[1:]))}
