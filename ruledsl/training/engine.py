"""What a backend must do so that `ruledsl.training.loop` can train with it, and finding the backend that does.

A backend is a package that the entry-point group `ruledsl.backends` names; its module `engine` has a class `Engine`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ruledsl.architectures import Architecture
from ruledsl.data import Batch
from ruledsl.emit import backends
from ruledsl.errors import UserError, suggest
from ruledsl.program import Program
from ruledsl.training.config import Config
from ruledsl.training.schedule import Clock


@dataclass(frozen=True)
class Score:
    """Over the images of a step or an evaluation: mean loss, and how many were classified wrongly."""

    loss: float
    wrong: int
    images: int

    @property
    def error(self) -> float:
        """The share of wrong answers."""
        return self.wrong / self.images


class Diverged(Exception):
    """A loss that is NaN or infinite. `where` names the layer in which such a number appeared first."""

    def __init__(self, loss: float, where: str) -> None:
        super().__init__(f"the loss is {loss}")
        self.loss = loss
        self.where = where


class Engine(Protocol):
    """One network, one rule and its optimizers, on one backend.

    Everything that it computes follows from the arguments of `init` and the sequence of calls after it: two engines
    that got the same calls, with the same number of threads, have bit-identical states.
    """

    def init(
        self,
        architecture: Architecture,
        rule: Program | None,
        output: Program | None,
        config: Config,
        constraints: Sequence[Program] = (),
    ) -> None:
        """Build the network, with weights from `config.seed`, and everything that learning needs.

        rule     what teaches the weight layers; None: the backend's own backpropagation
        output   what teaches the last weight layer, where it is another one
        config   `optimizer`, `optimizers`, `seed`, `threads`, `compile`, the size of a batch and the parameters that
                 change concern the engine
        constraints  what holds after each step, in this order

        Raises UserError where the network and the rule do not fit.
        """

    def step(self, phase: str, batch: Batch, rates: float, clock: Clock) -> Score | None:
        """Learn from one batch in one phase of the rule; `rates` multiplies every optimizer's learning rate.

        With the last phase of a step, the step is over: `after step` and the constraints follow. The score is that of
        the batch before the step, and None in a phase that doesn't see the batch. Raises Diverged, with nothing learnt
        from this batch.
        """

    def evaluate(self, batches: Iterable[Batch]) -> Score:
        """The score of the network as it is used (no dropout, running averages); nothing is learnt. Raises Diverged."""

    def probe(self) -> dict[str, float]:
        """The measurements of `ruledsl.training.probes` for each feedback map of a kernel's shape, as `angle/fc1.B`.

        Not for the first weight layer, which sends to nobody.
        """

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything that determines what comes next, by name. Names of weights begin with `network.`."""

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from where `state` was taken, in an engine that got the same `init`."""


def decaying_by_themselves(program: Program) -> frozenset[str]:
    """The parameters whose pseudo-gradient has a decay term that the rule writes: no optimizer decays them too."""
    return frozenset(tensor.name for tensor in program.tensors if tensor.own_decay)


def weights(state: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The part of an engine's state that is the network, under the names that the backend's own users know."""
    return {name.removeprefix("network."): np.ascontiguousarray(a) for name, a in state.items() if _of_network(name)}


def find_engine(backend: str) -> Engine:
    """A new engine of an installed backend. Raises UserError when there is none, or none that can train."""
    installed = {name: place.partition(":")[0] for name, place in backends().items()}
    if backend not in installed:
        raise UserError(f"there is no backend called `{backend}`", suggest(backend, installed))
    module = f"{installed[backend].split('.')[0]}.engine"
    try:
        engine: Engine = importlib.import_module(module).Engine()
    except ModuleNotFoundError as missing:
        if missing.name == module:
            raise UserError(f"the backend {backend} compiles rules, but it has no training engine") from None
        raise UserError(
            f"the backend {backend} needs the package `{missing.name}`, which is not installed",
            f'install it with: pip install "ruledsl[{backend}]"',
        ) from None
    return engine


def _of_network(name: str) -> bool:
    return name.startswith("network.")
