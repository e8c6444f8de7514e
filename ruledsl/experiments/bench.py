"""What a step of a rule costs beside the framework's own backpropagation: time and memory, both in one run."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from ruledsl import architectures, data
from ruledsl.architectures import Architecture
from ruledsl.data import Split
from ruledsl.errors import UserError
from ruledsl.training.config import Config
from ruledsl.training.engine import Engine, Steps, find_engine
from ruledsl.training.preparation import load_compiled, resolved
from ruledsl.training.schedule import Clock

NATIVE = "native backprop"
TURN = 0.2
"""Seconds that a turn takes at least: one is measured after the other, again and again."""


@dataclass(frozen=True)
class Cost:
    """Of a step: `seconds`, its quartiles, the ratio to native backpropagation and that ratio's quartiles.

    memory  bytes at the peak: of the device where it says so, else of a process of its own
    tensors bytes of parameters and of all else that is kept from step to step
    """

    name: str
    images_per_second: float
    seconds: float
    ratio: float
    quartiles: tuple[float, float]
    memory: int | None
    tensors: int


def bench(config: Config, input_shape: Sequence[int] | None = None, rounds: int = 10) -> list[Cost]:
    """Native backpropagation, and the rule of a configuration, on its network, backend and device.

    input_shape  of an image; left out, what the network is usually trained on

    The two take turns, and the ratio is that of neighbours, so that a load on the machine counts for both. Raises
    RuleError and UserError.
    """
    if not config.model.name:
        raise UserError("which network?", "`ruledsl models` shows them: --model resnet18")
    entry = architectures.TABLE.get(config.model.name)
    shape = tuple(input_shape or (entry.input_shape if entry else ()))
    network = architectures.get(config.model.name, shape, entry.classes if entry else 10, **config.model.options)
    engines = [_engine(config, network, name) for name in (None, config.rule)]
    split = _images(config, network)
    places = [0, 0]
    sizes = [_calibrated(engine, split, config, places, index) for index, engine in enumerate(engines)]
    times: list[list[float]] = [[], []]
    for _ in range(max(2, rounds)):
        for index, engine in enumerate(engines):
            times[index].append(_turn(engine, split, config, sizes[index], places, index))
    ratios = [own / plain for plain, own in zip(*times, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    memory = [_peak(config, shape, name) for name in (None, config.rule)]
    costs = []
    for index, (name, engine) in enumerate(zip((NATIVE, config.rule), engines, strict=True)):
        seconds = statistics.median(times[index])
        ratio, quartiles = (1.0, (1.0, 1.0)) if index == 0 else (middle, (low, high))
        tensors = sum(value.nbytes for value in engine.state().values())
        speed = config.data.batch_size / seconds
        costs.append(Cost(name, speed, seconds, ratio, quartiles, memory[index], tensors))
    return costs


def _engine(config: Config, network: Architecture, rule: str | None) -> Engine:
    engine = find_engine(config.backend)
    if rule is None:
        plain = config.model_copy(update={"parameters": {}, "optimizers": {}})
        engine.init(network, None, None, resolved(plain, _dataset(config, network), (None, None)))
        return engine
    _, program = load_compiled(rule, config.first_parameters, config.backend)
    engine.init(network, program, None, resolved(config, _dataset(config, network), (program, None)))
    return engine


def _dataset(config: Config, network: Architecture) -> data.Dataset:
    size = config.data.batch_size
    return data.load("synthetic", shape=network.input_shape, classes=network.classes, train=size, test=1)


def _images(config: Config, network: Architecture) -> Split:
    return _dataset(config, network).train


def _calibrated(engine: Engine, split: Split, config: Config, places: list[int], index: int) -> int:
    """How many steps a turn has; the first ones, in which programs are compiled, are behind it then."""
    for _ in range(2):
        _turn(engine, split, config, 1, places, index)
    steps = 1
    while (took := steps * _turn(engine, split, config, steps, places, index)) < TURN:
        steps = max(steps + 1, int(steps * min(8.0, 1.2 * TURN / max(took, 1e-6))))
    return steps


def _turn(engine: Engine, split: Split, config: Config, steps: int, places: list[int], index: int) -> float:
    """Seconds per step."""
    rows = split.order(config.data.batch_size, config.seed, 0).repeat(steps, 0)
    clocks = [Clock(places[index] + each, 10**6, 10) for each in range(steps)]
    places[index] += steps
    start = time.perf_counter()
    for _ in engine.steps(Steps(split, rows, [1.0] * steps, clocks)):
        pass
    return (time.perf_counter() - start) / steps


def _peak(config: Config, shape: tuple[int, ...], rule: str | None) -> int | None:
    """In a process of its own, so that nothing else counts."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(_peak_here, config.model_dump(exclude_unset=True), shape, rule).result()


def _peak_here(values: dict[str, Any], shape: tuple[int, ...], rule: str | None) -> int | None:
    config = Config.model_validate(values)
    entry = architectures.TABLE[config.model.name]
    network = architectures.get(config.model.name, shape, entry.classes, **config.model.options)
    engine, split = _engine(config, network, rule), _images(config, network)
    for step in range(3):
        _turn(engine, split, config, 1, [step], 0)
    on_device = engine.peak_memory()
    if on_device is not None:
        return on_device
    try:
        import resource
    except ModuleNotFoundError:  # on Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
