"""Two processes that train each network of a table, each on its half of every batch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import ruledsl
from ruledsl import RuleError, UserError
from ruledsl_torch import advance, convert, observe, optimizers
from ruledsl_torch.network import inner

BATCH, CLASSES, STEPS = 8, 3, 4


@dataclass(frozen=True)
class Probe:
    """One network under one rule.

    rule     a name of the library, or a text
    options  of DistributedDataParallel
    seed     of convert; None: none is given, and each process has random values of its own
    single   one optimizer for all parameters, also where the rule names others
    uneven   the second process was given an example of another size
    around   what trains the network: `ddp`; `compiled` inside it; `fsdp`: fully_shard on every layer and on the whole
    """

    rule: str
    dtype: torch.dtype = torch.float64
    options: dict[str, Any] = field(default_factory=dict)
    seed: int | None = 1
    constraints: tuple[str, ...] = ()
    output: str | None = None
    steps: int = STEPS
    single: bool = False
    uneven: bool = False
    around: str = "ddp"

    def loaded(self) -> Any:
        """The rule."""
        return ruledsl.parse(self.rule) if self.rule.startswith("rule ") else ruledsl.load(self.rule)


def network(probe: Probe, batch: int) -> nn.Module:
    """A convolution and two dense layers that follow the rule; without a seed, the process's own random values."""
    torch.manual_seed(0)
    net: nn.Module = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, CLASSES)
    ).to(probe.dtype)
    example = torch.zeros(batch, 2, 4, 4, dtype=probe.dtype)
    if probe.seed is None and dist.is_initialized():
        torch.manual_seed(dist.get_rank() + 5)
    return convert(
        net, probe.loaded(), output=probe.output, constraints=probe.constraints, example=example, seed=probe.seed
    )


def batches(probe: Probe, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """A joint batch for every pass."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        x = torch.randn(BATCH, 2, 4, 4, generator=generator, dtype=torch.float64)
        yield x.to(probe.dtype), torch.randint(CLASSES, (BATCH,), generator=generator)


def train(probe: Probe, net: nn.Module, share: slice) -> dict[str, Tensor]:
    """Some steps with momentum; returns what the network has then."""
    made = [by for layer in net_of(net).ruledsl.layers.values() for by in layer.teaches or () if by.optimizer != "task"]
    sgd = lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)  # noqa: E731
    optimizer: Any = optimizers(net, task=sgd) if made and not probe.single else sgd(net.parameters())
    for step, (x, labels) in enumerate(batches(probe, probe.steps)):
        observe(net, target=labels[share], epoch=10 + step, progress=step / 10, lr=0.1)
        number = net_of(net).ruledsl.step
        while net_of(net).ruledsl.step == number:
            if net_of(net).ruledsl.sees_batch:
                optimizer.zero_grad()
                F.cross_entropy(net(x[share]), labels[share]).backward()
                optimizer.step()
            advance(net)
    found = {**dict(net_of(net).named_parameters()), **dict(net_of(net).named_buffers())}
    passing = {f"{path}.{name}" for path, layer in net_of(net).ruledsl.layers.items() for name in layer.passing}
    whole = {name: getattr(value, "full_tensor", value.clone)() for name, value in found.items()}
    return {name: value.detach() for name, value in whole.items() if name not in passing}


def net_of(net: nn.Module) -> Any:
    """The network itself."""
    return inner(net)


def alone(probe: Probe) -> dict[str, Tensor]:
    """One process with the joint batch."""
    return train(probe, network(probe, BATCH), slice(None))


def wrapped(probe: Probe, net: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """What is called in the place of the network."""
    if probe.around == "fsdp":
        for module in (*net_of(net).ruledsl.layers.values(), net):
            fully_shard(module, mesh=mesh)
        return net
    if probe.around == "compiled":
        net = torch.compile(net, backend="aot_eager")
    return DistributedDataParallel(net, **probe.options)


def process(rank: int, path: str, probes: dict[str, Probe]) -> None:
    """One of two processes: writes what every network has in the end, or the error that it met."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{path}/store", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    found: dict[str, Any] = {}
    for name, probe in probes.items():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                size = BATCH // 2
                net = wrapped(probe, network(probe, size + (rank if probe.uneven else 0)), mesh)
                found[name] = train(probe, net, slice(rank * size, (rank + 1) * size))
        except (UserError, RuleError, RuntimeError, AttributeError, TypeError) as error:
            found[name] = f"{type(error).__name__}: {error}"
        dist.barrier()
    torch.save(found, Path(path) / f"{rank}.pt")
    dist.destroy_process_group()


def both(path: Path, probes: dict[str, Probe]) -> list[dict[str, Any]]:
    """What the two processes found."""
    torch.multiprocessing.spawn(process, (str(path), probes), nprocs=2)
    return [torch.load(path / f"{rank}.pt") for rank in range(2)]
