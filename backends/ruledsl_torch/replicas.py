"""Replicas: processes that train one network, each on its share of a batch, as under DistributedDataParallel.

DistributedDataParallel averages `.grad`. Here is what a rule needs beside it so that a step is that of the joint batch:
what is reduced over a batch inside an equation, what `<-` assigns, the phases with an input of their own, and values
that are drawn at every step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ruledsl.errors import UserError


class Replicas(NamedTuple):
    """The processes that compute the same step, each for its share of the batch.

    group   as in torch.distributed; count: how many they are; rank: which of them this one is
    """

    group: Any
    count: int
    rank: int

    def total(self, value: Tensor) -> Tensor:
        """The sum of what each process has."""
        summed = value.detach().contiguous().clone()
        dist.all_reduce(summed, group=self.group)
        return summed

    def averages(self, values: Sequence[Tensor]) -> list[Tensor]:
        """The average of each over the processes; the values of one type travel together."""
        averaged: list[Tensor] = list(values)
        kinds: dict[Any, list[int]] = {}
        for index, value in enumerate(values):
            kinds.setdefault((value.dtype, value.device), []).append(index)
        for indices in kinds.values():
            flat = torch.cat([values[index].detach().reshape(-1) for index in indices])
            dist.all_reduce(flat, group=self.group)
            parts = flat.div_(self.count).split([values[index].numel() for index in indices])
            for index, part in zip(indices, parts, strict=True):
                averaged[index] = part.view(values[index].shape)
        return averaged

    def alike(self, values: Iterable[Tensor]) -> None:
        """Give every process what the first one has, in place."""
        for value in values:
            whole = value.detach().contiguous()
            dist.broadcast(whole, self.first, group=self.group)
            value.detach().copy_(whole)

    def told(self, value: Any) -> Any:
        """What the first process has, for each of them."""
        box = [value]
        dist.broadcast_object_list(box, self.first, group=self.group)
        return box[0]

    def all(self, value: Any) -> list[Any]:
        """What every process has."""
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value, group=self.group)
        return found

    def share(self, joint: Tensor) -> Tensor:
        """This process's part of a joint batch."""
        size = len(joint) // self.count
        return joint[self.rank * size : (self.rank + 1) * size]

    @property
    def first(self) -> int:
        """The first process, by its number among all."""
        return dist.get_global_rank(self.group, 0)

    # Groups are of one process and no part of a copy.
    def __deepcopy__(self, memo: Any) -> None:
        return None

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()


def joint(layer: Any, value: Tensor, power: int = 0) -> Tensor:
    """What was reduced over the batch, for the joint batch of all replicas; without replicas the value itself.

    It is the average over the replicas, by count ** power: a sum over the batch in which there is no error has -1.
    """
    replicas = getattr(layer, "replicas", None)
    if replicas is None:
        return value
    total: Tensor = replicas.total(value)
    return total.div_(float(replicas.count) ** (1 + power))


def joint_errors(layer: Any, errors: Tensor) -> Tensor:
    """The errors of a loss over the joint batch, of those over a replica's share: a mean over fewer examples."""
    replicas = getattr(layer, "replicas", None)
    return errors if replicas is None else errors / replicas.count


def joint_size(layer: Any, batch_size: int) -> int:
    """The size of the joint batch."""
    replicas = getattr(layer, "replicas", None)
    return batch_size if replicas is None else batch_size * replicas.count


def own_errors(layer: Any, errors: Tensor) -> Tensor:
    """The inverse of `joint_errors`: what a replica sends on."""
    replicas = getattr(layer, "replicas", None)
    return errors if replicas is None else errors * replicas.count


def joint_std(layer: Any, value: Tensor) -> Tensor:
    """The standard deviation over the joint batch: [batch, *] -> [1, *]"""
    if getattr(layer, "replicas", None) is None:
        return value.std(0, keepdim=True, correction=0)
    deviation = value - joint(layer, value.mean(0, keepdim=True))
    return joint(layer, deviation.square().mean(0, keepdim=True)).sqrt()


def joint_norm(layer: Any, value: Tensor) -> Tensor:
    """The length of each unit's activity over the joint batch, at least 1e-6: [batch, *] -> [1, *]"""
    if getattr(layer, "replicas", None) is None:
        length = torch.linalg.vector_norm(value, dim=0, keepdim=True)
    else:
        length = joint(layer, value.square().sum(0, keepdim=True), -1).sqrt()
    return length.clamp(min=1e-6)


# --- finding the replicas ---


def replicas_of(wrapped: Any) -> Replicas | None:
    """Those of a DistributedDataParallel; None where there is one process alone."""
    group = wrapped.process_group
    count = dist.get_world_size(group)
    return None if count == 1 else Replicas(group, count, dist.get_rank(group))


def keep_in_step(net: nn.Module, inputs: Any) -> None:
    """Before a forward pass of a network whose rule needs it: find out whether it is that of a replica.

    The first such pass gives the replicas what they have to have in common. Raises UserError, before anything has
    changed, where replicas can't do what the rule says.
    """
    if dist.is_available() and dist.is_initialized():
        find_replicas(net)


@torch.compiler.disable
def find_replicas(net: nn.Module) -> None:
    """What `keep_in_step` does inside a process group; a compiled network stops for it."""
    network: Any = getattr(net, "ruledsl", None)
    if network is None or not torch.is_grad_enabled():
        return
    wrapped = nn.parallel.DistributedDataParallel._get_active_ddp_module()
    if wrapped is not None:
        meet(network, wrapped)
    else:
        network.replicas = None
        refuse_shards(network, net)


def meet(network: Any, wrapped: Any) -> None:
    """The network is trained by a DistributedDataParallel from here on."""
    replicas = replicas_of(wrapped)
    met = wrapped.__dict__.setdefault("_ruledsl_met", [])
    if replicas is not None and not any(each is network for each in met):
        check(network, replicas, wrapped)
        make_alike(network, replicas, wrapped)
        met.append(network)
    network.replicas = replicas


def check(network: Any, replicas: Replicas, wrapped: Any) -> None:
    """Raises UserError where the replicas can't compute a step of the joint batch together."""
    for layer in network.layers.values():
        if layer.unlike:
            raise UserError(
                f"{layer.rule}: what replicas compute for {', '.join(layer.unlike)}, each from its share of the batch, "
                "does not average to what the joint batch gives",
                "train it in one process, or write its sums over the batch as means (`mean=batch`)",
            )
    if any(map(alternates, network.layers.values())):
        name = network.rule
        if wrapped.static_graph:
            raise UserError(f"{name} has phases that teach different weights", "leave static_graph=True away")
        if not wrapped.find_unused_parameters:
            raise UserError(
                f"{name} has phases that teach different weights, and in each of them others get no gradient",
                "DistributedDataParallel(net, find_unused_parameters=True)",
            )
    shapes = {path: layer.input_shape for path, layer in network.layers.items() if layer.driven}
    for other in replicas.all(shapes):
        if other != shapes:
            path = next(path for path in shapes if other.get(path) != shapes[path])
            raise UserError(
                f"{network.rule} draws inputs like those of the example, and that of {path} was {list(shapes[path])} "
                f"in one process and {list(other.get(path, ()))} in another",
                "convert with an example of the same size in all of them: that of each one's share of the batch",
            )


def alternates(layer: Any) -> bool:
    """Whether there is a pass in which a weight gets no gradient that it gets in another one."""
    passes = ("task", *layer.with_errors, *layer.without_errors)
    taught = {(each.phase, name) for each in layer.teaches or () for name in each.tensors}
    names = {name for phase, name in taught if phase in passes}
    return any((phase, name) not in taught for phase in passes for name in names)


def make_alike(network: Any, replicas: Replicas, wrapped: Any) -> None:
    """What the replicas have to have in common: tensors, where random values come from, and the step they are in."""
    theirs = [(layer, name) for layer in network.layers.values() for name in layer.passing]
    passing = {(id(layer), name) for layer, name in theirs}
    kept = {
        id(buffer): buffer
        for layer in network.layers.values()
        for name, buffer in layer.named_buffers(recurse=False)
        if (id(layer), name) not in passing
    }
    replicas.alike(kept.values())
    # What a backward pass leaves until `advance` is each process's own: a forward pass in between does not touch it.
    names = {id(module): name for name, module in wrapped.module.named_modules()}
    for layer, name in theirs:
        if id(layer) in names:
            wrapped.parameters_to_ignore.add(f"{names[id(layer)]}.{name}".removeprefix("."))
    if theirs:
        wrapped._assign_modules_buffers()  # which of them it broadcasts
    if network.draws is not None:
        network.draws, network.step = replicas.told((network.draws, network.step))
    elif network.generator is None:
        network.generator = torch.Generator().manual_seed(replicas.told(int(torch.randint(2**62, ()))))
    else:
        network.generator.set_state(replicas.told(network.generator.get_state()))
    network._generators.clear()


def refuse_shards(network: Any, net: nn.Module) -> None:
    """Raises UserError where weights are split among processes, and the rule does what takes them whole.

    Gradients are averaged by fully_shard; what is drawn at every step is the same in all processes if the seed is.
    """
    layers = network.layers.values()
    if not any(map(sharded, (net, *layers))):
        return
    if any(layer.needs_whole_batch or layer.without_errors for layer in layers):
        raise UserError(
            f"{network.rule} does more over the batch than teach by gradients, and fully_shard has split its weights",
            "DistributedDataParallel(net) keeps them whole",
        )
    if network.draws is None and network.generator is None and any(layer.draws for layer in layers):
        raise UserError(
            f"{network.rule} draws at every step, and each process draws for itself",
            "convert(net, rule, seed=0), with the same seed in all of them, before fully_shard",
        )


def sharded(module: nn.Module) -> bool:
    """Whether fully_shard was called on a module, or has split its weight."""
    weight = getattr(module, "weight", None)
    return hasattr(weight, "device_mesh") or any(kind.__name__ == "FSDPModule" for kind in type(module).__mro__)
