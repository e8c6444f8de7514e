"""One batch through a network before it is converted, which leaves no trace in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ruledsl.assembly import Trace
from ruledsl.errors import UserError
from ruledsl_torch.following import Meetings, untouched
from ruledsl_torch.structures import tensors

Look = Callable[[Any], tuple[int | None, UserError | None]]


def shown_classes(output: Any) -> tuple[int | None, UserError | None]:
    """The number of classes that an output shows, or why it shows none."""
    return (output.shape[1] if isinstance(output, Tensor) and output.dim() == 2 else None), None


def trace(
    net: nn.Module,
    layers: Mapping[str, nn.Module],
    example: Any,
    others: Mapping[str, nn.Module] | None = None,
    look: Look = shown_classes,
) -> Trace:
    """What every layer meets, in the order in which they run first. Training state, gradients, randomness stay.

    example  a tensor, a tuple of positional inputs, or a mapping of inputs by keyword
    others   further modules with weights: what comes out of one of them comes out of no layer before it
    look     what the output shows of the number of classes

    The network runs in its own mode. Layers that don't run there (a head for training alone, in evaluation; one that
    chance leaves out, in training) are looked for in the other one, which says nothing of the network's output.
    Raises UserError for an example that the network does not take.
    """
    found = _run(net, layers, example, others or {}, None, look)
    idle = tuple(name for name in layers if name not in found.layers)
    if idle:
        try:
            other = _run(net, layers, example, others or {}, not net.training, shown_classes)
        except UserError:  # it takes other inputs there, such as labels
            return replace(found, idle=idle)
        if other.layers.keys() >= found.layers.keys():
            return replace(found, layers=other.layers, idle=idle)
    return replace(found, idle=idle)


def _run(
    net: nn.Module,
    layers: Mapping[str, nn.Module],
    example: Any,
    others: Mapping[str, nn.Module],
    training: bool | None,
    look: Look,
) -> Trace:
    meetings = _Meetings()
    made = meetings.made

    def pass_by(name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        made.update((tensor.grad_fn, name) for tensor in leaves(output) if tensor.grad_fn is not None)

    hooks = [module.register_forward_hook(partial(meetings.meet, name)) for name, module in layers.items()]
    hooks += [module.register_forward_hook(partial(pass_by, name)) for name, module in others.items()]
    try:
        with untouched(net, training), torch.enable_grad():
            output = _called(net, example)
    finally:
        for hook in hooks:
            hook.remove()
    classes, classless = look(output)
    traced = meetings.layers()
    below = {name: at.downstream for name, at in traced.items()}
    hidden = _hidden(output, meetings.apart)
    outputs, unclear = _reached(output, made, hidden, below)
    nodes = [*(leaf.grad_fn for leaf in leaves(output)), *meetings.starts]
    outside = () if hidden else _outside(layers, made, nodes)
    return Trace(traced, classes, classless, outputs, unclear, hidden=hidden, outside=outside)


class _Meetings(Meetings):
    """What layers meet in any network; `apart`: those that ran where autograd was off; `starts`: what each was fed."""

    def __init__(self) -> None:
        super().__init__()
        self.apart: list[str] = []
        self.starts: list[Any] = []

    def meet(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        """As a forward hook of a layer. Raises UserError for one whose input has a name in its call."""
        if not inputs:
            raise UserError(f"{name} is called with its input by keyword", f"in the network: {name}(x)")
        super().meet(name, module, inputs, output)
        self.starts.append(inputs[0].grad_fn)
        if not output.requires_grad:
            self.apart.append(name)


def _called(net: nn.Module, example: Any) -> Any:
    """The network's output for an example. Raises UserError that names the layer that does not take what it got."""
    entered: list[tuple[nn.Module, Any]] = []
    hooks = [
        hook
        for module in net.modules()
        for hook in (
            module.register_forward_pre_hook(lambda module, inputs: entered.append((module, inputs))),
            module.register_forward_hook(lambda module, inputs, output: _left(entered, module)),
        )
    ]
    try:
        if isinstance(example, tuple):
            return net(*example)
        return net(**example) if isinstance(example, Mapping) else net(example)
    except UserError:
        raise
    except Exception as error:  # the user's network may raise anything; it is shown, and chained
        module, inputs = entered[-1] if entered else (net, ())
        name = next((name for name, each in net.named_modules() if each is module), "")
        got = ", ".join(f"{list(each.shape)} of {each.dtype}" for each in leaves(inputs))
        at = f"{name}, {module if not list(module.children()) else type(module).__name__}," if name else "the network"
        raise UserError(
            f"the example does not fit: {at} got {got or 'no tensor'}, and raised {type(error).__name__}: {error}",
            "example=x is called as net(x), example=(x, y) as net(x, y), and a dictionary by keyword",
        ) from error
    finally:
        for hook in hooks:
            hook.remove()


def _left(entered: list[tuple[nn.Module, Any]], module: nn.Module) -> None:
    while entered and entered.pop()[0] is not module:
        pass


def _reached(
    output: Any, made: Mapping[Any, str], hidden: str, below: Mapping[str, tuple[str, ...]]
) -> tuple[tuple[str, ...], str]:
    """The layers from which the output is reached without another weight layer between; why that is not clear."""
    nodes: list[Any] = [tensor.grad_fn for tensor in leaves(output) if tensor.grad_fn is not None]
    found: list[str] = []
    custom = False
    visited: set[Any] = {None}
    while nodes:
        node = nodes.pop()
        if node in visited:
            continue
        visited.add(node)
        if node in made:
            found.append(made[node])
        else:
            custom |= isinstance(node, torch.autograd.function.BackwardCFunction)
            nodes += [further for further, _ in node.next_functions]
    outputs = tuple(dict.fromkeys(found))
    if custom and hidden:
        return outputs, hidden
    feeding = [name for name in outputs if below.get(name)]
    if feeding and sum(tensor.grad_fn is not None for tensor in leaves(output)) > 1:
        return outputs, f"the network returns several tensors, and {feeding[0]} also feeds {below[feeding[0]][0]}"
    return outputs, ""


def _outside(layers: Mapping[str, nn.Module], made: Mapping[Any, str], nodes: list[Any]) -> tuple[str, ...]:
    """The layers whose weights the network reads elsewhere than in their calls: on a way that is none through them."""
    weights = {id(parameter): name for name, layer in layers.items() for parameter in layer.parameters()}
    found: set[str] = set()
    visited: set[Any] = {None}
    while nodes:
        node = nodes.pop()
        if node not in visited:
            visited.add(node)
            found |= {weights[key] for key in [id(getattr(node, "variable", None))] if key in weights}
            nodes += [] if node in made else [further for further, _ in node.next_functions]
    return tuple(name for name in layers if name in found)


def _hidden(output: Any, apart: list[str]) -> str:
    """Why it is not known what layers depend on each other; empty where it is. `apart`: that ran without autograd."""
    nodes: list[Any] = [tensor.grad_fn for tensor in leaves(output)]
    visited: set[Any] = {None}
    while nodes and apart:
        node = nodes.pop()
        if node in visited:
            continue
        visited.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            mend = "use_reentrant=False lets it"
            return f"{apart[-1]} runs where autograd does not look, as under checkpoint(use_reentrant=True): {mend}"
        nodes += [further for further, _ in node.next_functions]
    return ""


def leaves(value: Any) -> Iterator[Tensor]:
    """The tensors of a structure."""
    return (tensor for _, tensor in tensors(value))
