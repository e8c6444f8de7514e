"""What a held-out batch shows of a network's layers, see `ruledsl.training.probes`; the network stays as it is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ruledsl.program import TASK, program_of
from ruledsl.training.probes import CLASSES, Seen, effective
from ruledsl_torch.attending import leave
from ruledsl_torch.network import observe
from ruledsl_torch.stepping import complete


def look(
    net: nn.Module,
    plain: nn.Module,
    paths: list[str],
    images: Tensor,
    labels: Tensor,
    rate: float,
    loss: Callable[[Tensor, Tensor], Tensor],
) -> dict[str, Seen]:
    """Every weight layer of a network, by its path.

    plain   a network of the same architecture without rules; it is given the weights
    rate    the learning rate that rules are told of where they were not told yet
    loss    of logits and labels, the mean over the batch
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        plain.load_state_dict(net.state_dict(), strict=False)
        exact = _deltas(plain.eval(), paths, images, labels, loss)
        ruled = getattr(net, "ruledsl", None)
        if ruled is None:
            return {path: Seen(_array(net.get_submodule(path).weight), None, *_same(exact[path])) for path in paths}
        shared = {id(ruled.optimizers): None, id(ruled.draws): ruled.draws}  # of no use in a pass, and of no state
        own = copy.deepcopy(net, shared)
        leave(own.ruledsl)  # type: ignore[arg-type]
        taught = _deltas(own.eval(), paths, images, labels, loss, lambda: _tell(own, labels, rate))
        maps = {path: effective_map(net, path) for path in paths}
        direct = [path for path, found in maps.items() if found is not None and found[1]]
        below = downstream(plain, direct, images) if direct else {}
    seen = {}
    for path in paths:
        weight, found = _array(net.get_submodule(path).weight), maps[path]
        forward = weight if found is None or not found[1] else below.get(path)
        feedback = None if found is None or forward is None else (forward, _array(found[0]))
        (delta, gradient), (other, pseudo) = exact[path], taught[path]
        seen[path] = Seen(weight, feedback, _pair(delta, other), _pair(gradient, pseudo))
    return seen


def effective_map(net: Any, path: str) -> tuple[Tensor, bool] | None:
    """The map that a layer's `send` applies, and whether it is that of e; None for one that sends to nobody."""
    layer = net.ruledsl.layers.get(path)
    if layer is None or not layer.sends or "first" in net.ruledsl.roles.get(path, ""):
        return None
    program, linear = program_of(layer), layer.linear_map()
    held = {tensor.name: _held(layer, tensor.name) for tensor in program.tensors}
    known = {name: value for name, value in held.items() if value is not None}
    known |= {name: getattr(layer, name) for name in layer.hyperparameters}
    known |= {**net.ruledsl.clock, **net.ruledsl.settings, "classes": net.ruledsl.classes}
    known |= {"fan_in": linear.fan_in, "fan_out": linear.fan_out}
    identity = torch.eye(net.ruledsl.classes or 0, dtype=layer.weight.dtype, device=layer.weight.device)
    with torch.no_grad():
        return effective(program, linear, known, identity)


def downstream(plain: nn.Module, paths: list[str], images: Tensor) -> dict[str, NDArray[Any]]:
    """By layer, the derivative of the logits by its input, averaged over the batch: [classes, *pre]."""
    inputs: dict[str, Tensor] = {}

    def keep(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
            inputs[path] = arguments[0]

        return hook

    hooks = [plain.get_submodule(path).register_forward_pre_hook(keep(path)) for path in paths]
    logits = plain(images)
    for hook in hooks:
        hook.remove()
    if logits.shape[1] > CLASSES:
        return {}
    rows = [torch.autograd.grad(each, list(inputs.values()), retain_graph=True) for each in logits.mean(0)]
    return {path: np.stack([_array(row[at].sum(0)) for row in rows]) for at, path in enumerate(inputs)}


def _held(layer: Any, name: str) -> Any:
    return getattr(layer, {"W": "weight", "b": "bias"}.get(name, name), None)


def _tell(net: Any, labels: Tensor, rate: float) -> None:
    """Have a copy of a network get ready for a pass of the task."""
    network = net.ruledsl
    if "lr" in network.clocked and "lr" not in network.clock:
        network.tell("lr", rate)
    observe(net, target=labels)
    network.begin_step()
    network.enter(TASK)


def _deltas(
    net: nn.Module,
    paths: list[str],
    images: Tensor,
    labels: Tensor,
    loss: Callable[[Tensor, Tensor], Tensor],
    ready: Callable[[], None] = lambda: None,
) -> dict[str, tuple[Tensor | None, Tensor | None]]:
    """By layer, its delta and what reaches W."""
    found: dict[str, Tensor] = {}

    def watch(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: Any, u: Tensor) -> None:
            u.register_hook(lambda delta: found.update({path: delta.detach()}))

        return hook

    hooks = [net.get_submodule(path).register_forward_hook(watch(path)) for path in paths]
    for parameter in net.parameters():
        parameter.grad = None
    ready()
    made = loss(net(images), labels)
    for hook in hooks:
        hook.remove()
    made.backward()  # type: ignore[no-untyped-call]
    if hasattr(net, "ruledsl"):
        complete(net)
    return {path: (found.get(path), _gradient(net.get_submodule(path))) for path in paths}


def _gradient(layer: nn.Module) -> Tensor | None:
    weight: Any = layer.weight
    gradient: Tensor | None = weight.grad
    return gradient


def _same(found: tuple[Tensor | None, Tensor | None]) -> tuple[Any, Any]:
    return _pair(found[0], found[0]), _pair(found[1], found[1])


def _pair(one: Tensor | None, other: Tensor | None) -> tuple[NDArray[Any], NDArray[Any]] | None:
    return None if one is None or other is None else (_array(one), _array(other))


def _array(tensor: Any) -> NDArray[Any]:
    return np.array(tensor.detach().cpu().numpy())
