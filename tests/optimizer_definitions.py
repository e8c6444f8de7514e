"""Optimizers that use every operation of the language, and what the reference says of them, step by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ruledsl.reference import initial, run_phase
from ruledsl.rule import Rule
from ruledsl.verification.cases import reference_layer
from ruledsl.verification.geometries import DenseGeometry

LIBRARY = ("sgd", "adam", "manhattan_1", "manhattan_2", "manhattan_3")

DEFINITIONS = {
    "comparing": """
optimizer comparing {
  state m : p = 0
  let good = g * m > 0 and not (abs(g) >= 2) or g == 0
  let slow = if g < 0.5 then 0.5 * g else g
  m <- 0.5 * m + g
  p <- if good then p - lr * slow else (if p <= 0 and m != 0 then p + lr * g else p)
}""",
    "numbers before a list is overwritten": """
optimizer before {
  locality { allow pool(units) }
  state m : p = 1
  state v : scalar = 1
  m <- 0.5 * m + g
  v <- 0.1 * v * norm(m)
  p <- p - lr * g * v
}""",
    "numbers of a list": """
optimizer of_a_list {
  locality { allow stat(p) allow pool(units) }
  state v : scalar = 0
  v <- sq(max(g, p))
  p <- p - lr * (g - std(max(g, p)))
}""",
    "measuring": """
optimizer measuring {
  state c : scalar = norm(p)
  state first : p = p
  state spread : scalar = 0
  let size = norm(g)
  let c1 = 0.9 * c + 0.1 * size
  c <- c1
  spread <- max(spread, std(g)) + sq(g) - dot(g, p)
  p <- p - lr * norm(p) / (c1 + 1) * g - 0.01 * (p - first) + 0.001 * (mean(abs(p))) * g
  locality { allow norm(p)  allow stat(p)  allow stat(first)  allow pool(units) }
}""",
    "bounding": """
optimizer bounding {
  param most = 0.3
  state v : p = most
  let step_size = max(min(abs(g), most), 0.01)
  let t = clip(g, -1, 1) + relu(g) - min(g, v) + max(1.5 * v, g)
  v <- min(max(v, 0.1 * g), step_size)
  p <- p - lr * t
}""",
    "transcendental": """
optimizer transcendental {
  param k = 2 in (0, inf)
  state a : p = 1
  let s = sqrt(1 + g * g)
  a <- log(1 + exp(-abs(a))) + 1 / s
  p <- p - lr * tanh(g) / s + lr * (2 - a) * 0.1 - lr * abs(g) ** k * sign(g) * 0.1 ** k + lr * 1.1 ** g * 0.01
}""",
    "numbers": """
optimizer numbers {
  param decay = 0.9 in [0, 1)
  state n : scalar = 1
  state q : scalar = decay
  state m : p = 0
  let n1 = n + 1
  let rate = lr / n1 ** 0.5
  let m1 = decay * m + (1 - q) * g
  n <- n1
  q <- q * decay
  m <- m1
  p <- p * (1 - rate * 0.1) + (-rate) * m1 / (1 - decay ** n1) - progress * lr * (g - m) * q + n * 0.001
}""",
    "told": """
optimizer told {
  state seen : scalar = 0
  seen <- seen + sqrt(epoch)
  p <- if step < 2 then p - lr * sqrt(lr) * g * (1 + progress) else p - lr * g / (1 + seen)
}""",
    "products": """
optimizer products {
  state a : p = 0.5
  state h : p = p
  a <- a * h + 0.1 * g * h - g / (2 + h * h)
  h <- 0.1 * h - 0.3 * a * g - 0.2 * a / (1 + g * g)
  p <- lr * g * h - 0.5 * p + (a - 2 * h) * 0.1
}""",
    "swapping": """
optimizer swapping {
  state a : p = 1
  state h : p = p
  state m : scalar = 2
  state n : scalar = 3
  a <- h
  h <- p
  m <- n
  n <- m
  p <- if m < n then a else h
}""",
    "rotating": """
optimizer rotating {
  state a : p = 1
  state h : p = p
  a <- h + 0.5 * p
  h <- p
  p <- a
}""",
    "copying": """
optimizer copying {
  state last : p = 0
  state twice : p = 0
  let t = 0.5 * last + g
  last <- g
  twice <- t
  p <- p - lr * t * t
}""",
    "forgetting": """
optimizer forgetting {
  state m : p = 1
  m <- 0
  p <- 0.5 * p - lr * m
}""",
    "stateless": """
optimizer stateless {
  p <- p - lr * g - 0.01 * p
}""",
}


class Reference:
    """An optimizer on one parameter, as the reference interpreter moves it, in float64."""

    def __init__(self, rule: Rule, p: np.ndarray[Any, Any], **options: float) -> None:
        assert rule.checked.lowered is not None
        self.equations = rule.checked.lowered
        rows = p.reshape(len(p), -1) if p.ndim > 1 else p.reshape(1, -1)
        self.shape, self.layer = p.shape, reference_layer(DenseGeometry("p", rows.shape[1], rows.shape[0]))
        self.scalars: dict[str, float] = {"step": 0.0, "epoch": 0.0, "progress": 0.0, **self.equations.parameters}
        self.scalars |= options
        declared = self.equations.tensors
        shapes = {name: () if d.type.kind == "scalar" else rows.shape for name, d in declared.items()}
        values = {"p": rows.astype(np.float64), **self.scalars}
        made = initial(self.equations, self.layer, shapes, values, np.random.default_rng(0))
        self.tensors: dict[str, Any] = {"p": values["p"], **made}

    def step(self, g: np.ndarray[Any, Any], **scalars: float) -> None:
        """One step; `scalars` are `lr`, `epoch`, `progress`."""
        self.scalars.update(scalars)
        values = {**self.tensors, **self.scalars, "g": g.reshape(self.tensors["p"].shape).astype(np.float64)}
        self.tensors.update(run_phase(self.equations, "task", self.layer, values).assigned)
        self.scalars["step"] += 1

    @property
    def steps(self) -> float:
        """How many there were."""
        return self.scalars["step"]

    def __getitem__(self, name: str) -> np.ndarray[Any, Any]:
        value = np.asarray(self.tensors[name])
        return value.reshape(self.shape) if value.size == np.prod(self.shape) and value.ndim else value


def gradients(shapes: Sequence[tuple[int, ...]], steps: int, seed: int = 1) -> list[list[np.ndarray[Any, Any]]]:
    """Some for each step and parameter."""
    rng = np.random.default_rng(seed)
    return [[rng.normal(size=shape) for shape in shapes] for _ in range(steps)]


def clock(step: int, steps: int) -> Mapping[str, float]:
    """What a training loop tells an optimizer."""
    return {"epoch": float(step // 2), "progress": step / steps}
