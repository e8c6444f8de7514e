"""Kolen-Pollack learning (kolen_pollack).

Source: Akrout et al. 2019, eqs. 16 and 17; Kunin et al. 2020, section D.3

Locality: local.

decay  weight decay, the same in both directions (Akrout et al. 2019, D.1)

Made by ruledsl 0.1.0 from rule text 1c38e90b82b3dce3.

    net = nn.Sequential(Linear(784, 256), nn.ReLU(), Linear(256, 10))
    loss(net(x), labels).backward()  # what the rule says is in .grad

`ruledsl_torch.convert(net, "kolen_pollack")` does the same to any module, in place.

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


def init_B(shape, fan_out, generator=None):
    """The first value of B: normal(0, sqrt(1 / fan_out))."""
    return normal_(torch.empty(shape), 0.0, math.sqrt(1 / fan_out), generator)


def compute_outer_delta_x(layer, x, delta):
    """outer(delta, x), which several equations read."""
    return layer.outer(delta, x)


def send(layer, B, delta):
    """The error for the neurons that feed this layer: B @ delta."""
    return layer.adjoint(B, delta)


def grad_W(outer_delta_x):
    """What a backward pass brings to the pseudo-gradient of W: outer(delta, x)."""
    return outer_delta_x


def complete_W(W, summed, decay=0.0001):
    """The pseudo-gradient of W from what backward passes have summed: summed + decay * W."""
    return torch.add(summed, W, alpha=decay)


def grad_B(outer_delta_x):
    """What a backward pass brings to the pseudo-gradient of B: outer(delta, x).T."""
    return outer_delta_x


def complete_B(B, summed, decay=0.0001):
    """The pseudo-gradient of B from what backward passes have summed: summed + decay * B."""
    return summed + decay * B


def grad_b(layer, delta):
    """The pseudo-gradient of b: total(delta)."""
    return layer.sum_to_units(delta)


class KolenPollack(torch.autograd.Function):
    """u = W @ x + b; in the place of gradients stands what the rule says."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, W, b, B, layer):
        return layer.apply(W, x, b)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, _, _, B, layer = inputs
        needs_x, needs_W, _, needs_B, *_ = ctx.needs_input_grad
        ctx.layer = layer
        ctx.save_for_backward(x if needs_W or (needs_x and needs_B) else None, B if needs_x else None)

    @staticmethod
    @once_differentiable
    def backward(ctx, delta):
        needs_x, needs_W, needs_b, needs_B, *_ = ctx.needs_input_grad
        layer = ctx.layer
        x, B = ctx.saved_tensors
        outer_delta_x = compute_outer_delta_x(layer, x, delta) if needs_W or (needs_x and needs_B) else None
        return (
            send(layer, B, delta) if needs_x else None,
            grad_W(outer_delta_x) if needs_W else None,
            grad_b(layer, delta) if needs_b else None,
            grad_B(outer_delta_x) if needs_x and needs_B else None,
            None,
        )


class KolenPollackLayer(StepLayer):
    """What layers of every kind do under this rule."""

    rule = "kolen_pollack"
    decay = 0.0001
    hyperparameters = ("decay",)
    own_decay = ("weight", "B")
    once = (
        Once("weight", lambda self, summed: complete_W(self.weight, summed, self.decay)),
        Once("B", lambda self, summed: complete_B(self.B, summed, self.decay), to_send=True),
    )

    def start(self, generator=None):
        """Make what the rule adds to a layer: B."""
        layer = self.linear_map()
        shape = layer.kernel_shape
        self.learn("B", shape, init_B(shape, layer.fan_out, named(generator, "B")))

    def forward(self, x):
        if not torch.is_grad_enabled():
            return super().forward(x)
        if x.dim() == self.example_axes:
            return self(x[None])[0]
        self.watch(x)
        layer = self.linear_map(x)
        return apply_of(KolenPollack, self)(x, self.weight, self.bias, self.B, layer)


class Linear(KolenPollackLayer, nn.Linear):
    """torch.nn.Linear with its arguments; W: [out_features, in_features]."""

    linear_map = dense
    example_axes = 1


class Conv2d(KolenPollackLayer, nn.Conv2d):
    """torch.nn.Conv2d with its arguments; W: [out_channels, in_channels / groups, height, width]."""

    linear_map = convolution
    example_axes = 3
