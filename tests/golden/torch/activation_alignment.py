"""Activation alignment (activation_alignment).

Source: Kunin et al. 2020, R_AA; section B.2

Locality: nonlocal; pool(positions) -> send, pool(positions) -> B, reverse(B) -> B.

alpha  weight of sparse
beta   weight of amp

Made by ruledsl 0.1.0 from rule text fbbd303a6adbf24e.

    net = convert(net, "activation_alignment", example=x)  # of ruledsl_torch: any module, in place
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

from ruledsl.ir.phases import Schedule
from ruledsl_torch.layers import Taught, apply_of
from ruledsl_torch.linear import convolution, dense
from ruledsl_torch.randomness import named, normal_
from ruledsl_torch.stepping import StepLayer


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


def grad_B_align(layer, B, b, x, u, alpha=0.001, beta=0.002):
    """The pseudo-gradient of B: outer(2 * alpha * h - beta * u, x, mean=batch).T."""
    h = layer.apply(B, x, b)
    return layer.outer(2 * alpha * h - beta * u, x, mean="batch")


class ActivationAlignment(torch.autograd.Function):
    """u = W @ x + b; in the place of gradients stands what the rule says."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, W, b, B, backward_passes, layer):
        return layer.apply(W, x, b)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, _, _, B, backward_passes, layer = inputs
        needs_x, needs_W, *_ = ctx.needs_input_grad
        ctx.layer = layer
        ctx.backward_passes = backward_passes
        ctx.save_for_backward(x if needs_W else None, B if needs_x else None)

    @staticmethod
    @once_differentiable
    def backward(ctx, delta):
        needs_x, needs_W, needs_b, *_ = ctx.needs_input_grad
        layer, backward_passes = ctx.layer, ctx.backward_passes
        x, B = ctx.saved_tensors
        if backward_passes is not None:
            backward_passes.add_(1)
        return (
            send(layer, B, delta) if needs_x else None,
            grad_W(layer, x, delta) if needs_W else None,
            grad_b(layer, delta) if needs_b else None,
            None,
            None,
            None,
        )


class ActivationAlignmentAlign(torch.autograd.Function):
    """The phase align, in which no errors travel: a zero whose backward pass computes what the phase does."""

    generate_vmap_rule = True

    @staticmethod
    def forward(u, x, W, b, B, backward_passes, sends, alpha, beta, layer):
        return u.new_zeros(())

    @staticmethod
    def setup_context(ctx, inputs, output):
        u, x, _, b, B, backward_passes, sends, alpha, beta, layer = inputs
        _, _, _, _, needs_B, *_ = ctx.needs_input_grad
        ctx.layer = layer
        ctx.sends = sends
        ctx.alpha = alpha
        ctx.beta = beta
        ctx.backward_passes = backward_passes
        ctx.save_for_backward(
            x if needs_B and sends else None,
            b if needs_B and sends else None,
            B if needs_B and sends else None,
            u if needs_B and sends else None,
        )

    @staticmethod
    @once_differentiable
    def backward(ctx, zero):
        _, _, _, _, needs_B, *_ = ctx.needs_input_grad
        layer = ctx.layer
        sends = ctx.sends
        alpha = ctx.alpha
        beta = ctx.beta
        backward_passes = ctx.backward_passes
        x, b, B, u = ctx.saved_tensors
        b = zero.new_zeros(layer.units_out) if b is None else b
        if backward_passes is not None:
            backward_passes.add_(1)
        return (
            None,
            None,
            None,
            None,
            grad_B_align(layer, B, b, x, u, alpha, beta) if needs_B and sends else None,
            None,
            None,
            None,
            None,
            None,
        )


class ActivationAlignmentLayer(StepLayer):
    """What layers of every kind do under this rule."""

    rule = "activation_alignment"
    alpha = 0.001
    beta = 0.002
    hyperparameters = ("alpha", "beta")
    schedule = Schedule(alternate=("task", "align"))
    without_errors = ("align",)
    teaches = (Taught("task", "task", ("weight", "bias")), Taught("align", "align", ("B",)))
    optimizers = (("align", partial(torch.optim.Adam, lr=0.001, fused=True)),)
    for_senders = True
    unscaled = ("B",)
    batched = ("B",)

    def start(self, generator=None):
        """Make what the rule adds to a layer: B."""
        layer = self.linear_map()
        shape = layer.kernel_shape
        self.learn("B", shape, init_B(shape, layer.fan_out, named(generator, "B")))
        self.count_passes()

    def forward(self, x):
        if self.network.evoking == "align":
            return self.align(x)
        if not torch.is_grad_enabled():
            return super().forward(x)
        if x.dim() == self.example_axes:
            return self(x[None])[0]
        self.check_sends(x)
        layer = self.linear_map(x)
        return apply_of(ActivationAlignment, self)(x, self.weight, self.bias, self.B, self.counter(), layer)

    def align(self, x):
        """A pass of the phase align, in which no errors travel."""
        if x.dim() == self.example_axes:
            return self.align(x[None])[0]
        x, layer = self.reached(x.detach()), self.linear_map(x)
        u = layer.apply(self.weight, x, self.bias)
        with torch.enable_grad():
            zero = apply_of(ActivationAlignmentAlign, self)(
                u,
                x,
                self.weight,
                self.bias,
                self.B,
                self.counter(),
                self.sends,
                self.alpha,
                self.beta,
                layer,
            )
        self.network.perturb_output(zero)
        return u


class Linear(ActivationAlignmentLayer, nn.Linear):
    """torch.nn.Linear with its arguments; W: [out_features, in_features]."""

    linear_map = dense
    example_axes = 1


class Conv2d(ActivationAlignmentLayer, nn.Conv2d):
    """torch.nn.Conv2d with its arguments; W: [out_channels, in_channels / groups, height, width]."""

    linear_map = convolution
    example_axes = 3
