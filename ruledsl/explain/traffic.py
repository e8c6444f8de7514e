"""How many bits an entry of the transport ledger moves."""

from __future__ import annotations

from collections.abc import Iterable

from ruledsl.explain.cost import LayerSize, only_for_feedback
from ruledsl.ir.equations import Equations
from ruledsl.ir.nodes import walk
from ruledsl.ir.printer import show
from ruledsl.ir.types import PARAMETER, Space, Type
from ruledsl.locality.flow import Entry
from ruledsl.locality.labels import MODULATE, MULTIPLEX

VALUE_BITS = 32


def bits_per_update(equations: Equations, entry: Entry, layers: Iterable[LayerSize]) -> int:
    """The information that an entry of the ledger moves in one update of the network, for one example.

    value, reverse        32 bits for every synapse of the source
    sign                  1 bit for every synapse of the source
    norm, stat, modulate  32 bits for each of the numbers that the entry counts, in every layer
    multiplex             32 bits for every message that it counts and every neuron that sends it
    pool, broadcast       32 bits for every neuron whose activity is pooled or broadcast, in every layer that it reaches

    The first weight layer sends to nobody, and what only its `send` would need is not counted.
    """
    for_feedback = entry.sink == "send" or only_for_feedback(equations, entry.sink)
    reached = [layer for layer in layers if layer.sends or not for_feedback]
    return sum(_bits(equations, entry, layer) for layer in reached)


def _bits(equations: Equations, entry: Entry, layer: LayerSize) -> int:
    if entry.channel in ("norm", "stat", MODULATE):
        return VALUE_BITS * entry.count
    if entry.channel == MULTIPLEX:
        name, _, index = entry.source.partition(" -> ")[0].rstrip("]").partition("[")
        return VALUE_BITS * entry.count * layer.neurons(Space(name, index or None))  # type: ignore[arg-type]
    if entry.source in equations.tensors and not entry.channel.startswith("pool"):
        synapses = layer.numbers(equations.tensors[entry.source].type)
        return synapses if entry.channel == "sign" else VALUE_BITS * synapses
    pooled = _type_of(equations, entry)
    neurons = layer.neurons(pooled.target) + (layer.neurons(pooled.source) if pooled.kind == "map" else 0)
    return VALUE_BITS * neurons


def _type_of(equations: Equations, entry: Entry) -> Type:
    """The type of the activity that an entry names."""
    for equation in equations.equations:
        for node in walk(equation.value):
            if show(node) == entry.source:
                return node.type
    return PARAMETER
