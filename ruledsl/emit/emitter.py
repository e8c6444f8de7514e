"""Emit: one module per rule, one function per equation, each with exactly the arguments that its equation reads."""

from __future__ import annotations

import hashlib
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2

from ruledsl.diagnostics import Diagnostic, RuleError, report
from ruledsl.emit.backend import Backend, Module, backend
from ruledsl.emit.binding import bind
from ruledsl.emit.common_subexpressions import shared_terms
from ruledsl.emit.expressions import Unwritable, Writer, constant
from ruledsl.emit.functions import Function, Role, Tensor
from ruledsl.emit.imports import imports
from ruledsl.emit.layout import LAYOUT
from ruledsl.emit.line_breaking import statement
from ruledsl.emit.naming import Names
from ruledsl.emit.replicas import brought_together, pools
from ruledsl.emit.standalone import paste_imports
from ruledsl.emit.stored import Storage
from ruledsl.emit.views import called
from ruledsl.ir.equations import Equation, Equations
from ruledsl.ir.nodes import Node, reads, rewrite, tensor, walk, with_args
from ruledsl.ir.operations import make
from ruledsl.ir.phases import AFTER_STEP, INIT, TASK
from ruledsl.ir.printer import show
from ruledsl.ir.types import ACTIVITY, PARAMETER, Type
from ruledsl.passes.accumulation import accumulation, follows
from ruledsl.passes.scaling import ERRORS
from ruledsl.program import Program
from ruledsl.source import Span
from ruledsl.version import __version__

if TYPE_CHECKING:
    from ruledsl.emit.checked_rule import CheckedRule as Rule

WIDTH = 100
LONGEST_FORMULA = 240
PARAMETER_NODE = tensor("p", PARAMETER)
SUMMED = "what is summed"  # by backward passes, of a pseudo-gradient
_FIXED = ("x", "u", "delta", "delta_k", "e", "target", "W", "b")
_FIXED_IN_OPTIMIZERS = ("g", "p")
_FIXED_SCALARS = ("step", "epoch", "progress", "lr", "fan_in", "fan_out", "batch_size", "classes", "sources", "targets")
_RANK = {name: 2 * rank for rank, name in enumerate(("shape", "layer", "phi", "dphi", "p", "W", "b"))}


@dataclass
class Written:
    """A function as text: its signature, what it is about, its lines and what it returns."""

    function: Function
    signature: str
    doc: list[str]
    lines: list[str]


@dataclass
class Emitted:
    """Everything that a template shows."""

    functions: list[Written] = field(default_factory=list)
    header: list[str] = field(default_factory=list)


def emit(rule: Rule, backend_name: str, *, standalone: bool = False) -> Program:
    """Compile a checked rule for a backend. Raises RuleError (E06xx) where the backend cannot express it.

    standalone   with everything that the module needs beside the framework, and ways to use it on a whole network
    """
    target = backend(backend_name)
    emission = _Emission(rule, target)
    emitted = emission.run()
    functions = tuple(written.function for written in emitted.functions)
    tensors, parameters = emission.tensors(), emission.parameters()
    equations = rule.equations
    binding = bind(functions, tensors, parameters)
    module = Module(
        rule.kind,
        rule.name,
        binding,
        emission.names,
        equations.schedule,
        functions,
        equations.optimizers,
        emission.values,
        emission.terms,
        _harmless(rule.title or rule.name),
        standalone,
        frozenset(emission.joint_phases),
        tuple(emission.unlike),
        frozenset(emission.rescaled),
    )
    template = _environment(target.templates).get_template("module.py.j2")
    given = {"emitted": emitted, "imports": partial(imports, statements=target.imports), **target.shown(module)}
    source = template.render(given)
    if standalone:
        source = paste_imports(source)
    return Program(
        rule.name,
        target.name,
        source,
        functions,
        tensors,
        parameters,
        equations.optimizers,
        equations.schedule,
        _maps_x_alone(equations),
    )


@cache
def _environment(templates: Path) -> jinja2.Environment:
    """Jinja with the templates of a backend, compiled once in a process."""
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.FileSystemLoader(templates), jinja2.PackageLoader("ruledsl.emit", "templates")]
        ),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals.update(statement=_statement, constant=constant, called=called, **LAYOUT)
    return environment


def _maps_x_alone(equations: Equations) -> bool:
    """Whether every reader of x is a map or an outer product."""
    readers = [(node, arg) for e in equations.equations for node in walk(e.value) for arg in node.args]
    roots = [e.value for e in equations.equations]
    x = [arg for _, arg in readers if _is_x(arg)] + [root for root in roots if _is_x(root)]
    mapped = [arg for node, arg in readers if _is_x(arg) and node.op in ("apply", "outer")]
    return len(x) == len(mapped)


def _is_x(node: Node) -> bool:
    return node.op == "signal" and node.attrs[0] == "x"


def _is_error(node: Node) -> bool:
    return node.op == "signal" and node.attrs[0] in ERRORS


def _statement(prefix: str, expression: str, indent: int) -> str:
    """Lines for a template: none longer than it has to be."""
    return "\n".join(statement(prefix, expression, indent))


class _Emission:
    """One rule on its way into one module."""

    def __init__(self, rule: Rule, target: Backend) -> None:
        self.rule, self.target, self.equations = rule, target, rule.equations
        self.names = Names(
            {*target.reserved, *target.imports, "layer", "phi", "dphi", "shape", "math", "generator", "key"}
        )
        self._as_written: dict[int, tuple[Equation, Node]] = {}  # with the equation: its id must not be used again
        self.values: dict[str, Node] = {}
        self.terms: dict[int, str] = {}
        self._divided: set[tuple[str, str, str]] = set()
        self.joint: dict[str, dict[int, int]] = {}
        self.joint_phases: set[str] = set()
        self.rescaled: set[str] = set()
        self.unlike: list[str] = []
        self.fixed = (*_FIXED, *(_FIXED_IN_OPTIMIZERS if rule.kind == "optimizer" else ()))
        self.names.keep(*self.fixed, *_FIXED_SCALARS)
        self.names.reserve("delta_at_k")
        families = [n for n, d in rule.equations.tensors.items() if d.type.source is not None and d.type.source.index]
        self.names.reserve("needs_x", *(f"needs_{name}" for name in rule.equations.tensors))
        for name in families:
            self.names.give(name, name, avoid=target.attributes, argument=True)
            self.names.reserve(f"{self.names[name]}_at_k")  # see forms.sum_over_layers
        own = (*rule.equations.tensors, *rule.equations.parameters)
        for name in sorted(own, key=lambda name: name.count("needs_")):
            self.names.give(name, name, avoid=target.attributes, argument=True)
            given = self.names[name]
            self.names.reserve(f"needs_{given}", f"{given}_from")

        self.names.give(SUMMED, "summed", argument=True)

    def run(self) -> Emitted:
        emitted = Emitted(header=self._header())
        failures: list[Unwritable] = []
        stored = Storage()
        for phase in (INIT, *self.equations.phases):
            equations = []
            for written in self._in_stages(phase):
                equations.append(written.with_value(stored(written.value)))
                self._as_written[id(equations[-1])] = equations[-1], written.value
            self._bring_together(phase, equations)
            terms: dict[int, str] = {}
            for node, wish in shared_terms([e.value for e in equations if e.role in ("send", "grad", "assign")]):
                self._collect(emitted, failures, phase, node, "term", wish, terms)
                terms[id(node)] = self.names[_key(phase, node)]
            self.terms |= terms
            for equation in equations:
                own = {} if equation.role == "complete" else terms
                self._collect(emitted, failures, phase, equation, equation.role, equation.target, own)
        if failures:
            raise RuleError([self._explain(failure) for failure in failures])
        return emitted

    def _in_stages(self, phase: str) -> Iterator[Equation]:
        """The equations of a phase: of a pass, what counts once a step stands by itself."""
        has_pass = phase != INIT and not phase.startswith(AFTER_STEP) and phase not in self.equations.driven
        for equation in (e for e in self.equations.equations if e.phase == phase):
            if equation.role != "grad" or not has_pass or not self.target.completes:
                yield equation
                continue
            stages = accumulation(equation.value)
            summed = replace(equation, value=stages.summed)
            yield summed
            if stages.value is not None:
                self._divided.add(_result(equation))
                yield replace(equation, role="complete", value=_from_summed(stages.value, stages.summed))

    def _bring_together(self, phase: str, equations: list[Equation]) -> None:
        """What replicas of a network have to bring together in a phase, and the equations that they can't share."""
        if self.rule.kind != "rule" or phase == INIT or phase.startswith(AFTER_STEP):
            return
        # Errors from far away are many, and in another phase in which errors travel the task's `send` is at work too.
        elsewhere = [e.value for e in self.equations.equations if e.phase != TASK]
        alone = not any(_is_error(node) for node in walk(*elsewhere))
        alone = alone and not any(node.op == "signal" and node.attrs[1] for e in equations for node in walk(e.value))
        found = brought_together(
            [e for e in equations if e.role in ("send", "grad", "assign")], alone and phase == TASK
        )
        self.joint[phase] = found.joint
        self.rescaled |= {phase} if found.rescaled else set()
        self.joint_phases |= {phase} if found.joint or found.rescaled or pools(e.value for e in equations) else set()
        self.unlike += ["send" if e.role == "send" else f"{e.role} {e.target}" for e in found.unlike]

    def _explain(self, failure: Unwritable) -> Diagnostic:
        place = failure.node.place
        span, text = (place.span, place.text) if place else (Span(1, 1, 1, 1), self.rule.checked.text)
        if failure.construct is None:
            return report("E0602", span, text=text, backend=self.target.name, operation=failure.node.op)
        return report("E0601", span, text=text, backend=self.target.name, construct=failure.construct)

    def _collect(
        self,
        emitted: Emitted,
        failures: list[Unwritable],
        phase: str,
        what: Equation | Node,
        role: Role,
        wish: str,
        terms: dict[int, str],
    ) -> None:
        try:
            emitted.functions.append(self._function(phase, what, role, wish, terms))
        except Unwritable as failure:
            failures.append(failure)
            if isinstance(what, Node):
                self.names.give(_key(phase, what), wish)

    # --- one function ---

    def _function(self, phase: str, what: Equation | Node, role: Role, wish: str, terms: dict[int, str]) -> Written:
        node = what if isinstance(what, Node) else what.value
        in_optimizer = self.rule.kind == "optimizer"
        writer = Writer(self.target, self.names, terms, traced=in_optimizer and self.target.traced)
        writer.joint = self.joint.get(phase, {})
        if role in ("init", "draw", "drive"):
            assert isinstance(what, Equation)
            result = (self._like_p if in_optimizer else self._first_value)(writer, what)
        else:
            writer.name_shared(node)
            result = (role == "complete" and self._added(writer, node)) or writer.write(node)
        name = self._function_name(phase, what, role, wish)
        arguments = tuple(sorted(writer.arguments, key=self._order))
        if isinstance(what, Node):
            function = Function(role, name, arguments, phase, self.names[_key(phase, what)])
        else:
            target = None if role == "send" else self.names_or_signal(what.target)
            function = Function(
                role, name, arguments, phase, target, what.optimizer, self._is_full(what), *follows(what)
            )
        lines = [line for local, value in writer.lines for line in statement(f"{local} = ", value)]
        lines += statement("return ", result)
        self.values[name] = node
        return Written(function, self._signature(name, arguments), self._doc(what, role, node), lines)

    def _added(self, writer: Writer, node: Node) -> str | None:
        """`summed + c * W` with a number c, where the backend has one operation for it."""
        form = self.target.operations.get("add_scaled")
        if node.op == "add" and node.args[1].op == "mul" and callable(form):
            summed, (c, weight) = node.args[0], node.args[1].args
            if writer.is_number(c) and weight.op == "tensor" and weight.type == summed.type and not writer.lines:
                return form(writer, node)
        return None

    def names_or_signal(self, target: str) -> str:
        """The Python name of what an equation is for."""
        return self.names.get(target)

    def _function_name(self, phase: str, what: Equation | Node, role: Role, wish: str) -> str:
        if isinstance(what, Node):
            value = self.names.give(_key(phase, what), wish)
            return self.names.give(f"function of a term {value} {phase}", f"compute_{value}")
        target = self.names_or_signal(what.target)
        plain = {"send": "send", "assign": f"next_{target}"}
        name = plain.get(role, f"{role}_{target}")
        if phase not in (TASK, INIT):
            words = phase.replace(AFTER_STEP, "after").replace(": ", "_").replace(" ", "_")
            name += f"_{words}"
        alike = [e for e in self.equations.of("grad", phase=phase) if e.target == what.target]
        if role in ("grad", "complete") and what.optimizer != TASK and (phase == TASK or len(alike) > 1):
            name += f"_by_{what.optimizer}"
        return self.names.give(f"function {role} {what.target} {what.optimizer} {phase}", name)

    def _is_full(self, equation: Equation) -> bool:
        """Whether a value has the full shape of what it is for: `send = 0` is one number for all."""
        if _may_be_a_number(equation.value):
            return False
        declared = self.equations.tensors.get(equation.target)
        if equation.role == "send":
            return equation.value.type.axes == ACTIVITY
        if declared is None or declared.type.kind == "parameter":
            return True
        return _kind(equation.value.type) == _kind(declared.type)

    def _like_p(self, writer: Writer, equation: Equation) -> str:
        """A first or fresh value in an optimizer: a number, or made in the shape and type of p."""
        node, p = equation.value, PARAMETER_NODE
        if self.equations.tensors[equation.target].type.kind == "scalar":
            if node.op == "random":
                return self._first_value(writer, equation)
        elif node.op == "random":
            writer.like = writer.write(p)
            return self._drawn(writer, node)
        elif node.type.kind == "scalar":
            node = make("full_like", p, node)
        writer.name_shared(node)
        return writer.write(node)

    def _drawn(self, writer: Writer, node: Node) -> str:
        writer.name_shared(node)
        result = writer.write(node)
        if self.target.generator.partition("=")[0] in result:
            writer.use(self.target.generator.partition("=")[0])
        return result

    def _first_value(self, writer: Writer, equation: Equation) -> str:
        node = equation.value
        if node.op == "random":
            writer.use("shape")
            return self._drawn(writer, node)
        if node.type.kind == "scalar":
            writer.use("shape")
            writer.name_shared(node)
            form = self.target.operations["fill"]
            assert callable(form)
            return form(writer, node)
        writer.name_shared(node)
        return writer.write(node)

    def _order(self, argument: str) -> tuple[int, str]:
        """Map, tensors, signals and terms, sizes and counters, parameters: what has a default stands last."""
        tensors = self._tensor_ranks
        if argument in self._parameters:
            return 40_000_000, argument
        if argument in _RANK:
            return _RANK[argument], argument
        if argument in tensors:
            return 10 + tensors[argument], ""
        if argument in self.fixed:
            return 10_000_000 + self.fixed.index(argument), ""
        if argument in _FIXED_SCALARS:
            return 30_000_000 + _FIXED_SCALARS.index(argument), ""
        if argument == self.target.generator.partition("=")[0]:
            return (50_000_000 if "=" in self.target.generator else 1), ""
        return 20_000_000, argument

    @cached_property
    def _tensor_ranks(self) -> dict[str, int]:
        return {self.names[name]: rank for rank, name in enumerate(self.equations.tensors)}

    @cached_property
    def _parameters(self) -> dict[str, float | bool]:
        return {self.names[name]: value for name, value in self.equations.parameters.items()}

    def _signature(self, name: str, arguments: tuple[str, ...]) -> str:
        parameters, default = self._parameters, {self.target.generator.partition("=")[0]: self.target.generator}
        shown = [f"{a}={constant(parameters[a])}" if a in parameters else default.get(a, a) for a in arguments]
        return f"{name}({', '.join(shown)})"

    def parameters(self) -> dict[str, float]:
        """The parameters that are no static ones, by their names in the module."""
        return {self.names[name]: float(value) for name, value in self.equations.parameters.items()}

    # --- words ---

    def _doc(self, what: Equation | Node, role: Role, node: Node) -> list[str]:
        shown = show(_unnamed(self._as_written.get(id(what), (what, node))[1]), names=True)
        shown = shown.replace(SUMMED, self.names[SUMMED])
        if len(shown) > LONGEST_FORMULA:
            shown = "derived, see below"
        if isinstance(what, Node):
            return _docstring(f"{shown}, which several equations read.")
        words = {
            "send": "The error for the neurons that feed this layer",
            "grad": f"The pseudo-gradient of {what.target}",
            "complete": f"The pseudo-gradient of {what.target} from what backward passes have summed",
            "assign": f"The next value of {what.target}",
            "init": f"The first value of {what.target}",
            "draw": f"The value of {what.target} in this step",
            "drive": f"The activity that stands in for {what.target} in this phase",
        }
        if role == "grad" and _result(what) in self._divided:
            return _docstring(f"What a backward pass brings to the pseudo-gradient of {what.target}: {shown}.")
        return _docstring(f"{words[role]}: {shown}.")

    def _header(self) -> list[str]:
        """Title, source, digest and version. What the author wrote is shown as text that cannot end the docstring."""
        rule = self.rule
        digest = hashlib.sha256(rule.text.encode()).hexdigest()[:16]
        title = f"{rule.title} ({rule.name})" if rule.title else rule.name
        paragraphs: list[str | list[str]] = [f"{title}."]
        if rule.source:
            paragraphs.append(f"Source: {rule.source}")
        flows = ", ".join(dict.fromkeys(f"{entry.flow} -> {entry.sink}" for entry in rule.ledger))
        paragraphs.append(f"Locality: {rule.verdict}{f'; {flows}' if flows else ''}.")
        static = [f"{p.name} = {constant(p.value)}" for p in rule.checked.typed.parameters.values() if p.static]  # type: ignore[union-attr]
        if static:
            paragraphs.append(f"Compiled with {', '.join(static)}.")
        documented = {n: d for n, d in self.equations.documentation.items() if n in self.equations.parameters}
        if documented:
            width = max(len(self.names[name]) for name in documented)
            paragraphs.append([f"{self.names[name]:{width}}  {doc}" for name, doc in documented.items()])
        paragraphs.append(f"Made by ruledsl {__version__} from rule text {digest}.")
        lines: list[str] = []
        for paragraph in paragraphs:
            for part in [paragraph] if isinstance(paragraph, str) else paragraph:
                lines += textwrap.wrap(_harmless(part), WIDTH, subsequent_indent="" if part is paragraph else "    ")
            lines.append("")
        return lines[:-1]

    def tensors(self) -> tuple[Tensor, ...]:
        """What a runtime has to keep for the rule."""
        result = []
        # A tensor that one phase assigns and another one has a pseudo-gradient for is a parameter.
        learned = {e.target: e.role for role in ("assign", "grad") for e in self.equations.of(role)}
        readers: dict[str, set[str]] = {}
        for equation in self.equations.equations:
            for name in reads(equation.value):
                readers.setdefault(name, set()).add(equation.target)
        for name, d in self.equations.tensors.items():
            spaces = tuple(str(space) for space in (d.type.source, d.type.target) if space is not None)
            space = ("p",) if d.type.kind == "parameter" else spaces
            learns = learned.get(name)
            kept = "send" in readers.get(name, ()) and readers[name] <= {"send", name}
            own_decay = any(e.target == name and _pulls(e.value, name) for e in self.equations.of("grad"))
            given = self.names[name]
            called = "" if given == name else name
            result.append(Tensor(given, d.kind, space, learns, kept, own_decay, called))  # type: ignore[arg-type]
        return tuple(result)


def _from_summed(value: Node, summed: Node) -> Node:
    """A pseudo-gradient, in which what is summed has arrived already."""
    arrived = tensor(SUMMED, summed.type)
    return rewrite(value, lambda node, args: arrived if node is summed else with_args(node, args))


def _result(equation: Equation) -> tuple[str, str, str]:
    """What an equation is for."""
    return equation.phase, equation.target, equation.optimizer


def _may_be_a_number(node: Node) -> bool:
    """Whether a value is one number for all: a constant, or a sum over layers downstream of which there may be none."""
    if node.op in ("const", "sum_k"):
        return True
    parts = [arg for arg in node.args if arg.type.kind != "scalar"]
    return node.op in ("neg", "mul", "div", "add", "sub", "transpose") and all(map(_may_be_a_number, parts))


def _kind(type: Type) -> object:
    """A map; a vector with certain axes; or a scalar."""
    return (type.kind, type.axes)


def _pulls(node: Node, name: str) -> bool:
    """Whether a sum has a term `c * P`, with a number c."""
    match node.op:
        case "tensor":
            return node.attrs[0] == name
        case "add" | "sub" | "neg" | "transpose":
            return any(_pulls(arg, name) for arg in node.args)
        case "where":
            return any(_pulls(arg, name) for arg in node.args[1:])
        case "mul" | "div":
            numbers = [arg for arg in node.args if arg.type.kind == "scalar"]
            return bool(numbers) and any(_pulls(arg, name) for arg in node.args if arg.type.kind != "scalar")
    return False


def _unnamed(node: Node) -> Node:
    return replace(node, name=None)


def _docstring(text: str) -> list[str]:
    """A docstring, wrapped: the closing quotes stand behind the last line where there is only one."""
    lines = textwrap.wrap(text, WIDTH, initial_indent='"""', subsequent_indent="    ")
    return [f'{lines[0]}"""'] if len(lines) == 1 else [*lines, '"""']


def _key(phase: str, node: Node) -> str:
    return f"term {phase} {id(node)}"


def _harmless(text: str) -> str:
    """Text for a docstring: printable ASCII-safe characters, no way to end the string or to start an escape."""
    printable = "".join(c if c.isprintable() else " " for c in text)
    return printable.replace("\\", "\\\\").replace('"', "'")
