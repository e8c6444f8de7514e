"""Random numbers on the host, the same for every backend: each tensor has a stream of its own, found by its name.

A stream follows from a seed, the path of a layer and the name of a tensor, through a hash: what is drawn elsewhere, and
in which order, changes nothing. Numbers are drawn in float64 and cast, so float32 and float64 begin alike.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
Floats = NDArray[np.float64]


def number(*names: int | str) -> int:
    """63 bits that depend on every one of the names: `number(seed, path, tensor)`.

    Everything random is keyed by such a number: streams on the host, generators and keys of frameworks.
    """
    text = "\0".join(map(str, names))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


class Draws(Protocol):
    """Numbers, drawn one array after the other."""

    def normal(self, shape: Shape) -> Floats:
        """With mean 0 and standard deviation 1."""

    def uniform(self, shape: Shape, low: float, high: float) -> Floats:
        """Between low and high."""

    def signs(self, shape: Shape, p: float) -> Floats:
        """-1 with probability p, otherwise 1."""

    def orthogonal(self, shape: Shape) -> Floats:
        """With orthonormal rows, or columns where there are fewer of them: [rows, *columns]."""


class Source(Protocol):
    """What the tensors of one layer are drawn from."""

    def of(self, *names: int | str) -> Any:
        """What one of them is drawn from, by its name."""


class Stream:
    """The numbers of one tensor. Every draw goes on where the last one ended."""

    def __init__(self, key: int) -> None:
        self._bits = np.random.Generator(np.random.Philox(key=key))

    def normal(self, shape: Shape) -> Floats:
        """See `Draws.normal`."""
        return self._bits.standard_normal(shape)

    def uniform(self, shape: Shape, low: float, high: float) -> Floats:
        """See `Draws.uniform`."""
        return low + (high - low) * self._bits.random(shape)

    def signs(self, shape: Shape, p: float) -> Floats:
        """See `Draws.signs`."""
        return np.where(self._bits.random(shape) < p, -1.0, 1.0)

    def orthogonal(self, shape: Shape) -> Floats:
        """See `Draws.orthogonal`. As torch.nn.init.orthogonal_: uniform over such matrices (Mezzadri 2007)."""
        rows, columns = shape[0], math.prod(shape[1:])
        drawn = self._bits.standard_normal((max(rows, columns), min(rows, columns)))
        q, r = np.linalg.qr(drawn)
        q = q * np.where(np.diag(r) < 0, -1.0, 1.0)
        return np.ascontiguousarray(q.T if rows < columns else q).reshape(shape)


@dataclass(frozen=True)
class Streams:
    """The streams of one layer: `Streams(seed, "block1_1.conv2").of("B")`."""

    seed: int
    path: str

    def of(self, *names: int | str) -> Stream:
        """A new stream, from its beginning."""
        return Stream(number(self.seed, self.path, *names))


@dataclass(frozen=True)
class Kernel:
    """The forward weights of a layer: W is [out, in] or [out, in / groups, *kernel]; `bias`: whether it has a b."""

    shape: Shape
    bias: bool = True

    @property
    def fan_in(self) -> int:
        """Synapses that a neuron receives, strides aside."""
        return math.prod(self.shape[1:])

    @property
    def count(self) -> int:
        """How many numbers W and b are."""
        return math.prod(self.shape) + self.bias * self.shape[0]


def forward_weights(kernel: Kernel, source: Source) -> tuple[Floats, Floats | None]:
    """First W and b of a layer, each uniform within 1 / sqrt(fan_in) of zero, as torch's own layers have them."""
    bound = 1 / math.sqrt(kernel.fan_in)
    W = source.of("W").uniform(kernel.shape, -bound, bound)
    return W, source.of("b").uniform(kernel.shape[:1], -bound, bound) if kernel.bias else None


def first_weights(kernels: Mapping[str, Kernel], seed: int) -> Iterator[tuple[str, Floats, Floats | None]]:
    """(path, W, b) of every weight layer of a network, `kernels` by path: see `Architecture.kernels`."""
    for path, kernel in kernels.items():
        yield path, *forward_weights(kernel, Streams(seed, path))


def first_embeddings(shapes: Mapping[str, Shape], seed: int) -> Iterator[tuple[str, Floats]]:
    """(path, value) of the parameters that belong to no layer, normal with a deviation of 0.02 (Touvron et al. 2021,
    Dosovitskiy et al. 2021); `shapes` by path: see `Architecture.embeddings`."""
    for path, shape in shapes.items():
        yield path, 0.02 * Streams(seed, path).of("value").normal(shape)
