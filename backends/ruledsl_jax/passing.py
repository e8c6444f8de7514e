"""A forward pass under way: what its layers hand on to each other and to the output beside the activity.

All of it is values of this pass. Nothing that outlives the pass changes, so that a network can be merged, or closed
over, inside what is differentiated.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.tracers import TraceState
from jax import Array

from ruledsl.errors import UserError


class Zero(nnx.Variable[Any]):
    """Zeros on their way out of a transformation inside a pass; no layer has them before or after."""


ZERO = "zero on its way"  # with spaces in it, it can't be the name of a rule's tensor


@dataclass
class Passing:
    """A pass of a converted network.

    phase    the one that it is a pass of; `travels`: whether errors go from layer to layer in it
    output   the sum of the zeros whose gradient is the error at the output
    zeros    by layer, the zeros for its u that layers before it have made
    """

    rule: str
    phase: str
    travels: bool
    output: Any = None
    zeros: dict[str, Array] = field(default_factory=dict)
    level: TraceState = field(default_factory=TraceState)

    def to_output(self, layer: nnx.Module, zero: Array) -> None:
        """Have a zero added to the network's output.

        Where the layer runs inside a transformation of the network's own, such as nnx.remat or nnx.scan, the zero
        leaves it as NNX brings variables out. Raises UserError where NNX does not.
        """
        if self.level.is_valid():
            self.output = zero if self.output is None else self.output + zero
            return
        if not layer._pytree__state.trace_state.is_valid():
            raise self.out_of_reach("use that of nnx, with the module among its arguments: nnx.remat(call)(module, x)")
        before = getattr(layer, ZERO, None)
        setattr(layer, ZERO, Zero(zero if before is None else before.get_value() + zero))

    def zero_for(self, path: str, shape: Sequence[int], x: Array) -> Array:
        """The zero for u of a layer."""
        if not self.level.is_valid():
            raise self.out_of_reach("leave the transformation out")
        if path not in self.zeros:
            self.zeros[path] = jnp.zeros_like(x, shape=tuple(shape))
        return self.zeros[path]

    def out_of_reach(self, help: str) -> UserError:
        """What to say of a layer that runs where nothing can be handed on."""
        return UserError(
            f"{self.rule} reads errors from other layers, and this layer ran under a transformation inside the network "
            "which they do not pass",
            help,
        )


_UNDER_WAY: ContextVar[Passing | None] = ContextVar("pass", default=None)


def current() -> Passing | None:
    """The pass that is under way, if one is."""
    return _UNDER_WAY.get()


@contextmanager
def passing(rule: str, phase: str, travels: bool) -> Iterator[Passing]:
    """A pass begins."""
    own = Passing(rule, phase, travels)
    token = _UNDER_WAY.set(own)
    try:
        yield own
    finally:
        _UNDER_WAY.reset(token)


@jax.custom_vjp
def arriving(holders: Any, values: Any) -> Array:
    """A zero: whatever its error, the values arrive as the gradients of the holders, which have their shapes."""
    return jnp.zeros(())


def _arriving_fwd(holders: Any, values: Any) -> tuple[Array, Any]:
    return jnp.zeros(()), values


def _arriving_bwd(values: Any, error: Array) -> tuple[Any, Any]:
    return values, jax.tree.map(jnp.zeros_like, values)


arriving.defvjp(_arriving_fwd, _arriving_bwd)
