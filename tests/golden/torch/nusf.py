"""Normalised uniform sign-concordant feedback (nusf).

Source: Liao et al. 2015, section 5.3 (NuSF)

Locality: nonlocal; sign(W) -> send.

Made by ruledsl 0.1.0 from rule text f9de8e907abd9db3.

    net = nn.Sequential(Linear(784, 256), nn.ReLU(), Linear(256, 10))
    loss(net(x), labels).backward()  # what the rule says is in .grad

`ruledsl_torch.convert(net, "nusf")` does the same to any module, in place.

Activities are [batch, units] or [batch, channels, *size]. `layer` is the linear map of a layer, with `apply`,
`adjoint` and `outer`; every map between its two sides, in either direction, is stored like W.
"""

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from ruledsl_torch.layers import RuleLayer, apply_of
from ruledsl_torch.linear import convolution, dense


def send(layer, W, delta, fan_in):
    """The error for the neurons that feed this layer: sign(W.T) @ delta / fan_in."""
    return layer.adjoint(torch.sign(W), delta) / fan_in


def grad_W(layer, x, delta):
    """The pseudo-gradient of W: outer(delta, x)."""
    return layer.outer(delta, x)


def grad_b(layer, delta):
    """The pseudo-gradient of b: total(delta)."""
    return layer.sum_to_units(delta)


class Nusf(torch.autograd.Function):
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
            send(layer, W, delta, layer.fan_in) if needs_x else None,
            grad_W(layer, x, delta) if needs_W else None,
            grad_b(layer, delta) if needs_b else None,
            None,
        )


class NusfLayer(RuleLayer):
    """What layers of every kind do under this rule."""

    rule = "nusf"

    def forward(self, x):
        if not torch.is_grad_enabled():
            return super().forward(x)
        if x.dim() == self.example_axes:
            return self(x[None])[0]
        layer = self.linear_map(x)
        return apply_of(Nusf, self)(x, self.weight, self.bias, layer)


class Linear(NusfLayer, nn.Linear):
    """torch.nn.Linear with its arguments; W: [out_features, in_features]."""

    linear_map = dense
    example_axes = 1


class Conv2d(NusfLayer, nn.Conv2d):
    """torch.nn.Conv2d with its arguments; W: [out_channels, in_channels / groups, height, width]."""

    linear_map = convolution
    example_axes = 3
