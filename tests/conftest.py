"""What all tests share: one thread for each test process, the datasets of $RULEDSL_DATA, and the GPU marker."""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Before anything imports torch or jax, which read these once. Several test processes share few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# JAX compiles thousands of small operations here, which need not run fast.
os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false --xla_backend_optimization_level=0")
# What a test compiles, it compiles itself.
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")

import pytest
from hypothesis import settings

# On a shared machine a slow moment is no failure, and a test that failed once must fail again.
settings.register_profile("ruledsl", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ruledsl")


LOOK_EVERY, MOST_MAPPINGS = 20, 30_000
"""A process may have 65,530 mappings on Linux, and every program that JAX has compiled is some: beyond, it crashes."""
_ended = itertools.count(1)


@pytest.fixture(autouse=True)
def few_programs() -> Iterator[None]:
    """After many programs, those that JAX has compiled are forgotten."""
    yield
    if next(_ended) % LOOK_EVERY == 0 and "jax" in sys.modules and _mappings() > MOST_MAPPINGS:
        sys.modules["jax"].clear_caches()


def _mappings() -> int:
    maps = Path("/proc/self/maps")
    return maps.read_bytes().count(b"\n") if maps.exists() else 0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew instead of comparing")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[Path, str], None]:
    """`golden(path, text)`: the file holds exactly this text; `pytest --update-golden` writes it."""

    def compare(path: Path, text: str) -> None:
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.is_file(), f"{path} is missing: run pytest --update-golden, and read what it writes"
        assert text == path.read_text(encoding="utf-8")

    return compare


@pytest.fixture(scope="session")
def dataset_folder() -> Callable[[str], Path]:
    """`dataset_folder("mnist")` is that folder in $RULEDSL_DATA; where there is none, the test is skipped."""

    def find(name: str) -> Path:
        place = os.environ.get("RULEDSL_DATA")
        if place is None:
            pytest.skip(f"needs the dataset {name}, and RULEDSL_DATA is not set")
        if not (Path(place) / name).is_dir():
            pytest.skip(f"needs the dataset {name}, which is not in RULEDSL_DATA={place}")
        return Path(place) / name

    return find


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where PyTorch finds none; torch is imported only if there are such tests."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a GPU that PyTorch can use"))
