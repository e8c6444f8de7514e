"""Which layer of a network follows which rule: by its name, by its place at the output, or as all others do.

Both backends' `convert` ask here, before anything has changed. No framework is here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ruledsl.assembly import Part, RuleLike, Trace, compiled
from ruledsl.errors import UserError, suggest
from ruledsl.program import Program

Choice = RuleLike | tuple[RuleLike, Mapping[str, float]] | None
"""What a layer is to follow: a rule, one with parameters, or None, which leaves the layer alone."""

EVERYTHING = "*"


@dataclass(frozen=True)
class Choices:
    """What a call of `convert` asks for, compiled.

    rule       of the layers that nothing below names; None where it has to name all of them
    patterns   by a pattern of names, the rule of these layers, or None, which leaves them alone; the first one counts
    output     of the layers at the network's output, before any pattern
    """

    rule: Part | None
    patterns: Mapping[str, Part | None]
    output: Part | None

    @property
    def parts(self) -> tuple[Part, ...]:
        """Every rule once, the most general one first."""
        named = (self.rule, *self.patterns.values(), self.output)
        return tuple({id(part): part for part in named if part is not None}.values())


def compiled_choices(
    backend: str,
    rule: RuleLike | None,
    rules: Mapping[str, Choice] | None,
    output: RuleLike | None,
    parameters: Mapping[str, float],
) -> Choices:
    """The rules that a call names, compiled. Raises UserError for what is no rule, and for no rule at all."""
    if isinstance(rule, Mapping):
        raise UserError("a mapping is no rule", "rules by the names of layers are given as convert(net, rules={...})")
    if rules is not None and not (isinstance(rules, Mapping) and all(isinstance(pattern, str) for pattern in rules)):
        raise UserError(
            f"rules is {type(rules).__name__}, where rules by the names of layers were expected",
            'for example rules={"head*": "backprop", "*": "feedback_alignment"}',
        )
    if rule is None and not rules:
        raise UserError("convert was given no rule", 'for example convert(net, "feedback_alignment")')
    if rule is None and parameters:
        raise UserError(
            f"the parameter {next(iter(parameters))} belongs to no rule: it goes to `rule`, which was not given",
            'rules take their own: rules={"*": ("kolen_pollack", {"decay": 0.01})}',
        )
    return Choices(
        None if rule is None else compiled(rule, backend, parameters),
        {pattern: _chosen(choice, backend) for pattern, choice in (rules or {}).items()},
        None if output is None else compiled(output, backend, {}),
    )


def several(constraints: Any) -> list[RuleLike]:
    """The constraints that a call names; one of them may stand for itself. Raises UserError for what is none."""
    if isinstance(constraints, str | Path | Program) or hasattr(constraints, "compile"):
        return [constraints]
    if constraints is not None and not isinstance(constraints, Iterable):
        raise UserError(f"{constraints!r} is no constraint", 'for example constraints=["constant_norm"]')
    return list(constraints or ())


def _chosen(choice: Choice, backend: str) -> Part | None:
    if choice is None:
        return None
    if isinstance(choice, tuple):
        if len(choice) != 2 or not isinstance(choice[1], Mapping):
            raise UserError(f"{choice!r} is no rule", 'with parameters it is ("kolen_pollack", {"decay": 0.01})')
        return compiled(choice[0], backend, choice[1])
    return compiled(choice, backend, {})


def follow(
    layers: Iterable[str], chosen: Choices, outputs: Sequence[str] = (), others: Mapping[str, str] | None = None
) -> dict[str, Part | None]:
    """By layer, the rule that it follows; None where it is to be left alone.

    outputs  the layers at the network's output, which follow `chosen.output` where there is one
    others   modules that cannot follow a rule, and why: a pattern may name them to leave them alone

    Raises UserError for a layer that nothing names, and for a pattern that decides nothing.
    """
    layers, others = list(layers), others or {}
    at_output = set(outputs) if chosen.output is not None else set()
    first = {name: _first(name, chosen.patterns) for name in layers if name not in at_output}
    for pattern in chosen.patterns:
        if pattern not in first.values():
            _check_idle(pattern, chosen, layers, others, at_output)
    nobody = [name for name, pattern in first.items() if pattern is None]
    if nobody and chosen.rule is None:
        raise UserError(
            f"no pattern of rules names {_listed(nobody)}",
            'end with "*": a rule for all others, or "*": None, which leaves them alone',
        )
    found: dict[str, Part | None] = {}
    for name in layers:
        by = first.get(name)
        named = chosen.rule if by is None else chosen.patterns[by]
        found[name] = chosen.output if name in at_output else named
    if layers and not any(found.values()):
        raise UserError("rules leave every layer alone", "name a rule for some of them, or don't convert the network")
    return found


def left_alone(others: Iterable[str], chosen: Choices) -> list[str]:
    """Those modules that cannot follow a rule, and that a pattern says to leave alone anyway."""
    first = {name: _first(name, chosen.patterns) for name in others}
    return [name for name, pattern in first.items() if pattern is not None and chosen.patterns[pattern] is None]


def _first(name: str, patterns: Iterable[str]) -> str | None:
    return next((pattern for pattern in patterns if fnmatchcase(name, pattern)), None)


def _check_idle(
    pattern: str, chosen: Choices, layers: Sequence[str], others: Mapping[str, str], at_output: set[str]
) -> None:
    """Raises UserError for a pattern that decides nothing, unless it is there for whatever may be left."""
    named = [name for name in layers if fnmatchcase(name, pattern)]
    unable = [name for name in others if fnmatchcase(name, pattern)]
    if pattern == EVERYTHING or (unable and chosen.patterns[pattern] is None):
        return
    if named:
        before = {_first(name, chosen.patterns) for name in named if name not in at_output}
        if at_output & set(named):
            raise UserError(
                f"rules names {_listed(named)}, and so does output: the network's output comes from there",
                "leave one of the two out",
            )
        raise UserError(
            f"the pattern {pattern!r} of rules decides nothing: {', '.join(map(repr, sorted(map(str, before))))} "
            "stands before it and names the same layers",
            "the first pattern that fits counts: put the narrow ones first",
        )
    if unable:
        raise UserError(
            f"rules names {unable[0]}, which cannot follow a rule: {others[unable[0]]}",
            f"rules={{{pattern!r}: None}} leaves it alone",
        )
    inside = any(name.startswith(f"{pattern}.") for name in layers)
    near = f"its layers are {pattern + '.*'!r}" if inside else suggest(pattern, map(_shown, layers))
    raise UserError(f"the pattern {pattern!r} of rules names no layer of {_listed(layers)}", near)


def output_layers(trace: Trace, layers: Sequence[str], others: Mapping[str, str]) -> tuple[str, ...]:
    """The layers at the network's output. Raises UserError where that is not clear, naming the candidates."""
    found = tuple(name for name in layers if name in trace.outputs)
    help = f"name them: rules={{{_shown((found or layers)[-1])!r}: ...}}"
    if trace.unclear:
        raise UserError(f"{trace.unclear}: output= could mean {_listed(found or layers)}", help)
    if not found:
        reached = [f"{_shown(name)} ({others[name]})" for name in trace.outputs if name in others]
        why = f"comes from {', '.join(reached)}" if reached else "depends on no weight layer"
        raise UserError(
            f"output= has no layer to teach: the network's output {why}. There are {_listed(layers)}",
            help,
        )
    return found


def _listed(names: Sequence[str], most: int = 12) -> str:
    shown = [_shown(name) for name in names]
    return ", ".join(shown if len(shown) <= most else [*shown[: most // 2], "...", *shown[-(most // 2) :]])


def _shown(name: Any) -> str:
    return str(name) or "the network itself"
