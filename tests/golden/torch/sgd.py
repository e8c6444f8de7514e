"""Stochastic gradient descent (sgd).

Source: Liao et al. 2015, eq. 3, setting 0; Akrout et al. 2019, D.1 (Nesterov momentum)

Locality: local.

Compiled with nesterov = False.

momentum      how much of the last step is kept
weight_decay  L2 penalty

Made by ruledsl 0.1.0 from rule text 1bf373e649da3fcf.
"""

import torch

from ruledsl_torch.rule_optimizer import RuleOptimizer


def init_v(p):
    """The first value of v: 0."""
    return torch.zeros_like(p)


def compute_t(p, v, g, momentum=0, weight_decay=0):
    """momentum * v + d, which several equations read."""
    d = g + weight_decay * p
    return momentum * v + d


def next_v(t):
    """The next value of v: momentum * v + d."""
    return t


def next_p(p, t, lr):
    """The next value of p: p - lr * t."""
    return p - lr * t


class Sgd(RuleOptimizer):
    """Stochastic gradient descent: moves every parameter p by its gradient g."""

    rule = "sgd"

    def __init__(self, params, lr=0.001, momentum=0, weight_decay=0, *, foreach=None):
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}, foreach)

    def start(self, p, state, group):
        """The first states of a parameter."""
        state["v"] = init_v(p)

    def move(self, parameters, group):
        """Move one parameter after the other: next values follow from those before the step."""
        lr, momentum, weight_decay = group["lr"], group["momentum"], group["weight_decay"]
        for p in parameters:
            g, state = p.grad, self.state[p]
            v = state["v"]
            t = compute_t(p, v, g, momentum, weight_decay)
            v.copy_(next_v(t))
            p.copy_(next_p(p, t, lr))

    def move_together(self, p, group):
        """The same equations on lists, in place where nothing is lost: a step of all parameters."""
        lr, momentum, weight_decay = group["lr"], group["momentum"], group["weight_decay"]
        g = [each.grad for each in p]
        v = [self.state[each]["v"] for each in p]
        # v becomes t = momentum * v + d
        d = torch._foreach_add(g, p, alpha=weight_decay)
        torch._foreach_mul_(v, momentum)
        torch._foreach_add_(v, d)
        # p becomes p - lr * t
        torch._foreach_add_(p, v, alpha=-lr)
