"""What emitted modules have in common, beside the linear maps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

Activation = Callable[[Array], Array]


def filled(value: Any, like: Array) -> Array:
    """A result in the full shape of what it is for: `send = 0` is one number for all."""
    return jnp.broadcast_to(jnp.asarray(value, like.dtype), like.shape)


def slope(phi: Activation) -> Activation:
    """The derivative of an elementwise function, as a function."""
    return lambda v: jax.jvp(phi, (v,), (jnp.ones_like(v),))[1]


def connected(*families: Sequence[Any] | None) -> tuple[Any, ...]:
    """Families with something for every layer that runs later, without those layers for which the first has None."""
    if families[0] is None:
        return families
    there = [M is not None for M in families[0]]
    return tuple(
        family and tuple(M for M, has in zip(family, there, strict=True) if has)  # None stays None
        for family in families
    )
