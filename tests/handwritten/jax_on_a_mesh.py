"""Run as a program: on four devices the modules learn what they learn on one, however the batch is spread over them."""

from __future__ import annotations

import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"

from typing import Any

import jax
import numpy as np
from handwritten import jax_networks as networks
from handwritten.jax import dense_feedback_alignment, feedback_alignment, weight_mirror
from jax import Array
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

jax.config.update("jax_enable_x64", True)
mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
SPREAD, WHOLE = P("data"), P()


def same(found: Any, wanted: Any) -> None:
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)


def hold(net: networks.Network) -> None:
    """Compare steps and gradients with those on one device."""
    params, state = net.init(jax.random.key(0))
    x, labels = batch = net.batch(1)
    key = jax.random.key(5)
    step = jax.jit(net.step)(params, state, key, batch)
    gradients = jax.jit(jax.grad(net.loss))(params, state, x, labels)

    def on_mesh(function: Any, specs: Any, checked: bool = True) -> Any:
        return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=specs, out_specs=WHOLE, check_vma=checked))

    def mean_loss(params: Any, state: Any, x: Array, labels: Array) -> Array:
        return jax.lax.pmean(net.loss(params, state, x, labels), "data")

    def mean_gradient(params: Any, state: Any, x: Array, labels: Array) -> Any:
        return jax.lax.pmean(jax.grad(net.loss)(params, state, x, labels), "data")

    specs = (WHOLE, WHOLE, SPREAD, SPREAD)
    # JAX adds up the gradients of replicated parameters itself, inside of shard_map and through it.
    same(on_mesh(jax.grad(mean_loss), specs)(params, state, x, labels), gradients)
    same(jax.jit(jax.grad(on_mesh(mean_loss, specs)))(params, state, x, labels), gradients)
    # Without check_vma that is up to whoever writes the step.
    same(on_mesh(mean_gradient, specs, checked=False)(params, state, x, labels), gradients)
    # Without shard_map the compiler divides the work.
    spread = jax.device_put(batch, NamedSharding(mesh, SPREAD))
    same(jax.jit(net.step)(*jax.device_put((params, state), NamedSharding(mesh, WHOLE)), key, spread), step)
    if hasattr(net.rule, "mirror"):
        mirrored = on_mesh(lambda *given: net.rule.mirror(net.layers[1], *given, 8), (WHOLE, WHOLE, WHOLE))
        same(mirrored(params[1], state[1], key), net.rule.mirror(net.layers[1], params[1], state[1], key, 8))


hold(networks.convnet(feedback_alignment))
hold(networks.mlp(weight_mirror))
hold(networks.convnet(dense_feedback_alignment))
print("the same on 4 devices")
