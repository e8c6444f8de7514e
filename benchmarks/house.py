"""How large the backends are, and whether the arrows between the rooms of `ruledsl/` point one way."""

from __future__ import annotations

from pathlib import Path

from benchmarks.targets import Measured

BACKENDS = Path(__file__).parent.parent / "backends"


def measure() -> dict[str, Measured]:
    """Lines of Python, and what `tests/test_architecture.py` counts."""
    import test_architecture as architecture

    files = sorted(BACKENDS.rglob("*.py"))
    lines = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    by_backend = {folder.name: sum(n for file, n in lines.items() if folder in file.parents) for folder in folders()}
    note = ", ".join(f"{name} {count}" for name, count in by_backend.items())
    return {
        "lines": Measured(sum(lines.values()), note),
        "circles": Measured(len(architecture.circles())),
        "upward": Measured(len(architecture.upward())),
    }


def folders() -> list[Path]:
    """One for each backend."""
    return sorted(folder for folder in BACKENDS.iterdir() if folder.is_dir())
