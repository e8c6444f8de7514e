"""The distribution contains what the checkout contains."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
HOMES = {"ruledsl": ROOT / "ruledsl", "ruledsl.rules": ROOT / "rules"} | {
    folder.name: folder for folder in (ROOT / "backends").iterdir() if (folder / "__init__.py").exists()
}
SETUPTOOLS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def package_folders() -> dict[str, Path]:
    """Package name -> folder, for every folder with Python files below one of the homes."""
    return {
        ".".join([home, *file.parent.relative_to(folder).parts]): file.parent
        for home, folder in HOMES.items()
        for file in folder.rglob("*.py")
    }


def test_every_package_is_listed() -> None:
    assert sorted(package_folders()) == sorted(SETUPTOOLS["packages"])


def test_every_package_has_an_init() -> None:
    assert not [name for name, folder in package_folders().items() if not (folder / "__init__.py").exists()]


@pytest.mark.parametrize("name", SETUPTOOLS["packages"])
def test_every_data_file_is_listed(name: str) -> None:
    folder = package_folders()[name]
    patterns = SETUPTOOLS["package-data"].get(name, [])
    shipped = {file for pattern in patterns for file in folder.glob(pattern)}
    present = {
        file
        for file in folder.rglob("*")
        if file.is_file() and file.suffix not in {".py", ".pyc", ".md"} and nearest_package(file) == folder
    }
    assert present == shipped


def nearest_package(file: Path) -> Path:
    """The innermost folder above the file that is a package."""
    return next(parent for parent in file.parents if (parent / "__init__.py").exists())
