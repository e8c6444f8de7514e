"""The training engines of PyTorch and of JAX side by side: one seed, the same batches, and the same draws in a step."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

import ruledsl
from ruledsl import architectures, data
from ruledsl.architectures import Architecture
from ruledsl.data import Dataset
from ruledsl.program import Program, Schedule
from ruledsl.rule import Rule
from ruledsl.streams import Streams
from ruledsl.training import Config
from ruledsl.training.loop import steps_of
from ruledsl.training.preparation import resolved
from ruledsl_jax import layouts, randomness
from ruledsl_jax.engine import Engine as InJax
from ruledsl_torch.engine import Engine as InTorch

Numbers = NDArray[Any]


@dataclass(frozen=True)
class DrawsOfJax:
    """In the place of `network.draws` of PyTorch: what an engine of JAX draws in a step, in the other layout."""

    engine: InJax
    programs: Sequence[Program]
    seed: int

    def first(self, path: str) -> Streams:
        """See `ruledsl_torch.randomness.Seeded.first`."""
        return Streams(self.seed, path)

    def in_step(self, path: str, step: int, device: Any) -> KeyOfJax:
        """See `ruledsl_torch.randomness.Seeded.in_step`."""
        spaces = {tensor.stream: tensor.space for program in self.programs for tensor in program.tensors}
        key = jax.random.fold_in(self.engine.numbers.keys[path], step)
        return KeyOfJax(key, spaces, self.engine.learner.maps[path])


@dataclass(frozen=True)
class KeyOfJax:
    """The key of a layer or, below that, of one of its tensors."""

    key: Any
    spaces: Mapping[str, Sequence[str]]
    own: Any
    names: tuple[int | str, ...] = ()

    def of(self, *names: int | str) -> KeyOfJax:
        return KeyOfJax(randomness.named(self.key, *names), self.spaces, self.own, names)

    def normal(self, shape: Sequence[int]) -> Numbers:
        return self._turned(lambda there: randomness.normal(self.key, there), shape)

    def uniform(self, shape: Sequence[int], low: float, high: float) -> Numbers:
        return self._turned(lambda there: randomness.uniform(self.key, low, high, there), shape)

    def signs(self, shape: Sequence[int], p: float) -> Numbers:
        return self._turned(lambda there: randomness.signs(self.key, p, there), shape)

    def orthogonal(self, shape: Sequence[int]) -> Numbers:
        return self._turned(lambda there: randomness.orthogonal(self.key, there), shape)

    def _turned(self, draw: Callable[[tuple[int, ...]], Any], shape: Sequence[int]) -> Numbers:
        blank, space = np.broadcast_to(0.0, tuple(shape)), self.spaces.get(str(self.names[0]))
        if space is None:
            if not self.own.channels_move:
                return np.array(draw(blank.shape))
            drawn = draw(layouts.activity_to_jax(blank).shape)
            return np.array(layouts.activity_from_jax(np.asarray(drawn)))
        moves, axes = (self.own.channels_move,) * 2, len(self.own.pre_shape)
        drawn = draw(layouts.tensor_to_jax(space, blank, axes, moves).shape)
        return np.array(layouts.tensor_from_jax(space, np.asarray(drawn), axes, moves))


@dataclass(frozen=True)
class Side:
    """One of the two, ready to learn."""

    engine: Any
    config: Config
    dataset: Dataset
    schedule: Schedule

    def losses(self) -> Numbers:
        """Of all steps; NaN where one did not see its batch."""
        scores = [
            score
            for epoch in range(self.config.epochs)
            for score in self.engine.steps(steps_of(self.dataset, self.config, self.schedule, epoch))
        ]
        return np.array([math.nan if score is None else score.loss for score in scores])


def both(
    rule: str | Rule,
    model: str | Architecture,
    dataset: Dataset,
    *,
    constraints: Sequence[str | Rule] = (),
    **settings: Any,
) -> tuple[Side, Side]:
    """JAX, and PyTorch with the draws of JAX."""
    loaded = ruledsl.load(rule) if isinstance(rule, str) else rule
    network = architectures.get(model, dataset.shape, dataset.classes) if isinstance(model, str) else model
    config = Config.model_validate({"seed": 1, "data": {"batch_size": 16}, **settings})
    added = [ruledsl.load(each) if isinstance(each, str) else each for each in constraints]
    ours = _side(InJax(), "jax", loaded, network, dataset, config, added)
    theirs = _side(InTorch(), "torch", loaded, network, dataset, config, added)
    programs = [each.compile("jax") for each in (loaded, *added)]
    theirs.engine.network.draws = DrawsOfJax(ours.engine, programs, config.seed)
    return ours, theirs


def _side(
    engine: Any,
    backend: str,
    rule: Rule,
    network: Architecture,
    dataset: Dataset,
    config: Config,
    added: Sequence[Rule],
) -> Side:
    program = rule.compile(backend)
    config = resolved(config.model_copy(update={"backend": backend}), dataset, (program, None))
    engine.init(network, program, None, config, [each.compile(backend) for each in added])
    return Side(engine, config, dataset, program.schedule)


def digits(images: int) -> Dataset:
    """The first images of the digits."""
    return data.load("digits").limited(images, 64).standardized()


def in_torch(side: Side, program: Program) -> dict[str, Numbers]:
    """The state of the network of an engine of JAX, under the names and in the layout of PyTorch."""
    found: dict[str, Numbers] = {}
    engine = side.engine
    for path, own in engine.learner.maps.items():
        held = engine.carry.params[path]._asdict()
        held |= engine.carry.state[path]._asdict() if path in engine.carry.state else {}
        for name, value in held.items():
            space = ("post", "pre") if name == "W" else ("post",) if name == "b" else program.tensor(name).space
            called = {"W": "weight", "b": "bias"}.get(name, name)
            for index, one in enumerate(value if isinstance(value, tuple) else (value,)):
                if one is not None:
                    name_there = f"{path}.{called}" + (f"_{index}" if isinstance(value, tuple) else "")
                    far = list(engine.learner.layers[path].downstream.values())[index] if type(value) is tuple else None
                    moves = far is not None and far.channels_move, own.channels_move
                    found[name_there] = layouts.tensor_from_jax(space, np.asarray(one), len(own.pre_shape), moves)
    return found
