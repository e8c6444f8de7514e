"""What a network is taught to make small; see `ruledsl.training.config.LossConfig`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ruledsl.training.config import LossConfig


def mean_loss(config: LossConfig, logits: Tensor, labels: Tensor) -> Tensor:
    """The mean over a batch: logits [batch, classes], labels [batch] -> []."""
    if config.name == "cross_entropy":
        return functional.cross_entropy(logits, labels, label_smoothing=config.label_smoothing)
    target = _target(config, logits, labels)
    if config.name == "mean_squared_error":
        return 0.5 * (logits - target).square().sum() / len(labels)
    return functional.binary_cross_entropy_with_logits(logits, target, reduction="sum") / len(labels)


def _target(config: LossConfig, logits: Tensor, labels: Tensor) -> Tensor:
    smoothing, classes = config.label_smoothing, logits.shape[1]
    target = torch.full_like(logits, smoothing / classes)
    return target.scatter_(1, labels[:, None], 1 - smoothing + smoothing / classes)
