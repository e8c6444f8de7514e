"""From an architecture and rules to a `Learner`, and to what a run begins with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ruledsl.architectures import Architecture
from ruledsl.assembly import Assembly, Facts, Part, assemble, part_of
from ruledsl.errors import UserError
from ruledsl.program import TASK, Program
from ruledsl.streams import Streams, first_embeddings, first_weights
from ruledsl.training.config import Config, OptimizerConfig
from ruledsl.training.connections import connections, followed
from ruledsl.training.freezing import frozen_layers
from ruledsl_jax import movers
from ruledsl_jax.host import host_streams
from ruledsl_jax.layouts import kernel_to_jax
from ruledsl_jax.learning import Averages, Carry, Embedding, Gains, Learner, Plain
from ruledsl_jax.linear import Dense
from ruledsl_jax.movers import Make, Mover, Target
from ruledsl_jax.networks import ACTIVATIONS, layer_norms, linear_maps, norms
from ruledsl_jax.optimization import factory
from ruledsl_jax.randomness import key_for
from ruledsl_jax.taught import Taught, call

DECAYS = ("weight_decay", "decay")
"""What optimizers call the pull towards zero."""


@dataclass(frozen=True)
class Taken:
    """A learner, and whose numbers belong to a run: its rules in order, the constraints, the optimizers."""

    learner: Learner
    parts: tuple[Part, ...]
    constraints: tuple[Part, ...]
    optimizers: Mapping[str, OptimizerConfig]


_LEARNERS: dict[str, Learner] = {}


def learner_of(
    architecture: Architecture,
    rule: Program | None,
    output: Program | None,
    layers: Mapping[str, Program | None],
    constraints: Sequence[Program],
    optimizers: Mapping[str, OptimizerConfig],
    config: Config,
) -> Taken:
    """The same learner for runs that differ in numbers alone. Raises UserError where network and rules don't fit."""
    maps = linear_maps(architecture)
    if rule is None and (constraints or layers):
        what = "constraints" if constraints else "rules for single layers"
        raise UserError(f"{what} need a rule for the network", "rule = backprop learns what autograd learns")
    batch_size = config.data.batch_size
    assembly = _assembly(architecture, maps, rule, output, layers, constraints, batch_size)
    parts = tuple({id(place.part): place.part for place in assembly.places.values()}.values())
    drives = any(f.role == "drive" for part in parts for f in part.program.functions)
    if drives and config.data.batch_size_after:
        raise UserError("a phase that draws its own input needs batches of one size", "leave out data.batch_size_after")
    frozen = frozen_layers(architecture, config.frozen)
    narrow = config.precision == "bfloat16"
    key = f"{_key(architecture, assembly, parts, optimizers)} {config.loss!r} {sorted(frozen)} {narrow}"
    if key not in _LEARNERS:
        sends = {path: met.sends for path, met in connections(architecture, batch_size).layers.items()}
        taught = {
            path: Taught.at(path, place, maps, assembly.classes, sends[path]) for path, place in assembly.places.items()
        }
        numbered = [id(part) for part in parts]
        rule_of = {path: numbered.index(id(place.part)) for path, place in assembly.places.items()}
        own = next((index for index, part in enumerate(parts) if part.program is rule), 0)
        added = tuple(part.program for part in assembly.constraints)
        moved = tuple(_movers(architecture, taught, optimizers, frozen))
        clips = {name: one.clip for name, one in optimizers.items() if one.clip is not None}
        _LEARNERS[key] = Learner(architecture, taught, rule_of, maps, added, moved, own, config.loss, clips, narrow)
    return Taken(_LEARNERS[key], parts, assembly.constraints, optimizers)


def _assembly(
    architecture: Architecture,
    maps: Mapping[str, Any],
    rule: Program | None,
    output: Program | None,
    layers: Mapping[str, Program | None],
    constraints: Sequence[Program],
    batch_size: int,
) -> Assembly:
    if rule is None:
        return Assembly({}, (), None, False)
    trace = connections(architecture, batch_size)
    found = followed(trace, part_of(rule, {}), output, layers)
    parts = {path: part for path, part in found.items() if part is not None}
    phis = {path: kind and ACTIVATIONS[kind] for path, kind in architecture.activations().items()}
    taken = frozenset({"params", "state"})
    facts = {
        path: Facts(type(own).__name__, isinstance(own, Dense), own.units_out, taken=taken)
        for path, own in maps.items()
    }
    added = [part_of(constraint, {}) for constraint in constraints]
    return assemble(facts, trace, parts, added, phis, "jax.nn.relu")


def _key(
    architecture: Architecture, assembly: Assembly, parts: Sequence[Part], optimizers: Mapping[str, OptimizerConfig]
) -> str:
    numbered = [id(part) for part in parts]
    followed = [(path, numbered.index(id(place.part))) for path, place in assembly.places.items()]
    modules = [part.program.module.__name__ for part in (*parts, *assembly.constraints)]
    settings = {name: one.model_dump(mode="json", exclude={"lr"}) for name, one in optimizers.items()}
    batch = [place.input_shape for place in assembly.places.values()]
    return f"{architecture!r} {followed} {modules} {batch} {json.dumps(settings, sort_keys=True)}"


# --- optimizers ---


def _movers(
    architecture: Architecture,
    layers: Mapping[str, Taught],
    optimizers: Mapping[str, OptimizerConfig],
    frozen: frozenset[str],
) -> Iterator[Mover]:
    groups: dict[tuple[str, frozenset[str], bool], list[Target]] = {}
    for target, optimizer, phases, decays in _targets(architecture, layers):
        if target[0] in frozen:
            continue
        groups.setdefault((optimizer, phases, decays), []).append(target)
    for index, ((optimizer, phases, decays), targets) in enumerate(groups.items()):
        make = _maker(optimizers[optimizer], decays)
        yield Mover(f"{optimizer}.{index}", optimizer, phases, tuple(targets), make)


def _targets(
    architecture: Architecture, layers: Mapping[str, Taught]
) -> Iterator[tuple[Target, str, frozenset[str], bool]]:
    """Every parameter that is taught, by which optimizer, in which phases, and whether that may decay it."""
    for path, kernel in architecture.kernels().items():
        layer = layers.get(path)
        if layer is None:
            names = ["W", *["b"] * kernel.bias]
            yield from (((path, name), TASK, frozenset({TASK}), True) for name in names)
            continue
        phases: dict[tuple[str, str], set[str]] = {}
        for phase, output in layer.binding.taught:
            if _there(layer, output.target, kernel.bias):
                phases.setdefault((output.optimizer, output.target), set()).add(phase)
        for (optimizer, name), some in phases.items():
            own_decay = layer.binding.tensor(name).own_decay
            yield (path, name), optimizer, frozenset(some), not own_decay
    for path, (_, affine) in norms(architecture).items():
        yield from (((path, name), TASK, frozenset({TASK}), True) for name in Gains._fields if affine)
    for path in layer_norms(architecture):
        yield from (((path, name), TASK, frozenset({TASK}), True) for name in Gains._fields)
    for path in architecture.embeddings():
        yield (path, "value"), TASK, frozenset({TASK}), True


def _there(layer: Taught, name: str, bias: bool) -> bool:
    """Whether a layer has a tensor: there may be no bias, and what serves sending may be missing."""
    return bias if name == "b" else layer.sends or name not in layer.binding.serves_sending


def _maker(config: OptimizerConfig, decays: bool) -> Make:
    """How an optimizer is made from a learning rate and a key."""
    decay = config.weight_decay if decays else 0.0
    if config.name == "adam":
        return lambda rate, key: movers.adam(rate, config.betas, config.eps, decay)
    if config.name == "sgd":
        return lambda rate, key: movers.sgd(rate, config.momentum, config.nesterov, decay)
    import ruledsl

    program = ruledsl.load(config.name, **config.parameters).compile("jax")
    values = {**program.parameters, **(dict.fromkeys(DECAYS, 0.0) if not decays else {})}
    known = {name: value for name, value in values.items() if name in program.parameters}
    return lambda rate, key: call(factory(program), {"learning_rate": rate, "key": 0 if key is None else key, **known})


# --- first values ---


def first(taken: Taken, seed: int) -> tuple[Carry, dict[str, Any]]:
    """What a run of this seed begins with, drawn on the host; and its random keys, of steps."""
    learner = taken.learner
    params: dict[str, Any] = {}
    state: dict[str, Any] = {}
    kept: dict[str, tuple[Any, ...]] = {}
    for path, W, b in first_weights(learner.architecture.kernels(), seed):
        own = learner.maps[path]
        W, b = kernel_to_jax(W).astype(np.float32), None if b is None else b.astype(np.float32)
        layer = learner.layers.get(path)
        if layer is None:
            params[path] = Plain(W, b)
            continue
        source, part = Streams(seed, path), taken.parts[learner.rule_of[path]]
        key = host_streams(source, part.program, own, layer.downstream)
        params[path], state[path] = layer.first(key, W, b, part.parameters)
        kept[path] = tuple(
            call(
                one.program.module.init,
                {
                    "layer": own,
                    "params": params[path],
                    "key": host_streams(source, one.program, own),
                    **one.parameters,
                    "phi": layer.phi,
                },
            )
            for one in taken.constraints
        )
    averages = {}
    for path, (channels, affine) in norms(learner.architecture).items():
        averages[path] = Averages(_full(channels, 0), _full(channels, 1))
        if affine:
            params[path] = Gains(_full(channels, 1), _full(channels, 0))
    for path, units in layer_norms(learner.architecture).items():
        params[path] = Gains(_full(units, 1), _full(units, 0))
    for path, value in first_embeddings(learner.architecture.embeddings(), seed):
        params[path] = Embedding(value.astype(np.float32))
    keys = {path: key_for(seed, path) for path in ("", *learner.layers)}
    moving = {mover.name: key_for(seed, "optimizer", mover.name) for mover in learner.movers}
    return Carry(params, state, kept, averages, learner.at_rest(params, moving), np.array(True)), keys


def _full(channels: int, value: float) -> Any:
    return np.full(channels, value, np.float32)
