"""The JAX backend: modules of pure functions; `convert` and `advance` for Flax NNX modules."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ruledsl_jax.emission import BACKEND

if TYPE_CHECKING:
    from ruledsl_jax.conversion import convert as convert
    from ruledsl_jax.linear import Convolution as Convolution
    from ruledsl_jax.linear import Dense as Dense
    from ruledsl_jax.linear import Embedding as Embedding
    from ruledsl_jax.modules import TAUGHT as TAUGHT
    from ruledsl_jax.optimization import optimizer as optimizer
    from ruledsl_jax.steps import advance as advance
    from ruledsl_jax.steps import observe as observe

_ROOMS = {
    "Convolution": "linear",
    "Dense": "linear",
    "Embedding": "linear",
    "TAUGHT": "modules",
    "advance": "steps",
    "convert": "conversion",
    "observe": "steps",
    "optimizer": "optimization",
}
__all__ = ["BACKEND", "TAUGHT", "Convolution", "Dense", "Embedding", "advance", "convert", "observe", "optimizer"]


def __getattr__(name: str) -> Any:
    # Emission needs no JAX, and importing JAX takes a second: it is imported on first use.
    if name in _ROOMS:
        return getattr(import_module(f"ruledsl_jax.{_ROOMS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
