"""From a configuration to a run before its first step: everything is found, checked, compiled and built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ruledsl import architectures, assembly, data
from ruledsl.architectures import Architecture
from ruledsl.architectures.components import BatchNorm, Conv
from ruledsl.assembly import experiment_of
from ruledsl.choices import EVERYTHING, Choices, follow
from ruledsl.data import Dataset
from ruledsl.data.augment import augmentations
from ruledsl.errors import UserError, need, suggest
from ruledsl.locality.experiment import Experiment, Part, of_network, with_moved_thresholds
from ruledsl.locality.steadiness import moves_thresholds
from ruledsl.program import TASK, Program, Schedule
from ruledsl.training.config import BUILT_IN, NO_RULE, Config, OptimizerConfig, as_settings
from ruledsl.training.connections import connections
from ruledsl.training.engine import Engine, decaying_by_themselves, find_engine, hears_of_labels
from ruledsl.training.schedule import first_epochs

if TYPE_CHECKING:
    from ruledsl.rule import Rule


Layers = Mapping[str, "tuple[Rule, Program] | None"]
"""By patterns of layers' names, their rules; None where the layers are left alone."""


@dataclass(frozen=True)
class Prepared:
    """A run before its first step: everything is found, checked and built, nothing is written."""

    config: Config
    dataset: Dataset
    architecture: Architecture
    engine: Engine
    rule: Rule | None
    output: Rule | None
    programs: tuple[Program | None, Program | None]
    constraints: tuple[tuple[Rule, Program], ...] = ()
    layers: Layers = field(default_factory=dict)

    @property
    def schedule(self) -> Schedule:
        """The phases of the rule; where it has none, those of another layer's rule."""
        programs = (*self.programs, *(each[1] for each in self.layers.values() if each))
        schedules = [program.schedule for program in programs if program is not None]
        return next((schedule for schedule in schedules if schedule != Schedule()), Schedule())

    def with_folder(self, folder: Path) -> Prepared:
        """This run, writing into another folder."""
        return replace(self, config=self.config.model_copy(update={"out": folder}))

    @property
    def notes(self) -> list[str]:
        """What the user should know of it."""
        return [*_notes(self), *([self.untaught] if self.untaught else []), *self.engine.notes]

    @property
    def untaught(self) -> str | None:
        """What to say of a run that ends before the rule's first phases do, in which W learns nothing of the task."""
        first = [name for _, names in self.schedule.first for name in names]
        if not self.config.epochs or TASK in first or first_epochs(self.schedule) < self.config.epochs:
            return None
        phases = " and ".join(dict.fromkeys(first))
        return (
            f"W has learnt nothing of the task: the rule begins with {first_epochs(self.schedule):g} epochs of "
            f"{phases} alone, and the run has {self.config.epochs}"
        )

    @cached_property
    def experiment(self) -> Experiment:
        """What all that trains the network would have to know."""
        return _experiment(self)

    @property
    def title(self) -> str:
        """Rule, network and dataset."""
        rule = self.rule.name if self.rule else "autograd"
        return f"{rule} on {self.dataset.name} ({self.architecture.name}, seed {self.config.seed})"


def prepare(config: Config) -> Prepared:
    """Find, check and build everything. Raises like `train`."""
    rule, program = load_compiled(config.rule, config.first_parameters, config.backend)
    output = load_rule(config.output, {}) if config.output else None
    programs = program, output.compile(config.backend) if output else None
    layers = load_layers(config)
    check_optimizers(config, (*programs, *(each[1] for each in layers.values() if each)))
    return prepare_with(config, rule, output, programs, layers=layers)


def prepare_with(
    config: Config,
    rule: Rule | None,
    output: Rule | None,
    programs: tuple[Program | None, Program | None],
    dataset: Dataset | None = None,
    layers: Layers | None = None,
) -> Prepared:
    """A run of programs that are compiled already (None: the backend's own backpropagation), on loaded data.

    layers   by patterns of layers' names, other rules for these layers
    """
    need("safetensors", "saving weights", "train")
    if config.tensorboard:
        need("tensorboardX", "TensorBoard events", "train")
    dataset = dataset or load_dataset(config)
    layers = layers or {}
    taught = {pattern: each and each[1] for pattern, each in layers.items()}
    config = resolved(config, dataset, programs, [program for program in taught.values() if program])
    architecture = architectures.get(config.model.name, dataset.shape, dataset.classes, **config.model.options)
    engine = find_engine(config.backend)
    constraints = tuple((c, c.compile(config.backend)) for c in load_constraints(config))
    try:
        engine.init(architecture, *programs, config, [program for _, program in constraints], taught)
    except MemoryError as error:
        raise UserError(f"the network {architecture.name} does not fit into memory: {error}") from None
    return Prepared(config, dataset, architecture, engine, rule, output, programs, constraints, layers)


def check_optimizers(config: Config, programs: Iterable[Program | None]) -> None:
    """Raises UserError for an optimizer of the configuration by which none of these programs moves anything."""
    known = {f.optimizer for program in programs if program for f in program.functions if f.role == "grad"} - {TASK}
    for name in config.optimizers:
        if name not in known:
            help = suggest(name, known) if known else "--set optimizer.lr=0.01 sets the rate of W"
            raise UserError(f"no rule of this run trains by an optimizer `{name}`", help)


def load_dataset(config: Config) -> Dataset:
    """The images that a run learns from and is tested with. Raises UserError."""
    dataset = data.load(config.data.name, config.data.folder, **config.data.options)
    dataset = dataset.read_by(config.data.workers)
    dataset = dataset.limited(config.data.train_images, config.data.test_images)
    dataset = dataset.standardized() if config.data.standardize else dataset
    return dataset.augmented(augmentations(config.data.augment))


def load_compiled(name: str, parameters: Mapping[str, float | bool], backend: str) -> tuple[Rule, Program]:
    """A rule with parameters, and the program of it that all values of those have in common which are not static."""
    rule = load_rule(name, parameters)
    known = rule.compile(backend).parameters
    static = {key: value for key, value in parameters.items() if key not in known}
    program = load_rule(name, static).compile(backend)
    return rule, replace(program, parameters={**program.parameters, **{key: rule.parameters[key] for key in known}})


def load_rule(name: str, parameters: Mapping[str, float | bool]) -> Rule:
    """A rule by name or path. Raises RuleError, UserError."""
    return _load("rule", name, parameters)


def load_layers(config: Config) -> Layers:
    """The rules that a configuration gives to single layers, compiled. Raises RuleError, UserError."""
    loaded: dict[str, tuple[Rule, Program] | None] = {}
    for pattern, layer in config.layers.items():
        rule = None if layer.rule == NO_RULE else load_rule(layer.rule, layer.parameters)
        loaded[pattern] = None if rule is None else (rule, rule.compile(config.backend))
    return loaded


def load_constraints(config: Config) -> list[Rule]:
    """The constraints that a configuration adds. Raises RuleError, UserError."""
    for name in config.constraint_parameters:
        if name not in config.constraints:
            raise UserError(f"constraint_parameters names {name!r}", suggest(name, config.constraints))
    return [_load("constraint", name, config.constraint_parameters.get(name, {})) for name in config.constraints]


def _load(kind: str, name: str, parameters: Mapping[str, float | bool]) -> Rule:
    import ruledsl

    if parameters:
        known = ruledsl.load(name).parameters
        for parameter in parameters:
            if parameter not in known:
                raise UserError(f"the {kind} {name} has no parameter `{parameter}`", suggest(parameter, known))
    rule: Rule = ruledsl.load(name, **parameters)
    if rule.kind != kind:
        raise UserError(f"`{name}` is no {kind} but of the kind {rule.kind}", "`ruledsl list` shows them")
    return rule


def resolved(
    config: Config,
    dataset: Dataset,
    programs: tuple[Program | None, Program | None],
    layers: Sequence[Program] = (),
) -> Config:
    """The configuration with what was left open: the network, and the optimizers that the rules bring along."""
    optimizers = {TASK: config.optimizer, **config.optimizers}
    for program in reversed([p for p in (*programs, *layers) if p is not None]):
        for name, (kind, values) in program.optimizers.items():
            asked = optimizers[name].model_dump(exclude_unset=True) if name in optimizers else {}
            own = as_settings(kind, values) if asked.get("name", kind) == kind else {}
            optimizers[name] = _optimizer(name, {**own, **asked})
        used = {f.optimizer for f in program.functions if f.role == "grad"}
        for name in sorted(used - optimizers.keys()):
            raise UserError(
                f"the rule {program.rule} trains by an optimizer `{name}`, which the configuration does not have",
                f"set it, for example --set optimizers.{name}.lr=0.01",
            )
    for name, optimizer in optimizers.items():
        optimizers[name] = _optimizer(name, {**optimizer.model_dump(exclude_unset=True), "name": optimizer.name})
        if optimizer.name not in BUILT_IN:
            _load("optimizer", optimizer.name, optimizer.parameters)
    rule = programs[0]
    for name in config.schedules:
        if rule is None or name not in rule.parameters:
            which = "there is no rule" if rule is None else f"`{name}` of {rule.rule} is static: the compiler fixes it"
            raise UserError(f"the parameter `{name}` cannot follow a schedule: {which}")
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"name": config.model.name or _usual(dataset, config)}),
            "optimizer": optimizers.pop(TASK),
            "optimizers": optimizers,
        }
    )


def _optimizer(name: str, values: Mapping[str, Any]) -> OptimizerConfig:
    """With settings of which all are for it. Raises UserError."""
    try:
        return OptimizerConfig.model_validate(values)
    except ValidationError as error:
        said = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(f"the optimizer {values.get('name')}{'' if name == TASK else f' of {name}'}: {said}") from None


def _usual(dataset: Dataset, config: Config) -> str:
    """The network that fits the dataset."""
    normalised = f"{dataset.model}_bn"
    return normalised if config.model.batch_norm and normalised in architectures.TABLE else dataset.model


def _experiment(prepared: Prepared) -> Experiment:
    config, architecture = prepared.config, prepared.architecture
    rule, output = (_part(*both) for both in zip((prepared.rule, prepared.output), prepared.programs, strict=True))
    patterns = {pattern: one and _part(*one) for pattern, one in prepared.layers.items()}
    traced = connections(architecture, config.data.batch_size)
    chosen = Choices(rule, patterns if rule else {**patterns, EVERYTHING: None}, output)
    learners = follow(traced.layers, chosen, traced.outputs) if chosen.parts else dict.fromkeys(traced.layers)
    own = {
        slot: _load("optimizer", one.name, one.parameters)
        for slot, one in {TASK: config.optimizer, **config.optimizers}.items()
        if one.name not in BUILT_IN
    }
    optimizers = [
        Part("optimizer", loaded.name, loaded.verdict, loaded.ledger, "" if slot == TASK else f"of {slot}")
        for slot, loaded in own.items()
    ]
    constraints = [assembly.Part(program, {}, one.verdict, one.ledger) for one, program in prepared.constraints]
    layers = [place.layer for place in architecture.places()]
    norms = any(isinstance(layer, BatchNorm) or getattr(layer, "norm", None) is not None for layer in layers)
    movers = [*own.values(), *(one for one, _ in prepared.constraints)]
    moving = [mover.name for mover in movers if moves_thresholds(mover.equations)]
    network = (
        *of_network(norms, any(isinstance(layer, Conv) for layer in layers)),
        *with_moved_thresholds(moving, [part.ledger for part in learners.values() if part is not None]),
    )
    return experiment_of(learners, traced, output, constraints, network, optimizers)


def _part(rule: Rule | None, program: Program | None) -> assembly.Part | None:
    """A rule with its ledger; a program that came without a rule has none."""
    if program is None:
        return None
    return assembly.Part(program, {}, rule.verdict if rule else None, rule.ledger if rule else ())


def _notes(prepared: Prepared) -> list[str]:
    config = prepared.config
    taught_by_name = (each[1] for each in prepared.layers.values() if each)
    notes = [f"nonlocal as a whole: {words}" for words in prepared.experiment.additions()]
    for program in (*prepared.programs, *taught_by_name):
        own = decaying_by_themselves(program) if program else frozenset()
        for name, optimizer in {TASK: config.optimizer, **config.optimizers}.items():
            functions = program.functions if program else ()
            taught = {f.target for f in functions if f.role == "grad" and f.optimizer == name}
            decayed = ", ".join(sorted(own & taught))
            if optimizer.decay and decayed:
                which = "the optimizer" if name == TASK else f"the optimizer {name}"
                notes.append(
                    f"the rule decays {decayed} itself: {which}'s decay of {optimizer.decay} does not act on them"
                )
    parts = [*prepared.programs, *(each and each[1] for each in prepared.layers.values())]
    there = [program for program in parts if program is not None]
    if there and None not in parts[2:] and not any(map(hears_of_labels, there)):
        names = " and ".join(dict.fromkeys(program.rule for program in there))
        notes.append(f"{names} moves W by activity alone: nothing tells it of labels, and it classifies by guessing")
    return list(dict.fromkeys(notes))
