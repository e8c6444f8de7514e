"""What lies before and behind every weight layer of an architecture: what an example would show, without one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ruledsl.architectures import Architecture, Layer, Shape
from ruledsl.architectures.components import Attention, BatchNorm, Conv, Embedding, LayerNorm, Residual, Weighted, chain
from ruledsl.assembly import Part, Trace, Traced, part_of
from ruledsl.choices import Choices, follow, output_layers
from ruledsl.program import Program


def connections(architecture: Architecture, batch_size: int) -> Trace:
    """The weight layers in the order in which they run, shapes with a batch of this size."""
    walk = _Walk(batch_size)
    end = walk.through(architecture.layers, architecture.input_shape, "", _Reach())
    layers = {
        name: Traced(x, u, name in walk.senders, tuple(other for other in walk.shapes if name in walk.above[other]))
        for name, (x, u) in walk.shapes.items()
    }
    return Trace(layers, architecture.classes, outputs=tuple(name for name in walk.shapes if name in end.last))


def followed(
    trace: Trace, rule: Part, output: Program | None, layers: Mapping[str, Program | None]
) -> dict[str, Part | None]:
    """By layer, what it follows, as a configuration says: `layers` by patterns, `output` at the network's output."""
    patterns = {pattern: None if one is None else part_of(one, {}) for pattern, one in layers.items()}
    last = () if output is None else output_layers(trace, list(trace.layers), {})
    chosen = Choices(rule, patterns, None if output is None else part_of(output, {}))
    return follow(trace.layers, chosen, last)


@dataclass(frozen=True)
class _Reach:
    """On what an activity depends: on which weight layers, on which without another one between, and whether on
    anything that is learnt."""

    above: frozenset[str] = frozenset()
    last: frozenset[str] = frozenset()
    learns: bool = False

    def __or__(self, other: _Reach) -> _Reach:
        return _Reach(self.above | other.above, self.last | other.last, self.learns or other.learns)


@dataclass
class _Walk:
    batch_size: int
    shapes: dict[str, tuple[Shape, Shape]] = field(default_factory=dict)
    above: dict[str, frozenset[str]] = field(default_factory=dict)
    senders: set[str] = field(default_factory=set)

    def through(self, layers: tuple[Layer, ...], shape: Shape, prefix: str, reach: _Reach) -> _Reach:
        for layer in layers:
            reach = self.over(layer, shape, prefix, reach)
            shape = layer.output_shape(shape)
        return reach

    def over(self, layer: Layer, shape: Shape, prefix: str, reach: _Reach) -> _Reach:
        if isinstance(layer, Weighted):
            name = prefix + layer.name
            seen = layer.seen_shape(shape) if isinstance(layer, Conv) else shape
            self.shapes[name] = (self.batch_size, *seen), (self.batch_size, *chain((layer,), shape))
            self.above[name] = reach.above
            self.senders |= {name} if reach.learns else set()
            return _Reach(reach.above | {name}, frozenset({name}), True)
        if isinstance(layer, Residual):
            inside = f"{prefix}{layer.name}."
            ways = [self.through(part, shape, inside, reach) for part in (layer.body, layer.shortcut)]
            return ways[0] | ways[1]
        if isinstance(layer, Attention):
            inside = f"{prefix}{layer.name}."
            q, k, v = (self.over(part, shape, inside, reach) for part in layer.projections(shape))
            return self.over(layer.out(shape), shape, inside, q | k | v)
        learns = isinstance(layer, LayerNorm | Embedding) or (isinstance(layer, BatchNorm) and layer.affine)
        return _Reach(reach.above, reach.last, reach.learns or learns)
