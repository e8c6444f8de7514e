"""Backpropagation with alignment (backprop_alignment).

Source: Moskovitz et al. 2018, eq. 9

Locality: nonlocal; reverse(W) -> send.

strength  weight of the penalty

Made by ruledsl 0.1.0 from rule text 00d10bd592b7535f.

    net = nn.Sequential(Linear(784, 256), nn.ReLU(), Linear(256, 10))
    loss(net(x), labels).backward()  # what the rule says is in .grad

`ruledsl_torch.convert(net, "backprop_alignment")` does the same to any module, in place.

Activities are [batch, units] or [batch, channels, *size]. `layer` is the linear map of a layer, with `apply`,
`adjoint` and `outer`; every map between its two sides, in either direction, is stored like W.
"""

import math

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from ruledsl_torch.layers import apply_of
from ruledsl_torch.linear import convolution, dense
from ruledsl_torch.randomness import named, normal_
from ruledsl_torch.stepping import Once, StepLayer


def init_V(shape, fan_in, generator=None):
    """The first value of V: normal(0, sqrt(1 / fan_in))."""
    return normal_(torch.empty(shape), 0.0, math.sqrt(1 / fan_in), generator)


def send(layer, W, delta):
    """The error for the neurons that feed this layer: W.T @ delta."""
    return layer.adjoint(W, delta)


def grad_W(layer, x, delta):
    """What a backward pass brings to the pseudo-gradient of W: outer(delta, x)."""
    return layer.outer(delta, x)


def complete_W(W, V, summed, strength=0.001):
    """The pseudo-gradient of W from what backward passes have summed: summed + 2 * strength * (W - V)."""
    return summed + 2 * strength * (W - V)


def grad_b(layer, delta):
    """The pseudo-gradient of b: total(delta)."""
    return layer.sum_to_units(delta)


class BackpropAlignment(torch.autograd.Function):
    """u = W @ x + b; in the place of gradients stands what the rule says."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, W, b, layer):
        return layer.apply(W, x, b)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, W, _, layer = inputs
        needs_x, needs_W, *_ = ctx.needs_input_grad
        ctx.layer = layer
        ctx.save_for_backward(x if needs_W else None, W if needs_x else None)

    @staticmethod
    @once_differentiable
    def backward(ctx, delta):
        needs_x, needs_W, needs_b, *_ = ctx.needs_input_grad
        layer = ctx.layer
        x, W = ctx.saved_tensors
        return (
            send(layer, W, delta) if needs_x else None,
            grad_W(layer, x, delta) if needs_W else None,
            grad_b(layer, delta) if needs_b else None,
            None,
        )


class BackpropAlignmentLayer(StepLayer):
    """What layers of every kind do under this rule."""

    rule = "backprop_alignment"
    strength = 0.001
    hyperparameters = ("strength",)
    own_decay = ("weight",)
    once = (
        Once("weight", lambda self, summed: complete_W(self.weight, self.V, summed, self.strength)),
    )

    def start(self, generator=None):
        """Make what the rule adds to a layer: V."""
        layer = self.linear_map()
        shape = layer.kernel_shape
        self.keep("V", shape, init_V(shape, layer.fan_in, named(generator, "V")))

    def forward(self, x):
        if not torch.is_grad_enabled():
            return super().forward(x)
        if x.dim() == self.example_axes:
            return self(x[None])[0]
        self.watch(x)
        layer = self.linear_map(x)
        return apply_of(BackpropAlignment, self)(x, self.weight, self.bias, layer)


class Linear(BackpropAlignmentLayer, nn.Linear):
    """torch.nn.Linear with its arguments; W: [out_features, in_features]."""

    linear_map = dense
    example_axes = 1


class Conv2d(BackpropAlignmentLayer, nn.Conv2d):
    """torch.nn.Conv2d with its arguments; W: [out_channels, in_channels / groups, height, width]."""

    linear_map = convolution
    example_axes = 3
