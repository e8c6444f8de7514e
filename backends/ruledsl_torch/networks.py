"""Networks that `ruledsl.architectures` describes, as torch modules."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

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
from ruledsl.architectures.sequences import EPSILON
from ruledsl.streams import first_embeddings, first_weights

ACTIVATIONS: dict[ActivationKind, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "leaky_relu": functional.leaky_relu,
    "elu": functional.elu,
    "gelu": functional.gelu,
    "silu": functional.silu,
    "softplus": functional.softplus,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
}
Step = str | Callable[[Tensor], Tensor]


class Network(nn.Module):
    """An architecture as a module: [batch, *input_shape] -> logits [batch, classes].

    Its weight layers are attributes of the architecture's names (`net.conv1`, `net.fc1`, `net.block1_1.conv2`).
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.steps = _add(self, architecture.layers, architecture.input_shape)

    def forward(self, x: Tensor) -> Tensor:
        return _run(self, self.steps, x)


class Block(nn.Module):
    """A residual block: the sum of a body and a shortcut, then an activation, with its normalisation around it."""

    def __init__(self, block: Residual, shape: Shape) -> None:
        super().__init__()
        self.body = _add(self, block.body, shape)
        self.way_around = _add(self, block.shortcut, shape)
        self.after: list[Step] = []
        _add_activation(self, self.after, "sum", block.activation, block.norm, block.output_shape(shape))

    def forward(self, x: Tensor) -> Tensor:
        return _run(self, self.after, _run(self, self.body, x) + _run(self, self.way_around, x))


class Heads(nn.Module):
    """Attention over the positions of a sequence, its maps weight layers: [batch, positions, units] to the same."""

    def __init__(self, attention: Attention, shape: Shape) -> None:
        super().__init__()
        self.heads = attention.heads
        for layer in attention.inside(shape):
            self.add_module(layer.name, nn.Linear(shape[-1], layer.units, layer.bias))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (self._apart(layer(x)) for layer in (self.q_proj, self.k_proj, self.v_proj))
        brought = functional.scaled_dot_product_attention(q, k, v)
        joined: Tensor = self.out_proj(brought.transpose(1, 2).flatten(2))
        return joined

    def _apart(self, v: Tensor) -> Tensor:
        """[batch, positions, units] -> [batch, heads, positions, units / heads]"""
        return v.unflatten(2, (self.heads, -1)).transpose(1, 2)


class Embedding(nn.Module):
    """A learnt parameter `value` [positions, units] that belongs to no weight layer."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.empty(shape))


class Token(Embedding):
    """Its value comes before all positions."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((self.value.expand(len(x), -1, -1), x), 1)


class Added(Embedding):
    """Its value is added."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.value


def build(architecture: Architecture, seed: int = 0) -> Network:
    """The network, with the first W and b that follow from a seed, in every backend alike."""
    net = Network(architecture)
    with torch.no_grad():
        for path, W, b in first_weights(architecture.kernels(), seed):
            layer: Any = net.get_submodule(path)
            layer.weight.copy_(torch.from_numpy(W))
            if b is not None:
                layer.bias.copy_(torch.from_numpy(b))
        for path, value in first_embeddings(architecture.embeddings(), seed):
            embedding: Any = net.get_submodule(path)
            embedding.value.copy_(torch.from_numpy(value))
    return net


def activations(architecture: Architecture) -> dict[str, Callable[[Tensor], Tensor]]:
    """The activation of every weight layer that declares one, by the name of its module: `convert(activations=)`."""
    return {path: ACTIVATIONS[kind] for path, kind in architecture.activations().items() if kind is not None}


def _run(module: nn.Module, steps: list[Step], x: Tensor) -> Tensor:
    # Layers are looked up by name: `convert` puts another module under the same name.
    for step in steps:
        x = getattr(module, step)(x) if isinstance(step, str) else step(x)
    return x


def _add(module: nn.Module, layers: tuple[Layer, ...], shape: Shape) -> list[Step]:
    """Give `module` the submodules of `layers`; the steps that compute them."""
    steps: list[Step] = []
    for index, layer in enumerate(layers):
        match layer:
            case Dense():
                _add_named(module, steps, layer.name, nn.Linear(shape[-1], layer.units, layer.bias))
                _add_activation(module, steps, layer.name, layer.activation, layer.norm, layer.output_shape(shape))
            case Conv():
                _add_conv(module, steps, layer, shape)
                _add_activation(module, steps, layer.name, layer.activation, layer.norm, layer.output_shape(shape))
            case Residual():
                _add_named(module, steps, layer.name, Block(layer, shape))
            case BatchNorm():
                _add_named(module, steps, layer.name, _batch_norm(shape, layer.affine))
            case LayerNorm():
                _add_named(module, steps, layer.name, nn.LayerNorm(shape[-1], eps=EPSILON))
            case Attention():
                _add_named(module, steps, layer.name, Heads(layer, shape))
            case ClassToken():
                _add_named(module, steps, layer.name, Token(layer.embedding_shape(shape)))
            case PositionEmbedding():
                _add_named(module, steps, layer.name, Added(layer.embedding_shape(shape)))
            case Dropout():
                _add_named(module, steps, f"dropout{index}", nn.Dropout(layer.p))
            case _:
                steps.append(_without_state(layer, shape))
        shape = layer.output_shape(shape)
    return steps


def _without_state(
    layer: Pool | GlobalAveragePool | Pad | Subsample | Flatten | Activation | Positions | FirstPosition | MeanPosition,
    shape: Shape,
) -> Callable[[Tensor], Tensor]:
    match layer:
        case Pool(kind="max"):
            return partial(
                functional.max_pool2d,
                kernel_size=layer.kernel,
                stride=layer.stride,
                padding=layer.padding,
                ceil_mode=layer.ceil,
            )
        case Pool():
            return partial(
                functional.avg_pool2d,
                kernel_size=layer.kernel,
                stride=layer.stride,
                padding=layer.padding,
                ceil_mode=layer.ceil,
                count_include_pad=False,
            )
        case GlobalAveragePool():
            return partial(torch.mean, dim=(2, 3))
        case Pad():
            return partial(functional.pad, pad=(layer.left, layer.right, layer.top, layer.bottom))
        case Subsample():
            return partial(_subsampled, stride=layer.stride, more=layer.channels - shape[0])
        case Positions():
            return _by_position
        case FirstPosition():
            return partial(torch.select, dim=1, index=0)
        case MeanPosition():
            return partial(torch.mean, dim=1)
        case Flatten():
            return partial(torch.flatten, start_dim=1)
        case Activation():
            return ACTIVATIONS[layer.kind]


def _subsampled(x: Tensor, stride: int, more: int) -> Tensor:
    """Every `stride`-th position, and channels of zeros behind those that there are."""
    return functional.pad(x[:, :, ::stride, ::stride], (0, 0, 0, 0, 0, more))


def _by_position(x: Tensor) -> Tensor:
    """[batch, channels, height, width] -> [batch, positions, channels]"""
    return x.flatten(2).transpose(1, 2)


def _add_conv(module: nn.Module, steps: list[Step], layer: Conv, shape: Shape) -> None:
    (top, bottom, left, right), own = layer.padded(shape)
    if any((top, bottom, left, right)):
        steps.append(partial(functional.pad, pad=(left, right, top, bottom)))
    conv = nn.Conv2d(
        shape[0],
        layer.channels,
        layer.kernel_size,
        stride=layer.stride,
        padding=own,
        dilation=layer.dilation,
        groups=layer.groups,
        bias=layer.bias,
    )
    _add_named(module, steps, layer.name, conv)


def _add_activation(
    module: nn.Module, steps: list[Step], name: str, kind: ActivationKind | None, norm: Norm | None, shape: Shape
) -> None:
    if norm is not None and norm.place == "before":
        _add_named(module, steps, f"{name}_norm", _batch_norm(shape, norm.affine))
    if kind is not None:
        steps.append(ACTIVATIONS[kind])
    if norm is not None and norm.place == "after":
        _add_named(module, steps, f"{name}_norm", _batch_norm(shape, norm.affine))


def _batch_norm(shape: Shape, affine: bool) -> nn.Module:
    return nn.BatchNorm2d(shape[0], affine=affine) if len(shape) == 3 else nn.BatchNorm1d(shape[0], affine=affine)


def _add_named(module: nn.Module, steps: list[Step], name: str, submodule: nn.Module) -> None:
    module.add_module(name, submodule)
    steps.append(name)
