"""Weight layers that follow a rule: `Linear` and `Conv2d` that keep their class's interface and their parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from ruledsl.errors import UserError
from ruledsl_torch import linear
from ruledsl_torch.function import RuleFunction
from ruledsl_torch.plan import VISITS, Plan
from ruledsl_torch.record import Record

Phi = Callable[[Tensor], Tensor]


class RuleLayer(nn.Module):
    """What a dense layer and a convolution have in common. `convert` makes them out of existing layers.

    plan       the rule
    record     that of the network
    phi        the layer's activation, where one is declared
    sends      False: known to send to nobody, so that it has none of the maps that only serve sending
    """

    plan: Plan
    record: Record
    phi: Phi | None
    sends: bool
    input_shape: tuple[int, ...] | None
    weight: Tensor
    bias: Any

    @property
    def W(self) -> Tensor:
        """The forward kernel, as rules call it."""
        return self.weight

    @property
    def b(self) -> Tensor | None:
        """The bias, as rules call it."""
        bias: Tensor | None = self.bias
        return bias

    def follow(
        self,
        plan: Plan,
        record: Record,
        tensors: dict[str, Tensor | None],
        phi: Phi | None,
        input_shape: tuple[int, ...] | None,
    ) -> None:
        """Take up a rule: its tensors become parameters where they have a pseudo-gradient, buffers otherwise."""
        # Not through nn.Module: an activation that is a module already has its place in the network.
        self.__dict__.update(plan=plan, record=record, phi=phi, input_shape=input_shape)
        self.sends = all(value is not None for value in tensors.values())
        for name, value in tensors.items():
            if value is not None and plan.program.tensor(name).learns == "grad":
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)
        for slot in plan.slots:
            shape = self.tensor(slot.removeprefix("next "))
            if shape is not None:
                # Nobody reads a slot, it is there to have a gradient: one number stands for all.
                empty = torch.zeros((), dtype=self.weight.dtype, device=self.weight.device).expand(shape.shape)
                self.register_buffer(slot, empty.requires_grad_(), persistent=False)
        if plan.slots:
            visits = torch.zeros((), dtype=self.weight.dtype, device=self.weight.device)
            self.register_buffer(VISITS, visits.requires_grad_(), persistent=False)

    def tensor(self, name: str) -> Tensor | None:
        """W, b, a tensor of the rule, or a slot; None for what this layer does not have."""
        value: Tensor | None = getattr(self, name, None)
        return value

    def geometry(self, x: Tensor | None = None) -> linear.Linear:
        """The linear map, for an input x; without one, for functions that read no activity."""
        assert isinstance(self, nn.Linear | nn.Conv2d)
        return linear.linear_map(self, x)

    def constants(self, layer: linear.Linear) -> dict[str, Any]:
        """What functions read that is no tensor."""
        return scalars(self.plan, layer, self.record.classes) | activation(self.phi)

    def learning_forward(self, x: Tensor) -> Tensor:
        """u = W @ x + b, differentiated by the rule."""
        plan, record = self.plan, self.record
        if not self.sends and x.requires_grad:
            raise UserError(
                "this layer's input needs a gradient, which it did not when the network was converted",
                "convert with an example whose requires_grad is set",
            )
        layer = self.geometry(x)
        inputs: list[Tensor | None] = [x]
        for name in plan.inputs[1:]:
            told = name == "target" or name in plan.clocked
            inputs.append(record.signal(name, x.shape[0]) if told else self.tensor(name))
        result = RuleFunction.apply(  # type: ignore[no-untyped-call]
            plan, layer, self.constants(layer), record.classes, *inputs
        )
        if not plan.direct:
            return result  # type: ignore[no-any-return]
        u, zero = result
        if record.wire is None:
            raise UserError(
                f"{plan.program.rule} reads e, and this layer ran outside the forward pass of the converted network"
            )
        record.wire.append(zero)
        return u  # type: ignore[no-any-return]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for slot in (*self.plan.slots, VISITS):
            value = self.tensor(slot)
            if value is not None:  # moving a tensor between devices makes it a result, and no longer a leaf
                setattr(self, slot, value.detach().requires_grad_())
        return self


def scalars(plan: Plan, layer: linear.Linear, classes: int | None) -> dict[str, Any]:
    """The numbers that functions read: parameters, and sizes of the layer."""
    return {**plan.parameters, "fan_in": layer.fan_in, "fan_out": layer.fan_out, "classes": classes}


def activation(phi: Phi | None) -> dict[str, Phi]:
    """`phi` and its derivative `dphi`, elementwise; nothing where none is declared."""
    if phi is None:
        return {}

    def dphi(v: Tensor) -> Tensor:
        derivative: Tensor = torch.func.jvp(phi, (v,), (torch.ones_like(v),))[1]
        return derivative

    return {"phi": phi, "dphi": dphi}


class RuleLinear(RuleLayer, nn.Linear):
    """A dense layer that follows a rule: [batch, in_features] -> [batch, out_features]."""

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return nn.Linear.forward(self, x)
        return self.learning_forward(x) if x.dim() > 1 else self.learning_forward(x[None])[0]


class RuleConv2d(RuleLayer, nn.Conv2d):
    """A convolution that follows a rule: [batch, in_channels, H, W] -> [batch, out_channels, H', W']."""

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return nn.Conv2d.forward(self, x)
        return self.learning_forward(x) if x.dim() == 4 else self.learning_forward(x[None])[0]
