"""One step of automatic differentiation through a weight layer, as its rule has it.

Forward is W @ x + b; backward calls the rule's functions. All that leaves the backward pass leaves it as a gradient:
`send` as that of x, pseudo-gradients as those of W, b and the rule's weights, what else there is as those of slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ruledsl.plan import VISITS, Pass, evaluate
from ruledsl_torch.linear import Linear

ZERO = "zero "  # an input that carries the error of a layer downstream


@dataclass(frozen=True)
class Setting:
    """What a layer's functions need beside tensors.

    passed      what is to be computed
    names       those of the inputs, in order; `D[0]`, `D[1]` for maps from layers downstream, `zero 0` for their zeros
    classes     outputs of the network
    downstream  shapes of the activities of the layers downstream, without the batch
    sends       whether anybody receives what the layer sends
    """

    passed: Pass
    linear: Linear
    names: tuple[str, ...]
    classes: int = 0
    downstream: tuple[tuple[int, ...], ...] = ()
    sends: bool = True


class RuleFunction(torch.autograd.Function):
    """`apply(setting, constants, *inputs)`; `constants` are what the functions read that is no tensor.

    Returns u: [batch, *post]. For a rule that reads `e` also a zero of the logits' shape [batch, classes]: where that
    is added to the network's output, its gradient is e. For one that reads `delta[k]` a zero of the shape of every u
    downstream, to be added there. A layer further down hands these on, so that each is added only once.
    """

    @staticmethod
    def forward(ctx: Any, setting: Setting, constants: dict[str, Any], *inputs: Tensor | None) -> Any:
        """u = W @ x + b; keeps what the backward pass will read, and nothing else."""
        x, W, b = inputs[:3]
        assert x is not None and W is not None
        u = setting.linear.apply(W, x, b)
        sends = ctx.needs_input_grad[2]
        _keep(ctx, setting, constants, sends, inputs, u)
        results = [u]
        if setting.passed.direct:
            results.append(u.new_zeros((u.shape[0], setting.classes)))
        results += [u.new_zeros(()).expand(u.shape[0], *shape) for shape in setting.downstream]
        return tuple(results) if len(results) > 1 else u

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, delta: Tensor, *further: Tensor) -> tuple[Any, ...]:
        """What the rule puts in the place of the gradients."""
        e, delta_k = (further[0], further[1:]) if ctx.setting.passed.direct else (None, further)
        return _gradients(ctx, {"delta": delta, "e": e, "delta_k": delta_k}, delta)


class EvokedFunction(torch.autograd.Function):
    """The same where no errors travel: `apply(setting, constants, u, *inputs)` returns a zero of no dimensions.

    Where that is added to the network's output, the backward pass comes by and calls the functions of the phase.
    """

    @staticmethod
    def forward(ctx: Any, setting: Setting, constants: dict[str, Any], u: Tensor, *inputs: Tensor | None) -> Tensor:
        """Keeps what the backward pass will read."""
        _keep(ctx, setting, constants, setting.sends, inputs, u, skipped=1)
        return u.new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, zero: Tensor) -> tuple[Any, ...]:
        """What the phase hands to optimizers and assigns."""
        setting, constants, *gradients = _gradients(ctx, {}, zero)
        return setting, constants, None, *gradients


def _keep(
    ctx: Any,
    setting: Setting,
    constants: dict[str, Any],
    sends: bool,
    inputs: Sequence[Tensor | None],
    u: Tensor,
    skipped: int = 0,
) -> None:
    needs = ctx.needs_input_grad[2 + skipped :]
    ctx.calls = setting.passed.backward_calls(
        frozenset(name for name, need in zip(setting.names, needs, strict=True) if need), sends
    )
    read = {name for call in ctx.calls for name in call.reads}
    if "y" in read:
        read.add("u")
    available: dict[str, Tensor | None] = dict(zip(setting.names, inputs, strict=True))
    available["u"] = u
    ctx.saved_names = tuple(name for name in available if name.partition("[")[0] in read)
    ctx.save_for_backward(*(available[name] for name in ctx.saved_names))
    ctx.shapes = tuple(None if value is None else value.shape for value in inputs)
    ctx.setting, ctx.constants, ctx.skipped, ctx.batch = setting, constants, skipped, u.shape[0]


def _gradients(ctx: Any, errors: dict[str, Any], like: Tensor) -> tuple[Any, ...]:
    setting: Setting = ctx.setting
    values: dict[str, Any] = {**ctx.constants, **errors, "layer": setting.linear, "batch_size": ctx.batch}
    values.update({family: [] for family in setting.passed.families})
    for name, value in zip(ctx.saved_names, ctx.saved_tensors, strict=True):
        family, bracket, _ = name.partition("[")
        if bracket:
            values[family].append(value)
        else:
            values[name] = value
    if "b" in values and values["b"] is None:
        values["b"] = like.new_zeros((setting.linear.units_out,))
    if "u" in values and "phi" in values:
        values["y"] = values["phi"](values["u"])
    evaluate(ctx.calls, values)
    needs = ctx.needs_input_grad[2 + ctx.skipped :]
    gradients: list[Tensor | None] = []
    handed_on = iter(errors.get("delta_k", ()))
    for name, need, shape in zip(setting.names, needs, ctx.shapes, strict=True):
        call = setting.passed.outputs.get(name)
        if name.startswith(ZERO):
            error = next(handed_on)
            gradients.append(error if need else None)
        elif need and call is not None and call.name in values:
            gradients.append(_filled(values[call.name], shape, like))
        elif need and name == VISITS:
            gradients.append(torch.ones((), dtype=like.dtype, device=like.device))
        else:
            gradients.append(None)
    return None, None, *gradients


def _filled(value: Tensor | float, shape: torch.Size, like: Tensor) -> Tensor:
    """A result in its full shape: `send = 0` is one number for all."""
    if not isinstance(value, Tensor):
        return like.new_full(shape, value)
    return value if value.shape == shape else value.expand(shape)
