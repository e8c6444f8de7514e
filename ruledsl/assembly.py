"""A rule on a network, on plain facts about its layers: which follow what, in what order, and whether that fits.

Both backends' `convert` hand in what they have found in a network, and install what comes out. No framework is here.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ruledsl.emit.binding import Binding, is_family
from ruledsl.errors import UserError, suggest
from ruledsl.locality import experiment as locality
from ruledsl.locality.experiment import Experiment
from ruledsl.locality.flow import Ledger, Verdict
from ruledsl.program import TASK, Program, Schedule

Shape = tuple[int, ...]


class Compilable(Protocol):
    """A rule, as `ruledsl.load` gives it."""

    def compile(self, backend: str) -> Program: ...


RuleLike = Program | Compilable | str | Path


@dataclass(frozen=True)
class Facts:
    """What is known of a weight layer before it is converted.

    kind       its class, in words: `Linear`
    dense      whether the shape of its activities follows from the layer alone
    indices    whether its input is indices
    units_out  its outputs, or channels
    taken      names of its attributes, which no tensor of a rule may have
    """

    kind: str
    dense: bool
    units_out: int
    indices: bool = False
    taken: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Traced:
    """What a layer met when an example went through the network: shapes with the batch.

    sends       whether its input depends on parameters, so that an error can go there
    downstream  the layers whose activity depends on this one's, in the order in which they run
    visits      how often it ran
    """

    input_shape: Shape
    output_shape: Shape
    sends: bool = True
    downstream: tuple[str, ...] = ()
    visits: int = 1


@dataclass(frozen=True)
class Trace:
    """An example's way through a network: its layers in the order in which they ran first.

    classes   of the network's output [batch, classes]; None for an output of another shape
    classless why there is no number of classes, where more is known of that
    outputs   the weight layers from which the network's output is reached without another one between
    unclear   why these are not known, where they are not
    idle      the layers that did not run in the network's own mode, be it training or evaluation
    hidden    why what lies downstream of a layer is not known; empty where it is
    outside   the layers whose weights are read elsewhere than in their calls
    """

    layers: Mapping[str, Traced] = field(default_factory=dict)
    classes: int | None = None
    classless: UserError | None = None
    outputs: tuple[str, ...] = ()
    unclear: str = ""
    idle: tuple[str, ...] = ()
    hidden: str = ""
    outside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """A rule with the values that its parameters have.

    verdict   of its ledger: `local` or `nonlocal`; None for a program, which has no ledger
    ledger    what its synapses would have to know
    """

    program: Program
    parameters: Mapping[str, float]
    verdict: Verdict | None = None
    ledger: Ledger = ()

    @property
    def rule(self) -> str:
        """Its name."""
        return self.program.rule

    @property
    def binding(self) -> Binding:
        """What it computes, and when."""
        return self.program.binding

    @property
    def driven(self) -> tuple[str, ...]:
        """Its phases with an input of their own."""
        return tuple(own.phase for own in self.binding.driven)


@dataclass(frozen=True)
class Place:
    """What a layer is told when it takes up its rule."""

    part: Part
    phi: Callable[[Any], Any] | None
    sends: bool
    input_shape: Shape | None
    output_shape: Shape | None
    downstream: Mapping[str, Shape]


@dataclass(frozen=True)
class Assembly:
    """Everything that `convert` installs.

    places       by layer, in the order in which they run, where that is known
    constraints  what was added to the rule
    classes      the network's outputs, or None where no rule asks for them
    whole        whether more than the layers takes part in a pass: a rule reads e or delta[k], or there are phases
    """

    places: Mapping[str, Place]
    constraints: tuple[Part, ...]
    classes: int | None
    whole: bool


def compiled(rule: RuleLike, backend: str, parameters: Mapping[str, float]) -> Part:
    """A rule in any of its forms. Raises UserError for what is no rule, and for a parameter that it doesn't have."""
    if isinstance(rule, str | Path):
        import ruledsl

        if parameters:
            _check_parameters(str(rule), ruledsl.load(rule).parameters, parameters)
        loaded = ruledsl.load(rule, **parameters)  # static parameters can be given, too
        return replace(part_of(loaded.compile(backend), {}), verdict=loaded.verdict, ledger=loaded.ledger)
    if isinstance(rule, Program):
        return part_of(rule, parameters)
    program = None if isinstance(rule, type) or not hasattr(rule, "compile") else rule.compile(backend)
    if not isinstance(program, Program):
        raise UserError(
            f"{rule!r} is no rule",
            'a rule is a name such as "feedback_alignment", the path of a file, ruledsl.load(...), or a Program',
        )
    known = part_of(program, parameters)
    return replace(known, verdict=getattr(rule, "verdict", None), ledger=getattr(rule, "ledger", ()))


def part_of(program: Program, parameters: Mapping[str, float]) -> Part:
    """A program with parameters. Raises UserError for one that it doesn't have."""
    _check_parameters(program.rule, program.parameters, parameters)
    return Part(program, {**program.parameters, **parameters})


def _check_parameters(rule: str, known: Iterable[str], given: Iterable[str]) -> None:
    for name in given:
        if name not in known:
            raise UserError(f"{rule} has no parameter `{name}`", suggest(name, known))


def unsuitable(facts: Facts, part: Part) -> str | None:
    """Why a layer cannot follow this rule, where it could follow others."""
    if facts.indices and (not part.program.maps_x_alone or part.driven):
        return f"its input is indices, and {part.rule} reads x as an activity"
    return None


def learning_rule(part: Part) -> Part:
    """The same part. Raises UserError for what is no learning rule by itself."""
    binding = part.binding
    if binding.task is None or binding.task.of("x") is None:
        raise UserError(f"{part.rule} is no learning rule: it sends no error to the layer below")
    for own in binding.driven:
        missing = sorted({"delta", "e", "delta_k"} & own.reads)
        if missing:
            raise UserError(f"{part.rule} reads {missing[0]} in {own.phase}, where no errors travel")
    return part


def constraint(part: Part) -> Part:
    """The same part. Raises UserError for what is no constraint."""
    binding = part.binding
    passing = any(f.phase == TASK and f.role != "draw" for f in part.program.functions)
    if not binding.after or binding.evoked or binding.driven or passing:
        raise UserError(f"{part.rule} is no constraint: it does not act after a step alone")
    return part


def assemble(
    layers: Mapping[str, Facts],
    trace: Trace,
    parts: Mapping[str, Part],
    constraints: Sequence[Part],
    phis: Mapping[str, Callable[[Any], Any] | None],
    example_of_phi: str,
) -> Assembly:
    """What every layer is told. Raises UserError where network and rules do not fit.

    parts           by layer, the rule that it follows; a layer without one stays what it is
    phis            by layer, its activation, where one is declared
    example_of_phi  how one is declared: an activation of the backend
    """
    ordered = [*trace.layers, *(name for name in layers if name not in trace.layers)]
    parts = {name: learning_rule(parts[name]) for name in ordered if name in parts}
    bindings = [each.binding for each in parts.values()]
    classes = _classes(layers, bindings, trace)
    added = tuple(constraint(each) for each in constraints)
    for name, own in parts.items():
        _check_phi(name, (own, *added), phis, example_of_phi)
        _check_shapes(name, layers[name], own, trace)
    _check_names(layers, parts, added)
    _check_phases(parts, trace)
    places = {name: _place(parts, name, trace, phis) for name in parts}
    scheduled = any(own.program.schedule != Schedule() for own in parts.values())
    whole = scheduled or any(binding.direct or binding.dense or binding.evoked for binding in bindings)
    return Assembly(places, added, classes, whole)


def _place(
    parts: Mapping[str, Part], name: str, trace: Trace, phis: Mapping[str, Callable[[Any], Any] | None]
) -> Place:
    own, binding = parts[name], parts[name].binding
    at = trace.layers.get(name)
    if at is None:
        return Place(own, phis.get(name), True, None, None, {})
    # A layer that follows no rule tells nobody its error.
    downstream = [other for other in at.downstream if other in parts]
    below = {other: trace.layers[other].output_shape[1:] for other in downstream} if binding.dense else {}
    sends = at.sends or not binding.for_senders
    return Place(own, phis.get(name), sends, at.input_shape, at.output_shape, below)


def _classes(layers: Mapping[str, Facts], bindings: Iterable[Binding], trace: Trace) -> int | None:
    """The number of outputs, where a rule asks for it."""
    if not any(binding.reads_out for binding in bindings):
        return None
    if trace.layers:
        if trace.classes is None:
            raise trace.classless or UserError(
                "the network's output is not [batch, classes], as a rule that reads e or target needs it"
            )
        return trace.classes
    dense = [facts.units_out for facts in layers.values() if facts.dense]
    if not dense:
        raise UserError("the rule reads e or target, and the number of classes is unknown", "give convert an example=")
    return dense[-1]


def _check_shapes(name: str, facts: Facts, own: Part, trace: Trace) -> None:
    for tensor in own.binding.tensors:
        if is_family(tensor) and name not in trace.layers:
            raise UserError(
                f"{own.rule} has a map `{tensor.name}` from every layer downstream",
                "give convert an example= of an input batch, from which it learns the order of the layers",
            )
        between = "out" in tensor.space and len(tensor.space) == 2
        if between and not facts.dense and name not in trace.layers:
            raise UserError(
                f"{own.rule}: `{tensor.name}` is a map between a convolution's neurons and the output, and their "
                "number depends on the size of the images",
                "give convert an example= of an input batch",
            )


def _check_phi(
    name: str, parts: Sequence[Part], phis: Mapping[str, Callable[[Any], Any] | None], example_of_phi: str
) -> None:
    for own in parts:
        if own.binding.reads_phi and phis.get(name) is None:
            raise UserError(
                f"{own.rule} reads phi, and {name or 'the network'} declares no activation",
                f"convert(..., activations={{{name!r}: {example_of_phi}}})",
            )


def _check_names(layers: Mapping[str, Facts], parts: Mapping[str, Part], added: Sequence[Part]) -> None:
    for name in parts:
        facts = layers[name]
        own = [tensor.name for tensor in parts[name].binding.tensors if tensor.kind != "forward"]
        extra = [f"{each.rule}_{t.name}" for each in added for t in each.binding.tensors if t.kind != "forward"]
        names = [*own, *extra]
        for tensor in names:
            families = "|".join(re.escape(family) for family in parts[name].binding.families)
            numbered = families and re.fullmatch(rf"({families})_\d+", tensor)  # as the maps of a family are called
            if names.count(tensor) > 1 or tensor in facts.taken or numbered:
                raise UserError(
                    f"{parts[name].rule} calls a tensor `{tensor}`, and {facts.kind} has a part of that name",
                    "give it another name in the rule",
                )


def _check_phases(parts: Mapping[str, Part], trace: Trace) -> None:
    scheduled = {own.program.schedule: own.rule for own in parts.values() if own.program.schedule != Schedule()}
    if len(scheduled) > 1:
        one, other = list(scheduled.values())[:2]
        raise UserError(f"{one} has a schedule that differs from that of {other}, and a network has one")
    driven = {phase for own in parts.values() for phase in own.driven}
    evoked = {phase: own.rule for own in parts.values() for phase in own.binding.with_errors}
    silent = {phase: own.rule for own in parts.values() for phase in own.binding.without_errors}
    for phase in driven & {*evoked, *silent}:
        raise UserError(f"the phase {phase} has a drive in one of the rules, and none in another")
    for phase in evoked.keys() & silent.keys():
        raise UserError(f"errors travel in the phase {phase} of {evoked[phase]}, and not in that of {silent[phase]}")
    for name, own in parts.items():
        if own.driven and name not in trace.layers:
            raise UserError(f"{own.rule} drives every layer", "give convert an example= of an input batch")
        if own.binding.dense and trace.layers[name].visits > 1:
            raise UserError(f"{own.rule} reads delta[k], and {name} runs {trace.layers[name].visits} times")
        if own.binding.dense and trace.hidden:
            raise UserError(f"{own.rule} reads delta[k], and {trace.hidden}")


def check_elementwise(name: str, activation: Callable[[Any], Any], array: Callable[[Any], Any]) -> None:
    """An activation is what each neuron does by itself. Raises UserError for one that mixes the neurons of a layer.

    array  makes an array of the backend from one of NumPy
    """
    plain = np.linspace(-1.0, 1.0, 6, dtype=np.float32).reshape(2, 3)
    other = plain.copy()
    other[0, 0] += 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            before, after = (np.asarray(activation(array(v))) for v in (plain, other))
        except (TypeError, ValueError, RuntimeError, IndexError):  # what can't take these is for the first pass to say
            return
    if before.shape == plain.shape and not np.array_equal(before.ravel()[1:], after.ravel()[1:]):
        raise UserError(
            f"the activation of {name} mixes neurons: each would have to know the others of its layer",
            "rules call `phi` what a neuron does by itself, such as relu or tanh",
        )


MOST_NAMES = 3  # of layers, in a line


def experiment_of(
    layers: Mapping[str, Part | None],
    traced: Trace,
    output: Part | None,
    constraints: Sequence[Part],
    network: Sequence[str],
    optimizers: Sequence[locality.Part] = (),
) -> Experiment:
    """The ledger of all that trains a network.

    layers   by name, the rule that each follows; None for those that are left to the framework
    output   the rule that layers at the network's output were given, where it is another
    network  what it adds by itself, see `ruledsl.locality.experiment.of_network`
    """
    named: dict[int, tuple[Part, list[str]]] = {}
    for name, part in layers.items():
        if part is not None:
            named.setdefault(id(part), (part, []))[1].append(name)
    alone = [name for name, part in layers.items() if part is None]
    quiet = [name for name in alone if name in traced.layers and not traced.layers[name].sends]
    loud = [name for name in alone if name not in quiet]
    several = len(named) + bool(alone) > 1
    found = [
        locality.Part(
            "output rule" if part is output else "rule",
            part.rule,
            part.verdict,
            part.ledger,
            _listed(names) if several else "",
        )
        for part, names in named.values()
    ]
    if loud:
        found.append(locality.Part("rule", FRAMEWORKS, "nonlocal", where=_listed(loud)))
    if quiet:
        found.append(locality.Part("rule", FRAMEWORKS, "local", where=f"{_listed(quiet)}, which sends to nobody"))
    found += [*optimizers, *(locality.Part("constraint", one.rule, one.verdict, one.ledger) for one in constraints)]
    hidden = sum(part is None or part is not output for part in layers.values())
    return Experiment(tuple(found), tuple(network), locality.sends_back(found, hidden))


FRAMEWORKS = "the framework's own backpropagation"


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    shown = ", ".join(name or "the network itself" for name in names[:MOST_NAMES])
    return shown + (f" and {more} more" if more > 0 else "")
