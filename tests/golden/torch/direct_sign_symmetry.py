"""Sign-symmetric direct feedback alignment (direct_sign_symmetry).

Source: Liao et al. 2015, section 2, setting 3, with the learning of Webster, Choi & Ahn 2021,
section 3

Locality: local; broadcast(e) -> send, broadcast(e) -> C.

decay  weight decay, the same for W and C

Made by ruledsl 0.1.0 from rule text 6c689565bed33af5.

    net = convert(net, "direct_sign_symmetry", example=x)  # of ruledsl_torch: any module, in place
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    optimizer.zero_grad()
    loss(net(x), labels).backward()  # what the rule says is in .grad
    optimizer.step()
    advance(net)

Activities are [batch, units] or [batch, channels, *size]. `layer` is the linear map of a layer, with `apply`,
`adjoint` and `outer`; every map between its two sides, in either direction, is stored like W.
"""

import math

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from ruledsl_torch.layers import apply_of
from ruledsl_torch.linear import convolution, dense, tensordot
from ruledsl_torch.randomness import named, normal_
from ruledsl_torch.stepping import Once, StepLayer


def init_M(shape, sources, generator=None):
    """The first value of M: normal(0, sqrt(2 / sources))."""
    return normal_(torch.empty(shape), 0.0, math.sqrt(2 / sources), generator)


def init_C(shape, sources, generator=None):
    """The first value of C: normal(0, sqrt(2 / sources))."""
    return normal_(torch.empty(shape), 0.0, math.sqrt(2 / sources), generator)


def send(M, C, e):
    """The error for the neurons that feed this layer: abs(M) * sign(C) @ e."""
    return tensordot(e, torch.abs(M) * torch.sign(C), dims=1)


def grad_W(layer, x, delta):
    """What a backward pass brings to the pseudo-gradient of W: outer(delta, x)."""
    return layer.outer(delta, x)


def complete_W(W, summed, decay=0.0001):
    """The pseudo-gradient of W from what backward passes have summed: summed + decay * W."""
    return torch.add(summed, W, alpha=decay)


def grad_C(x, e):
    """What a backward pass brings to the pseudo-gradient of C: outer(x, e)."""
    return tensordot(e, x, dims=([0], [0]))


def complete_C(C, summed, decay=0.0001):
    """The pseudo-gradient of C from what backward passes have summed: summed + decay * C."""
    return torch.add(summed, C, alpha=decay)


def grad_b(layer, delta):
    """The pseudo-gradient of b: total(delta)."""
    return layer.sum_to_units(delta)


class DirectSignSymmetry(torch.autograd.Function):
    """u = W @ x + b; in the place of gradients stands what the rule says.

    Beside u it returns a zero [batch, classes] for the network's output: the gradient of that is e.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x, W, b, C, M, classes, layer):
        u = layer.apply(W, x, b)
        return u, u.new_zeros(len(x), classes)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, _, _, C, M, _, layer = inputs
        needs_x, needs_W, _, needs_C, *_ = ctx.needs_input_grad
        ctx.layer = layer
        ctx.save_for_backward(
            x if needs_W or (needs_x and needs_C) else None,
            M if needs_x else None,
            C if needs_x else None,
        )

    @staticmethod
    @once_differentiable
    def backward(ctx, delta, e):
        needs_x, needs_W, needs_b, needs_C, *_ = ctx.needs_input_grad
        layer = ctx.layer
        x, M, C = ctx.saved_tensors
        return (
            send(M, C, e) if needs_x else None,
            grad_W(layer, x, delta) if needs_W else None,
            grad_b(layer, delta) if needs_b else None,
            grad_C(x, e) if needs_x and needs_C else None,
            None,
            None,
            None,
        )


class DirectSignSymmetryLayer(StepLayer):
    """What layers of every kind do under this rule."""

    rule = "direct_sign_symmetry"
    decay = 0.0001
    hyperparameters = ("decay",)
    reads_out = True
    for_senders = True
    own_decay = ("weight", "C")
    once = (
        Once("weight", lambda self, summed: complete_W(self.weight, summed, self.decay)),
        Once("C", lambda self, summed: complete_C(self.C, summed, self.decay), to_send=True),
    )

    def start(self, generator=None):
        """Make what the rule adds to a layer: M, C."""
        if self.sends:
            shape = self.shape_of("out", "pre")
            self.keep("M", shape, init_M(shape, shape[0], named(generator, "M")))
        else:
            self.M = None
        if self.sends:
            shape = self.shape_of("out", "pre")
            self.learn("C", shape, init_C(shape, shape[0], named(generator, "C")))
        else:
            self.C = None

    def forward(self, x):
        if not torch.is_grad_enabled():
            return super().forward(x)
        if x.dim() == self.example_axes:
            return self(x[None])[0]
        self.watch(x)
        self.check_sends(x)
        layer = self.linear_map(x)
        u, zero = apply_of(DirectSignSymmetry, self)(
            x,
            self.weight,
            self.bias,
            self.C,
            self.M,
            self.network.classes,
            layer,
        )
        if x.requires_grad:
            self.network.perturb_output(zero)
        return u


class Linear(DirectSignSymmetryLayer, nn.Linear):
    """torch.nn.Linear with its arguments; W: [out_features, in_features]."""

    linear_map = dense
    example_axes = 1


class Conv2d(DirectSignSymmetryLayer, nn.Conv2d):
    """torch.nn.Conv2d with its arguments; W: [out_channels, in_channels / groups, height, width]."""

    linear_map = convolution
    example_axes = 3
