"""Write nodes as Python expressions: precedence, arguments and named intermediate values."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Protocol

from ruledsl.emit.naming import Names
from ruledsl.ir.maps import is_kernel
from ruledsl.ir.nodes import Node, walk
from ruledsl.ir.operations import ELEMENTWISE, OPERATIONS, Infix
from ruledsl.ir.types import OUT, PER_UNIT, POST

Form = str | Callable[["Writer", Node], str]
"""How an operation is written: a template with `{0}`, `{1}` for its arguments, or a function of writer and node."""

ATOM, POWER, UNARY, PRODUCT, SUM, COMPARISON, CHOICE = 9, 8, 7, 6, 5, 4, 0
_INFIX = {
    name: row.written for name, row in OPERATIONS.items() if isinstance(row.written, Infix) and row.written.everywhere
}
_BINDING: Mapping[type[ast.AST], int] = {
    ast.Call: ATOM,
    ast.Pow: POWER,
    ast.Mult: PRODUCT,
    ast.Div: PRODUCT,
    ast.Add: SUM,
    ast.Sub: SUM,
}

DEEPEST = 25  # operations in one expression; what is nested more deeply gets lines of its own
_COUNTERS = frozenset(("step", "epoch", "progress", "lr"))


class Unwritable(Exception):
    """The backend has no way to write an operation."""

    def __init__(self, node: Node, construct: str | None = None) -> None:
        self.node, self.construct = node, construct
        super().__init__(node.op)


class Forms(Protocol):
    """How a backend writes each operation and each distribution (`ruledsl.emit.backend.Backend`)."""

    @property
    def operations(self) -> Mapping[str, Form]: ...
    @property
    def random(self) -> Mapping[str, Form]: ...


class Writer:
    """Writes the expressions of one function and collects the arguments that they read."""

    def __init__(self, backend: Forms, names: Names, terms: Mapping[int, str], *, traced: bool = False) -> None:
        self.backend, self.names, self.terms, self.traced = backend, names, terms, traced
        self.joint: Mapping[int, int] = {}  # what replicas bring together, see `ruledsl.emit.replicas`
        self.like: str | None = None  # the array that first and fresh values are made like; None: they have a `shape`
        self.arguments: dict[str, None] = {}
        self.lines: list[tuple[str, str]] = []
        self._local: dict[int, str] = {}
        self._numbers: dict[int, bool] = {}
        self._inside_sum = False

    # --- what a form may ask ---

    def use(self, argument: str) -> str:
        """The function needs this argument."""
        self.arguments[argument] = None
        return argument

    def write(self, node: Node, least: int = CHOICE) -> str:
        """The expression of a node, in brackets where it binds less than `least`."""
        text, binding = self._expression(node)
        return text if binding >= least else f"({text})"

    def is_number(self, node: Node) -> bool:
        """Whether the value is a Python number: made of constants, parameters that aren't traced, and sizes alone."""
        if node.type.kind != "scalar":
            return False
        known = all(id(arg) in self._numbers for arg in node.args)
        for part in [node] if known else walk(node):
            named = part.op == "scalar" and part.attrs[0] not in _COUNTERS and not self.traced
            number = part.op == "const" or named
            computed = part.args and part.op not in ("count", "full_like")
            number = number or bool(computed and all(self._numbers[id(arg)] for arg in part.args))
            self._numbers[id(part)] = number and part.type.kind == "scalar"
        return self._numbers[id(node)]

    def _is_choice(self, node: Node) -> bool:
        """Whether a number decides between two values of one shape: two numbers, or two arrays of the same type."""
        condition, *branches = node.args
        numbers = [self.is_number(branch) for branch in branches]
        alike = all(branch.type == node.type for branch in branches)
        return self.is_number(condition) and alike and numbers[0] == numbers[1]

    def first_array(self, node: Node) -> str | None:
        """Some array that the value is made of, for its element type; None if there is none."""
        for part in walk(node):
            if part.op in ("tensor", "signal") and part.type.kind != "scalar" and not part.attrs[1]:
                return self.write(part)
        return None

    # --- expressions ---

    def name_shared(self, root: Node) -> None:
        """Give a line of its own to every value that the author named, and to those that are read twice."""
        readers: dict[int, int] = {}
        indexed: set[int] = set()  # what differs from layer to layer inside `sum(k, ...)` has no line of its own
        written = list(walk(root, until=self.terms))
        for node in written:
            leaf = node.op in ("signal", "tensor") and node.attrs[1]
            if leaf or (node.op != "sum_k" and any(id(arg) in indexed for arg in node.args)):
                indexed.add(id(node))
        order = [node for node in written if node is root or id(node) not in indexed]
        depth: dict[int, int] = {}
        for node in order:
            for arg in node.args:
                twice = node.op in ("dot", "sq") and arg is node.args[0]  # the size of its batch is read as well
                readers[id(arg)] = readers.get(id(arg), 0) + (2 if twice else 1)
        for node in order:
            depth[id(node)] = 1 + max((depth.get(id(arg), 0) for arg in node.args), default=0)
            if node is root or not self._worth_a_name(node) or id(node) in self.terms:
                continue
            if node.name or readers.get(id(node), 0) > 1 or depth[id(node)] > DEEPEST:
                depth[id(node)] = 0
                text = self.write(node)
                name = self._fresh(node.name or _NOUNS.get(node.op, node.op))
                self._local[id(node)] = name
                self.lines.append((name, text))

    @staticmethod
    def _worth_a_name(node: Node) -> bool:
        stored_alike = node.op == "transpose" and node.args[0].is_leaf
        return not node.is_leaf and not stored_alike and node.op not in ("count", "random")

    def _fresh(self, wish: str) -> str:
        taken = {*self._local.values(), *self.terms.values(), *self.arguments}
        name, number = wish, 1
        while name in taken or not self.names.free(name):
            number += 1
            name = f"{wish}_{number}"
        return name

    def _expression(self, node: Node) -> tuple[str, int]:
        if id(node) in self._local:
            return self._local[id(node)], ATOM
        if id(node) in self.terms:
            return self.use(self.terms[id(node)]), ATOM
        match node.op:
            case "const":
                return constant(node.attrs[0]), ATOM if not _negative(node.attrs[0]) else UNARY
            case "scalar":
                return self._scalar(str(node.attrs[0])), ATOM
            case "signal":
                if node.attrs[1]:
                    self.use("delta_k")
                    return "delta_at_k", ATOM
                return self.use(str(node.attrs[0])), ATOM
            case "tensor":
                name = self.names[str(node.attrs[0])]
                self.use(name)
                return (f"{name}_at_k" if node.attrs[1] else name), ATOM
            case "transpose":
                return self._expression(node.args[0])  # both orientations are stored alike
            case "neg":
                return f"-{self.argument(node, 0, UNARY)}", UNARY
            case "and" | "or" | "not" if self.is_number(node):
                words = [self.write(arg, ATOM) for arg in node.args]
                return (f"not {words[0]}" if node.op == "not" else f" {node.op} ".join(words)), CHOICE
            case "where" if self._is_choice(node):
                condition, then, otherwise = (self.argument(node, i, COMPARISON) for i in range(3))
                return f"{then} if {condition} else {otherwise}", CHOICE
        if node.op == "add" and (text := self._with_bias(node)):
            return text, ATOM
        if node.op in _INFIX:
            symbol, binding = _INFIX[node.op].symbol, _INFIX[node.op].binding
            comparison = binding == COMPARISON
            left = self.argument(node, 0, binding + (node.op == "pow") + comparison)
            right = self.argument(node, 1, binding + (node.op != "pow" and not self._associative(node)))
            return f"{left} {symbol} {right}", binding
        python = OPERATIONS[node.op].python if node.op in OPERATIONS else None
        if python is not None and self.is_number(node):
            return python.format(*(self.write(arg) for arg in node.args)), _binding(python)
        return self._form(node)

    def _with_bias(self, node: Node) -> str | None:
        """`W @ x + b` as one application: the linear map adds one number per unit for nothing."""
        for product, bias in (node.args, node.args[::-1]):
            if product.op != "apply" or id(product) in self._local or id(product) in self.terms:
                continue
            matrix, activity = product.args
            forwards = is_kernel(matrix) and matrix.type.target == POST
            if forwards and product.type == node.type and bias.op == "tensor" and bias.type.axes == PER_UNIT:
                return f"{self.use('layer')}.apply({', '.join(map(self.write, (matrix, activity, bias)))})"
        return None

    @staticmethod
    def _associative(node: Node) -> bool:
        """Whether brackets on the right can go: `a + (b + c)`. Rounding keeps its order where they stay."""
        return False

    def _form(self, node: Node) -> tuple[str, int]:
        form = self.backend.operations.get(node.op)
        if node.op == "random":
            form = self.backend.random.get(str(node.attrs[0]))
        if form is None:
            raise Unwritable(node)
        if callable(form):
            return form(self, node), ATOM
        return form.format(*(self.argument(node, index, CHOICE) for index in range(len(node.args)))), ATOM

    def argument(self, node: Node, index: int, least: int = CHOICE) -> str:
        """An argument of an elementwise operation: one number per unit is spread over positions where it has to be."""
        arg = node.args[index]
        per_unit = arg.type.kind == "vector" and arg.type.axes == PER_UNIT and arg.type.target != OUT
        if per_unit and node.type.kind == "vector" and node.type.axes != PER_UNIT and node.op in ELEMENTWISE:
            return f"{self.use('layer')}.spread({self.write(arg)})"
        return self.write(arg, least)

    def _scalar(self, name: str) -> str:
        return self.use(self.names.get(name))


_NOUNS = {
    "add": "total",
    "sub": "difference",
    "mul": "product",
    "div": "ratio",
    "neg": "negative",
    "where": "choice",
    "apply": "projected",
    "not": "otherwise",
    "max": "bounded",
    "min": "bounded",
    "abs": "size",
    "sum_k": "gathered",
}
"""What a value is called that the author gave no name."""


@cache
def _binding(python: str) -> int:
    """How closely the outermost operation of a Python expression with placeholders binds."""
    expression = ast.parse(python.replace("{", "a").replace("}", ""), mode="eval").body
    outermost = expression.op if isinstance(expression, ast.BinOp) else expression
    return _BINDING.get(type(outermost), CHOICE)


def _negative(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value < 0


def constant(value: object) -> str:
    """A constant as Python spells it."""
    if isinstance(value, bool):
        return repr(value)
    assert isinstance(value, int | float)
    if math.isinf(value):
        return "math.inf" if value > 0 else "-math.inf"
    if math.isnan(value):
        return "math.nan"
    return repr(int(value)) if float(value).is_integer() and abs(value) < 1e6 else repr(float(value))
