"""Sign-concordant feedback, initialisation method (usf_init).

Source: Moskovitz et al. 2018, eq. 4

Locality: nonlocal; sign(W) -> send.

Made by ruledsl 0.1.0 from rule text b3fa14ec3c89ace3.

    net = nn.Sequential(Linear(784, 256), nn.ReLU(), Linear(256, 10))
    loss(net(x), labels).backward()  # what the rule says is in .grad

`ruledsl_torch.convert(net, "usf_init")` does the same to any module, in place.

Activities are [batch, units] or [batch, channels, *size]. `layer` is the linear map of a layer, with `apply`,
`adjoint` and `outer`; every map between its two sides, in either direction, is stored like W.
"""

import math

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from ruledsl_torch.layers import RuleLayer, apply_of
from ruledsl_torch.linear import convolution, dense
from ruledsl_torch.randomness import named, normal_


def init_B0(shape, fan_out, generator=None):
    """The first value of B0: normal(0, sqrt(1 / fan_out))."""
    return normal_(torch.empty(shape), 0.0, math.sqrt(1 / fan_out), generator)


def send(layer, W, B0, delta):
    """The error for the neurons that feed this layer: abs(B0) * sign(W.T) @ delta."""
    return layer.adjoint(torch.abs(B0) * torch.sign(W), delta)


def grad_W(layer, x, delta):
    """The pseudo-gradient of W: outer(delta, x)."""
    return layer.outer(delta, x)


def grad_b(layer, delta):
    """The pseudo-gradient of b: total(delta)."""
    return layer.sum_to_units(delta)


class UsfInit(torch.autograd.Function):
    """u = W @ x + b; in the place of gradients stands what the rule says."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, W, b, B0, layer):
        return layer.apply(W, x, b)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, W, _, B0, layer = inputs
        needs_x, needs_W, *_ = ctx.needs_input_grad
        ctx.layer = layer
        ctx.save_for_backward(x if needs_W else None, W if needs_x else None, B0 if needs_x else None)

    @staticmethod
    @once_differentiable
    def backward(ctx, delta):
        needs_x, needs_W, needs_b, *_ = ctx.needs_input_grad
        layer = ctx.layer
        x, W, B0 = ctx.saved_tensors
        return (
            send(layer, W, B0, delta) if needs_x else None,
            grad_W(layer, x, delta) if needs_W else None,
            grad_b(layer, delta) if needs_b else None,
            None,
            None,
        )


class UsfInitLayer(RuleLayer):
    """What layers of every kind do under this rule."""

    rule = "usf_init"

    def start(self, generator=None):
        """Make what the rule adds to a layer: B0."""
        layer = self.linear_map()
        shape = layer.kernel_shape
        self.keep("B0", shape, init_B0(shape, layer.fan_out, named(generator, "B0")))

    def forward(self, x):
        if not torch.is_grad_enabled():
            return super().forward(x)
        if x.dim() == self.example_axes:
            return self(x[None])[0]
        layer = self.linear_map(x)
        return apply_of(UsfInit, self)(x, self.weight, self.bias, self.B0, layer)


class Linear(UsfInitLayer, nn.Linear):
    """torch.nn.Linear with its arguments; W: [out_features, in_features]."""

    linear_map = dense
    example_axes = 1


class Conv2d(UsfInitLayer, nn.Conv2d):
    """torch.nn.Conv2d with its arguments; W: [out_channels, in_channels / groups, height, width]."""

    linear_map = convolution
    example_axes = 3
