"""The JAX backend: `ruledsl_jax.layer` for pure functions, `convert` and `advance` for Flax NNX modules."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ruledsl_jax.emission import BACKEND

if TYPE_CHECKING:
    from ruledsl_jax.conversion import convert as convert
    from ruledsl_jax.initial import advanced as advanced
    from ruledsl_jax.initial import initialise as initialise
    from ruledsl_jax.initial import slots as slots
    from ruledsl_jax.linear import Conv2d as Conv2d
    from ruledsl_jax.linear import Dense as Dense
    from ruledsl_jax.modules import TAUGHT as TAUGHT
    from ruledsl_jax.steps import advance as advance
    from ruledsl_jax.steps import observe as observe

_ROOMS = {
    "Conv2d": "linear",
    "Dense": "linear",
    "TAUGHT": "modules",
    "advance": "steps",
    "advanced": "initial",
    "convert": "conversion",
    "initialise": "initial",
    "observe": "steps",
    "slots": "initial",
}
__all__ = ["BACKEND", "TAUGHT", "Conv2d", "Dense", "advance", "advanced", "convert", "initialise"]
__all__ += ["observe", "slots"]


def __getattr__(name: str) -> Any:
    # Emission needs no JAX, and importing JAX takes a second: it is imported on first use.
    if name in _ROOMS:
        return getattr(import_module(f"ruledsl_jax.{_ROOMS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
