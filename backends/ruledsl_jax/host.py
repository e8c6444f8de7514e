"""Streams on the host in the place of JAX's keys, so that a network begins with the numbers of every other backend.

The host draws in the layout of PyTorch and of the reference, and what it has drawn is turned into JAX's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from ruledsl.program import Program
from ruledsl.streams import Draws, Source
from ruledsl_jax import layouts
from ruledsl_jax.linear import Linear
from ruledsl_jax.randomness import Shape


def host_streams(
    source: Source, program: Program, layer: Linear, downstream: Mapping[str, Linear | None] | None = None
) -> HostStreams:
    """What `init(layer, key)` of a rule or a constraint takes in the place of a key.

    source      `ruledsl.streams.Streams(seed, path)`
    downstream  the layers that `init` is told of, by their paths
    """
    spaces = {tensor.stream: tensor.space for tensor in program.tensors}
    return HostStreams(source, spaces, layer, downstream or {})


@dataclass(frozen=True)
class HostStreams:
    """The streams of a layer's tensors, in the place of its key. See `host_streams`."""

    source: Source
    spaces: Mapping[str, Sequence[str]]
    layer: Linear
    downstream: Mapping[str, Linear | None]

    def of(self, *names: int | str) -> HostStream:
        """The stream of a tensor: of one of a family, for the layer with that number; of an activity, in a phase."""
        paths = list(self.downstream)
        draws = self.source.of(*(paths[name] if isinstance(name, int) else name for name in names))
        if names[0] not in self.spaces:
            turns = layouts.activity_to_jax, layouts.activity_from_jax
            return HostStream(draws, *(turns if self.layer.channels_move else (_unturned, _unturned)))
        far = next((self.downstream[paths[name]] for name in names if isinstance(name, int)), None)
        moves = far is not None and far.channels_move, self.layer.channels_move
        space, axes = self.spaces[str(names[0])], len(self.layer.pre_shape)
        return HostStream(
            draws,
            lambda value: layouts.tensor_to_jax(space, value, axes, moves),
            lambda value: layouts.tensor_from_jax(space, value, axes, moves),
        )


def _unturned(value: Any) -> Any:
    return value


@dataclass(frozen=True)
class HostStream:
    """The stream of one tensor, in the place of its key; `turned` and `back` are the way to JAX's layout and back."""

    draws: Draws
    turned: Callable[[Any], Any]
    back: Callable[[Any], Any]

    def normal(self, shape: Shape, dtype: Any = float) -> Any:
        """See `ruledsl_jax.randomness.normal`."""
        return self._in_jax(self.draws.normal(self._theirs(shape)), dtype)

    def uniform(self, low: Any, high: Any, shape: Shape, dtype: Any = float) -> Any:
        """See `ruledsl_jax.randomness.uniform`."""
        return self._in_jax(self.draws.uniform(self._theirs(shape), float(low), float(high)), dtype)

    def signs(self, p: Any, shape: Shape) -> Any:
        """See `ruledsl_jax.randomness.signs`."""
        return self._in_jax(self.draws.signs(self._theirs(shape), float(p)), float)

    def orthogonal(self, shape: Shape, dtype: Any = float) -> Any:
        """See `ruledsl_jax.randomness.orthogonal`."""
        return self._in_jax(self.draws.orthogonal(self._theirs(shape)), dtype)

    def _theirs(self, shape: Shape) -> tuple[int, ...]:
        theirs: tuple[int, ...] = self.back(np.broadcast_to(0.0, tuple(shape))).shape
        return theirs

    def _in_jax(self, drawn: Any, dtype: Any) -> Any:
        # Still an array of NumPy: what is made of it compiles nothing.
        return np.asarray(self.turned(drawn), jax.dtypes.canonicalize_dtype(dtype))
