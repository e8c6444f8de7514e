"""What an optimizer's step has to do with layers: hooks of all optimizers, and what they change for one step.

Standalone files have it from here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal
from weakref import WeakSet

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from ruledsl_torch.plain import PlainLayer

LAYERS: WeakSet[PlainLayer] = WeakSet()
MADE: list[int] = [0]  # how many layers there have been
PLAN = f"_plan_{id(LAYERS):x}"  # an optimizer's own attribute; another one for each copy of this file
PREPARING: dict[Callable[[torch.optim.Optimizer, Plan], None], None] = {}
"""What happens before a step: an ordered set."""
UNDER_WAY: list[Plan] = []
"""Those that have changed gradients for a step that is not over."""


def listen(layer: PlainLayer, prepare: Callable[[torch.optim.Optimizer, Plan], None]) -> None:
    """Have the steps of all optimizers know of a layer, and of what prepares them."""
    if not MADE[0]:
        register_optimizer_step_pre_hook(before_step)
        register_optimizer_step_post_hook(after_step)
    PREPARING[prepare] = None
    LAYERS.add(layer)
    MADE[0] += 1


def forget(layer: PlainLayer) -> None:
    """Have no step of an optimizer know of a layer, which is about to follow no rule any more."""
    LAYERS.discard(layer)
    MADE[0] += 1


class Plan:
    """What the steps of an optimizer have to do with layers.

    own      by id, its parameters
    layers   those of which it has one
    changed  during a step: parameters, with the `.grad` that they had, and the one that they were given
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.made_of = made_of(optimizer)
        self.own = {id(p): p for group in optimizer.param_groups for p in group["params"]}
        following = [layer for layer in LAYERS if isinstance(layer, PlainLayer)]  # and not made a plain one again
        self.layers = [layer for layer in following if any(id(p) in self.own for _, p in layer.read_parameters())]
        self.changed: list[tuple[Tensor, Tensor | None, Tensor | None, int]] = []

    def change(self, parameter: Tensor, gradient: Tensor | None) -> None:
        """Give a parameter another gradient for this step."""
        if not self.changed:
            UNDER_WAY.append(self)
        self.changed.append((parameter, parameter.grad, gradient, -1 if gradient is None else gradient._version))
        parameter.grad = gradient

    def restore(self, written: Literal["restored", "kept", "forgotten"] = "restored") -> None:
        """What changed, as it was, where nobody has put another gradient there since.

        written   what becomes of gradients that an optimizer has written to, clipped or zeroed
        """
        kept = []
        for entry in reversed(self.changed):
            parameter, before, given, version = entry
            if parameter.grad is given:
                if written == "restored" or given is None or given._version == version:
                    parameter.grad = before
                elif written == "kept":
                    kept.append(entry)
        if self.changed and not kept:
            UNDER_WAY.remove(self)
        self.changed = kept[::-1]


def is_given(gradient: Tensor) -> bool:
    """Whether a gradient was prepared for a step that is under way."""
    return any(given is gradient for plan in UNDER_WAY for _, _, given, _ in plan.changed)


def made_of(optimizer: torch.optim.Optimizer) -> tuple[int, ...]:
    """What a plan depends on: layers, and parameters, which it keeps, so that no id comes twice."""
    return MADE[0], *[id(p) for group in optimizer.param_groups for p in group["params"]]


def before_step(optimizer: torch.optim.Optimizer, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Prepare the gradients of a step; where it calls a closure, after each call.

    An optimizer may call another one, as SAM, Lookahead and ZeroRedundancyOptimizer do: the inner one moves the
    parameters, from where they are then, and what was prepared for the outer one is undone, where nobody has written to
    it. The step of a subclass calls that of its base: what was prepared stays.
    """
    plan = optimizer.__dict__.get(PLAN)
    if plan is None or plan.made_of != made_of(optimizer):  # other parameters, or other layers, than before
        plan = optimizer.__dict__[PLAN] = Plan(optimizer)
    if not plan.layers:
        return None
    closure = options.get("closure") or (arguments[1] if len(arguments) > 1 else None)

    def prepared() -> Any:
        loss = None
        if closure is not None:
            plan.restore(written="forgotten")  # zeroed, before they are computed again
            loss = closure()
        for outer in [each for each in UNDER_WAY if each is not plan and not each.own.keys().isdisjoint(plan.own)]:
            outer.restore(written="kept")
        for prepare in PREPARING:
            prepare(optimizer, plan)
        return loss

    return prepared() if closure is None else (arguments[:1], {**options, "closure": prepared})


def after_step(optimizer: torch.optim.Optimizer, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Leave in `.grad` what backward passes have summed."""
    plan = optimizer.__dict__.get(PLAN)
    if plan is not None:
        plan.restore()
