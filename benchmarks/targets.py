"""What is measured, and what we want to reach: a number that is at most `reach` passes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Measured(NamedTuple):
    """A number, and what a reader may want to know of how it came about."""

    value: float
    note: str = ""


@dataclass(frozen=True)
class Target:
    """One row of the table. `key` is the number's name in what `measure` of `benchmark` returns."""

    benchmark: str
    key: str
    what: str
    reach: float
    unit: str = ""


SMALL = "MLP 784-256-10 step, one thread: "
OPTIMIZER = "optimizer step, ratio to torch's foreach: "
STEP = "ResNet-18 step, ratio to plain: "
JAX_STEP = "JAX: ResNet-18 step, ratio to backprop by hand: "
TRAINER = "JAX: train, one thread, time of an epoch, ratio to PyTorch: "
POPULATION = "JAX: 8 runs as compare takes them, ratio to one after the other: "
START = "JAX: command to first step of train, digits: "
TARGETS = (
    Target("compiler", "compile", "parse, check and emit a library rule, median", 15, "ms"),
    Target("compiler", "check", "ruledsl check rules/*.rule, cold process", 0.7, "s"),
    Target("small", "fa by hand", SMALL + "feedback_alignment, ratio to hand-written", 1.03),
    Target("small", "fa plain", SMALL + "feedback_alignment, ratio to plain", 1.16),
    Target("small", "kp by hand", SMALL + "kolen_pollack, ratio to hand-written", 1.05),
    Target("small", "lenet", "LeNet step, one thread: feedback_alignment, ratio to plain", 1.05),
    Target("steps", "feedback_alignment", STEP + "feedback_alignment", 1.03),
    Target("steps", "usf_sn", STEP + "usf_sn", 1.04),
    Target("steps", "kolen_pollack", STEP + "kolen_pollack", 1.06),
    Target("steps", "direct_feedback_alignment", STEP + "direct_feedback_alignment", 0.74),
    Target("steps", "weight_mirror", STEP + "weight_mirror, engaged and mirror phase", 1.75),
    Target("steps", "symmetric_alignment", STEP + "symmetric_alignment", 1.10),
    Target("steps", "activation_alignment", STEP + "activation_alignment, both phases", 2.0),
    Target("steps", "information_alignment", STEP + "information_alignment, both phases", 2.4),
    Target("jax_steps", "feedback_alignment", JAX_STEP + "feedback_alignment", 1.03),
    Target("jax_steps", "kolen_pollack", JAX_STEP + "kolen_pollack", 1.05),
    Target("jax_steps", "direct_feedback_alignment", JAX_STEP + "direct_feedback_alignment", 0.75),
    Target("trainers", "mlp", TRAINER + "MLP 784-256-10, MNIST", 0.5),
    Target("trainers", "lenet", TRAINER + "LeNet, MNIST", 1.3),
    Target("overhead", "share", "time of an epoch outside of its steps, LeNet on MNIST, batch 128", 0.03),
    Target(
        "images", "ratio", "folder of JPEGs, 2 workers, 224x224 random parts: time, ratio to decoding alone", 1 / 0.9
    ),
    Target("probes", "torch", "probes, LeNet on MNIST, batch 128, 5 epochs: share of the run", 0.03),
    Target("probes", "jax", "JAX: probes, LeNet on MNIST, batch 128, 5 epochs: share of the run", 0.03),
    Target("populations", "small mlp", POPULATION + "MLP 64-32-10, digits", 1.05),
    Target("populations", "mlp", POPULATION + "MLP 784-256-10, MNIST", 1.05),
    Target("populations", "lenet", POPULATION + "LeNet, digits", 1.05),
    Target("compilations", "later", "JAX: programs compiled after the first epoch, 6 rules, LeNet and MLP", 0),
    Target("starts", "first", START + "the first time", 6, "s"),
    Target("starts", "second", START + "the second time", 3, "s"),
    Target("starts", "compare", "JAX: compare --seeds 8, digits, ratio to 8 times train", 1 / 3),
    Target(
        "curves", "torch", "JAX against PyTorch, 200 losses of a LeNet on MNIST, every rule: distance, largest", 1e-3
    ),
    Target("loops", "autocast", "autocast bf16 against float32, LeNet, every rule: 1 - cosine, largest", 0.01),
    Target("loops", "replicas", "2 processes against the joint batch, every rule: difference, largest", 1e-5),
    Target("loops", "silent", "probes of other people's loops that go wrong in silence", 0),
    Target("optimizers", "sgd, mlp", OPTIMIZER + "sgd with momentum, MLP", 1.1),
    Target("optimizers", "sgd, resnet18", OPTIMIZER + "sgd with momentum, ResNet-18", 1.1),
    Target("optimizers", "adam, mlp", OPTIMIZER + "adam, MLP", 1.1),
    Target("optimizers", "adam, resnet18", OPTIMIZER + "adam, ResNet-18", 1.1),
    Target("house", "lines", "lines of the backends' Python", 4200),
    Target("house", "circles", "import circles", 0),
    Target("house", "upward", "arrows to a higher room", 0),
    Target("cost", "error", "step time predicted by the cost model, largest error over all rules", 0.25),
    Target("equality", "backprop float32", "emitted backprop against autograd, float32", 1e-6),
    Target("equality", "backprop float64", "emitted backprop against autograd, float64", 1e-12),
    Target("equality", "torch float32", "PyTorch against the reference, every rule and geometry, float32", 1e-5),
    Target("equality", "torch float64", "PyTorch against the reference, every rule and geometry, float64", 1e-10),
    Target("equality", "jax float32", "JAX against the reference, every rule and geometry, float32", 1e-5),
    Target("equality", "jax float64", "JAX against the reference, every rule and geometry, float64", 1e-10),
    Target("ledger", "unseen", "ledger entries of random rules that no run shows, of all", 0.02),
    Target("ledger", "smuggled", "smugglers of tests/attacks without their entry", 0),
    Target("ledger", "accused", "honest rules of tests/attacks with another ledger than theirs", 0),
    Target("ledger", "overlooked", "smugglers that verify alone does not find, of all", 0.05),
    Target("ledger", "verify", "ruledsl verify weight_mirror, both backends, second start", 6, "s"),
    Target("compiled", "compiled", "torch.compile(fullgraph=True) against eager, every rule, float64", 1e-10),
    Target("compiled", "jitted", "jax.jit against the reference, every rule and phase, float64", 1e-10),
)
BENCHMARKS = tuple(dict.fromkeys(target.benchmark for target in TARGETS))
OF_JAX = ("jax_steps", "trainers", "probes", "populations", "compilations", "starts", "curves")
"""Benchmarks that need JAX."""
