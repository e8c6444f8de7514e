"""Which devices a run has, and what JAX has to be told before it looks for them."""

from __future__ import annotations

import os
import platform as machine
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ruledsl.errors import UserError
from ruledsl.folders import cache_folder
from ruledsl.streams import number
from ruledsl_jax.programs import DATA

LARGEST = 2**30
"""Bytes of compiled programs that are kept."""


def mesh_of(name: str | None, count: int | None, threads: int | None, batch_size: int) -> tuple[Mesh, str | None]:
    """The devices that share a batch, and what a user should know of the choice.

    name     `cpu`, `gpu`, `cuda`, `rocm` or `tpu`; None: the best that JAX can open
    count    of devices; None: all that there are
    threads  of a CPU, where this is the first time that it is opened

    Raises UserError for a device that was asked for by name and that JAX cannot open, and for too many of them.
    """
    with _threads(threads):
        devices, note = _devices(name)
    count = count or len(devices)
    if count > len(devices):
        raise UserError(f"{count} devices were asked for, and JAX sees {len(devices)}: {_listed(devices)}")
    if batch_size % count:
        raise UserError(
            f"a batch of {batch_size} images cannot be spread over {count} devices",
            f"data.batch_size={-(-batch_size // count) * count}, or devices=1",
        )
    return Mesh(np.array(devices[:count]), (DATA,)), note


def join(processes: int | None) -> None:
    """Become one of several processes that share each batch, before JAX opens a device.

    Where they are is what JAX finds out on a cluster, or what $JAX_COORDINATOR_ADDRESS and $JAX_PROCESS_ID say.
    Raises UserError where they cannot be found.
    """
    if (processes or 1) == 1 or jax.distributed.is_initialized():
        return
    number = os.environ.get("JAX_PROCESS_ID")
    try:
        jax.distributed.initialize(num_processes=processes, process_id=None if number is None else int(number))
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the {processes} processes do not find each other: {str(error).partition(chr(10))[0]}",
            "start each alike, with JAX_COORDINATOR_ADDRESS=host:port and a JAX_PROCESS_ID of its own, from 0",
        ) from None


def everywhere(value: Any, mesh: Mesh) -> Any:
    """A copy of a tree of arrays on every device, those of other processes too, each of which has the same values."""
    place = NamedSharding(mesh, PartitionSpec())
    if jax.process_count() == 1:
        return jax.device_put(value, place, may_alias=False)  # what is donated belongs to nobody else

    def put(leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, place, lambda index: whole[index])

    return jax.tree.map(put, value)


def platform(mesh: Mesh) -> str:
    """`cpu`, `gpu` or `tpu`"""
    return str(mesh.devices.flat[0].platform)


def processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def keep_programs(seconds: float = 0.05) -> None:
    """Keep compiled programs where the next process finds them, unless JAX was told where, or that it shall not.

    seconds  those that took at least so long to compile

    The folder is that of the processor: a program for another one of the same family may not run here.
    """
    if jax.config.jax_compilation_cache_dir is not None:
        return
    folder = cache_folder() / "programs" / f"{number(*_processor()):x}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", seconds)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1 if seconds == 0 else 0)
    if find_spec("filelock"):  # what JAX needs to throw away the oldest
        jax.config.update("jax_compilation_cache_max_size", LARGEST)


def _processor() -> list[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    features = (line for line in lines if line.startswith(("flags", "Features")))
    return [machine.machine(), next(features, machine.processor())]


def _devices(name: str | None) -> tuple[list[jax.Device], str | None]:
    try:
        return jax.devices(name), None
    except RuntimeError as error:
        why = str(error).partition("\n")[0]
        if name is not None:
            raise UserError(f"JAX cannot open the device {name}: {why}", "device=cpu, or leave it out") from None
    jax.config.update("jax_platforms", "cpu")
    return jax.devices(), f"computing on the CPU: JAX cannot open another device ({why})"


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """JAX makes as many threads for a CPU as the process may use processors when it is opened."""
    if count is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        jax.devices("cpu")
        yield
    finally:
        os.sched_setaffinity(0, before)


def _listed(devices: list[jax.Device]) -> str:
    return ", ".join(str(device) for device in devices)
