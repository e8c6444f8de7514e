"""One batch through a network before it is converted, which leaves no trace in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ruledsl.assembly import Trace, Traced


def trace(net: nn.Module, layers: Mapping[str, nn.Module], example: Tensor) -> Trace:
    """What every layer meets, in the order in which they run first. Training state, gradients, randomness stay."""
    met: dict[str, Traced] = {}
    made: dict[Any, str] = {}  # by the node of the autograd graph that made its output, a layer
    fed: dict[str, Any] = {}

    def meet(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if name in met:
            sends = met[name].sends or inputs[0].requires_grad
            met[name] = replace(met[name], sends=sends, visits=met[name].visits + 1)
        else:
            met[name] = Traced(tuple(inputs[0].shape), tuple(output.shape), inputs[0].requires_grad)
            fed[name] = inputs[0].grad_fn
            made[output.grad_fn] = name

    hooks = [module.register_forward_hook(partial(meet, name)) for name, module in layers.items()]
    try:
        with _untouched(net), torch.enable_grad():
            output = net(example)
    finally:
        for hook in hooks:
            hook.remove()
    classes = output.shape[1] if isinstance(output, Tensor) and output.dim() == 2 else None
    upstream = {name: _upstream(node, made) for name, node in fed.items()}
    below = {name: tuple(other for other in met if name in upstream[other]) for name in met}
    return Trace({name: replace(traced, downstream=below[name]) for name, traced in met.items()}, classes)


def _upstream(node: Any, made: Mapping[Any, str]) -> set[str]:
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
def _untouched(net: nn.Module) -> Iterator[None]:
    """Evaluation mode, with every parameter free: a layer frozen now may learn, and be sent errors, later."""
    training = [(module, module.training) for module in net.modules()]
    parameters = [(parameter, parameter.requires_grad) for parameter in net.parameters()]
    devices = {parameter.device.index for parameter, _ in parameters if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(index for index in devices if index is not None)):
        try:
            net.eval()
            for parameter, _ in parameters:
                parameter.requires_grad_(True)
            yield
        finally:
            for parameter, learns in parameters:
                parameter.requires_grad_(learns)
            for module, mode in training:
                module.training = mode
