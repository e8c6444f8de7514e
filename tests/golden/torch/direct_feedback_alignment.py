"""Direct feedback alignment (direct_feedback_alignment).

Source: Nokland 2016; Moskovitz et al. 2018, section 2

Locality: local; broadcast(e) -> send.

Made by ruledsl 0.1.0 from rule text 539abcf79db70b50.

    net = convert(net, "direct_feedback_alignment", example=x)  # of ruledsl_torch: any module, in place
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

from ruledsl_torch.layers import RuleLayer, apply_of
from ruledsl_torch.linear import convolution, dense, tensordot
from ruledsl_torch.randomness import named, normal_


def init_B(shape, sources, generator=None):
    """The first value of B: normal(0, sqrt(2 / sources))."""
    return normal_(torch.empty(shape), 0.0, math.sqrt(2 / sources), generator)


def send(B, e):
    """The error for the neurons that feed this layer: B @ e."""
    return tensordot(e, B, dims=1)


def grad_W(layer, x, delta):
    """The pseudo-gradient of W: outer(delta, x)."""
    return layer.outer(delta, x)


def grad_b(layer, delta):
    """The pseudo-gradient of b: total(delta)."""
    return layer.sum_to_units(delta)


class DirectFeedbackAlignment(torch.autograd.Function):
    """u = W @ x + b; in the place of gradients stands what the rule says.

    Beside u it returns a zero [batch, classes] for the network's output: the gradient of that is e.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x, W, b, B, classes, layer):
        u = layer.apply(W, x, b)
        return u, u.new_zeros(len(x), classes)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, _, _, B, _, layer = inputs
        needs_x, needs_W, *_ = ctx.needs_input_grad
        ctx.layer = layer
        ctx.save_for_backward(x if needs_W else None, B if needs_x else None)

    @staticmethod
    @once_differentiable
    def backward(ctx, delta, e):
        needs_x, needs_W, needs_b, *_ = ctx.needs_input_grad
        layer = ctx.layer
        x, B = ctx.saved_tensors
        return (
            send(B, e) if needs_x else None,
            grad_W(layer, x, delta) if needs_W else None,
            grad_b(layer, delta) if needs_b else None,
            None,
            None,
            None,
        )


class DirectFeedbackAlignmentLayer(RuleLayer):
    """What layers of every kind do under this rule."""

    rule = "direct_feedback_alignment"
    reads_out = True
    for_senders = True

    def start(self, generator=None):
        """Make what the rule adds to a layer: B."""
        if self.sends:
            shape = self.shape_of("out", "pre")
            self.keep("B", shape, init_B(shape, shape[0], named(generator, "B")))
        else:
            self.B = None

    def forward(self, x):
        if not torch.is_grad_enabled():
            return super().forward(x)
        if x.dim() == self.example_axes:
            return self(x[None])[0]
        self.check_sends(x)
        layer = self.linear_map(x)
        u, zero = apply_of(DirectFeedbackAlignment, self)(
            x,
            self.weight,
            self.bias,
            self.B,
            self.network.classes,
            layer,
        )
        if x.requires_grad:
            self.network.perturb_output(zero)
        return u


class Linear(DirectFeedbackAlignmentLayer, nn.Linear):
    """torch.nn.Linear with its arguments; W: [out_features, in_features]."""

    linear_map = dense
    example_axes = 1


class Conv2d(DirectFeedbackAlignmentLayer, nn.Conv2d):
    """torch.nn.Conv2d with its arguments; W: [out_channels, in_channels / groups, height, width]."""

    linear_map = convolution
    example_axes = 3
