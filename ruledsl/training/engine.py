"""What a backend must do so that `ruledsl.training.loop` can train with it, and finding the backend that does.

A backend is a package that the entry-point group `ruledsl.backends` names; its module `engine` has a class `Engine`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ruledsl.architectures import Architecture
from ruledsl.data import Batch, Split
from ruledsl.emit.backend import backend, named
from ruledsl.errors import UserError
from ruledsl.program import Program
from ruledsl.training.config import Config
from ruledsl.training.probes import Probes
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
    """A loss that is NaN, infinite, or far above that of guessing.

    where  the layer in which a number that is not finite appeared first, or that grew the most
    step   of the run, from 0, as far as known
    """

    def __init__(self, loss: float, where: str, step: int | None = None) -> None:
        super().__init__(f"the loss is {loss}")
        self.loss = loss
        self.where = where
        self.step = step


@dataclass(frozen=True)
class Steps:
    """A run of steps: which batches they see, and when they are. One entry for each step.

    rows    the images of each batch, as rows of `split`: [steps, batch]
    rates   what learning rates are multiplied by; `own`: those of optimizers that have a schedule of their own, by name
    order   the rows of all batches of their epoch, of which they are a part that begins at `start`; `seed`: of the run
    """

    split: Split
    rows: NDArray[np.int64]
    rates: Sequence[float]
    clocks: Sequence[Clock]
    own: Mapping[str, Sequence[float]] = field(default_factory=dict)
    order: NDArray[np.int64] | None = None
    start: int = 0
    seed: int = 0

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, start: int, end: int) -> Steps:
        """Some of them."""
        rows, rates, clocks = self.rows[start:end], self.rates[start:end], self.clocks[start:end]
        order = self.rows if self.order is None else self.order
        own = {name: each[start:end] for name, each in self.own.items()}
        return replace(self, rows=rows, rates=rates, clocks=clocks, own=own, order=order, start=self.start + start)

    def factors(self, index: int) -> dict[str, float]:
        """What the learning rates of a step are multiplied by: "" for optimizers that are not there by name."""
        return {"": self.rates[index], **{name: each[index] for name, each in self.own.items()}}

    def batches(self) -> Iterator[Batch]:
        """What each step sees."""
        order = self.rows if self.order is None else self.order
        epoch = self.clocks[0].epoch if self.clocks else 0
        return self.split.batches(order, self.start, len(self.rows), self.seed, epoch)


class Engine(Protocol):
    """One network, one rule and its optimizers, on one backend.

    Everything that it computes follows from the arguments of `init` and the sequence of calls after it: two engines
    that got the same calls, with the same number of threads, have bit-identical states.

    notes            after `init`, what the user should know of how it computes
    faster_together  after `init`, whether many engines like this one are faster as a population
    leads            after `init`, whether this process keeps what comes of the run: of several that share it, one does
    probes           after `init`, what the probes of this run remember; its `state` is apart from that of the engine
    """

    notes: Sequence[str]
    leads: bool
    probes: Probes
    faster_together: bool

    def init(
        self,
        architecture: Architecture,
        rule: Program | None,
        output: Program | None,
        config: Config,
        constraints: Sequence[Program] = (),
        layers: Mapping[str, Program | None] = {},
    ) -> None:
        """Build the network, with weights from `config.seed`, and everything that learning needs.

        rule     what teaches the weight layers; None: the backend's own backpropagation
        output   what teaches the weight layers at the network's output, where it is another one
        config   `optimizer`, `optimizers`, `seed`, `threads`, `device`, `devices`, `processes`, `compile`, the size of
                 a batch and the parameters that change concern the engine
        constraints  what holds after each step, in this order
        layers   by patterns of the layers' names, as in `ruledsl.choices`, what teaches these layers; None: the
                 backend's own backpropagation

        Raises UserError where the network and the rule do not fit.
        """

    def steps(self, run: Steps) -> Iterator[Score | None]:
        """Steps, each with all its phases, `after step` and the constraints; the engine may take many at once.

        The score of a step is that of its batch in the last phase that sees it, before the network learnt from it
        there; None in a step whose phases don't see the batch. Raises Diverged after the scores of the steps before it,
        with nothing learnt from the batch in the phase where it happened.
        """

    def evaluate(self, split: Split, batch_size: int) -> Score:
        """The score of the network as it is used (no dropout, running averages); nothing is learnt. Raises Diverged."""

    def probe(self, held_out: Split) -> dict[str, float]:
        """The numbers of `ruledsl.training.probes`, by names such as `angle/fc1`, on the first images of a split.

        What comes after it is what would come without it, but for `probes`.
        """

    def together(self, others: Sequence[Any]) -> Population | None:
        """This engine and others of its class as a population; None where they differ in more than numbers: seeds,
        learning rates, parameters of rules.
        """

    def peak_memory(self) -> int | None:
        """Bytes of its device that were in use at most; None where the device does not say, as CPUs don't."""

    def agreed(self, number: float) -> float:
        """The largest of the numbers that the processes say which share the run: all of them ask at the same steps."""

    def state(self) -> dict[str, NDArray[Any]]:
        """Everything that determines what comes next, by name. Names of weights begin with `network.`."""

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Go on from where `state` was taken, in an engine that got the same `init`."""


class Population(Protocol):
    """Engines that take their steps at the same time. What each of them computes is what it would compute alone."""

    def steps(self, runs: Sequence[Steps]) -> Iterator[Sequence[Score | Diverged | None]]:
        """As `Engine.steps`, a run for each engine, all of one length: of each step, what came of it in each engine.

        An engine that has diverged learns nothing from then on. When the runs are over, the engines are where they are.
        """


def decaying_by_themselves(program: Program) -> frozenset[str]:
    """The parameters whose pseudo-gradient has a decay term that the rule writes: no optimizer decays them too."""
    return frozenset(tensor.name for tensor in program.tensors if tensor.own_decay)


ERRORS = frozenset(("delta", "delta_k", "e", "target"))
"""What tells a layer of the labels."""


def hears_of_labels(program: Program) -> bool:
    """Whether anything that moves W reads errors or the target."""
    read: dict[str, set[str]] = {}
    for each in program.functions:
        for name in (each.name, *((each.target,) if each.role == "term" and each.target else ())):
            read.setdefault(name, set()).update(each.arguments)
    reached: set[str] = set()
    waiting = [f.name for f in program.functions if f.target == "W" and f.role in ("grad", "complete", "assign")]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += read.get(name, ())
    return bool(reached & ERRORS)


def weights(state: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The part of an engine's state that is the network, under the names that the backend's own users know."""
    return {name.removeprefix("network."): np.ascontiguousarray(a) for name, a in state.items() if _of_network(name)}


def find_engine(name: str) -> Engine:
    """A new engine of an installed backend. Raises UserError when there is none, or none that can train."""
    found = backend(name)
    if found.engine is None:
        raise UserError(f"the backend {name} compiles rules, but it has no training engine")
    try:
        engine: Engine = named(found.engine)()
    except ModuleNotFoundError as missing:
        raise UserError(
            f"the backend {name} needs the package `{missing.name}`, which is not installed",
            f'install it with: pip install "ruledsl[{name}]"',
        ) from None
    return engine


def _of_network(name: str) -> bool:
    return name.startswith("network.")
