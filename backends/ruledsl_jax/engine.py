"""The training engine of the JAX backend; its contract is `ruledsl.training.engine.Engine`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import islice
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from numpy.typing import NDArray

from ruledsl.architectures import Architecture
from ruledsl.data import Split
from ruledsl.program import TASK, Program, Schedule
from ruledsl.training import probes
from ruledsl.training.config import Config
from ruledsl.training.engine import Diverged, Score, Steps
from ruledsl_jax import networks
from ruledsl_jax.devices import everywhere, join, keep_programs, mesh_of, platform, processors
from ruledsl_jax.layouts import activity_to_jax
from ruledsl_jax.learners import first, learner_of
from ruledsl_jax.learning import Carry, Learner, Moment, Numbers, Use
from ruledsl_jax.linear import Convolution
from ruledsl_jax.losses import losses
from ruledsl_jax.probing import look
from ruledsl_jax.programs import Images, Programs, Told

State = dict[str, NDArray[Any]]
SMALL = 50_000
"""Parameters of a network whose steps on a CPU are short beside what they cost in any case."""
SPLITS = 4
"""So many splits are kept on devices; then those that came first have to go."""
_SPLITS: dict[tuple[int, Mesh], tuple[Split, Images]] = {}
IN_A_RUN = 64
"""Steps after which somebody may want to see something."""


class Engine:
    """One network, one rule and its optimizers."""

    def init(
        self,
        architecture: Architecture,
        rule: Program | None,
        output: Program | None,
        config: Config,
        constraints: Sequence[Program] = (),
        layers: Mapping[str, Program | None] = {},
    ) -> None:
        """See `ruledsl.training.engine.Engine.init`."""
        join(config.processes)
        self.leads = jax.process_index() == 0
        keep_programs()
        size = config.data.batch_size
        self.mesh, note = mesh_of(config.device, config.devices, config.threads, size)
        optimizers = {TASK: config.optimizer, **config.optimizers}
        taken = learner_of(architecture, rule, output, layers, constraints, optimizers, config)
        self.learner = taken.learner
        self.schedule = next((p.program.schedule for p in taken.parts if p.program.schedule != Schedule()), Schedule())
        self.changing = config.schedules
        carry, keys = first(taken, config.seed)
        numbers = Numbers(
            {name: jnp.float32(one.lr) for name, one in optimizers.items()},
            tuple(_floats(part.parameters) for part in taken.parts),
            tuple(_floats(part.parameters) for part in taken.constraints),
            keys,
        )
        self.carry: Carry = self._put(carry)
        self.numbers: Numbers = self._put(numbers)
        self.programs = _programs(self.learner, self._kinds(), self.mesh)
        self.notes = [*([note] if note else []), self._way()]
        self.faster_together = self._faster_together(config.threads)
        self.rehearsed = False
        self.probes = probes.Probes()
        self.now: Told | None = None

    def _put(self, value: Any) -> Any:
        return everywhere(value, self.mesh)

    def _kinds(self) -> tuple[tuple[str, ...], ...]:
        """The phases that a step of the schedule may have."""
        schedule = self.schedule
        later = [(phase,) for phase in schedule.alternate] or [schedule.each]
        return tuple(dict.fromkeys([*(names for _, names in schedule.first), *later]))

    def _faster_together(self, threads: int | None) -> bool:
        """Measured with 8 networks side by side: on one thread, 784-256-10 is 5 % slower so, and 64-32-10 40 % faster;
        on two threads both are faster. On a CPU, convolutions are slower in any case."""
        if self.mesh.size > 1:
            return False
        one = (threads or processors()) == 1
        small = self.learner.architecture.parameter_count() < SMALL
        return self.programs.looped and (platform(self.mesh) != "cpu" or small or not one)

    def _way(self) -> str:
        devices = self.mesh.devices.ravel()
        where = f"{devices[0].device_kind}" + (f" x {len(devices)}" if len(devices) > 1 else "")
        how = f"{IN_A_RUN} steps in one program" if self.programs.looped else "one program for each step"
        return f"JAX on {where}: {how}"

    def steps(self, run: Steps) -> Iterator[Score | None]:
        """See `ruledsl.training.engine.Engine.steps`."""
        for (came,) in taken(self, [self], [run]):
            if isinstance(came, Diverged):
                raise came
            yield came
        if not self.rehearsed:
            self.rehearsed = True
            told, known = _in_place(run, self.told(run, slice(0, 1))), {*map(int, self.kinds_of(run))}
            self.programs.rehearse(self.carry, self.numbers, self._some_data(run), told, known)

    def _some_data(self, run: Steps) -> Images:
        return self.on_device(run.split) if run.split.resident else next(self.feed(run.part(0, 1), 1))

    def hand_out(self) -> None:
        """It has what is its own."""

    def together(self, others: Sequence[Engine]) -> Together | None:
        """See `ruledsl.training.engine.Engine.together`."""
        alike = all(other.programs is self.programs and other.schedule == self.schedule for other in others)
        same = all(other.changing.keys() == self.changing.keys() for other in others)
        return Together([self, *others]) if alike and same else None

    def kinds_of(self, run: Steps) -> NDArray[np.int32]:
        """Of each step, the number of its phases among the program's kinds."""
        phases = (self.schedule.phases(clock.step, clock.epochs_passed) for clock in run.clocks)
        return np.array([self.programs.kinds.index(each) for each in phases], np.int32)

    def scored(self, run: Steps, index: int, kind: int, loss: float, wrong: int) -> Score | Diverged | None:
        """What came of a step."""
        if all(map(self.learner.driven, self.programs.kinds[kind])):
            return None
        if not np.isfinite(loss):
            return Diverged(loss, self._where(run.split.batch(run.rows[index]).images))
        return Score(loss, wrong, run.rows.shape[1])

    def told(self, run: Steps, some: slice) -> Told:
        """What some steps of a run are told."""
        clocks = run.clocks[some]
        changing = {
            name: np.array([schedule.at(clock.progress) for clock in clocks], np.float32)
            for name, schedule in self.changing.items()
        }
        return Told(
            run.rows[some].astype(np.int32),
            np.array([clock.step for clock in clocks], np.int32),
            {name: np.array(each[some], np.float32) for name, each in {"": run.rates, **run.own}.items()},
            np.array([clock.epoch for clock in clocks], np.float32),
            np.array([clock.progress for clock in clocks], np.float32),
            changing,
        )

    def on_device(self, split: Split) -> Images:
        """A split where the programs find it; engines share it."""
        key = id(split), self.mesh
        if key not in _SPLITS:
            if len(_SPLITS) >= SPLITS:
                del _SPLITS[next(iter(_SPLITS))]
            _SPLITS[key] = split, self._put(Images(_last(split.images), split.labels.astype(np.int32)))
        return _SPLITS[key][1]

    def feed(self, run: Steps, count: int) -> Iterator[Images]:
        """The batches of a run, so many at a time, where the programs find them one after the other."""
        batches = run.batches()
        while some := list(islice(batches, count)):
            size = len(some[0])
            images = np.zeros((count * size, *some[0].images.shape[1:]), np.float32)
            labels = np.zeros(count * size, np.int32)
            for index, batch in enumerate(some):
                images[index * size : (index + 1) * size] = batch.images
                labels[index * size : (index + 1) * size] = batch.labels
            yield self._put(Images(_last(images), labels))

    def _scored(self, split: Split, size: int) -> Iterator[Any]:
        score = _scorer(self.learner)
        if split.resident:
            data = self.on_device(split)
            yield from (score(self.carry, data, start, size, len(split)) for start in range(0, len(split), size))
            return
        for batch in split.in_order(size):
            short = [(0, size - len(batch))]
            images = np.pad(batch.images, short + [(0, 0)] * (batch.images.ndim - 1))
            data = self._put(Images(_last(images), np.pad(batch.labels, short).astype(np.int32)))
            yield score(self.carry, data, 0, size, len(batch))

    def evaluate(self, split: Split, batch_size: int) -> Score:
        """See `ruledsl.training.engine.Engine.evaluate`."""
        size = min(batch_size, len(split))
        found = list(self._scored(split, size))
        loss, wrong = (float(sum(each)) for each in zip(*jax.device_get(found), strict=True))
        if not np.isfinite(loss):
            raise Diverged(loss, self._where(next(split.in_order(size)).images))
        return Score(loss / len(split), int(wrong), len(split))

    def probe(self, held_out: Split) -> dict[str, float]:
        """See `ruledsl.training.engine.Engine.probe`."""
        batch = held_out.sample(probes.HELD_OUT)
        start = {name: jnp.float32(schedule.at(0)) for name, schedule in self.changing.items()}
        zero = jnp.float32(0)
        moment = Moment(jnp.int32(0), {"": jnp.float32(1)}, zero, zero, start)
        if self.now is not None:
            _, *now = jax.tree.map(lambda each: jnp.asarray(each[-1]), self.now)
            moment = Moment(*now)
        told = self._put((moment, _last(batch.images), batch.labels.astype(np.int32)))
        seen = look(self.learner, self.carry, self.numbers, *told)
        return self.probes.measure(seen)

    def peak_memory(self) -> int | None:
        """See `ruledsl.training.engine.Engine.peak_memory`."""
        known = self.mesh.devices.flat[0].memory_stats() or {}
        return known.get("peak_bytes_in_use")

    def agreed(self, number: float) -> float:
        """See `ruledsl.training.engine.Engine.agreed`."""
        if jax.process_count() == 1:
            return number
        return float(np.max(multihost_utils.process_allgather(np.float64(number))))

    def state(self) -> State:
        """See `ruledsl.training.engine.Engine.state`."""
        return {name: np.array(_plain(value)) for name, value in _named(self.carry).items()}

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """See `ruledsl.training.engine.Engine.load_state`."""
        leaves, structure = jax.tree.flatten(self.carry)
        values = [_like(state[name], leaf) for name, leaf in zip(_named(self.carry), leaves, strict=True)]
        self.carry = self._put(jax.tree.unflatten(structure, values))

    def _where(self, images: NDArray[np.float32]) -> str:
        """The layer in which a number that is not finite appeared first.

        Weights are looked at from the output down, the way that errors travel; then activity from the input up.
        """
        for path in reversed(list(self.learner.maps)):
            held = {**self.carry.params[path]._asdict(), **self._state_of(path)}
            for name, value in held.items():
                if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(value)):
                    return f"layer {path}: its {NAMES.get(name, name)}"
        look = _Look(self.carry, self.learner)
        networks.forward(self.learner.architecture, look, _last(images))
        return f"layer {look.overflown[0]}: its activity" if look.overflown else "the loss itself"

    def _state_of(self, path: str) -> dict[str, Any]:
        return self.carry.state[path]._asdict() if path in self.carry.state else {}


class Together:
    """Engines whose networks are side by side in one program."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.engines = engines
        first = engines[0]
        self.programs = _programs(first.learner, first.programs.kinds, first.mesh, members=True)
        self.numbers = _stacked([each.numbers for each in engines])
        self.carry: Any = None

    def steps(self, runs: Sequence[Steps]) -> Iterator[Sequence[Score | Diverged | None]]:
        """See `ruledsl.training.engine.Population.steps`."""
        self.carry = _stacked([each.carry for each in self.engines])
        yield from taken(self, self.engines, runs)
        self.hand_out()

    def hand_out(self) -> None:
        """Every engine has what is its own."""
        for engine, carry in zip(self.engines, _members(self.carry, len(self.engines)), strict=True):
            engine.carry = carry


def taken(
    holder: Engine | Together, engines: Sequence[Engine], runs: Sequence[Steps]
) -> Iterator[list[Score | Diverged | None]]:
    """The steps of runs that are as long as each other, each in its engine: of each step, what came of it."""
    first, programs = engines[0], holder.programs
    kinds, size = first.kinds_of(runs[0]), min(IN_A_RUN, _per_epoch(runs[0]))
    resident = runs[0].split.resident
    if not resident and not programs.looped:
        size = 1
    fed = None if resident else first.feed(runs[0], size)
    waiting: list[tuple[int, Any]] = []

    def scores() -> Iterator[list[Score | Diverged | None]]:
        start, seen = waiting.pop(0)
        losses, wrong = _fetched(seen, len(engines))
        for at in range(min(size, len(kinds) - start)):
            if not np.isfinite(losses[:, at]).all():
                holder.hand_out()
            each = zip(engines, runs, losses[:, at], wrong[:, at], strict=True)
            kind = int(kinds[start + at])
            yield [one.scored(run, start + at, kind, float(a), int(b)) for one, run, a, b in each]

    for start in range(0, len(kinds), size):
        some = slice(start, start + size)
        told = [engine.told(run, some) for engine, run in zip(engines, runs, strict=True)]
        data = first.on_device(runs[0].split) if fed is None else next(fed)
        told = [_in_place(run, each) for run, each in zip(runs, told, strict=True)]
        for engine, each in zip(engines, told, strict=True):
            engine.now = each
        now = jax.tree.map(lambda *values: np.stack(values), *told) if programs.members else told[0]
        holder.carry, seen = programs.run(holder.carry, holder.numbers, data, now, kinds[some], size)
        waiting.append((start, seen))
        # While somebody looks at one run, the next one is under way.
        if len(waiting) > 1:
            yield from scores()
    while waiting:
        yield from scores()


def _per_epoch(run: Steps) -> int:
    """Of any part of an epoch: programs are compiled for runs of one length."""
    return run.split.batches_per_epoch(run.rows.shape[1])


def _in_place(run: Steps, told: Told) -> Told:
    """What steps are told: of batches that are brought, the rows where `feed` has put them."""
    if run.split.resident:
        return told
    return told._replace(rows=np.arange(told.rows.size, dtype=np.int32).reshape(told.rows.shape))


def _plain(value: Array) -> Array:
    """An array, or the numbers of a random key."""
    return jax.random.key_data(value) if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) else value


def _like(value: NDArray[Any], leaf: Array) -> Array:
    """The inverse of `_plain`, for what was an array like `leaf`."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(jnp.asarray(value), impl=jax.random.key_impl(leaf))
    return jnp.asarray(value, leaf.dtype)


@jax.jit
def _stacked(values: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *values)


@partial(jax.jit, static_argnums=1)
def _members(values: Any, count: int) -> list[Any]:
    return [jax.tree.map(itemgetter(index), values) for index in range(count)]


class _Look(Use):
    """The layers of a network, asked for the first whose activity is no finite number."""

    def __init__(self, carry: Carry, learner: Learner) -> None:
        super().__init__(learner, carry)
        self.overflown: list[str] = []

    def linear(self, path: str, x: Array) -> Array:
        return self._seen(path, super().linear(path, x))

    def norm(self, path: str, v: Array) -> Array:
        return self._seen(path, super().norm(path, v))

    def _seen(self, path: str, v: Array) -> Array:
        if not bool(jnp.isfinite(v).all()):
            self.overflown.append(path)
        return v


@cache
def _programs(learner: Learner, kinds: tuple[tuple[str, ...], ...], mesh: Mesh, members: bool = False) -> Programs:
    """The same for all runs that differ in numbers alone."""
    slow = platform(mesh) == "cpu" and any(isinstance(m, Convolution) for m in learner.maps.values())
    return Programs(learner, kinds, mesh, looped=not slow, members=members)


@cache
def _scorer(learner: Learner) -> Any:
    """The sums of the losses and of the wrong answers of so many images."""

    @partial(jax.jit, static_argnums=3)
    def score(carry: Carry, data: Images, start: Array, size: int, count: Array) -> tuple[Array, Array]:
        rows = start + jnp.arange(size)
        there = rows < count
        images, labels = (each.at[rows].get(mode="clip") for each in data)
        logits = learner.logits(carry, images)
        return jnp.sum(losses(learner.loss.plain, logits, labels), where=there), jnp.sum(
            logits.argmax(1) != labels, where=there
        )

    return score


NAMES = {"W": "kernel", "b": "bias", "gain": "scale", "shift": "bias"}
"""What users of Flax call the tensors of a layer."""


def _named(carry: Carry) -> dict[str, Array]:
    """Every array of a state by a name; those of the network as users of Flax know them: `network.conv1.kernel`."""
    found = {}
    for keys, leaf in jax.tree.leaves_with_path(carry):
        part, *path = (str(getattr(key, "name", getattr(key, "key", getattr(key, "idx", "")))) for key in keys)
        network = part in ("params", "state", "averages", "kept")
        found[
            ".".join(
                [
                    "network" if network else part,
                    *([part] if part == "kept" else []),
                    *path[:-1],
                    NAMES.get(path[-1], path[-1]) if path else "",
                ]
            ).rstrip(".")
        ] = leaf
    return found


def _fetched(seen: Any, members: int) -> list[NDArray[Any]]:
    """Losses and wrong answers, [members, steps]."""
    found = jax.device_get(seen)
    if isinstance(found, list):  # step by step, each of [members]
        return [np.stack(values, -1).reshape(members, -1) for values in zip(*found, strict=True)]
    return [np.asarray(values).reshape(members, -1) for values in found]


def _floats(values: Mapping[str, float]) -> dict[str, Array]:
    return {name: jnp.float32(value) for name, value in values.items()}


def _last(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Channels last."""
    return np.ascontiguousarray(activity_to_jax(images))
