"""Layers inside `jax.shard_map`."""

from __future__ import annotations

from typing import Any

import jax


def vary_alike(*values: Any) -> tuple[Any, ...]:
    """The values, all varying over the mesh axes over which any of them varies; outside `shard_map`, as they are.

    What a device computes for W differs from device to device, as x does. A custom derivative has to hear this of W
    too. JAX then adds up the gradients of what was replicated, as it does for its own derivatives.
    """
    axes = frozenset[str]().union(*map(_axes, jax.tree.leaves(values)))

    def varying(leaf: Any) -> Any:
        return jax.lax.pcast(leaf, tuple(sorted(axes - _axes(leaf))), to="varying")

    return jax.tree.map(varying, values) if axes else values


def _axes(leaf: Any) -> frozenset[str]:
    return frozenset(jax.typeof(leaf).manual_axis_type.varying)
