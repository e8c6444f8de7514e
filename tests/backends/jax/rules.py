"""Rules for the tests of the JAX runtime: some of the library, and some of which each has one thing that is rare."""

from __future__ import annotations

import ruledsl

backprop, feedback_alignment, usf_sn, kolen_pollack, direct_feedback_alignment, direct_target = (
    ruledsl.load(name).compile("jax")
    for name in ("backprop", "feedback_alignment", "usf_sn", "kolen_pollack", "direct_feedback_alignment", "drtp")
)
trace, fresh_signs, gated, two_optimizers, moved, counted = (
    ruledsl.parse(text).compile("jax")
    for text in (
        """rule trace {
             param keep = 0.5  param limit = 1
             state T : pre -> post = 0  state n : scalar = 0
             feedback send = W.T @ delta
             T <- keep * T + outer(delta, x)   n <- n + 1
             after step { T <- clip(T, -limit, limit) }
             locality { allow reverse(W) -> send }
           }""",
        """rule fresh_signs {
             fresh M : post -> pre ~ uniform(0, 1)
             feedback send = (M * sign(W.T)) @ delta
             locality { allow sign(W) -> send }
           }""",
        """rule gated { feedback send = W.T @ (lr * delta * y)  locality { allow reverse(W) -> send } }""",
        """rule two_optimizers {
             weight B : post -> pre ~ normal(0, 1)
             feedback send = B @ delta
             optimizer align = sgd(lr = 0.1)
             grad B = outer(x, delta)   grad B = B by align
           }""",
        """rule moved {
             fixed B : post -> pre ~ normal(0, 1)
             feedback send = B @ delta
             W <- W - 0.1 * outer(delta, x)   grad b = total(delta)
           }""",
        """rule counted {
             state n : scalar = 0  state m : scalar = 0
             feedback send = W.T @ delta
             n <- n + batch_size   after step { m <- m + lr / 2 }
             locality { allow reverse(W) -> send }
           }""",
    )
)

RULES = {rule.rule: rule for rule in (backprop, feedback_alignment, usf_sn, kolen_pollack, direct_feedback_alignment)}
