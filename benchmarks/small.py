"""How long a step takes on small networks, where every idea begins: emitted code against what one writes by hand.

    python -m benchmarks.small [--rounds 2000]

One thread, eager, the same loop for all: SGD with momentum, batch 32. The hand-written functions are what a good
engineer writes for this one rule and this one kind of layer. Steps are interleaved in random order in one process;
reported is the ratio of medians.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from benchmarks.targets import Measured
from ruledsl.architectures import get
from ruledsl_torch import convert
from ruledsl_torch.networks import build

BATCH, CLASSES = 32, 10
ROUNDS = {"mlp": 3000, "lenet": 250}
Step = Callable[[], None]


class FeedbackAlignment(torch.autograd.Function):
    """The rule by hand, for dense layers alone."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, b: Tensor, B: Tensor) -> Tensor:
        ctx.save_for_backward(x, B)
        return F.linear(x, W, b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:
        x, B = ctx.saved_tensors
        return delta @ B if ctx.needs_input_grad[0] else None, delta.t() @ x, delta.sum(0), None


class KolenPollack(torch.autograd.Function):
    """The rule by hand, for dense layers alone; B of a layer that sends to nobody stays."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, W: Tensor, b: Tensor, B: Tensor, decay: float) -> Tensor:
        ctx.save_for_backward(x, W, B)
        ctx.decay = decay
        return F.linear(x, W, b)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, delta: Tensor) -> tuple[Tensor | None, ...]:
        x, W, B = ctx.saved_tensors
        product = delta.t() @ x
        grad_W = product + ctx.decay * W
        if not ctx.needs_input_grad[0]:
            return None, grad_W, delta.sum(0), None, None
        return delta @ B, grad_W, delta.sum(0), product + ctx.decay * B, None


class FeedbackAlignmentLinear(nn.Linear):
    """A dense layer of the rule."""

    def __init__(self, units_in: int, units_out: int) -> None:
        super().__init__(units_in, units_out)
        self.register_buffer("B", torch.randn(units_out, units_in) / math.sqrt(units_out))

    def forward(self, x: Tensor) -> Tensor:
        return FeedbackAlignment.apply(x, self.weight, self.bias, self.B)  # type: ignore[no-any-return, no-untyped-call]


class KolenPollackLinear(nn.Linear):
    """A dense layer of the rule."""

    def __init__(self, units_in: int, units_out: int) -> None:
        super().__init__(units_in, units_out)
        self.B = nn.Parameter(torch.randn(units_out, units_in) / math.sqrt(units_out))

    def forward(self, x: Tensor) -> Tensor:
        return KolenPollack.apply(x, self.weight, self.bias, self.B, 1e-4)  # type: ignore[no-any-return, no-untyped-call]


def mlp(layer: Callable[[int, int], nn.Module] = nn.Linear) -> nn.Module:
    """784-256-10"""
    torch.manual_seed(0)
    return nn.Sequential(layer(784, 256), nn.ReLU(), layer(256, CLASSES))


def lenet() -> nn.Module:
    """The LeNet of Liao et al. for MNIST, of the library."""
    torch.manual_seed(0)
    return build(get("liao_mnist", (1, 28, 28), CLASSES))


def step_of(net: nn.Module, x: Tensor, labels: Tensor) -> Step:
    """One step of a user's loop."""
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(x), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def medians(nets: Mapping[str, nn.Module], x: Tensor, rounds: int) -> dict[str, float]:
    """Seconds of a step, by network; all take turns in random order."""
    labels = torch.randint(CLASSES, (len(x),))
    steps = {name: step_of(net, x, labels) for name, net in nets.items()}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    order, shuffled = list(steps), random.Random(0)
    for turn in range(rounds + rounds // 5):
        shuffled.shuffle(order)
        for name in order:
            start = time.perf_counter()
            steps[name]()
            if turn >= rounds // 5:
                taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(seconds) for name, seconds in taken.items()}


def measure(scale: float = 1.0) -> dict[str, Measured]:
    """The ratios of the targets."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        x = torch.randn(BATCH, 784)
        nets = {
            "plain": mlp(),
            "fa": convert(mlp(), "feedback_alignment", seed=0),
            "fa by hand": mlp(FeedbackAlignmentLinear),
            "kp": convert(mlp(), "kolen_pollack", seed=0),
            "kp by hand": mlp(KolenPollackLinear),
        }
        small = medians(nets, x, int(scale * ROUNDS["mlp"]))
        images = torch.randn(BATCH, 1, 28, 28)
        nets = {"plain": lenet(), "fa": convert(lenet(), "feedback_alignment", seed=0)}
        large = medians(nets, images, int(scale * ROUNDS["lenet"]))
    finally:
        torch.set_num_threads(threads)
    note = {name: f"{1e6 * seconds:.0f} us" for name, seconds in small.items()}
    return {
        "fa by hand": Measured(small["fa"] / small["fa by hand"], f"{note['fa']} to {note['fa by hand']}"),
        "fa plain": Measured(small["fa"] / small["plain"], f"{note['fa']} to {note['plain']}"),
        "kp by hand": Measured(small["kp"] / small["kp by hand"], f"{note['kp']} to {note['kp by hand']}"),
        "lenet": Measured(large["fa"] / large["plain"], f"{1e3 * large['fa']:.2f} ms"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of rounds")
    for name, found in measure(parser.parse_args().scale).items():
        print(f"{name:12} {found.value:.3f}   {found.note}")


if __name__ == "__main__":
    main()
