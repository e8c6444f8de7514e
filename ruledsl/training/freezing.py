"""Layers that do not learn, by their names."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from ruledsl.architectures import Architecture
from ruledsl.errors import UserError, suggest


def frozen_layers(architecture: Architecture, patterns: Sequence[str]) -> frozenset[str]:
    """The paths of all that has parameters and does not learn: layers, and the normalisations that belong to them.

    Raises UserError for a pattern that fits no layer, and where no weight layer is left that learns.
    """
    paths = [place.path for place in architecture.places() if hasattr(place.layer, "name")]
    frozen: set[str] = set()
    for pattern in patterns:
        fits = [path for path in paths if fnmatchcase(path, pattern)]
        if not fits:
            raise UserError(f"{pattern!r} of frozen names no layer of {architecture.name}", suggest(pattern, paths))
        frozen |= {name for path in fits for name in (path, f"{path}_norm", f"{path}.sum_norm")}
    if frozen.issuperset(place.path for place in architecture.weight_layers()):
        raise UserError(f"frozen names every weight layer of {architecture.name}: nothing is left to learn")
    return frozenset(frozen)
