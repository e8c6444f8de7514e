"""Direct random target projection (drtp).

Source: Frenkel, Lefebvre & Bol 2021

Locality: local; broadcast(target) -> send.

Made by ruledsl 0.1.0 from rule text 793b1c7e6edabf94.

    net = convert(net, "drtp", example=x)  # of ruledsl_torch: any module, in place
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    observe(net, target=labels)  # before every step
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


def send(B, target, batch_size):
    """The error for the neurons that feed this layer: -(B @ target / batch_size)."""
    return -(tensordot(target, B, dims=1) / batch_size)


def grad_W(layer, x, delta):
    """The pseudo-gradient of W: outer(delta, x)."""
    return layer.outer(delta, x)


def grad_b(layer, delta):
    """The pseudo-gradient of b: total(delta)."""
    return layer.sum_to_units(delta)


class Drtp(torch.autograd.Function):
    """u = W @ x + b; in the place of gradients stands what the rule says."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, W, b, B, target, backward_passes, layer):
        return layer.apply(W, x, b)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, _, _, B, target, backward_passes, layer = inputs
        needs_x, needs_W, *_ = ctx.needs_input_grad
        ctx.layer = layer
        ctx.batch_size = len(x)
        ctx.backward_passes = backward_passes
        ctx.save_for_backward(x if needs_W else None, B if needs_x else None, target if needs_x else None)

    @staticmethod
    @once_differentiable
    def backward(ctx, delta):
        needs_x, needs_W, needs_b, *_ = ctx.needs_input_grad
        layer, batch_size, backward_passes = ctx.layer, ctx.batch_size, ctx.backward_passes
        x, B, target = ctx.saved_tensors
        if backward_passes is not None:
            backward_passes.add_(1)
        return (
            send(B, target, batch_size) if needs_x else None,
            grad_W(layer, x, delta) if needs_W else None,
            grad_b(layer, delta) if needs_b else None,
            None,
            None,
            None,
            None,
        )


class DrtpLayer(RuleLayer):
    """What layers of every kind do under this rule."""

    rule = "drtp"
    reads_out = True
    for_senders = True
    unscaled = ("send",)
    batched = ("send",)

    def start(self, generator=None):
        """Make what the rule adds to a layer: B."""
        if self.sends:
            shape = self.shape_of("out", "pre")
            self.keep("B", shape, init_B(shape, shape[0], named(generator, "B")))
        else:
            self.B = None
        self.count_passes()

    def forward(self, x):
        if not torch.is_grad_enabled():
            return super().forward(x)
        if x.dim() == self.example_axes:
            return self(x[None])[0]
        self.check_sends(x)
        layer = self.linear_map(x)
        return apply_of(Drtp, self)(
            x,
            self.weight,
            self.bias,
            self.B,
            self.network.target_of(x),
            self.counter(),
            layer,
        )


class Linear(DrtpLayer, nn.Linear):
    """torch.nn.Linear with its arguments; W: [out_features, in_features]."""

    linear_map = dense
    example_axes = 1


class Conv2d(DrtpLayer, nn.Conv2d):
    """torch.nn.Conv2d with its arguments; W: [out_channels, in_channels / groups, height, width]."""

    linear_map = convolution
    example_axes = 3
