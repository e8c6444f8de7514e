"""The equations of an optimizer on lists of tensors: one call for all of them, in place where nothing is lost.

A value is a list with one entry for each parameter. What has no form for lists is computed by the scalar function of
the equation, parameter by parameter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from ruledsl.emit.binding import COUNTERS, Call
from ruledsl.emit.expressions import Unwritable, Writer
from ruledsl.emit.in_place import COMMUTATIVE, NOUNS, Block, Instruction, ListForms, Statements, Value
from ruledsl.emit.naming import Names
from ruledsl.emit.optimizers import Equations, NumberForms, aliases
from ruledsl.ir.nodes import Node, walk
from ruledsl.ir.printer import show

UNARY = frozenset(("neg", "abs", "exp", "log", "tanh", "sqrt", "sign"))
INFIX = frozenset(("add", "sub", "mul", "div", "pow"))
BOUNDS = {"max": ("maximum", "clamp_min"), "min": ("minimum", "clamp_max")}


class NoListForm(Exception):
    """An equation has an operation without a form for lists."""


class _Indexed:
    """The names of one parameter's numbers: `n_i` of the list `n`."""

    def __init__(self, names: Names, each: frozenset[str]) -> None:
        self.names, self.each = names, each

    def __getitem__(self, key: str) -> str:
        return self.of(self.names[key])

    def get(self, key: str) -> str:
        return self.of(self.names.get(key))

    def free(self, name: str) -> bool:
        return self.names.free(name)

    def of(self, name: str) -> str:
        return f"{name}_i" if name in self.each else name


class Lists:
    """The method body that moves lists of parameters.

    forms   how the backend writes the instructions
    each    names of what is a number of each parameter: states, the counter `step`, terms of these
    """

    def __init__(self, equations: Equations, forms: ListForms) -> None:
        self.equations, self.forms = equations, forms
        module, self.plain = equations.module, equations.plain
        self.names, self.values, self.terms = module.names, module.values, module.terms
        tensors = [tensor for tensor, _ in (*equations.starts, *equations.draws)]
        numbers = {call.result for call in equations.terms if self.plain and equations.is_number(call)}
        self.each = frozenset({*numbers, *equations.numbers, *(t.name for t in tensors if not t.space)})
        self.assigned = tuple(call.result for call in equations.moves)
        self.indexed = _Indexed(self.names, self.each)
        self.instructions: list[Instruction] = []
        self.blocks: list[Block] = []
        lists = (*(t.name for t in tensors if t.space), "p", "g")
        self.held = {name: Value(scalar=False, wish=name, held=name, variable=name) for name in lists}  # terms, too
        self.results: dict[str, Value] = {}  # the next value, by the name of its tensor
        self.numbers: dict[str, str] = {}  # the variable with the next numbers, by the name of their state
        self.common: dict[str, str] = {}  # the next number, where it is the same for all parameters
        self.readers: dict[int, int] = {}
        self.memo: dict[int, Value] = {}
        self.aims: dict[int, str] = {}

        self._compute_all()

    def _compute_all(self) -> None:
        """All equations: terms in order, then next values."""
        for call in self.equations.moves:
            self.aims.setdefault(id(self.values[call.function]), call.result)
        for call in self.equations.terms:
            self._compute(call, call.result)
        for call in self.equations.moves:
            root = self.values[call.function]
            name = self.terms.get(id(root)) or (call.result if call.result in self.each else None)
            if call.result in self.each:
                self._number(call, name or call.result)
            else:
                self._store(call, root)

    def _number(self, call: Call, name: str) -> None:
        if term := self.terms.get(id(self.values[call.function])):
            self.numbers[call.result] = term
            return
        if not any(argument in self.each or argument in self.held for argument in call.arguments):
            self.common[call.result] = f"{call.function}({', '.join(call.arguments)})"
            return
        variable = self.names.give(f"next number {name}", f"{name}_next")
        self._loop_over_numbers(variable, call)
        self.numbers[call.result] = variable

    def _store(self, call: Call, root: Node) -> None:
        if id(root) in self.terms and self.terms[id(root)] in self.held:
            value = self.held[self.terms[id(root)]]
        elif root.op in ("tensor", "signal"):
            value = self.held[self.indexed.names.get(str(root.attrs[0]))]
        else:
            value = self._compute(call, None)
        if value.held in self.assigned and value.held != call.result:
            copied = Value(value.scalar, f"{value.wish}_before")
            loop = partial("[before.clone() for before in {}]".format, value.held)
            self.instructions.append(Instruction("", [value], copied, loop=loop))
            self.blocks.append(Block("", len(self.instructions) - 1, len(self.instructions)))
            value = copied
        self.results[call.result] = value

    def _compute(self, call: Call, term: str | None) -> Value:
        root = self.values[call.function]
        if term is not None and term in self.each and self.plain:
            self._loop_over_numbers(term, call)
            return Value(True, term)
        start = len(self.instructions)
        self.memo, self.readers = {}, {}
        for node in walk(root, until=self._known(root)):
            for arg in node.args:
                self.readers[id(arg)] = self.readers.get(id(arg), 0) + 1
        try:
            value = self._lower(root, root, self.aims.get(id(root)))
            comment = show(replace(root, name=None))
        except (NoListForm, Unwritable):
            del self.instructions[start:]
            value = Value(root.type.kind == "scalar", term or f"{call.result}_next")
            operands = [self.held[name] for name in call.arguments if name in self.held]
            expression = f"{call.function}({self._arguments(call.arguments)}){'.clone()' if aliases(root) else ''}"
            loop = partial(self._each, expression, call.arguments)
            self.instructions.append(Instruction("", operands, value, loop=loop))
            comment = ""
        if term is not None:
            value.wish = term
            self.held[term] = value
        self.blocks.append(Block(comment, start, len(self.instructions)))
        return value

    def _known(self, root: Node) -> set[int]:
        return {key for key in self.terms if key != id(root)}

    # --- numbers ---

    def _loop_over_numbers(self, variable: str, call: Call) -> None:
        """A list of numbers, by the function of the equation."""
        expression = f"{call.function}({self._arguments(call.arguments)})"
        operands = [self.held[name] for name in call.arguments if name in self.held]
        at = len(self.instructions)

        def written() -> str:
            return f"{variable} = {self._each(expression, call.arguments)}"

        self.blocks.append(Block("", at, at, written, operands))

    def _arguments(self, names: Sequence[str]) -> str:
        return ", ".join(f"{name}_i" if name in self.each or name in self.held else name for name in names)

    def _each(self, expression: str, names: Sequence[str]) -> str:
        lists = [name for name in dict.fromkeys(names) if name in self.each or name in self.held]
        variables = [self.held[name].variable if name in self.held else name for name in lists]
        items = [f"{name}_i" for name in lists]
        over = variables[0] if len(variables) == 1 else f"zip({', '.join(variables)}, strict=True)"
        return f"[{expression} for {', '.join(items)} in {over}]"

    def _is_number(self, node: Node) -> bool:
        """Whether it is a Python number, the same for all parameters or one for each."""
        if node.type.kind != "scalar":
            return False
        return all(
            part.type.kind == "scalar" and part.op not in ("norm", "count")
            for part in walk(node, until=self.terms)
            if id(part) not in self.terms or self.terms[id(part)] in self.each
        ) and not any(self.terms.get(id(part)) in self.held for part in walk(node, until=self.terms))

    def _number_text(self, node: Node, *, negative: bool = False) -> str:
        if not self.plain and any(
            part.op == "tensor" or (part.op == "scalar" and part.attrs[0] in COUNTERS) or id(part) in self.terms
            for part in walk(node, until=self.terms)
        ):
            raise NoListForm
        terms = {key: self.indexed.of(name) for key, name in self.terms.items()}
        writer = Writer(NumberForms(), self.indexed, terms)  # type: ignore[arg-type]
        text = writer.write(_negated(node) if negative else node)
        read = [name.removesuffix("_i") for name in writer.arguments if name.removesuffix("_i") in self.each]
        if read and text == f"{read[0]}_i":
            return read[0]
        return self._each(text, sorted(read)) if read else text

    # --- lists of tensors ---

    def _lower(self, node: Node, root: Node, aim: str | None = None) -> Value:
        """The list that holds a value; `aim`: the tensor that it is stored in, whose place it takes if it can."""
        if node is not root and id(node) in self.terms:
            return self.held[self.terms[id(node)]]
        if node.op in ("tensor", "signal"):
            name = self.names.get(str(node.attrs[0]))
            if name not in self.held:
                raise NoListForm
            return self.held[name]
        if id(node) not in self.memo:
            self.memo[id(node)] = self._new(node, root, aim)
        return self.memo[id(node)]

    def _new(self, node: Node, root: Node, aim: str | None) -> Value:
        op = node.op
        if op in UNARY:
            return self._emit(op, node, [self._lower(node.args[0], root, aim)])
        if op == "relu":
            return self._emit("clamp_min", node, [self._lower(node.args[0], root, aim)], "0")
        if op == "norm":
            return self._emit("norm", node, [self._lower(node.args[0], root)])
        if op not in INFIX and op not in BOUNDS:
            raise NoListForm
        a, b = node.args
        numbers = [self._is_number(arg) for arg in (a, b)]
        if all(numbers):
            raise NoListForm
        if op in BOUNDS:
            lists, bound = BOUNDS[op]
            if not any(numbers):
                return self._binary(lists, node, root, a, b, aim)
            value, number = (b, a) if numbers[0] else (a, b)
            return self._emit(bound, node, [self._lower(value, root, aim)], self._number_text(number))
        if numbers[1]:
            return self._emit(op, node, [self._lower(a, root, aim)], self._number_text(b))
        if numbers[0]:
            return self._after_number(node, root, aim)
        if op in ("add", "sub"):
            return self._sum(node, root, aim)
        return self._binary(op, node, root, a, b, aim)

    def _after_number(self, node: Node, root: Node, aim: str | None) -> Value:
        """A number, then a list."""
        number, value = node.args
        if node.op == "pow":
            raise NoListForm
        if node.op in ("add", "mul"):
            return self._emit(node.op, node, [self._lower(value, root, aim)], self._number_text(number))
        first = self._emit("neg" if node.op == "sub" else "reciprocal", node, [self._lower(value, root, aim)])
        if node.op == "div" and number.constant == 1:
            return first
        return self._emit("add" if node.op == "sub" else "mul", node, [first], self._number_text(number))

    def _sum(self, node: Node, root: Node, aim: str | None) -> Value:
        """`a + c * b` in one call, with what takes the place of the tensor that is aimed at as `a`."""
        a, b = node.args
        if node.op == "add" and aim and self._leads(b, aim) and not self._leads(a, aim):
            a, b = b, a
        if found := self._product_added(node, root, a, b, aim, negative=node.op == "sub"):
            return found
        aimed = aim is not None and self._leads(a, aim)
        if node.op == "add" and not aimed and (found := self._product_added(node, root, b, a, aim, negative=False)):
            return found
        return self._binary(node.op, node, root, a, b, aim)

    def _product_added(
        self, node: Node, root: Node, a: Node, b: Node, aim: str | None, *, negative: bool
    ) -> Value | None:
        """`a + c * b`, `a + c * b * d` or `a + c * b / d`."""
        alike = node.type.kind == "parameter" and a.type == node.type
        if not alike or not self._inside(b, root):
            return None
        number, product = None, b
        if b.op == "mul" and any(self._is_number(arg) for arg in b.args):
            number, product = b.args if self._is_number(b.args[0]) else b.args[::-1]
        factors = product.args if product.op in ("mul", "div") and (product is b or self._inside(product, root)) else ()
        if factors and all(f.type == node.type for f in factors):
            scaled = self._number_text(number, negative=negative) if number else "-1" if negative else ""
            operands = [self._lower(factor, root) for factor in factors]
            first = self._lower(a, root, aim)
            return self._emit(f"addc{product.op}", node, [first, *operands], scaled)
        if number is None or product.type != node.type:
            return None
        scale = self._number_text(number, negative=negative)
        if scale.startswith("["):
            return None
        second = self._lower(product, root)
        return self._emit("add", node, [self._lower(a, root, aim), second], self.forms.scale.format(scale))

    def _inside(self, node: Node, root: Node) -> bool:
        """Whether nothing else reads a value, so that it needn't be computed by itself."""
        return self.readers.get(id(node), 0) == 1 and id(node) not in self.terms and node.op not in ("tensor", "signal")

    def _leads(self, node: Node, aim: str) -> bool:
        """Whether a value can be computed in the place of a tensor: it is that tensor, scaled and added to."""
        if id(node) in self.terms:
            return False
        if node.op == "tensor":
            return self.names.get(str(node.attrs[0])) == aim
        if node.op == "mul":
            return any(self._is_number(x) and self._leads(y, aim) for x, y in (node.args, node.args[::-1]))
        return node.op in ("add", "sub") and self._leads(node.args[0], aim)

    def _binary(self, operation: str, node: Node, root: Node, a: Node, b: Node, aim: str | None) -> Value:
        if a.type.kind == "scalar" and b.type.kind != "scalar":
            if operation not in COMMUTATIVE:
                raise NoListForm
            a, b = b, a
        if aim is None:
            return self._emit(operation, node, [self._lower(a, root), self._lower(b, root)])
        second = self._lower(b, root)  # before the first, which overwrites what is aimed at
        return self._emit(operation, node, [self._lower(a, root, aim), second])

    def _emit(self, operation: str, node: Node, operands: list[Value], more: str = "") -> Value:
        result = Value(node.type.kind == "scalar", node.name or "", NOUNS.get(operation, "values"))
        self.instructions.append(Instruction(operation, operands, result, more))
        return result

    def lines(self) -> list[str]:
        """The statements, for the body of a method."""
        taken = frozenset((*self.held, *self.each))
        kept = {state: self.held[term] for state, term in self.numbers.items() if term in self.held}
        statements = Statements(
            self.instructions, self.blocks, self.results, kept.values(), self.names, self.forms, taken
        )
        lines = statements.lines()
        self.numbers |= {state: value.variable for state, value in kept.items()}
        return lines


def _negated(node: Node) -> Node:
    """`-(a / b)` as `-a / b`."""
    if node.op in ("mul", "div"):
        return Node(node.op, (_negated(node.args[0]), *node.args[1:]), node.attrs, node.type)
    if node.op == "neg":
        return node.args[0]
    if node.op == "const" and not isinstance(node.constant, bool) and node.constant is not None:
        return Node("const", (), (-node.constant,), node.type)
    return Node("neg", (node,), (), node.type)
