"""How long a training step takes under a rule, relative to plain backprop: ResNet-18 on 32 x 32, batch 32, two threads.

    python -m benchmarks.steps [RULE ...] [--rounds 12] [--compiled]

Steps of all networks alternate within one process, and each step is divided by the plain step of the same round:
a load on the machine that lasts longer than a round leaves the ratio as it is. Reported is the median over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.targets import Measured
from ruledsl_torch import advance, convert, observe

RULES = ("feedback_alignment", "usf_sn", "kolen_pollack", "direct_feedback_alignment")


class Block(nn.Module):
    """A basic residual block: [batch, channels_in, H, W] -> [batch, channels_out, H / stride, W / stride]."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


def resnet18(classes: int = 10) -> nn.Sequential:
    """ResNet-18 in CIFAR form: [batch, 3, 32, 32] -> [batch, classes]."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    channels = 64
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Block(channels, width, stride), Block(width, width, 1)]
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


def training_step(net: nn.Module, x: Tensor, labels: Tensor, *, compiled: bool) -> Callable[[], None]:
    """One step of SGD with momentum, everything that a user's loop does."""
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)
    run = torch.compile(net, fullgraph=True) if compiled else net
    converted = hasattr(net, "ruledsl")

    def step() -> None:
        if converted:
            observe(net, target=labels)
        optimizer.zero_grad()
        F.cross_entropy(run(x), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if converted:
            advance(net)

    return step


def seconds(step: Callable[[], None]) -> float:
    """Of one call."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def measure(
    rules: Sequence[str] = RULES, *, rounds: int = 12, batch: int = 32, compiled: bool = False
) -> dict[str, Measured]:
    """The ratio of each rule's step to the plain one, median over rounds."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    x, labels = torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))
    steps = {"plain": training_step(resnet18(), x, labels, compiled=compiled)}
    for rule in rules:
        steps[rule] = training_step(convert(resnet18(), rule, example=x[:2], seed=0), x, labels, compiled=compiled)
    for _ in range(2):
        for step in steps.values():
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(seconds(step))
    plain = times.pop("plain")
    return {name: _ratio(own, plain) for name, own in times.items()}


def _ratio(own: list[float], plain: list[float]) -> Measured:
    ratios = [mine / other for mine, other in zip(own, plain, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    note = f"quartiles {low:.3f} to {high:.3f}, {1000 * statistics.median(own):.0f} ms"
    return Measured(statistics.median(ratios), note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rules", nargs="*", default=list(RULES))
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--compiled", action="store_true", help="under torch.compile(fullgraph=True)")
    options = vars(parser.parse_args())
    for name, found in measure(options.pop("rules"), **options).items():
        print(f"{name:28} {found.value:.3f}   {found.note}")


if __name__ == "__main__":
    main()
