"""Networks whose passes need more than their layers: perturbations that layers leave are added to the output.

Standalone files have it from here.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn


@cache
def directed(base: type[nn.Module]) -> type[nn.Module]:
    """A subclass of `base` that adds the perturbations of its layers to its output: for rules that read `e` or
    `delta[k]`, and for phases beside the task.

    So e arrives as the gradient of a zero; or, where no errors travel, the backward pass comes by each layer, and
    nowhere else.
    """

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        network = self.ruledsl
        if network is None or not torch.is_grad_enabled():
            return base.forward(self, *args, **kwargs)
        running = network.running
        before = running.output, running.taps, running.evoking  # of a pass in which this one takes place
        running.output, running.taps, running.evoking = [], {}, None if network.travels else network.phase
        try:
            if network.travels:
                output = base.forward(self, *args, **kwargs)
            else:
                with torch.no_grad():
                    output = base.forward(self, *args, **kwargs)
            zeros = running.output
        finally:
            running.output, running.taps, running.evoking = before
        if not network.travels:
            return network.evoked(output, zeros)
        return network.with_errors(output, zeros) if zeros else output

    def reduce(self: Any, protocol: Any) -> tuple[Any, ...]:
        # The class lives in no module: a copy is made from the base.
        return _restore, (base,), self.__getstate__()

    members = {"forward": forward, "__reduce_ex__": reduce, "__module__": base.__module__, "__doc__": base.__doc__}
    return type(base.__name__, (base,), {**members, "ruledsl": None})  # None for a slice of a Sequential


def _restore(base: type[nn.Module]) -> nn.Module:
    kind = directed(base)  # type: ignore[arg-type]
    return kind.__new__(kind)
