"""Compiled programs for runs of steps, over data that live on the device.

There are two ways through a run. A loop in the program is free of Python between steps; but on a CPU, XLA's
convolutions run several times slower in the body of a loop (jax issue 12868), so that there each step is a program.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import NDArray

from ruledsl_jax.learning import Carry, Learner, Moment, Numbers, Seen

DATA = "data"
"""The axis of a mesh along which the examples of a batch are spread."""


class Images(NamedTuple):
    """A split on the device: [images, height, width, channels] or [images, units], and [images]."""

    images: Array
    labels: Array


class Told(NamedTuple):
    """What steps are told, each with a first axis of steps; `rows` of the split are their batches, [steps, batch]."""

    rows: NDArray[np.int32]
    step: NDArray[np.int32]
    factor: dict[str, NDArray[np.float32]]
    epoch: NDArray[np.float32]
    progress: NDArray[np.float32]
    changing: dict[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Programs:
    """The programs of a network on its devices.

    kinds    the phases that a step may have: each step is of one of these kinds
    mesh     the devices, over which the examples of a batch are spread
    looped   whether runs are loops
    members  whether there are several networks side by side, whose tensors have a first axis
    """

    learner: Learner
    kinds: tuple[tuple[str, ...], ...]
    mesh: Mesh
    looped: bool
    members: bool = False

    def run(self, carry: Carry, numbers: Numbers, data: Images, told: Told, kinds: NDArray[np.int32], size: int) -> Any:
        """Steps of these kinds, [steps]; `carry` is used up. The next one, and what was seen, [steps].

        size  what the run is filled up to: programs are compiled for a number of steps
        """
        if self.looped:
            told = jax.tree.map(partial(_filled_up, size=size, axis=int(self.members)), told)
            return self._loop(carry, numbers, data, told, _filled_up(kinds, size), np.int32(len(kinds)))
        seen: list[Seen] = []
        for index, kind in enumerate(kinds):
            now = jax.tree.map(lambda value: value[:, index] if self.members else value[index], told)  # noqa: B023
            carry, each = self._single[int(kind)](carry, numbers, data, now)
            seen.append(each)
        return carry, seen

    def rehearse(self, carry: Carry, numbers: Numbers, data: Images, told: Told, known: set[int]) -> None:
        """Compile the programs of other kinds of steps than those that are known, so that no later step waits."""
        if not self.looped:
            for kind in {*range(len(self.kinds))} - known:
                self.run(jax.tree.map(jnp.copy, carry), numbers, data, told, np.array([kind], np.int32), 1)

    @cached_property
    def _single(self) -> list[Any]:
        return [jax.jit(self._of_members(partial(self._step, kind), 0), donate_argnums=0) for kind in self.kinds]

    @cached_property
    def _loop(self) -> Any:
        return jax.jit(self._of_members(self._steps, 2), donate_argnums=0)

    def _of_members(self, function: Any, shared: int) -> Any:
        """A function of carry, numbers, data, what is told, and so many arguments that are the same for all."""
        return jax.vmap(function, (0, 0, None, 0, *[None] * shared)) if self.members else function

    def _steps(
        self, carry: Carry, numbers: Numbers, data: Images, told: Told, kinds: Array, count: Array
    ) -> tuple[Carry, Seen]:
        branches = [partial(self._step, kind) for kind in self.kinds]

        def body(index: Array, before: tuple[Carry, Seen]) -> tuple[Carry, Seen]:
            carry, seen = before
            now = jax.tree.map(lambda value: value[index], told)
            carry, new = jax.lax.switch(kinds[index], branches, carry, numbers, data, now)
            return carry, jax.tree.map(lambda all, one: all.at[index].set(one), seen, new)

        nothing = Seen(jnp.zeros(len(kinds)), jnp.zeros(len(kinds), jnp.int32))
        return jax.lax.fori_loop(0, count, body, (carry, nothing))

    def _step(
        self, kind: tuple[str, ...], carry: Carry, numbers: Numbers, data: Images, told: Told
    ) -> tuple[Carry, Seen]:
        rows = self._spread(told.rows)
        images, labels = (self._spread(each.at[rows].get(mode="promise_in_bounds")) for each in data)
        moment = Moment(told.step, told.factor, told.epoch, told.progress, told.changing)
        carry, seen = self.learner.step(carry, numbers, moment, images, labels, kind)
        carry = jax.tree.map(partial(self._placed, PartitionSpec()), carry)
        return carry, seen or Seen(jnp.zeros(()), jnp.zeros((), jnp.int32))

    def _spread(self, value: Array) -> Array:
        return self._placed(PartitionSpec(DATA), value)

    def _placed(self, where: PartitionSpec, value: Array) -> Array:
        return (
            value if self.mesh.size == 1 else jax.lax.with_sharding_constraint(value, NamedSharding(self.mesh, where))
        )


def _filled_up(value: NDArray[Any], size: int, axis: int = 0) -> NDArray[Any]:
    missing = size - value.shape[axis]
    return np.pad(value, [(0, missing if each == axis else 0) for each in range(value.ndim)]) if missing else value
