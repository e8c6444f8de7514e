"""What happens between two steps: what a pass has left is stored, driven phases run, and what is fresh is drawn anew.

Standalone files have it from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn

from ruledsl.errors import UserError
from ruledsl_torch.network import CPU, NetworkState, state_of
from ruledsl_torch.plain import Driven, Gradient, Next, PlainLayer

AT_ONCE = 8  # layers for which there is a drawn input at the same time


def advance(net: nn.Module) -> None:
    """After `optimizer.step()`: store what `<-` computed, run the driven phases and `after step`, draw `fresh` anew.

    Then the network is ready for the next step, in whichever phase that is: `net.ruledsl.phases`. A step in which
    several phases see the batch takes as many passes, with `advance` after each; the last one ends the step.
    Raises RuntimeError when the backward pass ran more than once since the last call, or went through a layer twice:
    the results of two passes have no place in one tensor. Raises UserError where a pseudo-gradient is meant for an
    optimizer of its own, and `optimizers` made none.
    """
    network = state_of(net)
    end_pass(network)
    if network.next_pass():
        return
    for phase in network.phases:
        if network.driven(phase):
            run_driven(network, phase)
    end_step(network)
    network.begin_step()


def end_pass(network: NetworkState) -> None:
    """Store what the `<-` of the pass computed."""
    with torch.no_grad():
        for layer in network.layers.values():
            layer.check_pass(network.optimizers is not None)
        for scalar in network.clocked:
            network.told(scalar)
        results = [result for layer in network.layers.values() for result in layer.end_pass(network.phase)]
        if len({id(result.tensor) for result in results}) < len(results):
            raise UserError("two layers share a tensor, and their rule assigns its next value in each of them")
        store(network.together(results))
        network.forget_pass()


def run_driven(network: NetworkState, phase: str) -> None:
    """One step of a phase with `drive` in all layers."""
    with torch.no_grad():
        results = [result for layer, run, x in with_inputs(network, phase) for result in run.run(layer, x)]
        results = network.together(results)
        gradients = [result for result in results if isinstance(result, Gradient)]
        if gradients and network.optimizers is None:
            by = gradients[0].optimizer
            raise UserError(
                f"{network.rule} trains `by {by}` in the phase {phase}, and nobody does so",
                "optimizer = optimizers(net, task=...) makes every optimizer that the rule names",
            )
        if gradients:
            network.optimizers.apply(gradients, phase)
        store(result for result in results if isinstance(result, Next))


def end_step(network: NetworkState) -> None:
    """`after step`, in order; `fresh` tensors and the counter."""
    with torch.no_grad():
        for layer in network.layers.values():
            for results in layer.stages():
                store(results)
            with layer.stored.device:
                network.draw_fresh(layer, network.source(layer))
        network.step += 1
        if "step" in network.clock:
            network.tell("step", network.step)


def store(results: Iterable[Next | Gradient]) -> None:
    """Every value into its tensor, as if at once; a number fills it."""
    pairs = [(result.tensor, result.value) for result in results]
    written = {tensor.untyped_storage().data_ptr() for tensor, _ in pairs}
    with torch.no_grad():
        # The value of `A <- B` is B itself, which may be about to change.
        values = [
            value.clone() if isinstance(value, Tensor) and value.untyped_storage().data_ptr() in written else value
            for _, value in pairs
        ]
        for (tensor, _), value in zip(pairs, values, strict=True):
            tensor.copy_(value) if isinstance(value, Tensor) else tensor.fill_(value)


def with_inputs(network: NetworkState, phase: str) -> Iterator[tuple[PlainLayer, Driven, Tensor]]:
    """The layers that take part in a phase with `drive`, each with its input [batch, *pre].

    A processor draws with one thread per generator, and about as slowly as it convolves: several threads draw for as
    many layers at once, each with a generator of its own, whose seed follows from the network's. How many threads there
    are changes no number. Other devices need no help: they draw one layer after the other.
    """
    drives = [(layer, layer.drive(phase)) for layer in network.layers.values()]
    waiting = [(layer, drive) for layer, drive in drives if drive and (layer.sends or not drive.serves_sending)]
    threads = min(torch.get_num_threads(), AT_ONCE)
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(waiting), threads):
            group = [(*each, _own_source(network, each[0])) for each in waiting[start : start + threads]]
            parallel = all(layer.stored.device.type == "cpu" for layer, _, _ in group)
            for (layer, drive, _), x in zip(group, (pool.map if parallel else map)(_draw, group), strict=True):
                yield layer, drive, x


def _own_source(network: NetworkState, layer: PlainLayer) -> Any:
    source = network.source(layer)
    if hasattr(source, "of") or layer.stored.device.type != "cpu":
        return source
    return torch.Generator().manual_seed(int(torch.randint(2**62, (), generator=source, device=CPU)))


def _draw(work: tuple[PlainLayer, Driven, Any]) -> Tensor:
    layer, drive, source = work
    if layer.input_shape is None:
        raise UserError(f"{layer.rule} drives every layer", "give convert an example= of an input batch")
    with torch.no_grad(), layer.stored.device:
        drawn: Tensor = layer.network.draw(layer, drive, source)
        return drawn.to(layer.stored.dtype)
