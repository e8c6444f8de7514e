"""The sizes of a weight layer, which every backend's linear map has. (The reference counts them for itself.)"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

Pair = tuple[int, int]


@dataclass(frozen=True)
class DenseSizes:
    """A dense layer."""

    units_in: int
    units_out: int

    @property
    def fan_in(self) -> int:
        """Synapses that a post neuron receives."""
        return self.units_in

    @property
    def fan_out(self) -> int:
        """Synapses that a pre neuron makes."""
        return self.units_out


@dataclass(frozen=True)
class Conv2dSizes:
    """A convolution; a unit is a channel.

    padding     zeros on both sides of height and width, or (before, after)
    input_size  height and width of x, which the adjoint has to know
    """

    channels_in: int
    channels_out: int
    kernel_size: Pair
    stride: Pair
    padding: tuple[int | Pair, int | Pair]
    dilation: Pair
    groups: int
    input_size: Pair

    @property
    def units_in(self) -> int:
        """Channels, as a dense layer calls them."""
        return self.channels_in

    @property
    def units_out(self) -> int:
        """Channels, as a dense layer calls them."""
        return self.channels_out

    @property
    def fan_in(self) -> int:
        """Synapses that a post neuron receives."""
        return self.channels_in // self.groups * prod(self.kernel_size)

    @property
    def fan_out(self) -> int:
        """Synapses that a pre neuron makes, strides aside."""
        return self.channels_out // self.groups * prod(self.kernel_size)
