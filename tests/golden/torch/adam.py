"""Adam (adam).

Source: Kingma & Ba 2014, Algorithm 1

Locality: local.

beta1    decay of the average gradient
beta2    decay of the average squared gradient
epsilon  keeps the step finite

Made by ruledsl 0.1.0 from rule text 9189b2ad7f5c0f4d.
"""

import torch

from ruledsl_torch.rule_optimizer import RuleOptimizer, number, scalar


def init_n():
    """The first value of n: 0."""
    return 0


def init_m(p):
    """The first value of m: 0."""
    return torch.zeros_like(p)


def init_s(p):
    """The first value of s: 0."""
    return torch.zeros_like(p)


def compute_n1(n):
    """n + 1, which several equations read."""
    return n + 1


def compute_m1(m, g, beta1=0.9):
    """beta1 * m + (1 - beta1) * g, which several equations read."""
    return beta1 * m + (1 - beta1) * g


def compute_s1(s, g, beta2=0.999):
    """beta2 * s + (1 - beta2) * (g * g), which several equations read."""
    return beta2 * s + (1 - beta2) * (g * g)


def next_n(n1):
    """The next value of n: n + 1."""
    return n1


def next_m(m1):
    """The next value of m: beta1 * m + (1 - beta1) * g."""
    return m1


def next_s(s1):
    """The next value of s: beta2 * s + (1 - beta2) * (g * g)."""
    return s1


def next_p(p, m1, n1, s1, lr, beta1=0.9, beta2=0.999, epsilon=1e-08):
    """The next value of p: p - lr / (1 - beta1 ** n1) * (m1 / (sqrt(s1 / (1 - beta2 ** n1)) +
        epsilon)).
    """
    return p - lr / (1 - beta1 ** n1) * (m1 / (torch.sqrt(s1 / (1 - beta2 ** n1)) + epsilon))


class Adam(RuleOptimizer):
    """Adam: moves every parameter p by its gradient g."""

    rule = "adam"
    numbers = ("n",)

    def __init__(self, params, lr=0.001, beta1=0.9, beta2=0.999, epsilon=1e-08, *, foreach=None):
        super().__init__(params, {"lr": lr, "beta1": beta1, "beta2": beta2, "epsilon": epsilon}, foreach)

    def start(self, p, state, group):
        """The first states of a parameter."""
        state["n"] = scalar(init_n())
        state["m"] = init_m(p)
        state["s"] = init_s(p)

    def move(self, parameters, group):
        """Move one parameter after the other: next values follow from those before the step."""
        lr, beta1, beta2, epsilon = group["lr"], group["beta1"], group["beta2"], group["epsilon"]
        for p in parameters:
            g, state = p.grad, self.state[p]
            n, m, s = number(state["n"]), state["m"], state["s"]
            n1 = compute_n1(n)
            m1 = compute_m1(m, g, beta1)
            s1 = compute_s1(s, g, beta2)
            state["n"] = scalar(next_n(n1))
            m.copy_(next_m(m1))
            s.copy_(next_s(s1))
            p.copy_(next_p(p, m1, n1, s1, lr, beta1, beta2, epsilon))

    def move_together(self, p, group):
        """The same equations on lists, in place where nothing is lost: a step of all parameters."""
        lr, beta1, beta2, epsilon = group["lr"], group["beta1"], group["beta2"], group["epsilon"]
        g = [each.grad for each in p]
        states = [self.state[each] for each in p]
        n = [number(state["n"]) for state in states]
        m = [state["m"] for state in states]
        s = [state["s"] for state in states]
        n1 = [compute_n1(n_i) for n_i in n]
        # m becomes m1 = beta1 * m + (1 - beta1) * g
        torch._foreach_mul_(m, beta1)
        torch._foreach_add_(m, g, alpha=1 - beta1)
        # s becomes s1 = beta2 * s + (1 - beta2) * (g * g)
        torch._foreach_mul_(s, beta2)
        torch._foreach_addcmul_(s, g, g, 1 - beta2)
        # p becomes p - lr / (1 - beta1 ** n1) * (m1 / (sqrt(s1 / (1 - beta2 ** n1)) + epsilon))
        denominators = torch._foreach_div(s, [1 - beta2 ** n1_i for n1_i in n1])
        torch._foreach_sqrt_(denominators)
        torch._foreach_add_(denominators, epsilon)
        torch._foreach_addcdiv_(p, m, denominators, [-lr / (1 - beta1 ** n1_i) for n1_i in n1])
        for state, value in zip(states, n1, strict=True):
            state["n"] = scalar(value)
