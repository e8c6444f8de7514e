"""What a transformer of images is made of beside its weight layers; sequences have the shape `(positions, units)`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ruledsl.architectures.weighted import Dense, Norm, Operation, Shape, expect, norm_parameters
from ruledsl.errors import UserError

SEQUENCE = "a sequence (put Positions before it)"
EPSILON = 1e-6  # of layer normalisation, as in the transformers of images


@dataclass(frozen=True)
class Positions(Operation):
    """An image as a sequence of its positions, row by row."""

    def output_shape(self, shape: Shape) -> Shape:
        """`(C, H, W)` -> `(H * W, C)`."""
        expect("positions", shape, 3, "an image")
        return (shape[1] * shape[2], shape[0])


@dataclass(frozen=True)
class ClassToken(Operation):
    """A learnt position before all others; it belongs to no rule, and the task's optimizer moves it."""

    name: str

    def output_shape(self, shape: Shape) -> Shape:
        """`(positions, units)` -> `(1 + positions, units)`."""
        expect(self.name, shape, 2, SEQUENCE)
        return (1 + shape[0], shape[1])

    def embedding_shape(self, shape: Shape) -> Shape:
        """(1, units)"""
        return (1, shape[1])

    def parameter_count(self, shape: Shape) -> int:
        """One number for each unit."""
        return shape[1]


@dataclass(frozen=True)
class PositionEmbedding(Operation):
    """A learnt number for every unit at every position, added; it belongs to no rule, as a ClassToken."""

    name: str

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of its input."""
        expect(self.name, shape, 2, SEQUENCE)
        return shape

    def embedding_shape(self, shape: Shape) -> Shape:
        """(positions, units)"""
        return shape

    def parameter_count(self, shape: Shape) -> int:
        """One number for each unit and position."""
        return shape[0] * shape[1]


@dataclass(frozen=True)
class LayerNorm(Operation):
    """Each position brought to mean 0 and variance 1 over its units; then a learned gain and shift for every unit."""

    name: str

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of its input, a vector or a sequence."""
        if len(shape) != 1:
            expect(self.name, shape, 2, SEQUENCE)
        return shape

    def parameter_count(self, shape: Shape) -> int:
        """The gain and shift."""
        return norm_parameters(Norm(), shape[-1])


@dataclass(frozen=True)
class Attention(Operation):
    """Every position looks at all of them: the softmax of q @ k.T / sqrt(units / heads), times v, head by head.

    q, k, v and what comes out are weight layers of the units of its input: `q_proj`, `k_proj`, `v_proj`, `out_proj`.
    """

    name: str
    heads: int

    def output_shape(self, shape: Shape) -> Shape:
        """The shape of its input."""
        expect(self.name, shape, 2, SEQUENCE)
        if shape[1] % self.heads:
            raise UserError(f"layer {self.name}: {self.heads} heads do not divide {shape[1]} units")
        return shape

    def projections(self, shape: Shape) -> tuple[Dense, Dense, Dense]:
        """The layers that make q, k and v."""
        q, k, v = (Dense(f"{letter}_proj", shape[1]) for letter in "qkv")
        return q, k, v

    def out(self, shape: Shape) -> Dense:
        """The layer that maps what the heads bring together."""
        return Dense("out_proj", shape[1])

    def inside(self, shape: Shape) -> Iterator[Dense]:
        """All four."""
        yield from self.projections(shape)
        yield self.out(shape)

    def multiply_adds(self, shape: Shape) -> int:
        """q @ k.T and the sum over v, every pair of positions."""
        return 2 * shape[0] ** 2 * shape[1]


@dataclass(frozen=True)
class FirstPosition(Operation):
    """The first position of a sequence."""

    def output_shape(self, shape: Shape) -> Shape:
        """`(positions, units)` -> `(units,)`."""
        expect("first position", shape, 2, SEQUENCE)
        return (shape[1],)


@dataclass(frozen=True)
class MeanPosition(Operation):
    """The mean of a sequence over its positions."""

    def output_shape(self, shape: Shape) -> Shape:
        """`(positions, units)` -> `(units,)`."""
        expect("mean position", shape, 2, SEQUENCE)
        return (shape[1],)


Embedding = ClassToken | PositionEmbedding
