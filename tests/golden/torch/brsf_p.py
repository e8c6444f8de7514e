"""Batchwise random magnitude, partly sign-concordant feedback (brsf_p).

Source: Liao et al. 2015, section 2, setting 4

Locality: nonlocal; sign(W) -> send.

p  probability that the sign of a feedback weight is wrong

Made by ruledsl 0.1.0 from rule text 7a180e74b22b3340.

    net = convert(net, "brsf_p", example=x)  # of ruledsl_torch: any module, in place
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

from ruledsl_torch.layers import RuleLayer, apply_of
from ruledsl_torch.linear import convolution, dense
from ruledsl_torch.randomness import named, signs_, uniform_


def draw_M(shape, generator=None):
    """The value of M in this step: uniform(0, 1)."""
    return uniform_(torch.empty(shape), 0.0, 1.0, generator)


def draw_S(shape, p=0.5, generator=None):
    """The value of S in this step: signs(p)."""
    return signs_(torch.empty(shape), p, generator)


def send(layer, W, M, S, delta):
    """The error for the neurons that feed this layer: M * sign(W.T) * S @ delta."""
    return layer.adjoint(M * torch.sign(W) * S, delta)


def grad_W(layer, x, delta):
    """The pseudo-gradient of W: outer(delta, x)."""
    return layer.outer(delta, x)


def grad_b(layer, delta):
    """The pseudo-gradient of b: total(delta)."""
    return layer.sum_to_units(delta)


class BrsfP(torch.autograd.Function):
    """u = W @ x + b; in the place of gradients stands what the rule says."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, W, b, M, S, layer):
        return layer.apply(W, x, b)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, W, _, M, S, layer = inputs
        needs_x, needs_W, *_ = ctx.needs_input_grad
        ctx.layer = layer
        ctx.save_for_backward(
            x if needs_W else None,
            W if needs_x else None,
            M if needs_x else None,
            S if needs_x else None,
        )

    @staticmethod
    @once_differentiable
    def backward(ctx, delta):
        needs_x, needs_W, needs_b, *_ = ctx.needs_input_grad
        layer = ctx.layer
        x, W, M, S = ctx.saved_tensors
        return (
            send(layer, W, M, S, delta) if needs_x else None,
            grad_W(layer, x, delta) if needs_W else None,
            grad_b(layer, delta) if needs_b else None,
            None,
            None,
            None,
        )


class BrsfPLayer(RuleLayer):
    """What layers of every kind do under this rule."""

    rule = "brsf_p"
    p = 0.5
    hyperparameters = ("p",)

    def start(self, generator=None):
        """Make what the rule adds to a layer: M, S."""
        layer = self.linear_map()
        shape = layer.kernel_shape
        self.keep("M", shape, draw_M(shape, named(generator, "M")))
        shape = layer.kernel_shape
        self.keep("S", shape, draw_S(shape, self.p, named(generator, "S")))

    def forward(self, x):
        if not torch.is_grad_enabled():
            return super().forward(x)
        if x.dim() == self.example_axes:
            return self(x[None])[0]
        layer = self.linear_map(x)
        return apply_of(BrsfP, self)(x, self.weight, self.bias, self.M, self.S, layer)

    def draw_fresh(self, generator=None):
        """Draw M, S anew, as at every step."""
        shape = self.M.shape
        self.M.copy_(draw_M(shape, named(generator, "M")))
        shape = self.S.shape
        self.S.copy_(draw_S(shape, self.p, named(generator, "S")))


class Linear(BrsfPLayer, nn.Linear):
    """torch.nn.Linear with its arguments; W: [out_features, in_features]."""

    linear_map = dense
    example_axes = 1


class Conv2d(BrsfPLayer, nn.Conv2d):
    """torch.nn.Conv2d with its arguments; W: [out_channels, in_channels / groups, height, width]."""

    linear_map = convolution
    example_axes = 3
