"""Weights of constant norm (constant_norm).

Source: Moskovitz et al. 2018, eq. 10

Locality: nonlocal; norm(W) -> n, norm(W) -> W.

Made by ruledsl 0.1.0 from rule text 829a178ba35ae2e6.
"""

import torch

from ruledsl_torch.layers import Constraint, Next


def init_n(shape, W):
    """The first value of n: norm(W)."""
    return torch.linalg.vector_norm(W)


def next_W_after(W, n):
    """The next value of W: n / norm(W) * W."""
    return n / torch.linalg.vector_norm(W) * W


class ConstantNorm(Constraint):
    """What holds after every step in a layer that it is added to, which keeps its tensors under names of its own."""

    rule = "constant_norm"

    def start(self, module, generator=None):
        """Make what it adds to a layer: n."""
        shape = ()
        module.keep("constant_norm_n", shape, init_n(shape, module.weight))

    def enforce(self, module):
        """What happens after a step."""
        return [Next(module.weight, next_W_after(module.weight, module.constant_norm_n))]

    after_step = (enforce,)
