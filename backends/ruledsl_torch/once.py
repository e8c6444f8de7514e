"""Terms that count once a step.

A backward pass brings to `.grad` what is summed over examples. Decay, and whatever else reads no activity, is added
when an optimizer steps: to `.grad` as it is then, after micro-batches, replicas and `GradScaler`, and for this step
alone, as torch's own weight decay is. A step that is skipped adds nothing.

Standalone files have it from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, MutableMapping
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from ruledsl.ir.phases import TASK
from ruledsl_torch.hooks import UNDER_WAY, Plan, is_given, listen
from ruledsl_torch.plain import PlainLayer


class Once(NamedTuple):
    """The pseudo-gradient of a tensor: `complete(layer, summed)` of what backward passes have summed.

    to_send   whether the tensor serves sending alone, so that it stays where a layer sends to nobody
    """

    tensor: str
    complete: Callable[[Any, Tensor], Tensor]
    phase: str = TASK
    optimizer: str = TASK
    to_send: bool = False


class OnceLayer(PlainLayer):
    """A layer whose pseudo-gradients have terms that count once, when an optimizer steps.

    `once`: these terms.
    """

    once: ClassVar[tuple[Once, ...]] = ()

    def follow(self, generator: Any = None, **facts: Any) -> Self:
        """See `PlainLayer.follow`."""
        super().follow(generator, **facts)
        listen(self, add_once)
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        listen(self, add_once)

    def due(self) -> Iterator[Once]:
        """What counts in the present step."""
        return iter(self.once)

    def stands_beside(self, once: Once) -> bool:
        """Whether the pseudo-gradient is held beside `.grad`, for a second optimizer of the same tensor."""
        beside = dict(self.beside)
        taught = [each for each in self.teaches or () if (each.phase, each.optimizer) == (once.phase, once.optimizer)]
        return any(beside.get(name) == once.tensor for each in taught for name in each.tensors)

    def lacking(self) -> Iterator[Once]:
        """What of that belongs to `.grad`, and is no part of it yet."""
        due = (once for once in self.due() if not self.stands_beside(once)) if self.beside else self.due()
        if not UNDER_WAY and not len(COMPLETED):  # as nearly always
            return due
        return (once for once in due if not is_complete(self.held(once.tensor)))

    def watch(self, x: Tensor) -> None:
        """Notice what happens from one forward pass to the next: what only the package's layers do."""

    def share_of(self, name: str) -> Any:
        """What tells the tensor `name` from others, where layers share a parameter."""
        return id(self.held(name))

    def with_once(self, once: Once, summed: Tensor, scale: Tensor | None) -> Tensor:
        """The pseudo-gradient of a parameter from what backward passes have summed, times `scale`."""
        if scale is not None:
            return once.complete(self, summed / scale) * scale
        value = once.complete(self, summed)
        kept = any(value is each for each in (*self._parameters.values(), *self._buffers.values()))
        return value.clone() if kept else value  # `.grad` is nobody's tensor


COMPLETED: MutableMapping[Tensor, tuple[int, Tensor]] = WeakIdKeyDictionary()
"""The gradients that `complete` has made, each with what changes when its parameter moves (`.data` has no versions)."""


def is_complete(parameter: Tensor | None) -> bool:
    """Whether what counts once a step is part of `.grad`: of this step, and not of one before."""
    gradient = None if parameter is None else parameter.grad
    if parameter is None or gradient is None:
        return False
    version, total = COMPLETED.get(gradient, (-1, None)) if len(COMPLETED) else (-1, None)
    return is_given(gradient) or (version == parameter._version and bool(total == parameter.detach().sum()))


def add_once(optimizer: torch.optim.Optimizer, plan: Plan) -> None:
    """Complete the gradients of one step."""
    layers = [layer for layer in plan.layers if isinstance(layer, OnceLayer)]
    due = [(layer, once) for layer in layers for once in layer.lacking()]
    scale = getattr(optimizer, "grad_scale", None)  # set by GradScaler for optimizers that undo its scale themselves
    found = completed(due, lambda parameter: parameter.grad if id(parameter) in plan.own else None, scale)
    for parameter, gradient in found.values():
        plan.change(parameter, gradient)


def completed(
    due: Iterable[tuple[OnceLayer, Once]], summed: Callable[[Tensor], Tensor | None], scale: Tensor | None = None
) -> dict[int, tuple[Tensor, Tensor]]:
    """By id, parameters with their complete pseudo-gradients; that of a parameter that layers share only once.

    `summed`: of one, what backward passes have brought, times what GradScaler has for a `scale`; None for one that is
    not meant.
    """
    found: dict[int, tuple[Tensor, Tensor]] = {}
    done: set[Any] = set()
    for layer, once in due:
        parameter, share = layer.held(once.tensor), layer.share_of(once.tensor)
        if parameter is None or share in done:
            continue
        _, before = found.get(id(parameter), (None, summed(parameter)))
        if before is not None:
            done.add(share)
            with torch.no_grad():
                found[id(parameter)] = parameter, layer.with_once(once, before, scale)
    return found


def complete(net: nn.Module) -> None:
    """Add to `.grad` what counts once a step. The steps of torch.optim do so themselves.

    Whoever moves parameters otherwise calls this after the backward passes of a step; also before gradients are
    clipped, if that is to count what is added (the step after that adds nothing, nor does a second call before that).
    """
    layers = [layer for layer in net.modules() if isinstance(layer, OnceLayer)]
    due = [(layer, once) for layer in layers for once in layer.lacking()]
    for parameter, gradient in completed(due, lambda parameter: parameter.grad).values():
        parameter.grad = gradient
        COMPLETED[gradient] = parameter._version, parameter.detach().sum()
