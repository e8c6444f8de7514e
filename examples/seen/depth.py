"""Do errors explode or vanish on their way down a deep network? (Liao et al. 2015, section 5.3; Moskovitz eq. 8)

One batch of MNIST (or of the 8x8 digits, where there is no MNIST), a network of twelve dense layers as it is
initialised: the size of the error that reaches each layer, relative to that at the top.
"""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn

from ruledsl.data import load
from ruledsl.errors import UserError
from ruledsl.experiments.plot import COLOURS
from ruledsl_torch import convert

RULES = ("backprop", "feedback_alignment", "usf", "nusf", "usf_init", "usf_sn")
DEPTH, WIDTH, SEEDS = 12, 256, 5


def network(inputs: int, seed: int) -> nn.Sequential:
    """Dense layers with ReLU between them, forward variance 2 / fan_in."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Flatten()]
    for depth in range(DEPTH):
        layers.append(nn.Linear(inputs if depth == 0 else WIDTH, WIDTH if depth < DEPTH - 1 else 10))
        nn.init.kaiming_normal_(layers[-1].weight)  # type: ignore[arg-type]
        layers.append(nn.ReLU())
    return nn.Sequential(*layers[:-1])


def sizes(rule: str, x: torch.Tensor, t: torch.Tensor, seed: int) -> list[float]:
    """Norm of delta in each weight layer, from the first to the last, relative to the last."""
    net = convert(network(x[0].numel(), seed), rule, example=x)
    outputs: list[torch.Tensor] = []
    for layer in net:
        if isinstance(layer, nn.Linear):
            layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    logits = net(x)
    for output in outputs:
        output.retain_grad()
    nn.functional.cross_entropy(logits, t).backward()
    norms = [float(output.grad.norm()) for output in outputs if output.grad is not None]
    return [norm / norms[-1] for norm in norms]


def main() -> None:
    """Print the factor by which errors grow from the top to the bottom, and draw it."""
    try:
        data, name = load("mnist"), "MNIST"
    except UserError:
        data, name = load("digits"), "digits"
    x, t = torch.tensor(data.train.images[:200]), torch.tensor(data.train.labels[:200], dtype=torch.long)
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    print(f"{'rule':20} size of delta in layer 1, relative to layer {DEPTH} (geometric mean of {SEEDS} networks)")
    for rule, colour in zip(RULES, COLOURS, strict=False):
        runs = torch.tensor([sizes(rule, x, t, seed) for seed in range(SEEDS)]).log10()
        mean = 10 ** runs.mean(0)
        axes.semilogy(range(1, DEPTH + 1), mean, marker="o", color=colour, label=f"{rule}: {mean[0]:.1e}")
        print(f"{rule:20} {mean[0]:.2e}")
    axes.set(xlabel="layer (1 is the input)", ylabel="norm of delta, relative to the last layer")
    axes.set_title(f"Errors on their way down {DEPTH} layers of {WIDTH} units, {name}, at initialisation")
    axes.legend(title="rule: in layer 1", frameon=False)
    axes.grid(alpha=0.3)
    picture = Path("runs") / "seen" / "depth.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(picture, dpi=150)
    print(f"plot: {picture}")


if __name__ == "__main__":
    main()
