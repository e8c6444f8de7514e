"""Networks that `ruledsl.architectures` describes, as pure functions of images [batch, height, width, channels].

Sequences are [batch, positions, units].

What a layer with numbers of its own computes is asked of the caller, by the layer's path: `block1_1.conv2`, and
`block1_1.conv2_norm` for its normalisation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import Array

from ruledsl.architectures import ActivationKind, Architecture, Layer, Shape
from ruledsl.architectures.components import (
    Activation,
    Attention,
    BatchNorm,
    ClassToken,
    Conv,
    Dense,
    Dropout,
    FirstPosition,
    Flatten,
    GlobalAveragePool,
    LayerNorm,
    MeanPosition,
    Norm,
    Pad,
    Pool,
    PositionEmbedding,
    Positions,
    Residual,
    Subsample,
)
from ruledsl_jax import linear
from ruledsl_jax.pooling import pooled

ACTIVATIONS: dict[ActivationKind, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "leaky_relu": jax.nn.leaky_relu,
    "elu": jax.nn.elu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "silu": jax.nn.silu,
    "softplus": jax.nn.softplus,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
}


class Parts(Protocol):
    """The layers that have numbers."""

    def linear(self, path: str, x: Array) -> Array:
        """u of a weight layer"""

    def norm(self, path: str, v: Array) -> Array:
        """Batch normalisation over all axes but the last."""

    def layer_norm(self, path: str, v: Array) -> Array:
        """Normalisation over the last axis."""

    def embedding(self, path: str) -> Array:
        """A parameter [positions, units] that belongs to no weight layer."""

    def dropout(self, path: str, p: float, v: Array) -> Array:
        """v, with dropout in training."""


def forward(architecture: Architecture, parts: Parts, x: Array) -> Array:
    """[batch, *input_shape] with channels last -> logits [batch, classes]"""
    return _through(architecture.layers, architecture.input_shape, "", parts, x)


def linear_maps(architecture: Architecture) -> dict[str, linear.Linear]:
    """The map of every weight layer, by its path."""
    return {place.path: _map(place.layer, place.input_shape) for place in architecture.weight_layers()}


def norms(architecture: Architecture) -> dict[str, tuple[int, bool]]:
    """By path, the channels of every batch normalisation, and whether it has a gain and a shift."""
    return dict(_norms(architecture.layers, architecture.input_shape, ""))


def layer_norms(architecture: Architecture) -> dict[str, int]:
    """By path, the units of every layer normalisation."""
    return {p.path: p.input_shape[-1] for p in architecture.places() if isinstance(p.layer, LayerNorm)}


def _map(layer: Layer, shape: Shape) -> linear.Linear:
    if isinstance(layer, Dense):
        return linear.Dense(shape[-1], layer.units, shape[:-1])
    assert isinstance(layer, Conv)
    own = layer.padded(shape)[1]
    sizes = (shape[0], layer.channels, layer.kernel_size, layer.seen_shape(shape)[1:])
    two = (layer.stride,) * 2, tuple((pad, pad) for pad in own), (layer.dilation,) * 2
    return linear.Convolution(*sizes, *two, layer.groups)


def _norms(layers: tuple[Layer, ...], shape: Shape, prefix: str) -> Iterator[tuple[str, tuple[int, bool]]]:
    for layer in layers:
        end = layer.output_shape(shape)
        match layer:
            case BatchNorm():
                yield prefix + layer.name, (shape[0], layer.affine)
            case Residual():
                inside = f"{prefix}{layer.name}."
                yield from _norms(layer.body, shape, inside)
                yield from _norms(layer.shortcut, shape, inside)
                yield from _own_norm(layer.norm, end, f"{inside}sum")
            case Dense() | Conv():
                yield from _own_norm(layer.norm, end, prefix + layer.name)
        shape = end


def _own_norm(norm: Norm | None, shape: Shape, path: str) -> Iterator[tuple[str, tuple[int, bool]]]:
    if norm is not None:
        yield f"{path}_norm", (shape[0], norm.affine)


def _through(layers: tuple[Layer, ...], shape: Shape, prefix: str, parts: Parts, x: Array) -> Array:
    for index, layer in enumerate(layers):
        x = _over(layer, shape, f"{prefix}dropout{index}" if isinstance(layer, Dropout) else prefix, parts, x)
        shape = layer.output_shape(shape)
    return x


def _over(layer: Layer, shape: Shape, prefix: str, parts: Parts, x: Array) -> Array:
    match layer:
        case Dense():
            path = prefix + layer.name
            return _activated(layer.activation, layer.norm, path, parts, parts.linear(path, x))
        case Conv():
            path = prefix + layer.name
            u = parts.linear(path, _padded(x, *layer.padded(shape)[0]))
            return _activated(layer.activation, layer.norm, path, parts, u)
        case Residual():
            inside = f"{prefix}{layer.name}."
            body, shortcut = (_through(way, shape, inside, parts, x) for way in (layer.body, layer.shortcut))
            return _activated(layer.activation, layer.norm, f"{inside}sum", parts, body + shortcut)
        case BatchNorm():
            return parts.norm(prefix + layer.name, x)
        case LayerNorm():
            return parts.layer_norm(prefix + layer.name, x)
        case Attention():
            return _attended(layer, shape, f"{prefix}{layer.name}.", parts, x)
        case ClassToken():
            token = parts.embedding(prefix + layer.name)
            return jnp.concatenate((jnp.broadcast_to(token, (len(x), *token.shape)), x), axis=1)
        case PositionEmbedding():
            return x + parts.embedding(prefix + layer.name)
        case Dropout():
            return parts.dropout(prefix, layer.p, x)
        case Pool():
            return pooled(layer, x, layer.output_shape(shape)[1:])  # type: ignore[arg-type]
        case GlobalAveragePool():
            return x.mean((1, 2))
        case Pad():
            return _padded(x, layer.top, layer.bottom, layer.left, layer.right)
        case Subsample():
            more = layer.channels - shape[0]
            return jnp.pad(x[:, :: layer.stride, :: layer.stride], ((0, 0), (0, 0), (0, 0), (0, more)))
        case Positions():
            return x.reshape(len(x), -1, x.shape[-1])
        case FirstPosition():
            return x[:, 0]
        case MeanPosition():
            return x.mean(1)
        case Flatten():
            return channel_by_channel(x)
        case Activation():
            return ACTIVATIONS[layer.kind](x)


def _attended(layer: Attention, shape: Shape, inside: str, parts: Parts, x: Array) -> Array:
    """[batch, positions, units] to the same."""
    q, k, v = (
        parts.linear(inside + own.name, x).reshape(*x.shape[:2], layer.heads, -1) for own in layer.projections(shape)
    )
    brought = jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
    return parts.linear(inside + layer.out(shape).name, brought)


def channel_by_channel(x: Array) -> Array:
    """[batch, *size, channels] -> [batch, units], in the order of an image with its channels first."""
    return jnp.moveaxis(x, -1, 1).reshape(len(x), -1)


def _padded(x: Array, top: int, bottom: int, left: int, right: int) -> Array:
    return jnp.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0))) if any((top, bottom, left, right)) else x


def _activated(kind: ActivationKind | None, norm: Norm | None, path: str, parts: Parts, u: Array) -> Array:
    if norm is not None and norm.place == "before":
        u = parts.norm(f"{path}_norm", u)
    if kind is not None:
        u = ACTIVATIONS[kind](u)
    if norm is not None and norm.place == "after":
        u = parts.norm(f"{path}_norm", u)
    return u
