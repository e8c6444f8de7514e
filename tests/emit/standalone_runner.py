"""Trains a small network with every standalone file in a folder, in a process that has the framework alone.

python standalone_runner.py FOLDER    writes FOLDER/states.pt: by rule, the network's state after some steps
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import sys
from pathlib import Path

FORBIDDEN = ("ruledsl", "lark", "pydantic", "jinja2")


class Nothing(importlib.abc.MetaPathFinder):
    """Lets nobody import the compiler or what it is made of."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0].split("_")[0] in FORBIDDEN:
            raise ModuleNotFoundError(f"{name} is not here", name=name)


def network(torch):
    torch.manual_seed(0)
    nn = torch.nn
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3, stride=2, groups=2),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(54, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )


def batch(torch):
    torch.manual_seed(1)
    return torch.randn(5, 2, 8, 8), torch.tensor([0, 1, 2, 1, 0])


def activations(torch):
    return {"0": torch.relu, "2": torch.tanh, "5": torch.relu, "7": lambda v: v}


def trained(torch, net, advance, observe, optimizers, steps=4):
    """The state after some steps of a user's loop, in all phases of the rule."""
    x, labels = batch(torch)
    if optimizers is None:
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    else:
        optimizer = optimizers(net, task=lambda parameters: torch.optim.SGD(parameters, lr=0.05))
    for step in range(steps):
        if observe is not None:
            observe(net, target=labels, epoch=float(step), progress=step / steps, lr=0.05)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), labels).backward()
        optimizer.step()
        advance(net)
    return {name: value.clone() for name, value in net.state_dict().items()}


def main(folder: Path) -> None:
    sys.meta_path.insert(0, Nothing())
    import torch

    torch.set_num_threads(1)
    states = {}
    for path in sorted(folder.glob("*.py")):
        spec = importlib.util.spec_from_file_location(f"standalone_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        net, given = network(torch), {"generator": torch.Generator().manual_seed(2)}
        if hasattr(module, "NetworkState"):
            given["example"] = batch(torch)[0]
            if "activations" in module.convert.__kwdefaults__:
                given["activations"] = activations(torch)
        net = module.convert(net, **given)
        states[path.stem] = trained(
            torch, net, module.advance, getattr(module, "observe", None), getattr(module, "optimizers", None)
        )
    assert not {"ruledsl", "lark", "pydantic", "jinja2"} & {name.partition(".")[0] for name in sys.modules}
    torch.save(states, folder / "states.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
