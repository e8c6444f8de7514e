"""Networks whose layers read `e`: the layers' zeros are added to the output, so that e arrives as their gradient."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ruledsl.errors import UserError
from ruledsl_torch.record import Record


@cache
def directed(base: type[nn.Module]) -> type[nn.Module]:
    """A subclass of `base` that adds the zeros of its layers to its output [batch, classes]."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return base.forward(self, *args, **kwargs)
        record = self.ruledsl
        record.wire = []
        output = base.forward(self, *args, **kwargs)
        zeros, record.wire = record.wire, None
        check_logits(output, record)
        for zero in zeros:
            output = output + zero
        return output

    def reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
        # The class lives in no module: a copy is made from the base.
        return _restore, (base,), self.__getstate__()

    members = {"forward": forward, "__reduce_ex__": reduce, "__module__": base.__module__, "__doc__": base.__doc__}
    return type(base.__name__, (base,), members)


def check_logits(output: object, record: Record) -> None:
    """Raises UserError for an output that a rule with `e` or `target` can't deal with."""
    shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if not isinstance(output, Tensor) or output.dim() != 2 or output.shape[1] != record.classes:
        raise UserError(
            f"the network's output is {shape}, where logits [batch, {record.classes}] were expected",
            "give convert an example= of the input, from which it learns the number of classes",
        )


def _restore(base: type[nn.Module]) -> nn.Module:
    kind = directed(base)  # type: ignore[arg-type]
    return kind.__new__(kind)
