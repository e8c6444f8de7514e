"""Tape: an emitted module whose use of synapses is recorded, held or played back.

The places are found in the source text itself, so that code which was tampered with is judged as it stands.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any, Literal

from ruledsl.program import INIT, Program

USE = "_use"
APPLICATIONS = ("apply", "adjoint", "from_far", "to_out")
TOTALS = ("sum_to_units", "total")


@dataclass(frozen=True)
class Use:
    """One use of a bundle of synapses, or one sum over the batch, in a function of the emitted module.

    function  the one that was called for it
    place     `apply`, `adjoint`, `from_far`, `to_out`: a matrix applied; `outer`, `outer_far`; `total`
    matrix    what was applied; None of the others
    vectors   the activities that it takes: [batch, ...], in the backend's layout
    result    what came of it
    """

    function: str
    place: str
    matrix: Any
    vectors: tuple[Any, ...]
    result: Any


class Tape:
    """Runs of one program: what it applies, in order, recorded in one run and given back in others."""

    def __init__(self, program: Program) -> None:
        self.uses: list[Use] = []
        self.before: dict[str, list[Use]] = {}
        self.phase = INIT
        self.mode: Literal["record", "hold", "still", "watch"] = "record"
        self.places: frozenset[str] = frozenset()
        self.function = ""
        self.program = replace(program)
        self.program.__dict__["module"] = self._module(program)

    def record(self, phase: str) -> None:
        """The next run is the undisturbed one."""
        self.phase, self.mode, self.uses = phase, "record", []
        self.before[phase] = self.uses

    def replay(self, phase: str, places: frozenset[str]) -> None:
        """The next run gets the matrices of the undisturbed one at these places."""
        self.phase, self.mode, self.uses, self.places = phase, "hold", [], places

    def still(self, phase: str, places: frozenset[str] = frozenset(APPLICATIONS)) -> None:
        """The next run gets what arrived in the undisturbed one, wherever these places apply a map."""
        self.phase, self.mode, self.uses, self.places = phase, "still", [], places

    def watch(self, phase: str) -> None:
        """The next run is recorded as it is, beside the undisturbed one."""
        self.phase, self.mode, self.uses = phase, "watch", []

    def use(self, place: str, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """What the emitted code calls instead of `function`."""
        number, known = len(self.uses), self.before.get(self.phase, [])
        before = known[number] if self.mode in ("hold", "still") and number < len(known) else None
        at = {"apply": 0, "adjoint": 0, "from_far": 1, "to_out": 1}.get(place)
        given = list(arguments)
        if at is not None and before is not None and self.mode == "hold" and place in self.places:
            given[at] = before.matrix
        result = function(*given, **options)
        if at is not None and before is not None and self.mode == "still" and place in self.places:
            result = before.result
        matrix = None if at is None else arguments[at]
        vectors = (
            arguments[:2] if at is None and place != "total" else arguments[:1] if at is None else (arguments[1 - at],)
        )
        self.uses.append(Use(self.function, place, matrix, tuple(vectors), result))
        return result

    def _module(self, program: Program) -> ModuleType:
        module = ModuleType(f"taped_{program.rule}")
        module.__dict__[USE] = self.use
        tree = ast.fix_missing_locations(_Taping().visit(ast.parse(program.source)))
        exec(compile(tree, f"<taped {program.backend} {program.rule}>", "exec"), module.__dict__)
        for function in program.functions:
            if callable(plain := module.__dict__.get(function.name)):
                module.__dict__[function.name] = self._named(function.name, plain)
        return module

    def _named(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def named(*arguments: Any, **options: Any) -> Any:
            outside, self.function = self.function, name
            try:
                return function(*arguments, **options)
            finally:
                self.function = outside

        return named


class _Taping(ast.NodeTransformer):
    """Puts `use` in the place of every application of a map, outer product and sum per neuron."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name in ("apply", "adjoint", "outer") and len(node.args) >= 2:
            return _used(name, node)
        if name == "tensordot":
            outer = any(isinstance(k.value, ast.Tuple) for k in node.keywords)  # a pair of axes makes an outer product
            return _used("outer_far" if outer else "from_far", node)
        if name in TOTALS and node.args:
            return _used("total", node)
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if not isinstance(node.op, ast.MatMult):
            return node
        arguments = [ast.arg("left"), ast.arg("right")]
        body = ast.BinOp(ast.Name("left", ast.Load()), ast.MatMult(), ast.Name("right", ast.Load()))
        product = ast.Lambda(ast.arguments([], arguments, kwonlyargs=[], kw_defaults=[], defaults=[]), body)
        return ast.Call(ast.Name(USE, ast.Load()), [ast.Constant("to_out"), product, node.left, node.right], [])


def _used(place: str, node: ast.Call) -> ast.Call:
    return ast.Call(ast.Name(USE, ast.Load()), [ast.Constant(place), node.func, *node.args], node.keywords)
