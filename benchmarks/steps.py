"""How long learning takes under a rule, relative to plain backprop: ResNet-18 on 32 x 32, batch 32, two threads.

    python -m benchmarks.steps [RULE ...] [--rounds 12] [--compiled] [--device cuda]

A turn is one step, or for a rule whose schedule alternates as many steps as it has phases: "both phases".
Every turn stands between two plain steps in the same process, and is divided by their mean: a load on the machine that
lasts longer than these leaves the ratio as it is. Reported is the median over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.targets import TARGETS, Measured
from ruledsl.architectures import Architecture, get
from ruledsl_torch import advance, convert, observe, optimizers
from ruledsl_torch.network import NetworkState
from ruledsl_torch.networks import activations, build

RULES = tuple(target.key for target in TARGETS if target.benchmark == "steps")
BATCH, CLASSES = 32, 10
RESNET = get("resnet18_cifar", (3, 32, 32), CLASSES)
Step = Callable[[], None]


def plain_step(network: Architecture, x: Tensor, labels: Tensor, *, compiled: bool = False) -> Step:
    """One step of backprop by autograd, with SGD and momentum: everything that a user's loop does."""
    net = build(network).to(x.device)
    optimizer = _sgd(net.parameters())
    run = torch.compile(net, fullgraph=True) if compiled else net

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(run(x), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def turn(network: Architecture, rule: str, x: Tensor, labels: Tensor, *, compiled: bool = False) -> Step:
    """One turn of a rule, in the same loop; second optimizers are those that the rule names."""
    net = convert(build(network).to(x.device), rule, example=x, activations=activations(network), seed=0)
    optimizer = optimizers(net, task=_sgd)
    run = torch.compile(net, fullgraph=True) if compiled else net
    record: NetworkState = net.ruledsl  # type: ignore[assignment]

    def step() -> None:
        before = record.step
        while record.step == before:
            if record.sees_batch:
                observe(net, target=labels, lr=1e-3, progress=0.0)
                optimizer.zero_grad()
                F.cross_entropy(run(x), labels).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            advance(net)

    def all_phases() -> None:
        for _ in record.schedule.alternate or (None,):
            step()

    return all_phases


def seconds(step: Step) -> float:
    """Of one call."""
    start = time.perf_counter()
    step()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(
    rules: Sequence[str] = RULES,
    *,
    network: Architecture = RESNET,
    rounds: int = 12,
    batch: int = BATCH,
    compiled: bool = False,
    device: str = "cpu",
) -> dict[str, Measured]:
    """The ratio of each rule's turn to the plain step, median over rounds."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    x, labels = torch.randn(batch, *network.input_shape).to(device), torch.randint(CLASSES, (batch,)).to(device)
    plain = plain_step(network, x, labels, compiled=compiled)
    turns = {rule: turn(network, rule, x, labels, compiled=compiled) for rule in rules}
    for _ in range(2):
        for step in (plain, *turns.values()):
            step()
    own: dict[str, list[float]] = {rule: [] for rule in rules}
    beside: dict[str, list[float]] = {rule: [] for rule in rules}
    for _ in range(rounds):
        before = seconds(plain)
        for rule, step in turns.items():
            own[rule].append(seconds(step))
            after = seconds(plain)
            beside[rule].append((before + after) / 2)
            before = after
    return {rule: _ratio(own[rule], beside[rule]) for rule in rules}


def _sgd(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)  # type: ignore[arg-type]


def _ratio(own: list[float], plain: list[float]) -> Measured:
    ratios = [mine / other for mine, other in zip(own, plain, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    note = f"quartiles {low:.3f} to {high:.3f}, {1000 * statistics.median(own):.0f} ms"
    return Measured(statistics.median(ratios), note)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rules", nargs="*", default=list(RULES))
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--batch", type=int, default=BATCH)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compiled", action="store_true", help="under torch.compile(fullgraph=True)")
    options = vars(parser.parse_args())
    for name, found in measure(options.pop("rules"), **options).items():
        print(f"{name:28} {found.value:.3f}   {found.note}")


if __name__ == "__main__":
    main()
