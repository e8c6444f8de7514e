"""One batch through a copy of a network before it is converted, which leaves no trace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import jax
from flax import nnx
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from ruledsl.assembly import Trace, Traced
from ruledsl.errors import UserError
from ruledsl_jax.dependence import MARK, Dependence
from ruledsl_jax.modules import KINDS

PARAMETERS = "parameters"
IN, OUT = "into ", "out of "


def trace(net: nnx.Module, example: Any) -> Trace:
    """What every layer meets, in the order in which they run first, in evaluation mode.

    Raises UserError where the example does not go through.
    """
    copy = nnx.clone(net)
    copy.eval()  # type: ignore[no-untyped-call]
    parts: Any = nnx.split(copy, nnx.Param, ...)
    graph, params, rest = parts
    met: dict[str, tuple[Any, Any]] = {}
    visits: dict[str, int] = {}

    def run(params: Any) -> Any:
        net = nnx.merge(graph, params, rest)
        for name, module in list(modules_of(net, (), set())):
            if type(module) in KINDS:
                module.__class__ = _watched(type(module), name, met, visits)
        return net(example)

    try:
        jaxpr, output = jax.make_jaxpr(run, return_shape=True)(params)
    except UserError:
        raise
    except Exception as error:  # the user's network may raise anything; it is shown, and chained
        raise UserError(
            f"the example does not go through the network: {type(error).__name__}: {_first_line(error)}",
            f"example={_shown(example)} was given, where an input batch was expected",
        ) from error
    outgoing = [OUT + name for name in met]
    dependence = Dependence(outgoing)
    dependence.through(jaxpr.jaxpr, [frozenset({PARAMETERS})] * len(jaxpr.jaxpr.invars))
    above = {name: dependence.met.get(IN + name, frozenset()) for name in met}
    layers = {
        name: Traced(x, u, bool(above[name]), tuple(other for other in met if OUT + name in above[other]), visits[name])
        for name, (x, u) in met.items()
    }
    shape: tuple[int, ...] = getattr(output, "shape", ())
    return Trace(layers, shape[1] if len(shape) == 2 else None)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


def _shown(example: Any) -> str:
    return f"{example.dtype}{list(example.shape)}" if hasattr(example, "shape") else type(example).__name__


def _watched(kind: Any, name: str, met: Any, visits: Any) -> Any:
    def call(self: Any, inputs: Array, *args: Any, **options: Any) -> Any:
        u = kind.__call__(self, checkpoint_name(inputs, MARK + IN + name), *args, **options)
        met.setdefault(name, (inputs.shape, u.shape))
        visits[name] = visits.get(name, 0) + 1
        return checkpoint_name(u, MARK + OUT + name)

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
