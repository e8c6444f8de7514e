"""Elementwise operations: arithmetic, functions of one number, comparisons, logic, choice."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

from ruledsl.ir import type_rules as rules
from ruledsl.ir.nodes import Node, const
from ruledsl.ir.operation import Call, Cotangents, Derivative, Infix, Operation, make, reduced

SUM, PRODUCT, POWER, COMPARISON = 5, 6, 8, 4


def _add(node: Node, g: Node) -> Cotangents:
    return [reduced(g, arg.type) for arg in node.args]


def _sub(node: Node, g: Node) -> Cotangents:
    a, b = node.args
    return [reduced(g, a.type), reduced(make("neg", g), b.type)]


def _mul(node: Node, g: Node) -> Cotangents:
    a, b = node.args
    return [reduced(make("mul", g, b), a.type), reduced(make("mul", g, a), b.type)]


def _div(node: Node, g: Node) -> Cotangents:
    a, b = node.args
    through = make("div", g, b)
    return [reduced(through, a.type), reduced(make("neg", make("mul", through, make("div", a, b))), b.type)]


def _pow(node: Node, g: Node) -> Cotangents:
    a, b = node.args
    base = make("mul", g, make("mul", b, make("pow", a, make("sub", b, 1.0))))
    exponent = make("mul", g, make("mul", node, make("log", a)))
    return [reduced(base, a.type), None if b.constant is not None else reduced(exponent, b.type)]


def times(factor: Callable[[Node, Node], Node]) -> Derivative:
    """The derivative of an elementwise function of one argument: `factor(argument, result)`."""

    def derivative(node: Node, g: Node) -> Cotangents:
        return [make("mul", g, factor(node.args[0], node))]

    return derivative


def _gate(condition: Node, g: Node) -> Node:
    return make("where", condition, g, 0.0)


def _relu(node: Node, g: Node) -> Cotangents:
    return [_gate(make("gt", node.args[0], 0.0), g)]


def _extreme(comparison: str) -> Derivative:
    def derivative(node: Node, g: Node) -> Cotangents:
        a, b = node.args
        first = make(comparison, a, b)
        return [reduced(_gate(first, g), a.type), reduced(_gate(make("not", first), g), b.type)]

    return derivative


def _where(node: Node, g: Node) -> Cotangents:
    condition, a, b = node.args
    return [None, reduced(_gate(condition, g), a.type), reduced(_gate(make("not", condition), g), b.type)]


ARITHMETIC = (
    Operation(
        "add",
        rules.numbers,
        Infix("+", SUM),
        derivative=_add,
        numpy=lambda np, a, b: np.add(a, b),
        number=operator.add,
        commutative=True,
        homogeneity="sum",
    ),
    Operation(
        "sub",
        rules.numbers,
        Infix("-", SUM),
        derivative=_sub,
        numpy=lambda np, a, b: np.subtract(a, b),
        number=operator.sub,
        homogeneity="sum",
    ),
    Operation(
        "mul",
        rules.numbers,
        Infix("*", PRODUCT),
        derivative=_mul,
        numpy=lambda np, a, b: np.multiply(a, b),
        number=operator.mul,
        sign_determined=True,
        commutative=True,
        homogeneity="product",
    ),
    Operation(
        "div",
        rules.numbers,
        Infix("/", PRODUCT),
        derivative=_div,
        numpy=lambda np, a, b: np.true_divide(a, b),
        number=operator.truediv,
        sign_determined=True,
        homogeneity="quotient",
    ),
    Operation(
        "pow",
        rules.numbers,
        Infix("**", POWER),
        derivative=_pow,
        numpy=lambda np, a, b: np.power(a, b),
        number=operator.pow,
        homogeneity="power",
    ),
    Operation(
        "neg",
        rules.numbers,
        derivative=times(lambda a, y: const(-1.0)),
        numpy=lambda np, a: np.negative(a),
        number=operator.neg,
        sign_determined=True,
        homogeneity="kept",
    ),
)

FUNCTIONS = (
    Operation(
        "relu",
        rules.numbers,
        Call("relu", 1),
        derivative=_relu,
        numpy=lambda np, a: np.maximum(a, 0.0),
        number=lambda a: max(a, 0.0),
        python="max({0}, 0.0)",
        sign_determined=True,
        saturates=True,
        homogeneity="kept",
    ),
    Operation(
        "sign",
        rules.numbers,
        Call("sign", 1),
        flow="sign",
        numpy=lambda np, a: np.sign(a),
        number=lambda a: float((a > 0) - (a < 0)),
        python="float(({0}) > 0) - float(({0}) < 0)",
        homogeneity="sign",
    ),
    Operation(
        "abs",
        rules.numbers,
        Call("abs", 1),
        derivative=times(lambda a, y: make("sign", a)),
        numpy=lambda np, a: np.abs(a),
        number=abs,
        python="abs({0})",
        sign_determined=True,
        saturates=True,
        homogeneity="kept",
    ),
    Operation(
        "exp",
        rules.numbers,
        Call("exp", 1),
        derivative=times(lambda a, y: y),
        numpy=lambda np, a: np.exp(a),
        number=math.exp,
        python="math.exp({0})",
    ),
    Operation(
        "log",
        rules.numbers,
        Call("log", 1),
        derivative=times(lambda a, y: make("div", 1.0, a)),
        numpy=lambda np, a: np.log(a),
        number=math.log,
        python="math.log({0})",
    ),
    Operation(
        "tanh",
        rules.numbers,
        Call("tanh", 1),
        derivative=times(lambda a, y: make("sub", 1.0, make("mul", y, y))),
        numpy=lambda np, a: np.tanh(a),
        number=math.tanh,
        python="math.tanh({0})",
        sign_determined=True,
        saturates=True,
    ),
    Operation(
        "sqrt",
        rules.numbers,
        Call("sqrt", 1),
        derivative=times(lambda a, y: make("div", 0.5, y)),
        numpy=lambda np, a: np.sqrt(a),
        number=math.sqrt,
        python="math.sqrt({0})",
        sign_determined=True,
        homogeneity="root",
    ),
    Operation(
        "min",
        rules.numbers,
        Call("min", 2),
        derivative=_extreme("lt"),
        numpy=lambda np, a, b: np.minimum(a, b),
        number=min,
        python="min({0}, {1})",
        sign_determined=True,
        saturates=True,
        commutative=True,
        homogeneity="sum",
    ),
    Operation(
        "max",
        rules.numbers,
        Call("max", 2),
        derivative=_extreme("gt"),
        numpy=lambda np, a, b: np.maximum(a, b),
        number=max,
        python="max({0}, {1})",
        sign_determined=True,
        saturates=True,
        commutative=True,
        homogeneity="sum",
    ),
)


def _comparison(
    name: str, symbol: str, ufunc: str, number: Callable[..., bool], commutative: bool = False
) -> Operation:
    return Operation(
        name,
        rules.comparison,
        Infix(symbol, COMPARISON),
        flow="compared",
        numpy=lambda np, a, b: getattr(np, ufunc)(a, b),
        number=number,
        saturates=True,
        commutative=commutative,
        homogeneity="sign",
    )


LOGIC = (
    _comparison("lt", "<", "less", operator.lt),
    _comparison("le", "<=", "less_equal", operator.le),
    _comparison("gt", ">", "greater", operator.gt),
    _comparison("ge", ">=", "greater_equal", operator.ge),
    _comparison("eq", "==", "equal", operator.eq, commutative=True),
    _comparison("ne", "!=", "not_equal", operator.ne, commutative=True),
    Operation(
        "and",
        rules.logic,
        Infix("and", 2, everywhere=False),
        numpy=lambda np, a, b: np.logical_and(a, b),
        number=lambda a, b: a and b,
        saturates=True,
        commutative=True,
    ),
    Operation(
        "or",
        rules.logic,
        Infix("or", 1, everywhere=False),
        numpy=lambda np, a, b: np.logical_or(a, b),
        number=lambda a, b: a or b,
        saturates=True,
        commutative=True,
    ),
    Operation("not", rules.logic, numpy=lambda np, a: np.logical_not(a), number=operator.not_),
    Operation(
        "where",
        rules.choice,
        derivative=_where,
        numpy=lambda np, condition, a, b: np.where(condition, a, b),
        number=lambda condition, a, b: a if condition else b,
        saturates=True,
        homogeneity="sum",
    ),
)

ROWS = (*ARITHMETIC, *FUNCTIONS, *LOGIC)
