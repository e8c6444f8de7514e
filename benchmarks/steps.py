"""How long learning takes under a rule, relative to plain backprop: ResNet-18 on 32 x 32, batch 32, two threads.

    python -m benchmarks.steps [RULE ...] [--rounds 12] [--compiled] [--device cuda]

A turn is one step, or for a rule whose schedule alternates as many steps as it has phases: "both phases".
How turns are compared is said in `benchmarks.turns`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.targets import TARGETS, Measured
from benchmarks.turns import Step, beside
from ruledsl.architectures import Architecture, get
from ruledsl_torch import advance, convert, observe, optimizers
from ruledsl_torch.network import NetworkState
from ruledsl_torch.networks import activations, build

RULES = tuple(target.key for target in TARGETS if target.benchmark == "steps")
BATCH, CLASSES = 32, 10
RESNET = get("resnet18_cifar", (3, 32, 32), CLASSES)


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


def finished(step: Step) -> Step:
    """The same step; it is over when a GPU is through with it."""

    def both() -> None:
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    return both


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
    plain = finished(plain_step(network, x, labels, compiled=compiled))
    turns = {rule: finished(turn(network, rule, x, labels, compiled=compiled)) for rule in rules}
    return beside(plain, turns, rounds)


def _sgd(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)  # type: ignore[arg-type]


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
