"""Whether compilers keep the meaning: `torch.compile` of converted networks, `jax.jit` of the emitted functions.

A network learns for a few steps, in all phases of its rule, eager and compiled to one graph. In JAX the functions of
every phase, jitted together, are compared with the reference on every geometry.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.rules import emitted
from benchmarks.targets import Measured
from ruledsl.program import Program
from ruledsl.verification.executor import compare
from ruledsl.verification.geometries import GEOMETRIES
from ruledsl_jax.executor import jitted
from ruledsl_torch import advance, convert, observe, optimizers

BATCH, CLASSES, STEPS = 6, 4, 4


def measure() -> dict[str, Measured]:
    """The largest relative distance of any weight or state after the same steps, and of any output."""
    return {"compiled": by_torch(), "jitted": by_jax()}


def by_jax() -> Measured:
    """In float64, where nothing that a compiler rearranges should show."""
    worst, where, rules = -1.0, "", emitted("jax")
    for name, (rule, program) in rules.items():
        for geometry in GEOMETRIES:
            for found in compare(program, rule.lowered, jitted, geometry, "float64"):
                if not found.amount <= worst:
                    worst, where = found.amount, f"{name}, {found.output}, {found.geometry}"
    return Measured(worst, f"{len(rules)} rules, {len(GEOMETRIES)} geometries, worst: {where}")


def by_torch() -> Measured:
    """By inductor, in float64."""
    worst, where, rules = -1.0, "", emitted("torch")
    for name, (_, program) in rules.items():
        torch._dynamo.reset()
        eager, compiled = _trained(program, compiled=False), _trained(program, compiled=True)
        for key, value in eager.items():
            if value.is_floating_point():
                distance = float((compiled[key] - value).norm() / value.norm().clamp_min(1e-9))
                if not distance <= worst:  # a NaN is the worst
                    worst, where = distance, f"{name}, {key}"
    return Measured(worst, f"{len(rules)} rules, {STEPS} steps, worst: {where}")


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
    optimizer = optimizers(net, task=lambda p: torch.optim.SGD(p, lr=0.05))
    run = torch.compile(net, fullgraph=True) if compiled else net
    for step in range(STEPS):
        observe(net, target=labels, epoch=10.0, progress=step / STEPS, lr=0.05)
        optimizer.zero_grad()
        F.cross_entropy(run(x), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        advance(net)
    return {name: value.clone() for name, value in net.state_dict().items()}
