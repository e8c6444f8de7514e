"""Backpropagation with noise (backprop_noise).

Source: Moskovitz et al. 2018, section 5.3

Locality: nonlocal; pool(units) -> send, reverse(W) -> send, pool(units) -> W.

scale  standard deviation of the noise relative to that of the gradient

Made by ruledsl 0.1.0 from rule text 0b658bc067bfa31f.

    net = convert(net, "backprop_noise", example=x)  # of ruledsl_torch: any module, in place
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    optimizer.zero_grad()
    loss(net(x), labels).backward()  # what the rule says is in .grad
    optimizer.step()
    advance(net)

Activities are [batch, units] or [batch, channels, *size]. `layer` is the linear map of a layer, with `apply`,
`adjoint` and `outer`; every map between its two sides, in either direction, is stored like W.
"""

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from ruledsl_torch.layers import apply_of
from ruledsl_torch.linear import convolution, dense
from ruledsl_torch.randomness import named, normal_
from ruledsl_torch.stepping import Once, StepLayer


def draw_N(shape, generator=None):
    """The value of N in this step: normal(0, 1)."""
    return normal_(torch.empty(shape), 0.0, 1.0, generator)


def send(layer, W, delta):
    """The error for the neurons that feed this layer: W.T @ delta."""
    return layer.adjoint(W, delta)


def grad_W(layer, x, delta):
    """What a backward pass brings to the pseudo-gradient of W: outer(delta, x)."""
    return layer.outer(delta, x)


def complete_W(N, summed, scale=1):
    """The pseudo-gradient of W from what backward passes have summed: summed + scale * std(summed) * N."""
    return summed + scale * summed.std(correction=0) * N


def grad_b(layer, delta):
    """The pseudo-gradient of b: total(delta)."""
    return layer.sum_to_units(delta)


class BackpropNoise(torch.autograd.Function):
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


class BackpropNoiseLayer(StepLayer):
    """What layers of every kind do under this rule."""

    rule = "backprop_noise"
    scale = 1
    hyperparameters = ("scale",)
    once = (
        Once("weight", lambda self, summed: complete_W(self.N, summed, self.scale)),
    )

    def start(self, generator=None):
        """Make what the rule adds to a layer: N."""
        layer = self.linear_map()
        shape = layer.kernel_shape
        self.keep("N", shape, draw_N(shape, named(generator, "N")))

    def forward(self, x):
        if not torch.is_grad_enabled():
            return super().forward(x)
        if x.dim() == self.example_axes:
            return self(x[None])[0]
        self.watch(x)
        layer = self.linear_map(x)
        return apply_of(BackpropNoise, self)(x, self.weight, self.bias, layer)

    def draw_fresh(self, generator=None):
        """Draw N anew, as at every step."""
        shape = self.N.shape
        self.N.copy_(draw_N(shape, named(generator, "N")))


class Linear(BackpropNoiseLayer, nn.Linear):
    """torch.nn.Linear with its arguments; W: [out_features, in_features]."""

    linear_map = dense
    example_axes = 1


class Conv2d(BackpropNoiseLayer, nn.Conv2d):
    """torch.nn.Conv2d with its arguments; W: [out_channels, in_channels / groups, height, width]."""

    linear_map = convolution
    example_axes = 3
