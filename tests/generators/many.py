"""Checks of one random rule, by its seed, and of many of them in several processes."""

from __future__ import annotations

import importlib
import importlib.util
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor

from generators.precision import claims
from generators.programs import parsed
from ruledsl.verification.cases import reference_layer
from ruledsl.verification.executor import Precision, compare
from ruledsl.verification.geometries import GEOMETRIES, SEQUENCES, Geometry
from ruledsl.verification.observed import Observer

CHUNK = 25
FORGETTING = 200  # rules after which JAX gives back the memory of what it has compiled
FEW_SHAPES: tuple[Geometry, ...] = (*(g for g in GEOMETRIES if g.name in ("dense", "everything")), SEQUENCES[0])
"""JAX compiles anew for every shape."""
SMALL = tuple(
    g
    for g in GEOMETRIES
    if g.name in ("dense", "conv3x3", "everything", "stride", "groups", "pointwise", "conv1d", "output_padding")
)


def differences(
    seed: int,
    backend: str,
    geometries: Sequence[Geometry] = (*GEOMETRIES, *SEQUENCES),
    precisions: Sequence[Precision] = ("float32", "float64"),
) -> list[str]:
    """Where the code that a backend makes of the rule of a seed differs from the reference, on one of the layers."""
    from ruledsl.verification.verify import executor_of

    rule = parsed(seed)
    program, (executor, _) = rule.compile(backend), executor_of(backend)
    geometry = geometries[seed % len(geometries)]
    found = [d for precision in precisions for d in compare(program, rule.lowered, executor, geometry, precision, seed)]
    return [f"seed {seed}, {backend}: {deviation}" for deviation in found if not deviation.within]


def in_torch(seed: int) -> list[str]:
    """Where PyTorch differs from the reference, in both precisions."""
    return differences(seed, "torch")


def in_jax(seed: int) -> list[str]:
    """Where JAX differs, in one precision and on few shapes, since it compiles every operation for every shape."""
    precision: Precision = "float64" if seed // 8 % 2 else "float32"
    if seed % FORGETTING == 0:
        importlib.import_module("jax").clear_caches()
    return differences(seed, "jax", FEW_SHAPES, (precision,))


def violations(seed: int) -> list[str]:
    """Where information moves in the rule of a seed although its ledger says that it does not."""
    rule = parsed(seed)
    if rule.kind != "rule":
        return []
    observer = Observer(rule.equations, rule.ledger, reference_layer(SMALL[seed % len(SMALL)]), seed)
    return [f"seed {seed}: {violation}" for violation in observer.violations()]


def findings(seed: int) -> Counter[str]:
    """What became of the ledger entries of the rule of a seed: see `precision.Claim`."""
    rule = parsed(seed)
    return Counter(claim.finding for claim in claims(rule, SMALL, seed)) if rule.kind == "rule" else Counter()


def all_of(check: Callable[[int], list[str]], seeds: Iterable[int]) -> list[str]:
    """What a check finds for every seed, in as many processes as there are processors."""
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn"), _quietly) as pool:
        return [line for found in pool.map(check, seeds, chunksize=CHUNK) for line in found]


def _quietly() -> None:
    """One thread for each process; and JAX, which compiles small operations by the thousand, need not do it well."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
    if importlib.util.find_spec("torch"):
        importlib.import_module("torch").set_num_threads(1)
