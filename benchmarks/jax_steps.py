"""How long a step of the JAX engine takes, relative to backprop by hand in JAX: ResNet-18 on 32 x 32.

    python -m benchmarks.jax_steps [RULE ...] [--rounds 12] [--batch 16]

The step by hand is what a good user of JAX writes for this one network: a jitted function of parameters, momenta and
running averages, which it updates in place. A step of the engine is one of its run of steps, with everything that
`ruledsl train` does for it: it finds its batch among the images, and hands out loss and wrong answers. Both begin with
equal weights, and the first loss of the engine's backprop has to be that of the step by hand.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

import ruledsl
from benchmarks.targets import TARGETS, Measured
from benchmarks.turns import Step, beside
from ruledsl.architectures import get
from ruledsl.data import Split
from ruledsl.training import Config
from ruledsl.training.engine import Score, Steps
from ruledsl.training.schedule import Clock
from ruledsl_jax.engine import Engine

RULES = tuple(target.key for target in TARGETS if target.benchmark == "jax_steps")
BATCH, CLASSES = 16, 10
RESNET = get("resnet18_cifar", (3, 32, 32), CLASSES)
STAGES = ((1, 1), (2, 2), (3, 2), (4, 2))
"""Of each stage, its number and the stride of its first block."""
RATE, MOMENTUM = 1e-3, 0.9
Tree = Any


def convolved(x: Array, kernel: Array, stride: int = 1) -> Array:
    """[batch, height, width, channels], padded so that a stride of 1 keeps the size."""
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), [(pad, pad), (pad, pad)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def normalised(x: Array, gains: Tree, seen: Tree, name: str) -> Array:
    """Batch normalisation; its mean and variance go into `seen`."""
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    count = x.size // x.shape[-1]
    seen[name] = {"mean": mean, "var": var * (count / (count - 1))}
    return (x - mean) * (lax.rsqrt(var + 1e-5) * gains[name]["gain"]) + gains[name]["shift"]


def logits(params: Tree, x: Array) -> tuple[Array, Tree]:
    """Of images [batch, 32, 32, 3]; and what the normalisations have seen."""
    seen: Tree = {}

    def layer(x: Array, name: str, stride: int = 1) -> Array:
        return normalised(convolved(x, params[name]["W"], stride), params, seen, f"{name}_norm")

    x = jax.nn.relu(layer(x, "conv1"))
    for stage, first_stride in STAGES:
        for block in (1, 2):
            stride, name = first_stride if block == 1 else 1, f"block{stage}_{block}"
            body = layer(jax.nn.relu(layer(x, f"{name}.conv1", stride)), f"{name}.conv2")
            x = jax.nn.relu(body + (x if stride == 1 else layer(x, f"{name}.shortcut", stride)))
    return x.mean((1, 2)) @ params["fc1"]["W"] + params["fc1"]["b"], seen


@partial(jax.jit, donate_argnums=(0, 1, 2))
def step_by_hand(params: Tree, momenta: Tree, averages: Tree, x: Array, labels: Array) -> tuple[Tree, ...]:
    """One step of backprop with SGD and momentum: what is next, the loss, and how many were wrong."""

    def loss_of(params: Tree) -> tuple[Array, Any]:
        scores, seen = logits(params, x)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(scores), labels[:, None], axis=1)
        return -chosen.mean(), (seen, jnp.sum(scores.argmax(1) != labels))

    (loss, (seen, wrong)), gradients = jax.value_and_grad(loss_of, has_aux=True)(params)
    momenta = jax.tree.map(lambda kept, gradient: MOMENTUM * kept + gradient, momenta, gradients)
    params = jax.tree.map(lambda value, kept: value - RATE * kept, params, momenta)
    averages = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, averages, seen)
    return params, momenta, averages, loss, wrong


class ByHand:
    """Training by hand, from the weights of an engine on."""

    def __init__(self, engine: Engine, split: Split) -> None:
        carry = engine.carry
        self.params = {path: {**_some(held._asdict())} for path, held in carry.params.items()}
        self.averages = {path: _some(held._asdict()) for path, held in carry.averages.items()}
        self.momenta = jax.tree.map(jnp.zeros_like, self.params)
        self.x = jnp.asarray(np.moveaxis(split.images, 1, -1))
        self.labels = jnp.asarray(split.labels.astype(np.int32))

    def step(self) -> Score:
        """One step, and what came of it."""
        self.params, self.momenta, self.averages, loss, wrong = step_by_hand(
            self.params, self.momenta, self.averages, self.x, self.labels
        )
        return Score(float(loss), int(wrong), len(self.labels))


def _some(values: dict[str, Any]) -> dict[str, Array]:
    return {
        name: jnp.copy(values[name])
        for name in ("W", "b", "gain", "shift", "mean", "var")
        if name in values and values[name] is not None
    }


def engine_of(rule: str, batch: int) -> Engine:
    """The engine, before its first step."""
    optimizer = {"name": "sgd", "lr": RATE, "momentum": MOMENTUM}
    config = Config.model_validate({"rule": rule, "data": {"batch_size": batch}, "optimizer": optimizer})
    engine = Engine()
    engine.init(RESNET, ruledsl.load(rule).compile("jax"), None, config)
    return engine


def step_of(engine: Engine, split: Split) -> Step:
    """One step of an engine, all of whose batches are the whole split."""
    rows = np.arange(len(split))[None]
    taken = 0

    def step() -> Score | None:
        nonlocal taken
        taken += 1
        (score,) = engine.steps(Steps(split, rows, [1.0], [Clock(taken - 1, 1000, 1)]))
        return score

    return step


def measure(rules: Sequence[str] = RULES, *, rounds: int = 12, batch: int = BATCH) -> dict[str, Measured]:
    """The ratio of each rule's step to the step by hand, median over rounds. Raises AssertionError if they differ."""
    random = np.random.default_rng(0)
    images = random.standard_normal((batch, *RESNET.input_shape)).astype(np.float32)
    split = Split(images, random.integers(CLASSES, size=batch))
    backprop = engine_of("backprop", batch)
    by_hand = ByHand(backprop, split)
    ours, theirs = step_of(backprop, split)(), by_hand.step()
    assert isinstance(ours, Score) and abs(ours.loss / theirs.loss - 1) < 1e-4, (
        f"{ours} by the engine, {theirs} by hand"
    )
    return beside(by_hand.step, {rule: step_of(engine_of(rule, batch), split) for rule in rules}, rounds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rules", nargs="*", default=list(RULES))
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--batch", type=int, default=BATCH)
    options = vars(parser.parse_args())
    for name, found in measure(options.pop("rules"), **options).items():
        print(f"{name:28} {found.value:.3f}   {found.note}")


if __name__ == "__main__":
    main()
