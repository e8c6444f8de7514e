"""Whether a converted network compiles to one graph and learns the same: a few steps, eager and compiled."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.rules import emitted
from benchmarks.targets import Measured
from ruledsl.errors import UserError
from ruledsl.program import Program
from ruledsl_torch import advance, convert, observe

BATCH, CLASSES, STEPS = 6, 4, 3


def measure() -> dict[str, Measured]:
    """The largest relative distance of any weight or state after the same steps."""
    worst, where = -1.0, ""
    done, left_out = 0, []
    for name, (_, program) in emitted("torch").items():
        torch._dynamo.reset()
        try:
            eager = _trained(program, compiled=False)
        except UserError:  # phases that alternate, `delta[k]`: not for a converted network in a loop of one's own
            left_out.append(name)
            continue
        compiled, done = _trained(program, compiled=True), done + 1
        for key, value in eager.items():
            if value.is_floating_point():
                distance = float((compiled[key] - value).norm() / value.norm().clamp_min(1e-9))
                if not distance <= worst:  # a NaN is the worst
                    worst, where = distance, f"{name}, {key}"
    note = f"{done} rules, {STEPS} steps, worst: {where}"
    if left_out:
        note += f"; without those that `convert` refuses: {', '.join(left_out)}"
    return {"compiled": Measured(worst, note)}


def _network() -> nn.Sequential:
    """Convolutions with and without stride and groups, normalisation, pooling: [batch, 2, 8, 8] -> [batch, 4]."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2, groups=2),
        nn.BatchNorm2d(6),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(54, 10),
        nn.ReLU(),
        nn.Linear(10, CLASSES),
    ).double()


def _trained(program: Program, *, compiled: bool) -> dict[str, torch.Tensor]:
    """The state after `STEPS` steps of a user's loop. Random numbers are drawn outside the graph, alike in both."""
    net = _network()
    x, labels = torch.randn(BATCH, 2, 8, 8, dtype=torch.float64), torch.arange(BATCH) % CLASSES
    activations = dict.fromkeys(("0", "2", "6", "8"), torch.relu)
    convert(net, program, example=x, activations=activations, seed=0)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    run = torch.compile(net, fullgraph=True) if compiled else net
    for step in range(STEPS):
        observe(net, target=labels, epoch=0.0, progress=step / STEPS, lr=0.05)
        optimizer.zero_grad()
        F.cross_entropy(run(x), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        advance(net)
    return {name: value.clone() for name, value in net.state_dict().items()}
