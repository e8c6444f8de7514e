"""What the tests of the passes share: rules from a few lines, random values for them, nodes to build from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ruledsl.checked import Checked
from ruledsl.ir import nodes
from ruledsl.ir.nodes import Node, walk
from ruledsl.ir.operations import OPERATIONS
from ruledsl.ir.types import POST, PRE, activity, map_between, per_unit
from ruledsl.library import _lookup, names
from ruledsl.pipeline import check_text
from ruledsl.reference.interpreter import evaluate
from ruledsl.source import Source
from ruledsl.verification.cases import random_values, reference_layer
from ruledsl.verification.geometries import CONVS, DENSE

LAYERS = {g.name: reference_layer(g) for g in (DENSE[0], *(c for c in CONVS if c.name == "everything"))}
DECLARED = "weight B : post -> pre ~ normal(0, 1)\nweight c : post ~ normal(0, 1)\nstate s : scalar = 1\n"

x, u = nodes.signal("x", activity(PRE)), nodes.signal("u", activity(POST))
delta = nodes.signal("delta", activity(POST))
W, b = nodes.tensor("W", map_between(PRE, POST)), nodes.tensor("b", per_unit(POST))
rate, size = nodes.scalar("rate"), nodes.scalar("batch_size")


def checked(body: str) -> Checked:
    """A rule with the declarations above; its locality doesn't matter here."""
    definitions, syntax = check_text(Source(f"rule r {{\n{DECLARED}{body}\n}}"), _lookup(Path()), names)
    assert syntax == []
    assert {d.code for d in definitions[-1].errors} <= {"E0501"}, [d.message for d in definitions[-1].errors]
    return definitions[-1]


def values_of(found: Checked, layer: Any, seed: int = 0) -> dict[str, Any]:
    """Random values for everything that the rule reads."""
    assert found.equations is not None
    return random_values(found.equations, layer, np.random.default_rng(seed))


def value(node: Node, seed: int = 0, at: Mapping[str, Any] = {}) -> Any:
    """The value of a node on a small convolution, with random values for what the nodes above read."""
    layer = LAYERS["everything"]
    return evaluate(node, layer, {**values_of(checked(""), layer, seed), "rate": 0.7, **at})


def assert_well_typed(root: Node) -> None:
    """The type of every node follows from those of its arguments."""
    for node in walk(root):
        if node.args and node.op != "random":
            expected = OPERATIONS[node.op].type_rule([arg.type for arg in node.args], node.attrs)
            assert node.type == expected, node
