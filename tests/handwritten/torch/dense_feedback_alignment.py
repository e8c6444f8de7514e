"""Dense feedback alignment (dense_feedback_alignment).

Source: Moskovitz et al. 2018, section 4

Locality: local; broadcast(delta[k]) -> send.

Made by ruledsl 0.1.0 from rule text 2ffbb756ece00faf.

    net = convert(net, "dense_feedback_alignment", example=x)  # of ruledsl_torch: any module, in place
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

from ruledsl_torch.layers import RuleLayer, apply_of, handed_on
from ruledsl_torch.linear import convolution, dense, tensordot
from ruledsl_torch.randomness import named, normal_


def init_B(shape, fan_out, generator=None):
    """The first value of B: normal(0, sqrt(1 / fan_out))."""
    return normal_(torch.empty(shape), 0.0, math.sqrt(1 / fan_out), generator)


def init_D(shape, sources, generator=None):
    """The first value of D: normal(0, sqrt(2 / sources))."""
    return normal_(torch.empty(shape), 0.0, math.sqrt(2 / sources), generator)


def send(layer, B, D, delta, delta_k):
    """The error for the neurons that feed this layer: B @ delta + sum(k, D[k] @ delta[k])."""
    return (
        layer.adjoint(B, delta)
        + sum(
            tensordot(delta_at_k, D_at_k, dims=delta_at_k.ndim - 1)
            for D_at_k, delta_at_k in zip(D, delta_k, strict=True)
        )
    )


def grad_W(layer, x, delta):
    """The pseudo-gradient of W: outer(delta, x)."""
    return layer.outer(delta, x)


def grad_b(layer, delta):
    """The pseudo-gradient of b: total(delta)."""
    return layer.sum_to_units(delta)


class DenseFeedbackAlignment(torch.autograd.Function):
    """u = W @ x + b; in the place of gradients stands what the rule says.

    For every layer downstream it returns a zero in the shape of its u: the gradient of that is delta[k]. `rest` are the
    maps D from these layers, and then the zeros that layers before this one have
    made for them: these are handed on, so that each is added only once.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x, W, b, B, layer, shapes, *rest):
        u = layer.apply(W, x, b)
        return (u, *(u.new_zeros(()).expand(len(x), *shape) for shape in shapes))

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, _, _, B, layer, shapes, *rest = inputs
        needs_x, needs_W, *_ = ctx.needs_input_grad
        ctx.layer = layer
        ctx.save_for_backward(x if needs_W else None, B if needs_x else None, *rest[: len(shapes)])

    @staticmethod
    @once_differentiable
    def backward(ctx, delta, *delta_k):
        needs_x, needs_W, needs_b, *_ = ctx.needs_input_grad
        layer = ctx.layer
        x, B, *D = ctx.saved_tensors
        return (
            send(layer, B, D, delta, delta_k) if needs_x else None,
            grad_W(layer, x, delta) if needs_W else None,
            grad_b(layer, delta) if needs_b else None,
            None,
            None,
            None,
            *(None for _ in D),
            *handed_on(ctx, delta_k),
        )


class DenseFeedbackAlignmentLayer(RuleLayer):
    """What layers of every kind do under this rule."""

    rule = "dense_feedback_alignment"
    for_senders = True

    def start(self, generator=None):
        """Make what the rule adds to a layer: B, D."""
        layer = self.linear_map()
        shape = layer.kernel_shape
        self.keep("B", shape, init_B(shape, layer.fan_out, named(generator, "B")))
        for index, (path, source) in enumerate(self.downstream.items() if self.sends else ()):
            shape = (*source, *self.input_shape[1:])
            self.keep(f"D_{index}", shape, init_D(shape, math.prod(source), named(generator, "D", path)))

    def forward(self, x):
        if not torch.is_grad_enabled():
            return super().forward(x)
        if x.dim() == self.example_axes:
            return self(x[None])[0]
        self.check_sends(x)
        layer = self.linear_map(x)
        downstream = self.downstream if x.requires_grad else {}
        u, *zeros = apply_of(DenseFeedbackAlignment, self)(
            x,
            self.weight,
            self.bias,
            self.B,
            layer,
            tuple(downstream.values()),
            *self.family("D", downstream),
            *self.network.arriving(downstream),
        )
        self.network.hand_on(downstream, zeros)
        return self.network.perturbed(self.path, u)


class Linear(DenseFeedbackAlignmentLayer, nn.Linear):
    """torch.nn.Linear with its arguments; W: [out_features, in_features]."""

    linear_map = dense
    example_axes = 1


class Conv2d(DenseFeedbackAlignmentLayer, nn.Conv2d):
    """torch.nn.Conv2d with its arguments; W: [out_channels, in_channels / groups, height, width]."""

    linear_map = convolution
    example_axes = 3
