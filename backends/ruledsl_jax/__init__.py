"""The JAX backend."""

from ruledsl_jax.emission import BACKEND

__all__ = ["BACKEND"]
