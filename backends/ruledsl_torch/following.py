"""One batch through a network before it is converted: what its layers meet. Standalone files have it from here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ruledsl.assembly import Trace, Traced


class Meetings:
    """What the layers of a network meet on the way of a batch.

    met    by layer, in the order in which they run first, the shapes of its activities
    made   by the node of the autograd graph that made its output, a layer
    fed    by layer, the node that made its input
    """

    def __init__(self) -> None:
        self.met: dict[str, Traced] = {}
        self.made: dict[Any, str] = {}
        self.fed: dict[str, Any] = {}

    def meet(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        """As a forward hook of a layer."""
        self.made[output.grad_fn] = name
        if output._is_view() and output._base is not None:  # which what changes it in place goes past
            self.made[output._base.grad_fn] = name
        if name in self.met:
            at = self.met[name]
            self.met[name] = replace(at, sends=at.sends or inputs[0].requires_grad, visits=at.visits + 1)
        else:
            self.met[name] = Traced(tuple(inputs[0].shape), tuple(output.shape), inputs[0].requires_grad)
            self.fed[name] = inputs[0].grad_fn

    def layers(self) -> dict[str, Traced]:
        """What each layer met, and which layers are downstream of it."""
        before = {name: upstream(node, self.made) for name, node in self.fed.items()}
        below = {name: tuple(other for other in self.met if name in before[other]) for name in self.met}
        return {name: replace(at, downstream=below[name]) for name, at in self.met.items()}


def follow_example(net: nn.Module, layers: Mapping[str, nn.Module], example: Any) -> Trace:
    """What layers meet on the way of an example (a tuple of several inputs), and the number of classes at its end."""
    meetings = Meetings()
    hooks = [module.register_forward_hook(partial(meetings.meet, name)) for name, module in layers.items()]
    try:
        with untouched(net), torch.enable_grad():
            output = net(*example) if isinstance(example, tuple) else net(example)
    finally:
        for hook in hooks:
            hook.remove()
    return Trace(meetings.layers(), output.shape[1] if isinstance(output, Tensor) and output.dim() == 2 else None)


def upstream(node: Any, made: Mapping[Any, str]) -> set[str]:
    """The layers on whose output a node of the autograd graph depends."""
    found, stack, visited = set(), [node], {None}
    while stack:
        node = stack.pop()
        if node not in visited:
            visited.add(node)
            found |= {made[node]} if node in made else set()
            stack += [further for further, _ in node.next_functions]
    return found


@contextmanager
def untouched(net: nn.Module, training: bool | None = None) -> Iterator[None]:
    """Every parameter free: a layer frozen now may learn, and be sent errors, later. Afterwards all is as it was.

    training  the mode; None for that of each module. Batch normalisation takes its running averages: a batch of one
              has no variance.
    """
    modes = [(module, module.training) for module in net.modules()]
    free = [parameter for parameter in net.parameters() if parameter.is_floating_point() or parameter.is_complex()]
    parameters = [(parameter, parameter.requires_grad) for parameter in free]
    buffers = [(buffer, buffer.detach().clone()) for buffer in net.buffers()]
    tables = [(module._buffers, dict(module._buffers)) for module in net.modules()]
    devices = {parameter.device.index for parameter, _ in parameters if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(index for index in devices if index is not None)):
        try:
            if training is not None:
                net.train(training)
            for module in net.modules():
                if isinstance(module, nn.modules.batchnorm._NormBase):
                    module.training = False
            for parameter, _ in parameters:
                parameter.requires_grad_(True)
            yield
        finally:
            for parameter, learns in parameters:
                parameter.requires_grad_(learns)
            for module, mode in modes:
                module.training = mode
            for table, entries in tables:
                table.clear()
                table.update(entries)
            with torch.no_grad():
                for buffer, value in buffers:
                    if not torch.equal(buffer, value):
                        buffer.copy_(value)
