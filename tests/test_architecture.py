"""The arrows between the rooms of ruledsl point one way, wherever in a file an import stands."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
ROOMS = (
    ("source", "messages", "errors", "version", "options", "writing", "streams", "folders"),
    ("diagnostics",),
    ("language",),
    ("ir",),
    ("analysis",),
    ("passes",),
    ("locality",),
    (
        "emit",
        "program",
    ),
    ("checked", "rule"),
    ("pipeline",),
    ("library",),
    ("__init__",),
    ("assembly", "listing"),
    ("choices",),
    ("architectures", "data"),
    ("reference",),
    ("verification",),
    ("explain",),
    ("training",),
    ("experiments",),
    ("cli",),
    ("__main__",),
)
"""Folders and files of `ruledsl/`, from the lowest to the highest. Those in one line may import each other."""
HEIGHT = {room: height for height, rooms in enumerate(ROOMS) for room in rooms}
FOREIGN = {"torch", "jax", "jaxlib", "flax", "optax"} | {folder.name for folder in (ROOT / "backends").iterdir()}


def module_name(file: Path) -> str:
    """`ruledsl.ir.nodes`, and `ruledsl.ir` for its `__init__.py`."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_name(file): ast.parse(file.read_text()) for file in sorted((ROOT / "ruledsl").rglob("*.py"))}


def imported(tree: ast.Module) -> Iterator[str]:
    """What a file imports anywhere: at its top, inside a function, for a type checker alone."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, "imports are absolute"
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                yield inside if inside in TREES else node.module


ARROWS = {name: {found for found in imported(tree) if found in TREES} - {name} for name, tree in TREES.items()}


def room(module: str) -> str:
    """The folder or file of `ruledsl/` that a module is in."""
    return module.split(".")[1] if "." in module else "__init__"


def test_every_room_has_its_height() -> None:
    assert {room(module) for module in TREES} == set(HEIGHT)


def circles() -> list[str]:
    """A circle of modules that import each other, where there is one."""
    try:
        TopologicalSorter(ARROWS).prepare()
    except CycleError as error:
        return [" -> ".join(error.args[1])]
    return []


def upward() -> list[str]:
    """The arrows from a room to a higher one."""
    arrows = [(module, other) for module, others in ARROWS.items() for other in others]
    return [f"{module} -> {other}" for module, other in arrows if HEIGHT[room(other)] > HEIGHT[room(module)]]


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert circles() == []


def test_no_room_imports_a_higher_one() -> None:
    assert upward() == []


def test_nothing_imports_a_framework_or_a_backend() -> None:
    found = [(module, name) for module, tree in TREES.items() for name in imported(tree)]
    assert [(module, name) for module, name in found if name.split(".")[0] in FOREIGN] == []


def test_no_file_names_a_backend_or_its_framework() -> None:
    """A backend is found by its entry point, and says itself which packages it needs."""
    named = {
        f"{module}: {node.value}"
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in FOREIGN
    }
    assert named == set()
