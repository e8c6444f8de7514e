"""The types of values: a scalar, a vector over a space, a map between two spaces, or an optimizer's parameter.

The orientation of a map says where its synapses are: `pre -> post` are the forward synapses, `post -> pre` the
feedback synapses, `out -> pre` broadcast synapses from the network's output.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Axis = Literal["batch", "units", "positions"]
AXES: tuple[Axis, ...] = ("batch", "units", "positions")


@dataclass(frozen=True)
class Space:
    """`pre`, `post`, `out`, or `post[k]`: the post space of a layer further downstream."""

    name: Literal["pre", "post", "out"]
    index: str | None = None

    def __str__(self) -> str:
        return f"{self.name}[{self.index}]" if self.index else self.name


PRE, POST, OUT = Space("pre"), Space("post"), Space("out")
ACTIVITY: frozenset[Axis] = frozenset(AXES)
PER_UNIT: frozenset[Axis] = frozenset(("units",))


@dataclass(frozen=True)
class Type:
    """What a value is.

    kind     `scalar`; `vector` over `target`; `map` from `source` to `target`; `parameter`: whatever an optimizer moves
    axes     of a vector: an activity has `batch`, `units` and `positions`; a bias has `units` alone
    boolean  the result of a comparison
    """

    kind: Literal["scalar", "vector", "map", "parameter"]
    source: Space | None = None
    target: Space | None = None
    axes: frozenset[Axis] = frozenset()
    boolean: bool = False

    def __str__(self) -> str:
        if self.kind == "map":
            return f"{self.source} -> {self.target}"
        if self.kind == "vector":
            return f"{self.target}"
        return "scalar" if self.kind == "scalar" else "p"

    @property
    def transposed(self) -> Type:
        """The type of `M.T`."""
        return replace(self, source=self.target, target=self.source)

    @property
    def number(self) -> Type:
        """The type of numbers with this shape."""
        return replace(self, boolean=False)

    @property
    def condition(self) -> Type:
        """The type of truth values with this shape."""
        return replace(self, boolean=True)

    @property
    def in_words(self) -> str:
        """For messages: "a map from post to pre", "an activity over pre"."""
        if self.boolean:
            what = {"scalar": "", "vector": f" over {self.target}", "map": f" at {self}", "parameter": " over p"}
            return f"a condition{what[self.kind]}"
        if self.kind == "map":
            return f"a map from {self.source} to {self.target}"
        if self.kind == "parameter":
            return "a value like the parameter p"
        if self.kind == "scalar":
            return "a scalar"
        if self.axes == PER_UNIT:
            return f"one number per {self.target} neuron"
        if "units" not in self.axes:
            return f"one number per example, taken over {self.target}"
        if "batch" not in self.axes:
            return f"an average activity over {self.target}"
        return f"an activity over {self.target}"


SCALAR = Type("scalar")
PARAMETER = Type("parameter")


def activity(space: Space) -> Type:
    """An activity: [batch, *space]. The network's output has no positions."""
    return Type("vector", target=space, axes=frozenset(("batch", "units")) if space == OUT else ACTIVITY)


def per_unit(space: Space) -> Type:
    """One number per neuron (per channel in a convolution): [units]."""
    return Type("vector", target=space, axes=PER_UNIT)


def map_between(source: Space, target: Space) -> Type:
    """A map: one number per synapse from `source` to `target`."""
    return Type("map", source=source, target=target)


def synapses_exist(source: Space | None, target: Space | None) -> bool:
    """Whether the network has synapses between the two spaces: not within one space, nor between far layers."""
    pair = {source, target}
    if len(pair) != 2 or None in pair:
        return False
    far = [space for space in pair if space is not None and space.index]
    return not far or (len(far) == 1 and PRE in pair)
