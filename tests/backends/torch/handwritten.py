"""Small rules, each with one thing in it that the runtime of PyTorch has to do right."""

from __future__ import annotations

import ruledsl
from ruledsl.program import Program


def program(text: str) -> Program:
    """A rule's text, compiled for PyTorch."""
    return ruledsl.parse(text).compile("torch")


BACKWARD = "feedback send = W.T @ delta"
FEEDBACK = "fixed B : post -> pre ~ normal(0, sqrt(1 / fan_out))"
FROM_OUT = "fixed B : out -> pre ~ normal(0, 0.1)"

backprop = program(f"rule backprop {{ {BACKWARD} locality {{ allow reverse(W) -> send }} }}")

feedback_alignment = program(f"rule feedback_alignment {{ {FEEDBACK} feedback send = B @ delta }}")

usf_sn = program(
    """
    rule usf_sn {
      let B = norm(W) * sign(W.T) / norm(sign(W))
      feedback send = B @ delta
      locality { allow sign(W) -> send  allow norm(W) -> send }
    }
    """
)

kolen_pollack = program(
    """
    rule kolen_pollack {
      param decay = 0.0001
      weight B : post -> pre ~ normal(0, sqrt(1 / fan_out))
      feedback send = B @ delta
      grad W = outer(delta, x) + decay * W
      grad B = outer(x, delta) + decay * B
    }
    """
)

direct_feedback_alignment = program(
    f"rule direct_feedback_alignment {{ {FROM_OUT} feedback send = B @ e locality {{ allow broadcast(e) -> send }} }}"
)

drtp = program(
    f"""
    rule drtp {{
      {FROM_OUT}
      feedback send = -(B @ target) / batch_size
      locality {{ allow broadcast(target) -> send }}
    }}
    """
)

brsf = program(
    """
    rule brsf {
      fresh M : post -> pre ~ uniform(0, 1)
      feedback send = (M * sign(W.T)) @ delta
      locality { allow sign(W) -> send }
    }
    """
)

running_mean = program(
    f"""
    rule running_mean {{
      param rate = 0.1
      state m : post = 0
      state count : scalar = 0
      {BACKWARD}
      m <- (1 - rate) * m + rate * mean(mean(u, batch), positions)
      count <- count + 1
      locality {{ allow reverse(W) -> send  allow pool(batch) -> m  allow pool(positions) -> m }}
    }}
    """
)

constant_norm = program(
    f"""
    rule constant_norm {{
      fixed size : scalar = norm(W)
      {BACKWARD}
      after step {{ W <- W * (size / norm(W)) }}
      locality {{ allow reverse(W) -> send  allow norm(W) -> W  allow norm(W) -> size }}
    }}
    """
)

hebbian = program(
    """
    rule hebbian {
      param rate = 0.01
      feedback send = 0
      W <- W + rate * outer(u, x, mean=all)
      grad b = 0
    }
    """
)

clocked = program("rule clocked { feedback send = W.T @ delta / (1 + step) locality { allow reverse(W) -> send } }")

reads_phi = program(
    """
    rule reads_phi {
      weight B : post -> pre ~ normal(0, sqrt(1 / fan_out))
      feedback send = B @ (delta * phi(u))
      minimize sq(y) over W
    }
    """
)

weight_mirror = program(
    """
    rule weight_mirror {
      param eta = 0.1
      param decay = 0.5
      weight B : post -> pre ~ normal(0, sqrt(1 / fan_out))
      feedback send = B @ delta
      phase mirror {
        drive x = normal(0, 1)
        let z = relu(W @ x + b)
        B <- (1 - decay) * B + eta * outer(x, center(z, batch), mean=all)
      }
      schedule { each step : task, mirror }
      locality { allow pool(batch) -> B }
    }
    """
)

EVERY = {
    p.rule: p
    for p in (
        backprop,
        feedback_alignment,
        usf_sn,
        kolen_pollack,
        direct_feedback_alignment,
        drtp,
        brsf,
        running_mean,
        constant_norm,
        hebbian,
        clocked,
        weight_mirror,
    )
}
