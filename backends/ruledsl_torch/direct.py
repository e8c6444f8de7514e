"""Networks whose passes need more than their layers: what reads `e` or `delta[k]`, and phases beside the task.

The layers' zeros are added to the output: so that e arrives as their gradient, or, where no errors travel, so that
the backward pass comes by each layer and nowhere else.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from ruledsl.errors import UserError
from ruledsl_torch.record import Record


@cache
def directed(base: type[nn.Module]) -> type[nn.Module]:
    """A subclass of `base` that adds the zeros of its layers to its output."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return base.forward(self, *args, **kwargs)
        record = self.ruledsl
        record.wire, record.taps = [], {}
        try:
            if record.travels:
                output = base.forward(self, *args, **kwargs)
            else:
                record.evoking = True
                with torch.no_grad():
                    output = base.forward(self, *args, **kwargs)
        finally:
            zeros, record.wire, record.taps, record.evoking = record.wire, None, None, False
        if zeros:
            check_output(output, record)
        for zero in zeros:
            output = output + zero
        return output

    def reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
        # The class lives in no module: a copy is made from the base.
        return _restore, (base,), self.__getstate__()

    members = {"forward": forward, "__reduce_ex__": reduce, "__module__": base.__module__, "__doc__": base.__doc__}
    return type(base.__name__, (base,), members)


def check_output(output: object, record: Record) -> None:
    """Raises UserError for an output that nothing can be added to, or that is no logits where a rule reads `e`."""
    if not isinstance(output, Tensor):
        raise UserError(f"the network's output is {type(output).__name__}, where a tensor was expected")
    if record.travels and (output.dim() != 2 or output.shape[1] != record.classes):
        raise UserError(
            f"the network's output is {list(output.shape)}, where logits [batch, {record.classes}] were expected",
            "give convert an example= of the input, from which it learns the number of classes",
        )


def _restore(base: type[nn.Module]) -> nn.Module:
    kind = directed(base)  # type: ignore[arg-type]
    return kind.__new__(kind)
