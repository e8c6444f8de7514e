"""Frozen excitatory and inhibitory synapses (frozen_signs).

Source: Moskovitz et al. 2018, sections 3.1 (E/I) and 4

Locality: local.

at      fraction of the training after which signs are frozen
margin  how far from zero a weight is kept

Made by ruledsl 0.1.0 from rule text 68f95c9ffb07f91c.
"""

import torch

from ruledsl_torch.layers import Constraint, Next


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


class FrozenSigns(Constraint):
    """What holds after every step in a layer that it is added to, which keeps its tensors under names of its own."""

    rule = "frozen_signs"
    at = 0.05
    margin = 1e-06
    hyperparameters = ("at", "margin")
    clocked = ("progress",)

    def start(self, module, generator=None):
        """Make what it adds to a layer: s."""
        layer = module.linear_map()
        shape = layer.kernel_shape
        module.keep("frozen_signs_s", shape, init_s(module.weight))

    def enforce(self, module):
        """What happens after a step."""
        return [
            Next(
                module.frozen_signs_s,
                next_s_after(module.weight, module.frozen_signs_s, module.network.told("progress"), self.at),
            ),
            Next(
                module.weight,
                next_W_after(
                    module.weight,
                    module.frozen_signs_s,
                    module.network.told("progress"),
                    self.at,
                    self.margin,
                ),
            ),
        ]

    after_step = (enforce,)
