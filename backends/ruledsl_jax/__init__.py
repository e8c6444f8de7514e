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
    from ruledsl_jax.pure import layer as layer
    from ruledsl_jax.routing import optimizers as optimizers
    from ruledsl_jax.steps import advance as advance
    from ruledsl_jax.steps import observe as observe
    from ruledsl_jax.unconversion import unconvert as unconvert

_ROOMS = {
    "Convolution": "linear",
    "Dense": "linear",
    "Embedding": "linear",
    "TAUGHT": "modules",
    "advance": "steps",
    "convert": "conversion",
    "layer": "pure",
    "observe": "steps",
    "optimizer": "optimization",
    "optimizers": "routing",
    "unconvert": "unconversion",
}
__all__ = [
    "BACKEND",
    "TAUGHT",
    "Convolution",
    "Dense",
    "Embedding",
    "advance",
    "convert",
    "layer",
    "observe",
    "optimizer",
    "optimizers",
    "unconvert",
]


def __getattr__(name: str) -> Any:
    # Emission needs no JAX, and importing JAX takes a second: it is imported on first use.
    if name in _ROOMS:
        return getattr(import_module(f"ruledsl_jax.{_ROOMS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
