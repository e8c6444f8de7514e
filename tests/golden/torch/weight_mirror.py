"""Weight mirrors (weight_mirror).

Source: Akrout et al. 2019, Algorithm 1, eqs. 3-7 and 21

Locality: local; pool(batch) -> B.

eta_B    mirroring rate
decay_B  mirroring weight decay

Made by ruledsl 0.1.0 from rule text 01ded747f7044736.

    net = convert(net, "weight_mirror", example=x)  # of ruledsl_torch: any module, in place
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

from ruledsl.ir.phases import Schedule
from ruledsl_torch.layers import Driven, Next, Taught, apply_of
from ruledsl_torch.linear import convolution, dense
from ruledsl_torch.randomness import named, normal_
from ruledsl_torch.replicas import joint
from ruledsl_torch.stepping import StepLayer


def init_B(shape, fan_in, generator=None):
    """The first value of B: normal(0, sqrt(2 / fan_in))."""
    return normal_(torch.empty(shape), 0.0, math.sqrt(2 / fan_in), generator)


def send(layer, B, delta):
    """The error for the neurons that feed this layer: B @ delta."""
    return layer.adjoint(B, delta)


def grad_W(layer, x, delta):
    """The pseudo-gradient of W: outer(delta, x)."""
    return layer.outer(delta, x)


def grad_b(layer, delta):
    """The pseudo-gradient of b: total(delta)."""
    return layer.sum_to_units(delta)


def drive_x_mirror(shape, generator=None):
    """The activity that stands in for x in this phase: normal(0, 1)."""
    return normal_(torch.empty(shape), 0.0, 1.0, generator)


def next_B_mirror(layer, W, B, b, x, decay_B=0.5, eta_B=0.1):
    """The next value of B: (1 - decay_B) * B + eta_B * outer(z - mean(z, batch), x, mean=all).T."""
    z = torch.relu(layer.apply(W, x, b))
    return (1 - decay_B) * B + eta_B * layer.outer(z - joint(layer, z.mean(0, keepdim=True)), x, mean="all")


class WeightMirror(torch.autograd.Function):
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
        ctx.save_for_backward(x if needs_W else None, B if needs_x else None)

    @staticmethod
    @once_differentiable
    def backward(ctx, delta):
        needs_x, needs_W, needs_b, *_ = ctx.needs_input_grad
        layer = ctx.layer
        x, B = ctx.saved_tensors
        return (
            send(layer, B, delta) if needs_x else None,
            grad_W(layer, x, delta) if needs_W else None,
            grad_b(layer, delta) if needs_b else None,
            None,
            None,
        )


class WeightMirrorLayer(StepLayer):
    """What layers of every kind do under this rule."""

    rule = "weight_mirror"
    eta_B = 0.1
    decay_B = 0.5
    hyperparameters = ("eta_B", "decay_B")
    schedule = Schedule(first=((2, ("mirror",)),), each=("task", "mirror"))
    teaches = (Taught("task", "task", ("weight", "bias")),)
    for_senders = True
    joint = True

    def start(self, generator=None):
        """Make what the rule adds to a layer: B."""
        layer = self.linear_map()
        shape = layer.kernel_shape
        self.keep("B", shape, init_B(shape, layer.fan_in, named(generator, "B")))

    def forward(self, x):
        if not torch.is_grad_enabled():
            return super().forward(x)
        if x.dim() == self.example_axes:
            return self(x[None])[0]
        self.check_sends(x)
        layer = self.linear_map(x)
        return apply_of(WeightMirror, self)(x, self.weight, self.bias, self.B, layer)

    def draw_mirror(self, generator=None):
        """An input for the phase mirror: [batch, *pre]."""
        return drive_x_mirror(self.input_shape, named(generator, "x", "mirror"))

    def mirror(self, x):
        """The phase mirror, in which x is drawn, and nothing travels between layers."""
        layer = self.joint_map(x)
        return [
            Next(
                self.B,
                next_B_mirror(layer, self.weight, self.B, self.bias_or_zeros, x, self.decay_B, self.eta_B),
            )
        ]

    driven = (Driven("mirror", draw_mirror, mirror, serves_sending=True),)


class Linear(WeightMirrorLayer, nn.Linear):
    """torch.nn.Linear with its arguments; W: [out_features, in_features]."""

    linear_map = dense
    example_axes = 1


class Conv2d(WeightMirrorLayer, nn.Conv2d):
    """torch.nn.Conv2d with its arguments; W: [out_channels, in_channels / groups, height, width]."""

    linear_map = convolution
    example_axes = 3
