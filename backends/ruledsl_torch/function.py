"""One step of automatic differentiation through a weight layer, as its rule has it.

Forward is W @ x + b; backward calls the rule's functions. All that leaves the backward pass leaves it as a gradient:
`send` as that of x, pseudo-gradients as those of W, b and the rule's weights, the results of `<-` as those of slots.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ruledsl_torch.linear import Linear
from ruledsl_torch.plan import VISITS, Plan, evaluate


class RuleFunction(torch.autograd.Function):
    """`apply(plan, linear, constants, classes, *inputs)`, the inputs in the order of `plan.inputs`.

    `constants` are what the functions read that is no tensor. Returns u: [batch, *post], and for a rule that reads `e`
    also a zero of the logits' shape [batch, classes]: where that is added to the network's output, its gradient is e.
    """

    @staticmethod
    def forward(
        ctx: Any, plan: Plan, linear: Linear, constants: dict[str, Any], classes: int, *inputs: Tensor | None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """u = W @ x + b; keeps what the backward pass will read, and nothing else."""
        x, W, b = inputs[:3]
        assert x is not None and W is not None
        u = linear.forward(x, W, b)
        ctx.calls = plan.backward_calls(ctx.needs_input_grad[4:])
        read = {name for call in ctx.calls for name in call.reads}
        if "y" in read:
            read.add("u")
        available = dict(zip(plan.inputs, inputs, strict=True))
        available["u"] = u
        ctx.saved_names = tuple(name for name in available if name in read)
        ctx.save_for_backward(*(available[name] for name in ctx.saved_names))
        ctx.shapes = tuple(None if value is None else value.shape for value in inputs)
        ctx.plan, ctx.linear, ctx.constants = plan, linear, constants
        if plan.direct:
            return u, u.new_zeros((u.shape[0], classes))
        return u

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, delta: Tensor, e: Tensor | None = None) -> tuple[Any, ...]:
        """What the rule puts in the place of the gradients."""
        plan, linear = ctx.plan, ctx.linear
        values: dict[str, Any] = dict(zip(ctx.saved_names, ctx.saved_tensors, strict=True))
        values.update(ctx.constants)
        values.update(layer=linear, delta=delta, e=e, batch_size=delta.shape[0])
        if "b" in values and values["b"] is None:
            values["b"] = delta.new_zeros((linear.units_out,))
        if "u" in values and "phi" in values:
            values["y"] = values["phi"](values["u"])
        evaluate(ctx.calls, values)
        gradients: list[Tensor | None] = []
        for name, need, shape in zip(plan.inputs, ctx.needs_input_grad[4:], ctx.shapes, strict=True):
            call = plan.outputs.get(name)
            if need and call is not None and call.name in values:
                gradients.append(_filled(values[call.name], shape, delta))
            elif need and name == VISITS:
                gradients.append(torch.ones((), dtype=delta.dtype, device=delta.device))
            else:
                gradients.append(None)
        return None, None, None, None, *gradients


def _filled(value: Tensor | float, shape: torch.Size, like: Tensor) -> Tensor:
    """A result in its full shape: `send = 0` is one number for all."""
    if not isinstance(value, Tensor):
        return like.new_full(shape, value)
    return value if value.shape == shape else value.expand(shape)
