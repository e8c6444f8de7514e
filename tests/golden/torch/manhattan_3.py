"""Batch Manhattan, setting 3 (manhattan_3).

Source: Liao et al. 2015, eq. 3, setting 3

Locality: local.

Made by ruledsl 0.1.0 from rule text 3d8d4ac16bda39bd.
"""

import torch

from ruledsl_torch.rule_optimizer import RuleOptimizer


def init_tau(p):
    """The first value of tau: 0."""
    return torch.zeros_like(p)


def compute_t(p, tau, g, decay=0, momentum=0.9):
    """momentum * tau - sign(g) - decay * p, which several equations read."""
    return momentum * tau - torch.sign(g) - decay * p


def next_tau(t):
    """The next value of tau: momentum * tau - sign(g) - decay * p."""
    return t


def next_p(p, t, lr):
    """The next value of p: p + lr * sign(t)."""
    return p + lr * torch.sign(t)


class Manhattan3(RuleOptimizer):
    """Batch Manhattan, setting 3: moves every parameter p by its gradient g."""

    rule = "manhattan_3"

    def __init__(self, params, lr=0.001, momentum=0.9, decay=0, *, foreach=None):
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay}, foreach)

    def start(self, p, state, group):
        """The first states of a parameter."""
        state["tau"] = init_tau(p)

    def move(self, parameters, group):
        """Move one parameter after the other: next values follow from those before the step."""
        lr, momentum, decay = group["lr"], group["momentum"], group["decay"]
        for p in parameters:
            g, state = p.grad, self.state[p]
            tau = state["tau"]
            t = compute_t(p, tau, g, decay, momentum)
            tau.copy_(next_tau(t))
            p.copy_(next_p(p, t, lr))

    def move_together(self, p, group):
        """The same equations on lists, in place where nothing is lost: a step of all parameters."""
        lr, momentum, decay = group["lr"], group["momentum"], group["decay"]
        g = [each.grad for each in p]
        tau = [self.state[each]["tau"] for each in p]
        # tau becomes t = momentum * tau - sign(g) - decay * p
        signs = torch._foreach_sign(g)
        torch._foreach_mul_(tau, momentum)
        torch._foreach_sub_(tau, signs)
        torch._foreach_add_(tau, p, alpha=-decay)
        # p becomes p + lr * sign(t)
        signs_2 = torch._foreach_sign(tau)
        torch._foreach_add_(p, signs_2, alpha=lr)
