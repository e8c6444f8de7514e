"""Weight mirrors with adaptive optimization (weight_mirror_ad).

Source: Kunin et al. 2020, Table 5, column 2; section B.1.2

Locality: local; pool(batch) -> B.

Compiled with fo_bias = True, fo_relu = True, fo_bwmc = True, fo_fwmc = False, fo_fwl2n = False,
bo_bias = False, bo_relu = False, bo_fwmc = False, bo_fwl2n = False, bi_bwmc = True, bi_fwmc =
False, bi_fwl2n = False, use_null = False, delay = 0.

sigma  standard deviation of the noise
alpha  weight of amp
beta   weight of decay
gamma  weight of null

Made by ruledsl 0.1.0 from rule text a16f8cfc1396e8cf.

Activities are [batch, units] or [batch, height, width, channels]. `layer` is the linear map of the layer, with
`apply`, `adjoint` and `outer` (Dense and Conv2d of ruledsl_jax.linear). Maps between the two sides
of the layer are stored like W, in either direction.
"""

import math

import jax
import jax.numpy as jnp


def init_B(shape, key, fan_out):
    """The first value of B: normal(0, sqrt(1 / fan_out))."""
    return math.sqrt(1 / fan_out) * jax.random.normal(key, shape)


def send(layer, B, delta):
    """The error for the neurons that feed this layer: B @ delta."""
    return layer.adjoint(B, delta)


def grad_W(layer, x, delta):
    """The pseudo-gradient of W: outer(delta, x)."""
    return layer.outer(delta, x)


def grad_b(layer, delta):
    """The pseudo-gradient of b: summed(delta)."""
    return layer.sum_to_units(delta)


def drive_x_align(shape, key, sigma=0.95):
    """The activity that stands in for x in this phase: normal(0, sigma)."""
    return sigma * jax.random.normal(key, shape)


def grad_B_align(layer, W, B, b, x, alpha=3.90827536e-07, beta=2.8109e-08):
    """The pseudo-gradient of B: 2 * beta * B - alpha * outer(f_centered, x_centered, mean=batch).T."""
    f_rectified = jax.nn.relu(layer.apply(W, x, b))
    f_centered = f_rectified - jnp.mean(f_rectified, axis=0, keepdims=True)
    x_centered = x - jnp.mean(x, axis=0, keepdims=True)
    return 2 * beta * B - alpha * layer.outer(f_centered, x_centered, mean="batch")
