"""Weight layers that follow a rule: `Linear` and `Conv2d` that keep their class's interface and their parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from ruledsl.errors import UserError
from ruledsl.plan import VISITS, Bound, ConstraintPlan, Pass, Plan
from ruledsl_torch import linear
from ruledsl_torch.function import ZERO, EvokedFunction, RuleFunction, Setting
from ruledsl_torch.record import Record

Phi = Callable[[Tensor], Tensor]


class RuleLayer(nn.Module):
    """What a dense layer and a convolution have in common. `convert` makes them out of existing layers.

    plan         the rule; `constraints`: those that were added to it
    record       that of the network; `path`: the layer's name in it
    phi          the layer's activation, where one is declared
    sends        False: known to send to nobody, so that it has, or learns, none of the maps that only serve sending
    downstream   the layers whose errors its rule reads, and the shapes of their activities without the batch
    """

    plan: Plan
    constraints: tuple[ConstraintPlan, ...]
    record: Record
    path: str
    phi: Phi | None
    sends: bool
    input_shape: tuple[int, ...] | None
    downstream: dict[str, tuple[int, ...]]
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
        path: str,
        tensors: dict[str, Tensor | None],
        phi: Phi | None,
        *,
        constraints: tuple[ConstraintPlan, ...] = (),
        input_shape: tuple[int, ...] | None = None,
        sends: bool = True,
        downstream: dict[str, tuple[int, ...]] | None = None,
    ) -> None:
        """Take up a rule: its tensors become parameters where they have a pseudo-gradient, buffers otherwise."""
        # Not through nn.Module: an activation that is a module already has its place in the network.
        self.__dict__.update(plan=plan, record=record, path=path, phi=phi, constraints=constraints)
        self.__dict__.update(input_shape=input_shape, sends=sends, downstream=downstream or {})
        learnt = {tensor.name for tensor in plan.program.tensors if tensor.learns == "grad"}
        for name, value in tensors.items():
            if value is not None and name in learnt:
                self.register_parameter(name, nn.Parameter(value))
            else:
                self.register_buffer(name, value)
        for slot in plan.slots:
            shape = self.tensor(target_of(slot))
            if shape is not None:
                # Nobody reads a slot, it is there to have a gradient: one number stands for all.
                empty = torch.zeros((), dtype=self.weight.dtype, device=self.weight.device).expand(shape.shape)
                self.register_buffer(slot, empty.requires_grad_(), persistent=False)
        if plan.slots:
            visits = torch.zeros((), dtype=self.weight.dtype, device=self.weight.device)
            self.register_buffer(VISITS, visits.requires_grad_(), persistent=False)

    def tensor(self, name: str) -> Tensor | None:
        """W, b, a tensor of the rule, or a slot; None for what this layer does not have.

        Of a family of maps from the layers downstream, `D[0]` is the first one, which the layer calls `D_0`.
        """
        value: Tensor | None = getattr(self, name.replace("[", "_").replace("]", ""), None)
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
        if record.wire is None and (plan.direct or plan.dense or not record.travels):
            reads = "reads e" if plan.direct else "reads delta[k]" if plan.dense else f"is in the phase {record.phase}"
            raise UserError(
                f"{plan.program.rule} {reads}, and this layer ran outside the forward pass of the converted network"
            )
        passed = plan.in_pass(record.phase, True)
        layer = self.geometry(x)
        names, inputs = self._inputs(passed, x)
        downstream = self.downstream if passed.dense and (x.requires_grad or passed.dense_beside_sending) else {}
        if downstream:
            assert record.taps is not None
            names += [f"{ZERO}{index}" for index in range(len(downstream))]
            inputs += [record.taps.get(path) for path in downstream]
        shapes = tuple(downstream.values())
        setting = Setting(passed, layer, tuple(names), record.classes or 0, shapes)
        results = RuleFunction.apply(setting, self.constants(layer), *inputs)  # type: ignore[no-untyped-call]
        if not passed.direct and not downstream:
            return self._tapped(results)
        u, *zeros = results
        if passed.direct:
            assert record.wire is not None
            record.wire.append(zeros.pop(0))
        if downstream:
            assert record.taps is not None
            record.taps.update(zip(downstream, zeros, strict=True))
        return self._tapped(u)

    def evoked_forward(self, x: Tensor) -> Tensor:
        """u = W @ x + b in a pass in which no errors travel; the phase's functions wait for the backward pass."""
        record = self.record
        assert record.wire is not None
        passed = self.plan.in_pass(record.phase, False)
        layer = self.geometry(x)
        x = x.detach()
        u = layer.apply(self.weight, x, self.bias)
        names, inputs = self._inputs(passed, x)
        setting = Setting(passed, layer, tuple(names), sends=self.sends)
        with torch.enable_grad():
            zero = EvokedFunction.apply(setting, self.constants(layer), u, *inputs)  # type: ignore[no-untyped-call]
        record.wire.append(zero)
        return u

    def _tapped(self, u: Tensor) -> Tensor:
        """u, and the zero whose gradient tells layers further up what this layer's error is."""
        tap = None if self.record.taps is None else self.record.taps.pop(self.path, None)
        if tap is None:
            return u
        if tap.shape != u.shape:
            raise UserError(
                f"the activity of {self.path} is {list(u.shape)}, and that of the example was {list(tap.shape)}",
                f"{self.plan.program.rule} has a map for every neuron: convert with an example of the right size",
            )
        return u + tap

    def _inputs(self, passed: Pass, x: Tensor) -> tuple[list[str], list[Tensor | None]]:
        plan, record = self.plan, self.record
        names: list[str] = ["x"]
        inputs: list[Tensor | None] = [x]
        for name in passed.inputs[1:]:
            if name in plan.families:
                names += [f"{name}[{index}]" for index in range(len(self.downstream))]
                inputs += [self.tensor(f"{name}[{index}]") for index in range(len(self.downstream))]
            else:
                told = name == "target" or name in plan.clocked
                names.append(name)
                inputs.append(record.signal(name, x.shape[0]) if told else self.tensor(name))
        for name, value in record.settings.items():
            if name in passed.read and plan is record.plan:
                names.append(name)
                inputs.append(value)
        return names, inputs

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for slot in (*self.plan.slots, VISITS):
            value = self.tensor(slot)
            if value is not None:  # moving a tensor between devices makes it a result, and no longer a leaf
                setattr(self, slot, value.detach().requires_grad_())
        return self


def target_of(slot: str) -> str:
    """`S` of `next S` or of `S by O`."""
    return slot.removeprefix("next ").partition(" ")[0]


def scalars(plan: Bound, layer: linear.Linear, classes: int | None) -> dict[str, Any]:
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
        if not torch.is_grad_enabled() and not self.record.evoking:
            return nn.Linear.forward(self, x)
        forward = self.evoked_forward if self.record.evoking else self.learning_forward
        return forward(x) if x.dim() > 1 else forward(x[None])[0]


class RuleConv2d(RuleLayer, nn.Conv2d):
    """A convolution that follows a rule: [batch, in_channels, H, W] -> [batch, out_channels, H', W']."""

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled() and not self.record.evoking:
            return nn.Conv2d.forward(self, x)
        forward = self.evoked_forward if self.record.evoking else self.learning_forward
        return forward(x) if x.dim() == 4 else forward(x[None])[0]
