"""How a feedback path compares with the forward weights; one definition for all backends.

Both arguments are arrays of one shape: a forward kernel W, and a feedback kernel B stored in W's layout, so that B = W
entry by entry means B = W.T as maps.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32] | NDArray[np.float64]


def angle(forward: Array, feedback: Array) -> float:
    """The angle in degrees between W.T and B as vectors (Akrout et al. 2019, Figure 4); NaN if one is zero."""
    w, b = (np.asarray(a, np.float64).ravel() for a in (forward, feedback))
    lengths = np.linalg.norm(w) * np.linalg.norm(b)
    return float(np.degrees(np.arccos(np.clip(w @ b / lengths, -1, 1)))) if lengths > 0 else float("nan")


def sign_concordance(forward: Array, feedback: Array) -> float:
    """The share of synapses whose feedback weight has the sign of the forward weight."""
    return float(np.mean(np.sign(forward) == np.sign(feedback)))


def norm_ratio(forward: Array, feedback: Array) -> float:
    """The Frobenius norm of B over that of W; NaN if W is zero."""
    length = np.linalg.norm(np.asarray(forward, np.float64))
    return float(np.linalg.norm(np.asarray(feedback, np.float64)) / length) if length > 0 else float("nan")


PROBES = {"angle": angle, "sign_concordance": sign_concordance, "norm_ratio": norm_ratio}


def measure(layer: str, name: str, forward: Array, feedback: Array) -> dict[str, float]:
    """Every probe of one feedback map, by names such as `angle/fc1.B`."""
    return {f"{probe}/{layer}.{name}": function(forward, feedback) for probe, function in PROBES.items()}
