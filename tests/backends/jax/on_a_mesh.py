"""Run as a program, with names of rules: on four devices they learn what they learn on one, the batch spread over them.

Every device adds what its share of the batch teaches, so that a term that reads no error, as a decay, is counted by
each. Where there is none, that is what the whole batch teaches: so it is for one rule of each kind, without decay.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"

from typing import Any

import jax
import numpy as np
from backends.jax import alone
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import ruledsl


def hold(name: str, mesh: Any) -> None:
    """Compare gradients with those on one device."""
    rule = ruledsl.load(name)
    rule = ruledsl.load(name, decay=0.0) if "decay" in rule.lowered.parameters else rule
    init, loss, _ = alone.network(rule.compile("jax").module)
    params, state = init(jax.random.key(0))
    x, labels = alone.batch()

    def mean_loss(*given: Any) -> Any:
        return jax.lax.pmean(loss(*given), "data")

    specs: Any = (P(), P(), P("data"), P("data"))
    spread = jax.jit(jax.grad(jax.shard_map(mean_loss, mesh=mesh, in_specs=specs, out_specs=P())))
    found, shares = spread(params, state, x, labels), len(mesh.devices)
    share = jax.jit(jax.grad(lambda *given: loss(*given) / shares))
    parts = [share(params, state, *part) for part in zip(np.split(x, shares), np.split(labels, shares), strict=True)]
    same(name, found, jax.tree.map(lambda *gradients: sum(gradients), *parts))
    if name in alone.KINDS:
        same(name, found, jax.jit(jax.grad(loss))(params, state, x, labels))


def same(name: str, found: Any, wanted: Any) -> None:
    """The gradients of all layers agree."""
    for layer, (gradients, expected) in enumerate(zip(found, wanted, strict=True)):
        for field, a, b in zip(expected._fields, gradients, expected, strict=True):
            if a is not None:
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-10, err_msg=f"{name}, {field} of layer {layer}")


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    devices = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Auto,))
    for each in sys.argv[1:]:
        hold(each, devices)
    print("the same on 4 devices")
