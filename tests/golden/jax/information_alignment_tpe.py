"""Information alignment, found by search (information_alignment_tpe).

Source: Kunin et al. 2020, Table 5, column 4

Locality: nonlocal; pool(units) -> send, pool(positions) -> send, pool(batch) -> B, pool(units) ->
B, pool(positions) -> B, reverse(B) -> B, multiplex(post -> pre) -> B.

Compiled with fo_bias = True, fo_relu = True, fo_bwmc = True, fo_fwmc = True, fo_fwl2n = False,
bo_bias = True, bo_relu = False, bo_fwmc = True, bo_fwl2n = True, bi_bwmc = False, bi_fwmc = False,
bi_fwl2n = False, use_null = True, delay = 1.

sigma  standard deviation of the noise
alpha  weight of amp
beta   weight of decay
gamma  weight of null

Made by ruledsl 0.1.0 from rule text 7e8f67cdce3682ff.

A network is pure functions of its layers' parameters and states:

    hidden, output = Dense(784, 256), Dense(256, 10)
    params_1, state_1 = init(hidden, key_1, sends=False)  # the first layer sends to nobody
    params_2, state_2 = init(output, key_2)

    logits = apply(output, params_2, state_2, jax.nn.relu(apply(hidden, params_1, state_1, x)))

and `jax.grad` of a loss of the logits gives the rule's pseudo-gradients, for any optimizer.
Phases: `align` for the first epoch; then `task` and `align` in turn:

    # in each layer that sends
    gradients_by_align = align(output, params_2, state_2, key, batch_size=32)

Activities are [batch, units] or [batch, height, width, channels]. `layer` is the linear map of a
layer: Dense, Convolution or Embedding. Maps between its two sides, in either direction, are stored
like W: [in, out] or [height, width, in / groups, out].
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from ruledsl_jax.linear import Linear, forward_weights
from ruledsl_jax.mesh import vary_alike
from ruledsl_jax.randomness import Key, named, normal


def init_B(shape, key, fan_out):
    """The first value of B: normal(0, sqrt(1 / fan_out))."""
    return math.sqrt(1 / fan_out) * normal(key, shape)


def send(layer, B, delta):
    """The error for the neurons that feed this layer: B @ delta."""
    return layer.adjoint(B, delta)


def grad_W(layer, x, delta):
    """The pseudo-gradient of W: outer(delta, x)."""
    return layer.outer(delta, x)


def grad_b(layer, delta):
    """The pseudo-gradient of b: total(delta)."""
    return layer.sum_to_units(delta)


def drive_x_align(shape, key, sigma=0.8176):
    """The activity that stands in for x in this phase: normal(0, sigma)."""
    return sigma * normal(key, shape)


def grad_B_align(layer, W, B, b, x, batch_size, alpha=1032.7692877, beta=7.999, gamma=3.161e-06):
    """The pseudo-gradient of B: derived, see below."""
    projected = layer.apply(W, x)
    f_rectified = jax.nn.relu(projected + layer.spread(b))
    f_centered = f_rectified - jnp.mean(f_rectified, axis=0, keepdims=True)
    f_contrasted = f_centered - jnp.mean(f_centered, axis=-1, keepdims=True)
    h_linear = layer.apply(B, x, b)
    h_contrasted = h_linear - jnp.mean(h_linear, axis=-1, keepdims=True)
    l2_norm = jnp.linalg.norm(h_contrasted, axis=-1, keepdims=True).clip(1e-6)
    ratio = f_contrasted / l2_norm
    ratio_2 = h_contrasted / l2_norm
    difference = (
        jnp.where(
            l2_norm > 1e-06,
            (
                alpha
                * projected.shape[-1]
                / batch_size
                * (jnp.mean(ratio * ratio_2, axis=-1, keepdims=True) * ratio_2)
            ),
            0,
        )
        - alpha / batch_size * ratio
    )
    return (
        2 * gamma * layer.outer(f_contrasted, layer.adjoint(B, f_contrasted), mean="batch")
        + 2 * beta * B
        + layer.outer(difference - jnp.mean(difference, axis=-1, keepdims=True), x)
    )


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def affine(layer, W, b, B, x):
    """u = W @ x + b, whose derivative is what the rule says."""
    return layer.apply(W, x, b)


def affine_fwd(layer, W, b, B, x):
    return affine(layer, W, b, B, x), (B, x)


def affine_bwd(layer, residuals, delta):
    B, x = residuals
    sent = None if B is None else send(layer, B, delta)
    return grad_W(layer, x, delta), grad_b(layer, delta), None, sent


affine.defvjp(affine_fwd, affine_bwd)


class Params(NamedTuple):
    """What has a pseudo-gradient. Without a bias, b is None. A layer that sends to nobody has no B."""

    W: Array
    b: Array | None
    B: Array | None


class State(NamedTuple):
    """What else belongs to the rule: nothing."""


def init(
    layer: Linear, key: Key, *, W: Array | None = None, b: Array | None = None, sends: bool = True
) -> tuple[Params, State]:
    """First values, for the W and b of a network that exists, or with new ones.

    sends  False for a layer whose input has no derivative that anybody needs: it is zero there
    """
    if W is None:
        W, b = forward_weights(layer, named(key, "W"))
    B = init_B(layer.kernel_shape, named(key, "B"), layer.fan_out).astype(W.dtype) if sends else None
    return Params(W, b, B), State()


def apply(layer: Linear, params: Params, state: State, x: Array) -> Array:
    """u = W @ x + b: [batch, *pre] -> [batch, *post]."""
    W, b, B = params
    if b is None:
        b = jnp.zeros(layer.units_out, W.dtype)
    return affine(layer, *vary_alike(W, b, B, x))


def align(
    layer: Linear,
    params: Params,
    state: State,
    key: Key,
    batch_size: int,
    *,
    sigma: ArrayLike = 0.8176,
    alpha: ArrayLike = 1032.7692877,
    beta: ArrayLike = 7.999,
    gamma: ArrayLike = 3.161e-06,
) -> Params:
    """The phase `align` of a layer that sends: noise drives its input, and B gets a pseudo-gradient."""
    W, b, B = params
    if b is None:
        b = jnp.zeros(layer.units_out, W.dtype)
    x = drive_x_align((batch_size, *layer.pre_shape), named(key, "x", "align"), sigma).astype(W.dtype)
    return Params(W=None, b=None, B=grad_B_align(layer, W, B, b, x, batch_size, alpha, beta, gamma))
