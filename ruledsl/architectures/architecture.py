"""A network for one kind of input: its layers, and what follows from them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ruledsl.architectures.components import (
    ActivationKind,
    Attention,
    Embedding,
    Layer,
    Residual,
    Shape,
    Weighted,
    chain,
)
from ruledsl.errors import UserError
from ruledsl.streams import Kernel


@dataclass(frozen=True)
class Place:
    """A layer where it stands: `path` from the network (`block1_1.conv2`), the shapes that go in and come out."""

    path: str
    layer: Layer
    input_shape: Shape
    output_shape: Shape

    @property
    def parameters(self) -> int:
        """Its own: weights, biases, gains and shifts; those of layers inside it are theirs."""
        return self.layer.parameter_count(self.input_shape)

    @property
    def multiply_adds(self) -> int:
        """Its own, of one example: synapses times positions, and the products of an attention."""
        return self.layer.multiply_adds(self.input_shape)


@dataclass(frozen=True)
class Architecture:
    """A network as data. `layers` map inputs of `input_shape` to one logit for each of `classes`.

    Raises UserError where the layers do not fit each other, the input or the classes.
    """

    name: str
    input_shape: Shape
    classes: int
    layers: tuple[Layer, ...]

    def __post_init__(self) -> None:
        end = chain(self.layers, self.input_shape)
        if end != (self.classes,):
            raise UserError(
                f"{self.name} ends in the shape {end}, not in one number for each of {self.classes} classes"
            )
        paths = [place.path for place in self.places() if hasattr(place.layer, "name")]
        if len(set(paths)) < len(paths):
            raise UserError(f"{self.name} has two layers of the same name: {', '.join(paths)}")
        for place in self.weight_layers():
            if min(place.input_shape[0], place.layer.output_shape(place.input_shape)[0], place.input_shape[-1]) < 1:
                raise UserError(f"layer {place.path} has a side without units: every layer has one at least")

    def places(self) -> Iterator[Place]:
        """Every layer in the order of the computation; a block comes before what is in it."""
        yield from _walk(self.layers, self.input_shape, "")

    def weight_layers(self) -> tuple[Place, ...]:
        """The layers that a rule teaches."""
        return tuple(place for place in self.places() if isinstance(place.layer, Weighted))

    def activations(self) -> dict[str, ActivationKind | None]:
        """For each weight layer's path, the activation that it declares: what a rule calls `phi`."""
        return {p.path: p.layer.activation for p in self.weight_layers() if isinstance(p.layer, Weighted)}

    def kernels(self) -> dict[str, Kernel]:
        """For each weight layer's path, the shape of its W, and whether it has a b."""
        return {
            p.path: p.layer.forward_kernel(p.input_shape) for p in self.weight_layers() if isinstance(p.layer, Weighted)
        }

    def embeddings(self) -> dict[str, Shape]:
        """By path, the shapes of the parameters that belong neither to a weight layer nor to a normalisation."""
        return {
            place.path: place.layer.embedding_shape(place.input_shape)
            for place in self.places()
            if isinstance(place.layer, Embedding)
        }

    def parameter_count(self) -> int:
        """How many numbers the network learns: weights, biases, gains, shifts and embeddings."""
        return sum(place.parameters for place in self.places())

    def multiply_adds(self) -> int:
        """Of one example: those of its weight layers, and the products of attentions."""
        return sum(place.multiply_adds for place in self.places())


def _walk(layers: tuple[Layer, ...], shape: Shape, prefix: str) -> Iterator[Place]:
    for layer in layers:
        end = layer.output_shape(shape)
        path = prefix + getattr(layer, "name", type(layer).__name__.lower())
        yield Place(path, layer, shape, end)
        if isinstance(layer, Residual):
            yield from _walk(layer.body, shape, f"{path}.")
            yield from _walk(layer.shortcut, shape, f"{path}.")
        elif isinstance(layer, Attention):
            yield from _walk(tuple(layer.inside(shape)), shape, f"{path}.")
        shape = end
