"""Draws into a tensor, from a generator of torch or from streams on the host: modules and standalone files draw so.

A `source` is a torch.Generator; None: torch's own; what has one of these or a stream for every name (`of`); or such a
stream itself, whose methods give arrays of NumPy. See `ruledsl.streams`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ruledsl.streams import Streams, number


def named(source: Any, *names: str) -> Any:
    """What the tensor of this name is drawn from. One generator is for all of them, in turn."""
    return source.of(*names) if hasattr(source, "of") else source


def normal_(tensor: Tensor, mean: float, std: float, source: Any = None) -> Tensor:
    """Fill a tensor with numbers of this mean and standard deviation."""
    if hasattr(source, "normal"):
        return tensor.copy_(torch.from_numpy(source.normal(tuple(tensor.shape)))).mul_(std).add_(mean)
    return tensor.normal_(mean, std, generator=source)


def uniform_(tensor: Tensor, low: float, high: float, source: Any = None) -> Tensor:
    """Fill a tensor with numbers between low and high."""
    if hasattr(source, "uniform"):
        return tensor.copy_(torch.from_numpy(source.uniform(tuple(tensor.shape), float(low), float(high))))
    return tensor.uniform_(low, high, generator=source)


def signs_(tensor: Tensor, p: float, source: Any = None) -> Tensor:
    """Fill a tensor with -1, with probability p, and 1."""
    if hasattr(source, "signs"):
        return tensor.copy_(torch.from_numpy(source.signs(tuple(tensor.shape), float(p))))
    return tensor.bernoulli_(p, generator=source).mul_(-2).add_(1)


def orthogonal_(tensor: Tensor, source: Any = None) -> Tensor:
    """Fill a tensor [rows, *columns] such that its rows are orthonormal, or its columns where there are fewer."""
    if hasattr(source, "orthogonal"):
        return tensor.copy_(torch.from_numpy(source.orthogonal(tuple(tensor.shape))))
    filled: Tensor = torch.nn.init.orthogonal_(tensor, generator=source)
    return filled


@dataclass(frozen=True)
class Seeded:
    """How a network draws that was given a seed: `network.draws`. Nothing in it changes from draw to draw.

    Whatever has its two methods may take its place.
    """

    seed: int

    def first(self, path: str) -> Any:
        """What the first values of a layer are drawn from: streams on the host, the same for every backend."""
        return Streams(self.seed, path)

    def in_step(self, path: str, step: int, device: torch.device) -> Any:
        """What a layer draws from in one step."""
        return StepGenerators(self.seed, path, step, device)


@dataclass(frozen=True)
class StepGenerators:
    """A generator of torch for everything that a layer draws in one step."""

    seed: int
    path: str
    step: int
    device: torch.device

    def of(self, *names: str) -> torch.Generator:
        """A new one for the tensor of this name."""
        return torch.Generator(self.device).manual_seed(number(self.seed, self.path, *names, self.step))
