"""Where a run computes: on which device, and in how many processes that share each batch."""

from __future__ import annotations

import atexit
import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from ruledsl.errors import UserError
from ruledsl.training.config import Config

HOW = "torchrun --nproc-per-node=N -m ruledsl train ..."


@dataclass(frozen=True)
class Place:
    """One process of a run: its device, which of them it is, and how many there are."""

    device: torch.device
    rank: int = 0
    count: int = 1

    def share(self, value: Tensor) -> Tensor:
        """Its part of a batch."""
        size = len(value) // self.count
        return value[self.rank * size : (self.rank + 1) * size]

    def total(self, *numbers: float) -> list[float]:
        """The sums of what all processes say."""
        return self._together(numbers, dist.ReduceOp.SUM)

    def largest(self, number: float) -> float:
        """The largest of what they say."""
        return self._together((number,), dist.ReduceOp.MAX)[0]

    def _together(self, numbers: tuple[float, ...], how: dist.ReduceOp.RedOpType) -> list[float]:
        if self.count == 1:
            return list(numbers)
        said = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(said, how)
        return [float(each) for each in said]


def place_of(config: Config) -> Place:
    """Where `torchrun` or the configuration says. Raises UserError."""
    count, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    asked = config.processes or config.devices
    if asked not in (None, count):
        raise UserError(f"{asked} processes were asked for, each with a device, and there are {count}", HOW)
    sizes = (config.data.batch_size, *config.data.batch_size_after.values())
    if any(size % count for size in sizes):
        raise UserError(f"batches of {' and '.join(map(str, sizes))} images cannot be spread over {count} processes")
    device = _device(config.device, int(os.environ.get("LOCAL_RANK", "0")))
    if count > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)
    return Place(device, rank, count)


def _device(name: str | None, index: int) -> torch.device:
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name in ("gpu", "cuda") or (name is None and there):
        if index >= there:
            raise UserError(f"PyTorch sees {there} GPUs, and this process wants number {index}", "device=cpu")
        torch.cuda.set_device(index)
        return torch.device("cuda", index)
    if name in (None, "cpu"):
        return torch.device("cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        said = str(error).partition("\n")[0]
        raise UserError(f"PyTorch cannot open the device {name}: {said}", "device=cpu, or leave it out") from None
