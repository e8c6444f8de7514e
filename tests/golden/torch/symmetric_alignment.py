"""Symmetric alignment (symmetric_alignment).

Source: Kunin et al. 2020, R_SA; section B.2

Locality: nonlocal; value(W) -> B.

alpha  weight of decay
beta   weight of self

Made by ruledsl 0.1.0 from rule text cafc23eb0c528293.

    net = convert(net, "symmetric_alignment", example=x)  # of ruledsl_torch: any module, in place
    optimizer = optimizers(net, task=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    optimizer.zero_grad()
    loss(net(x), labels).backward()  # what the rule says is in .grad
    optimizer.step()
    advance(net)

Activities are [batch, units] or [batch, channels, *size]. `layer` is the linear map of a layer, with `apply`,
`adjoint` and `outer`; every map between its two sides, in either direction, is stored like W.
"""

import math
from functools import partial

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from ruledsl_torch.layers import Taught, apply_of, filled
from ruledsl_torch.linear import convolution, dense
from ruledsl_torch.randomness import named, normal_
from ruledsl_torch.stepping import Once, StepLayer


def init_B(shape, fan_out, generator=None):
    """The first value of B: normal(0, sqrt(1 / fan_out))."""
    return normal_(torch.empty(shape), 0.0, math.sqrt(1 / fan_out), generator)


def send(layer, B, delta):
    """The error for the neurons that feed this layer: B @ delta."""
    return layer.adjoint(B, delta)


def grad_W(layer, x, delta):
    """The pseudo-gradient of W: outer(delta, x)."""
    return layer.outer(delta, x)


def grad_b(layer, delta):
    """The pseudo-gradient of b: total(delta)."""
    return layer.sum_to_units(delta)


def grad_B_by_align():
    """What a backward pass brings to the pseudo-gradient of B: 0."""
    return 0


def complete_B_by_align(W, B, summed, alpha=0.001, beta=0.002):
    """The pseudo-gradient of B from what backward passes have summed: summed + (2 * alpha * B - beta *
        W.T).
    """
    return summed + (2 * alpha * B - beta * W)


class SymmetricAlignment(torch.autograd.Function):
    """u = W @ x + b; in the place of gradients stands what the rule says."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, W, b, B, layer):
        return layer.apply(W, x, b)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, _, _, B, layer = inputs
        needs_x, needs_W, *_ = ctx.needs_input_grad
        ctx.layer = layer
        ctx.B_shape = B.shape
        ctx.save_for_backward(x if needs_W else None, B if needs_x else None)

    @staticmethod
    @once_differentiable
    def backward(ctx, delta):
        needs_x, needs_W, needs_b, needs_B, *_ = ctx.needs_input_grad
        layer = ctx.layer
        x, B = ctx.saved_tensors
        return (
            send(layer, B, delta) if needs_x else None,
            grad_W(layer, x, delta) if needs_W else None,
            grad_b(layer, delta) if needs_b else None,
            filled(grad_B_by_align(), ctx.B_shape, delta) if needs_x and needs_B else None,
            None,
        )


class SymmetricAlignmentLayer(StepLayer):
    """What layers of every kind do under this rule."""

    rule = "symmetric_alignment"
    alpha = 0.001
    beta = 0.002
    hyperparameters = ("alpha", "beta")
    teaches = (Taught("task", "task", ("weight", "bias")), Taught("task", "align", ("B",)))
    optimizers = (("align", partial(torch.optim.Adam, lr=0.001, fused=True)),)
    own_decay = ("B",)
    once = (
        Once(
            "B",
            lambda self,
            summed: complete_B_by_align(self.weight, self.B, summed, self.alpha, self.beta),
            "task",
            "align",
            to_send=True,
        ),
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
        return apply_of(SymmetricAlignment, self)(x, self.weight, self.bias, self.B, layer)


class Linear(SymmetricAlignmentLayer, nn.Linear):
    """torch.nn.Linear with its arguments; W: [out_features, in_features]."""

    linear_map = dense
    example_axes = 1


class Conv2d(SymmetricAlignmentLayer, nn.Conv2d):
    """torch.nn.Conv2d with its arguments; W: [out_channels, in_channels / groups, height, width]."""

    linear_map = convolution
    example_axes = 3
