"""How long a step of an emitted optimizer takes, relative to torch's own on lists of tensors (`foreach=True`).

    python -m benchmarks.optimizers [--rounds 20]

Three sets of parameters: those of an MLP, those of ResNet-18, and many small ones, where what counts is Python. Each
turn stands beside one of torch's in the same process; reported is the median of the ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from benchmarks.targets import Measured
from ruledsl_torch.optimization import optimizer

MOMENTUM = {"momentum": 0.9, "weight_decay": 1e-4}
Make = Callable[[list[Tensor]], torch.optim.Optimizer]


def convolutions(width: int, before: int, blocks: int) -> Iterable[tuple[int, ...]]:
    """The shapes of one stage of a ResNet: convolutions with gain and shift."""
    for block in range(blocks):
        inputs = before if block == 0 else width
        yield from ((width, inputs, 3, 3), (width,), (width,), (width, width, 3, 3), (width,), (width,))
        if inputs != width:
            yield from ((width, inputs, 1, 1), (width,), (width,))


WIDTHS = (64, 64, 128, 256, 512)
SHAPES: dict[str, list[tuple[int, ...]]] = {
    "mlp": [(512, 784), (512,), (512, 512), (512,), (10, 512), (10,)],
    "small": [(64, 64), (64,)] * 20,
    "resnet18": [
        *((64, 3, 3, 3), (64,), (64,)),
        *(shape for before, width in pairwise(WIDTHS) for shape in convolutions(width, before, 2)),
        *((10, 512), (10,)),
    ],
}
PAIRS: dict[str, tuple[Make, Make]] = {
    "sgd": (
        lambda p: optimizer(p, "sgd", lr=1e-3, foreach=True, **MOMENTUM),
        lambda p: torch.optim.SGD(p, lr=1e-3, foreach=True, **MOMENTUM),
    ),
    "adam": (
        lambda p: optimizer(p, "adam", lr=1e-3, foreach=True),
        lambda p: torch.optim.Adam(p, lr=1e-3, foreach=True),
    ),
    "adam, one by one": (
        lambda p: optimizer(p, "adam", lr=1e-3, foreach=False),
        lambda p: torch.optim.Adam(p, lr=1e-3, foreach=True),
    ),
}


def step_of(make: Make, shapes: Sequence[tuple[int, ...]]) -> Callable[[], object]:
    """A step on parameters of these shapes, with gradients that stay."""
    generator = torch.Generator().manual_seed(0)
    parameters: list[Tensor] = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator)
    return make(parameters).step


def seconds(step: Callable[[], object], repeat: int) -> float:
    """Of one step."""
    start = time.perf_counter()
    for _ in range(repeat):
        step()
    return (time.perf_counter() - start) / repeat


def measure(rounds: int = 20) -> dict[str, Measured]:
    """By optimizer and set of parameters, the ratio to torch's own."""
    torch.set_num_threads(1)
    found: dict[str, Measured] = {}
    for name, (ours, theirs) in PAIRS.items():
        for parameters, shapes in SHAPES.items():
            pair = step_of(ours, shapes), step_of(theirs, shapes)
            repeat = 2 if parameters == "resnet18" else 20
            times = [tuple(seconds(step, repeat) for step in pair) for _ in range(rounds + 2)][2:]
            ratio = statistics.median(own / other for own, other in times)
            own, other = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
            found[f"{name}, {parameters}"] = Measured(ratio, f"{own:.2f} ms; torch's {other:.2f} ms")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    for key, measured in measure(parser.parse_args().rounds).items():
        print(f"{key:28} {measured.value:5.2f}  {measured.note}")
