"""One batch through a copy of a network before it is converted, which leaves no trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.extend.core import Literal

from ruledsl.assembly import Trace, Traced
from ruledsl_jax.modules import KINDS


def trace(net: nnx.Module, example: Array) -> Trace:
    """What every layer meets, in the order in which they run first, in evaluation mode."""
    copy = nnx.clone(net)
    copy.eval()  # type: ignore[no-untyped-call]
    parts: Any = nnx.split(copy, nnx.Param, ...)
    graph, params, rest = parts
    met: dict[str, tuple[Any, Any]] = {}
    visits: dict[str, int] = {}

    def run(params: Any, taps: Mapping[str, Array]) -> tuple[dict[str, Array], Any]:
        """The inputs of all layers; to what a layer computes, a tap of its name is added."""
        net = nnx.merge(graph, params, rest)
        fed: dict[str, Array] = {}
        for name, module in list(modules_of(net, (), set())):
            if type(module) in KINDS:
                module.__class__ = _watched(type(module), name, met, visits, fed, taps)
        return fed, net(example)

    output = jax.eval_shape(lambda params: run(params, {})[1], params)
    shapes = {name: u for name, (_, u) in met.items()}
    visits.clear()
    above = _above(lambda params, taps: run(params, taps)[0], params, shapes)
    layers = {
        name: Traced(x, u, "" in above[name], tuple(other for other in met if name in above[other]), visits[name])
        for name, (x, u) in met.items()
    }
    shape: tuple[int, ...] = getattr(output, "shape", ())
    return Trace(layers, shape[1] if len(shape) == 2 else None)


def _above(run: Callable[..., Any], params: Any, shapes: Mapping[str, Any]) -> dict[str, set[str]]:
    """By layer, the layers on whose output its input depends; among them "" where it depends on parameters."""
    taps = {name: jnp.zeros(shape) for name, shape in shapes.items()}
    jaxpr = jax.make_jaxpr(run)(params, taps).jaxpr
    sources = [*[{""}] * len(jax.tree.leaves(params)), *({"", name} for name in sorted(taps))]
    reached: dict[Any, set[str]] = dict(zip(jaxpr.invars, sources, strict=True))

    def of(value: Any) -> set[str]:
        return set() if isinstance(value, Literal) else reached.get(value, set())

    for equation in jaxpr.eqns:
        reached |= dict.fromkeys(equation.outvars, set[str]().union(*map(of, equation.invars)))
    return {name: of(value) for name, value in zip(sorted(shapes), jaxpr.outvars, strict=True)}


def _watched(kind: Any, name: str, met: Any, visits: Any, fed: Any, taps: Mapping[str, Array]) -> Any:
    def call(self: Any, inputs: Array, *args: Any, **options: Any) -> Any:
        u = kind.__call__(self, inputs, *args, **options)
        met.setdefault(name, (inputs.shape, u.shape))
        visits[name] = visits.get(name, 0) + 1
        fed[name] = fed[name] + inputs.sum() if name in fed else inputs.sum()
        return u + taps[name].astype(u.dtype) if name in taps and taps[name].shape == u.shape else u

    return type(kind.__name__, (kind,), {"__call__": call})


def modules_of(value: Any, path: tuple[str, ...], met: set[int]) -> Iterator[tuple[str, nnx.Module]]:
    """Every module once, in the order in which the attributes were made (NNX itself goes by the alphabet)."""
    if id(value) in met:
        return
    met.add(id(value))
    inside: dict[Any, Any]
    if isinstance(value, nnx.Module):
        yield ".".join(path), value
        inside = {name: part for name, part in vars(value).items() if not name.startswith("_pytree__")}
    elif isinstance(value, Mapping):
        inside = dict(value)
    elif isinstance(value, list | tuple):
        inside = dict(enumerate(value))
    else:
        return
    for name, part in inside.items():
        yield from modules_of(part, (*path, str(name)), met)
