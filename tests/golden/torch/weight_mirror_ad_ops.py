"""Weight mirrors with adaptive optimization and operations (weight_mirror_ad_ops).

Source: Kunin et al. 2020, Table 5, column 3; section B.1.3

Locality: nonlocal; pool(units) -> send, pool(units) -> B, reverse(B) -> B, pool(batch) -> B.

Compiled with fo_bias = True, fo_relu = True, fo_bwmc = True, fo_fwmc = True, fo_fwl2n = False,
bo_bias = False, bo_relu = True, bo_fwmc = False, bo_fwl2n = True, bi_bwmc = True, bi_fwmc = False,
bi_fwl2n = False, use_null = False, delay = 0.

sigma  standard deviation of the noise
alpha  weight of amp
beta   weight of decay
gamma  weight of null

Made by ruledsl 0.1.0 from rule text da189c9f07d6e6ad.

    net = convert(net, "weight_mirror_ad_ops", example=x)  # of ruledsl_torch: any module, in place
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
from ruledsl_torch.layers import Driven, Gradient, Taught, apply_of
from ruledsl_torch.linear import convolution, dense
from ruledsl_torch.randomness import named, normal_
from ruledsl_torch.replicas import joint
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


def drive_x_align(shape, sigma=0.6402, generator=None):
    """The activity that stands in for x in this phase: normal(0, sigma)."""
    return normal_(torch.empty(shape), 0.0, sigma, generator)


def grad_B_align(layer, W, B, b, x, batch_size, alpha=31.286384639999998, beta=232.7856):
    """The pseudo-gradient of B: derived, see below."""
    x_centered = x - joint(layer, x.mean(0, keepdim=True))
    h_linear = layer.apply(B, x_centered)
    h_rectified = torch.relu(h_linear)
    l2_norm = torch.linalg.vector_norm(h_rectified, dim=layer.units_axis, keepdim=True).clamp(min=1e-6)
    projected = layer.apply(W, x)
    f_rectified = torch.relu(projected + layer.spread(b))
    f_centered = f_rectified - joint(layer, f_rectified.mean(0, keepdim=True))
    f_contrasted = f_centered - f_centered.mean(layer.units_axis, keepdim=True)
    ratio = f_contrasted / l2_norm
    ratio_2 = h_rectified / l2_norm
    return (
        2 * beta * B
        + layer.outer(
            torch.where(
                h_linear > 0,
                (
                    torch.where(
                        l2_norm > 1e-06,
                        (
                            alpha
                            * projected.shape[layer.units_axis]
                            / batch_size
                            * ((ratio * ratio_2).mean(layer.units_axis, keepdim=True) * ratio_2)
                        ),
                        0,
                    )
                    - alpha / batch_size * ratio
                ),
                0,
            ),
            x_centered,
        )
    )


class WeightMirrorAdOps(torch.autograd.Function):
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


class WeightMirrorAdOpsLayer(StepLayer):
    """What layers of every kind do under this rule."""

    rule = "weight_mirror_ad_ops"
    sigma = 0.6402
    alpha = 31.286384639999998
    beta = 232.7856
    gamma = 1e-06
    hyperparameters = ("sigma", "alpha", "beta", "gamma")
    schedule = Schedule(first=((0, ("align",)),), alternate=("task", "align"))
    teaches = (Taught("task", "task", ("weight", "bias")), Taught("align", "align", ("B",)))
    optimizers = (("align", partial(torch.optim.Adam, lr=0.0025, fused=True)),)
    for_senders = True
    joint = True
    own_decay = ("B",)

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
        self.check_sends(x)
        layer = self.linear_map(x)
        return apply_of(WeightMirrorAdOps, self)(x, self.weight, self.bias, self.B, layer)

    def draw_align(self, generator=None):
        """An input for the phase align: [batch, *pre]."""
        return drive_x_align(self.input_shape, self.sigma, named(generator, "x", "align"))

    def align(self, x):
        """The phase align, in which x is drawn, and nothing travels between layers."""
        layer = self.joint_map(x)
        return [
            Gradient(
                self.B,
                grad_B_align(
                    layer,
                    self.weight,
                    self.B,
                    self.bias_or_zeros,
                    x,
                    len(x),
                    self.alpha,
                    self.beta,
                ),
                "align",
            )
        ]

    driven = (Driven("align", draw_align, align, serves_sending=True),)


class Linear(WeightMirrorAdOpsLayer, nn.Linear):
    """torch.nn.Linear with its arguments; W: [out_features, in_features]."""

    linear_map = dense
    example_axes = 1


class Conv2d(WeightMirrorAdOpsLayer, nn.Conv2d):
    """torch.nn.Conv2d with its arguments; W: [out_channels, in_channels / groups, height, width]."""

    linear_map = convolution
    example_axes = 3
