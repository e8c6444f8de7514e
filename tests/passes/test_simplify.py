"""Canonical forms: equal values are one node, and no value changes on the way there."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from passes.values import W, assert_well_typed, b, delta, rate, size, u, value, x

import ruledsl
from ruledsl.ir.nodes import Node, const, walk
from ruledsl.ir.operations import ELEMENTWISE, OPERATIONS, make
from ruledsl.library import check_file
from ruledsl.passes.canonical import Canonical
from ruledsl.passes.simplify import _rewritten, canonical

GOOD = sorted((Path(__file__).parent.parent / "good").glob("*.rule"))
over_units = make("mean", u, attrs=("units",))


def together(*roots: Node) -> list[Node]:
    """The canonical nodes of several values of one rule."""
    nodes = Canonical(_rewritten)
    return [canonical(nodes, root) for root in roots]


def alone(root: Node) -> Node:
    return together(root)[0]


SAME: dict[str, tuple[Node, Node]] = {
    "a product the other way round": (make("mul", u, delta), make("mul", delta, u)),
    "a sum the other way round": (make("add", u, delta), make("add", delta, u)),
    "max the other way round": (make("max", u, delta), make("max", delta, u)),
    "an outer product and its transpose": (
        make("outer", x, delta, attrs=(None,)),
        make("transpose", make("outer", delta, x, attrs=(None,))),
    ),
    "a transpose of a transpose": (make("transpose", make("transpose", W)), W),
    "a transposed sign": (make("transpose", make("sign", make("transpose", W))), make("sign", W)),
    "minus minus": (make("neg", make("neg", u)), u),
    "a number in front or behind": (make("mul", 2.0, make("mul", u, 3.0)), make("mul", 6.0, u)),
    "a scalar through a map": (make("apply", make("mul", rate, W), x), make("mul", rate, make("apply", W, x))),
    "a scalar out of an average": (
        make("mean", make("mul", u, rate), attrs=("batch",)),
        make("mul", rate, make("mean", u, attrs=("batch",))),
    ),
    "nothing added": (make("add", u, 0.0), u),
    "nothing taken": (make("sub", u, 0.0), u),
    "plus a negative": (make("add", u, make("neg", delta)), make("sub", u, delta)),
    "minus a negative": (make("sub", u, make("neg", delta)), make("add", u, delta)),
    "minus a negative number": (make("sub", rate, -2.0), make("add", rate, 2.0)),
    "two outer products of one vector": (
        make("add", make("outer", delta, x, attrs=(None,)), make("outer", u, x, attrs=(None,))),
        make("outer", make("add", delta, u), x, attrs=(None,)),
    ),
    "two outer products of one vector, apart": (
        make("sub", make("add", make("outer", delta, x, attrs=(None,)), W), make("outer", u, x, attrs=(None,))),
        make("add", make("outer", make("sub", delta, u), x, attrs=(None,)), W),
    ),
    "an outer product over the batch size": (
        make("div", make("outer", delta, x, attrs=(None,)), size),
        make("outer", delta, x, attrs=("batch",)),
    ),
    "a size over itself": (make("div", make("mul", size, u), size), u),
    "the number of units over itself": (
        make("mul", make("div", u, make("count", u, attrs=("units",))), make("count", delta, attrs=("units",))),
        u,
    ),
    "a dot product with itself": (make("dot", u, u), make("sq", u)),
    "the sign of what is scaled": (make("sign", make("mul", 1e-40, W)), make("sign", W)),
    "a comparison that is denied": (make("not", make("lt", u, 0.1)), make("ge", u, 0.1)),
    "the smaller of a value and itself": (make("min", u, u), u),
    "to the power of one": (make("pow", u, 1.0), u),
    "a choice that is none": (make("where", make("gt", rate, 1.0), u, u), u),
}
x_by_u, x_by_delta = (make("outer", v, x, attrs=(None,)) for v in (u, delta))
SAME |= {
    "taken twice": (
        make("sub", make("sub", W, x_by_u), x_by_delta),
        make("sub", W, make("outer", make("add", u, delta), x, attrs=(None,))),
    ),
    "taken, then added": (
        make("add", make("sub", W, x_by_u), x_by_delta),
        make("sub", W, make("outer", make("sub", u, delta), x, attrs=(None,))),
    ),
}
DIFFERENT: dict[str, tuple[Node, Node]] = {
    "a difference the other way round": (make("sub", u, delta), make("sub", delta, u)),
    "a quotient the other way round": (make("div", u, delta), make("div", delta, u)),
    "a power the other way round": (make("pow", u, delta), make("pow", delta, u)),
    "a comparison the other way round": (make("lt", u, delta), make("lt", delta, u)),
    "an outer product over the batch": (
        make("outer", delta, x, attrs=(None,)),
        make("outer", delta, x, attrs=("batch",)),
    ),
    "a parameter over itself, which may be zero": (make("div", make("mul", rate, u), rate), u),
    "the sign of what may be negative": (make("sign", make("mul", rate, W)), make("sign", W)),
    "the sign of what is turned around": (make("sign", make("mul", -2.0, W)), make("sign", W)),
    "a sum and a mean over the batch": (
        make("add", x_by_u, make("outer", delta, x, attrs=("batch",))),
        make("add", x_by_u, x_by_delta),
    ),
    "one and true": (const(1.0), const(True)),
}


@pytest.mark.parametrize(("one", "other"), SAME.values(), ids=SAME)
def test_equal_values_are_one_node(one: Node, other: Node) -> None:
    first, second = together(one, other)
    assert first is second
    np.testing.assert_allclose(value(one), value(other), rtol=1e-12)


@pytest.mark.parametrize(("one", "other"), DIFFERENT.values(), ids=DIFFERENT)
def test_different_values_are_different_nodes(one: Node, other: Node) -> None:
    first, second = together(one, other)
    assert first is not second


@pytest.mark.parametrize("root", [root for pair in (*SAME.values(), *DIFFERENT.values()) for root in pair], ids=repr)
def test_a_value_stays_what_it_is_and_so_does_its_type(root: Node) -> None:
    new = alone(root)
    assert new.type == root.type
    assert_well_typed(new)
    np.testing.assert_allclose(value(new), value(root), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", sorted(ELEMENTWISE))
def test_numbers_that_the_text_gives_are_folded(name: str) -> None:
    row = OPERATIONS[name]
    logical = name in ("and", "or", "not")
    arity = {"neg": 1, "not": 1, "where": 3}.get(name, getattr(row.written, "arity", 2))
    numbers: list[float | bool] = [True, False, True][:arity] if logical else [1.5, 2.5, 3.5][:arity]
    if name == "where":
        numbers[0] = True
    new = alone(make(name, *(const(n) for n in numbers)))
    assert row.number is not None
    assert new.op == "const"
    assert new.constant == pytest.approx(row.number(*numbers))
    assert isinstance(new.constant, bool) == isinstance(row.number(*numbers), bool)


def test_a_constant_quotient_is_exactly_the_quotient() -> None:
    assert alone(make("div", const(49.0), const(49.0))).constant == 1.0
    assert alone(make("mul", const(0.1), const(3.0))).constant == 0.1 * 3.0


def test_a_sum_of_nothing_over_the_layers_downstream_is_nothing() -> None:
    assert alone(make("sum_k", const(0.0), attrs=("k",))).constant == 0
    assert alone(make("sum_k", const(2.0), attrs=("k",))).op == "sum_k"
    assert alone(make("full_like", const(3.0), const(2.0))).constant == 2


def test_what_has_no_value_is_left_to_the_machine() -> None:
    assert alone(make("log", const(-1.0))).op == "log"
    assert alone(make("div", const(1.0), const(0.0))).op == "div"
    assert alone(make("mul", const(math.inf), rate)).op == "mul"
    assert alone(make("mul", const(math.inf), const(0.0))).op == "mul"


def test_draws_at_different_places_are_different_draws() -> None:
    draws = ruledsl.parse(
        "rule r { fresh A : post -> pre ~ normal(0, 1)\nfresh B : post -> pre ~ normal(0, 1)\n"
        "feedback send = (A + B) @ delta }"
    )
    first, second = (e.value for e in draws.equations.of("draw"))
    assert first is not second


@pytest.mark.parametrize("otherwise", [make("gt", u, 0.0), make("not", make("gt", u, 0.3))])
def test_a_truth_value_is_not_spread_out_as_a_number_is(otherwise: Node) -> None:
    """`if true then rate > 1 else u > 0`: what is chosen has fewer axes than what it stands for."""
    chosen = alone(make("where", const(True), make("gt", rate, 1.0), otherwise))
    assert chosen.type == otherwise.type
    assert_well_typed(chosen)


def test_a_number_is_spread_out_over_what_it_stands_for() -> None:
    chosen = alone(make("where", const(True), rate, u))
    assert chosen.op == "full_like"
    assert chosen.type == u.type


def test_a_zero_keeps_the_shape_of_what_it_came_from() -> None:
    for root in (make("mul", 0.0, u), make("sub", W, W), make("apply", make("mul", 0.0, W), x)):
        new = alone(root)
        assert (new.op, new.type) == ("full_like", root.type)
        assert np.shape(value(new)) == np.shape(value(root))


def test_a_long_product_is_left_as_it_is() -> None:
    squared = rate
    for _ in range(40):
        squared = make("mul", squared, squared)
    assert len(list(walk(alone(squared)))) < 200


def test_a_name_survives() -> None:
    named = make("add", u, delta)
    named.name = "together"
    plain, other = together(make("add", u, delta), named)
    assert plain is other
    assert other.name == "together"


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_canonical_equations_are_well_typed_and_canonical_again(path: Path) -> None:
    for checked in check_file(path)[0]:
        assert checked.equations is not None
        for equation in checked.equations.equations:
            assert_well_typed(equation.value)
            once = equation.value
            assert repr(alone(once)) == repr(alone(alone(once)))


def test_the_bias_reaches_every_position() -> None:
    np.testing.assert_allclose(value(make("add", u, b)), value(alone(make("add", u, b))))
    assert over_units.type.axes == {"batch", "positions"}
