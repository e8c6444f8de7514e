"""Stochastic gradient descent with noisy updates (noisy_sgd).

Source: Kunin et al. 2020, section B.3

Locality: local.

Compiled with nesterov = False.

momentum      how much of the last step is kept
weight_decay  L2 penalty
sigma         standard deviation of the noise, in units of the learning rate

Made by ruledsl 0.1.0 from rule text 43e1d0b029f57db0.
"""

import torch

from ruledsl_torch.randomness import normal_
from ruledsl_torch.rule_optimizer import RuleOptimizer


def init_v(p):
    """The first value of v: 0."""
    return torch.zeros_like(p)


def compute_t(p, v, g, momentum=0, weight_decay=0):
    """momentum * v + d, which several equations read."""
    d = g + weight_decay * p
    return momentum * v + d


def draw_n(p, generator=None):
    """The value of n in this step: normal(0, 1)."""
    return normal_(torch.empty_like(p), 0.0, 1.0, generator)


def next_v(t):
    """The next value of v: momentum * v + d."""
    return t


def next_p(p, n, t, lr, sigma=0.001):
    """The next value of p: p - lr * t + lr * sigma * n."""
    return p - lr * t + lr * sigma * n


class NoisySgd(RuleOptimizer):
    """Stochastic gradient descent with noisy updates: moves every parameter p by its gradient g."""

    rule = "noisy_sgd"

    def __init__(self, params, lr=0.001, momentum=0, weight_decay=0, sigma=0.001, *, foreach=None):
        options = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "sigma": sigma}
        super().__init__(params, options, foreach)

    def start(self, p, state, group):
        """The first states of a parameter."""
        state["v"] = init_v(p)

    def move(self, parameters, group):
        """Move one parameter after the other: next values follow from those before the step."""
        lr = group["lr"]
        momentum = group["momentum"]
        weight_decay = group["weight_decay"]
        sigma = group["sigma"]
        for p in parameters:
            g, state = p.grad, self.state[p]
            v = state["v"]
            n = draw_n(p, self.source(p, "n"))
            t = compute_t(p, v, g, momentum, weight_decay)
            v.copy_(next_v(t))
            p.copy_(next_p(p, n, t, lr, sigma))

    def move_together(self, p, group):
        """The same equations on lists, in place where nothing is lost: a step of all parameters."""
        lr = group["lr"]
        momentum = group["momentum"]
        weight_decay = group["weight_decay"]
        sigma = group["sigma"]
        g = [each.grad for each in p]
        v = [self.state[each]["v"] for each in p]
        n = [draw_n(each, self.source(each, "n")) for each in p]
        # v becomes t = momentum * v + d
        d = torch._foreach_add(g, p, alpha=weight_decay)
        torch._foreach_mul_(v, momentum)
        torch._foreach_add_(v, d)
        # p becomes p - lr * t + lr * sigma * n
        torch._foreach_add_(p, v, alpha=-lr)
        torch._foreach_add_(p, n, alpha=lr * sigma)
