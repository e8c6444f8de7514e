"""Frozen excitatory and inhibitory synapses (frozen_signs).

Source: Moskovitz et al. 2018, sections 3.1 (E/I) and 4

Locality: local.

at      fraction of the training after which signs are frozen
margin  how far from zero a weight is kept

Made by ruledsl 0.1.0 from rule text 68f95c9ffb07f91c.
"""

import torch


def init_s(W):
    """The first value of s: sign(W)."""
    return torch.sign(W)


def next_s_after(W, s, progress, at=0.05):
    """The next value of s: if frozen then s else sign(W)."""
    frozen = progress >= at
    return torch.where(frozen, s, torch.sign(W))


def next_W_after(W, s, progress, at=0.05, margin=1e-06):
    """The next value of W: if progress < at then W else if s > 0 then max(W, margin) else if s < 0 then
        min(W, -margin) else W.
    """
    return torch.where(
        progress < at,
        W,
        torch.where(s > 0, torch.clamp(W, min=margin), torch.where(s < 0, torch.clamp(W, max=-margin), W)),
    )
