"""What a network is taught to make small; see `ruledsl.training.config.LossConfig`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from ruledsl.training.config import LossConfig


def losses(config: LossConfig, logits: Array, labels: Array) -> Array:
    """Of every example: logits [batch, classes], labels [batch] -> [batch]."""
    smoothing, classes = config.label_smoothing, logits.shape[1]
    if config.name == "cross_entropy" and not smoothing:
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1)[:, 0]
    target = (1 - smoothing) * jax.nn.one_hot(labels, classes, dtype=logits.dtype) + smoothing / classes
    if config.name == "cross_entropy":
        return -(target * jax.nn.log_softmax(logits)).sum(1)
    if config.name == "mean_squared_error":
        return 0.5 * jnp.square(logits - target).sum(1)
    return (jax.nn.softplus(logits) - target * logits).sum(1)
