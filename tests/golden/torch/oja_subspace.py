"""Oja's subspace rule (oja_subspace).

Source: Oja 1989

Locality: nonlocal; reverse(W) -> W, multiplex(pre -> post) -> W.

Made by ruledsl 0.1.0 from rule text ab804c6ba0c62773.

    net = nn.Sequential(Linear(784, 256), nn.ReLU(), Linear(256, 10))
    loss(net(x), labels).backward()  # what the rule says is in .grad

`ruledsl_torch.convert(net, "oja_subspace")` does the same to any module, in place.

Activities are [batch, units] or [batch, channels, *size]. `layer` is the linear map of a layer, with `apply`,
`adjoint` and `outer`; every map between its two sides, in either direction, is stored like W.
"""

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from ruledsl_torch.layers import RuleLayer, apply_of
from ruledsl_torch.linear import convolution, dense


def send(x):
    """The error for the neurons that feed this layer: full_like(x, 0)."""
    return torch.zeros_like(x)


def grad_W(layer, W, x, u):
    """The pseudo-gradient of W: outer(u, W.T @ u - x, mean=all)."""
    return layer.outer(u, layer.adjoint(W, u) - x, mean="all")


def grad_b(b):
    """The pseudo-gradient of b: full_like(b, 0)."""
    return torch.zeros_like(b)


class OjaSubspace(torch.autograd.Function):
    """u = W @ x + b; in the place of gradients stands what the rule says."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, W, b, backward_passes, layer):
        return layer.apply(W, x, b)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, W, b, backward_passes, layer = inputs
        needs_x, needs_W, needs_b, *_ = ctx.needs_input_grad
        u = output
        ctx.layer = layer
        ctx.backward_passes = backward_passes
        ctx.save_for_backward(
            x if needs_W or needs_x else None,
            W if needs_W else None,
            b if needs_b else None,
            u if needs_W else None,
        )

    @staticmethod
    @once_differentiable
    def backward(ctx, delta):
        needs_x, needs_W, needs_b, *_ = ctx.needs_input_grad
        layer, backward_passes = ctx.layer, ctx.backward_passes
        x, W, b, u = ctx.saved_tensors
        b = delta.new_zeros(layer.units_out) if b is None else b
        if backward_passes is not None:
            backward_passes.add_(1)
        return (
            send(x) if needs_x else None,
            grad_W(layer, W, x, u) if needs_W else None,
            grad_b(b) if needs_b else None,
            None,
            None,
        )


class OjaSubspaceLayer(RuleLayer):
    """What layers of every kind do under this rule."""

    rule = "oja_subspace"
    unscaled = ("W",)
    batched = ("W",)

    def start(self, generator=None):
        """Make what the rule adds to a layer: room for next values."""
        self.count_passes()

    def forward(self, x):
        if not torch.is_grad_enabled():
            return super().forward(x)
        if x.dim() == self.example_axes:
            return self(x[None])[0]
        layer = self.linear_map(x)
        return apply_of(OjaSubspace, self)(x, self.weight, self.bias, self.counter(), layer)


class Linear(OjaSubspaceLayer, nn.Linear):
    """torch.nn.Linear with its arguments; W: [out_features, in_features]."""

    linear_map = dense
    example_axes = 1


class Conv2d(OjaSubspaceLayer, nn.Conv2d):
    """torch.nn.Conv2d with its arguments; W: [out_channels, in_channels / groups, height, width]."""

    linear_map = convolution
    example_axes = 3
