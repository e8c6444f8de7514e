"""Somebody else's loop: autocast against float32, two processes against the joint batch, probes that are silent.

python -m benchmarks.loops
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

import ruledsl
from benchmarks.targets import Measured
from ruledsl.architectures import get
from ruledsl.library import names
from ruledsl_torch import convert, observe
from ruledsl_torch.networks import activations, build

TESTS = Path(__file__).parent.parent / "tests"
LENET = get("liao_mnist", (1, 28, 28), 10)
RULES = tuple(name for name in names() if ruledsl.load(name).kind == "rule")


def gradients(rule: str, cast: bool) -> dict[str, Tensor]:
    """Of a LeNet and a batch of 32, by parameter; `cast`: under autocast to bfloat16."""
    torch.manual_seed(0)
    x, labels = torch.randn(32, 1, 28, 28), torch.randint(10, (32,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = convert(build(LENET), rule, example=x, activations=activations(LENET), seed=0)
    observe(net, target=labels, epoch=1, progress=0.1, lr=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cast):
        loss = F.cross_entropy(net(x), labels)
    loss.backward()  # type: ignore[no-untyped-call]
    return {name: p.grad for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}


def autocast() -> Measured:
    """1 - cosine of the worst gradient of all rules."""
    worst = (0.0, "")
    for rule in RULES:
        found, expected = gradients(rule, True), gradients(rule, False)
        for name, value in expected.items():
            cosine = F.cosine_similarity(found[name].flatten(), value.flatten(), dim=0).item()
            worst = max(worst, (1 - cosine, f"{rule}, {name}"))
    return Measured(*worst)


def replicas() -> Measured:
    """The largest difference of all rules, relative to the largest entry of a tensor, float32."""
    sys.path.insert(0, str(TESTS))
    from backends.loops.replicas import Probe, alone, both

    alternating = {"find_unused_parameters": True}
    probes = {rule: Probe(rule, torch.float32, alternating) for rule in RULES}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = both(Path(folder), probes)
        worst = (0.0, "")
        for rule, probe in probes.items():
            expected = alone(probe)
            for each in found:
                if isinstance(each[rule], str):
                    return Measured(float("inf"), f"{rule}: {each[rule]}")
                for name, value in expected.items():
                    difference = (each[rule][name] - value).abs().max() / max(1.0, value.abs().max().item())
                    worst = max(worst, (difference.item(), f"{rule}, {name}"))
    return Measured(*worst)


def silent() -> Measured:
    """Probes that end neither as their table says nor in what it calls a refusal."""
    table = [sys.executable, "-m", "pytest", "-q", "tests/backends/loops/test_probes.py"]
    end = subprocess.run(table, cwd=TESTS.parent, capture_output=True, text=True).stdout.splitlines()[-1]
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|error)", end)}
    failing = counts.get("failed", 0) + counts.get("error", 0)
    return Measured(failing, f"of {sum(counts.values())} probes, rule by rule")


def measure() -> dict[str, Measured]:
    """All of it."""
    return {"autocast": autocast(), "replicas": replicas(), "silent": silent()}


if __name__ == "__main__":
    for key, found in measure().items():
        print(f"{key:12} {found.value:.3g}   {found.note}")
