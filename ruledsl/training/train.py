"""One run, from a configuration to a folder with everything that came of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any, Protocol, Self

from ruledsl import architectures, assembly, data
from ruledsl.architectures import Architecture
from ruledsl.architectures.components import BatchNorm, Conv
from ruledsl.assembly import experiment_of
from ruledsl.choices import EVERYTHING, Choices, follow
from ruledsl.data import Dataset
from ruledsl.emit.backend import backend
from ruledsl.errors import UserError, need, suggest
from ruledsl.locality.experiment import Experiment, Part, of_network, with_moved_thresholds
from ruledsl.locality.steadiness import moves_thresholds
from ruledsl.program import TASK, Program, Schedule
from ruledsl.training.config import BUILT_IN, NO_RULE, Config, OptimizerConfig, as_settings
from ruledsl.training.connections import connections
from ruledsl.training.engine import Diverged, Engine, decaying_by_themselves, find_engine, weights
from ruledsl.training.loop import Epoch, Listener, run
from ruledsl.training.run_folder import RunFolder, environment
from ruledsl.training.settings import to_toml

if TYPE_CHECKING:
    from ruledsl.rule import Rule


class Stopped(UserError):
    """A run that did not reach its end; `run` is what it left."""

    def __init__(self, message: str, help: str, run: Run) -> None:
        super().__init__(message, help)
        self.run = run


class Interrupted(Stopped):
    """The user pressed Ctrl-C."""


class TrainingDiverged(Stopped):
    """The loss became NaN or infinite."""


@dataclass
class Run:
    """A run that has ended. `status` is finished, interrupted or diverged."""

    config: Config
    folder: Path
    status: str = "finished"
    epochs: list[Epoch] = field(default_factory=list)
    verdict: str | None = None

    @property
    def test_error(self) -> float:
        """The share of test images that the network has wrong after the last epoch."""
        return self.epochs[-1].test.error

    @property
    def seconds_per_epoch(self) -> float | None:
        """Training time, without evaluation, averaged; None if no epoch was finished."""
        trained = [epoch.seconds for epoch in self.epochs if epoch.epoch]
        return sum(trained) / len(trained) if trained else None

    def summary(self) -> dict[str, Any]:
        """What `summary.json` says."""
        finished = len(self.epochs) - 1
        test_error = self.test_error if self.epochs else None
        return {
            "status": self.status,
            "verdict": self.verdict,
            "epochs": max(0, finished),
            "test_error": test_error,
            "seconds_per_epoch": self.seconds_per_epoch,
        }


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
        return [*_notes(self), *self.engine.notes]

    @cached_property
    def experiment(self) -> Experiment:
        """What all that trains the network would have to know."""
        return _experiment(self)

    @property
    def title(self) -> str:
        """Rule, network and dataset."""
        rule = self.rule.name if self.rule else "autograd"
        return f"{rule} on {self.dataset.name} ({self.architecture.name}, seed {self.config.seed})"


def train(config: Config, listener: Listener | None = None) -> Run:
    """Train as `config` says, into a new folder.

    Raises RuleError for a rule with errors, UserError for anything else in the call, Interrupted and
    TrainingDiverged when the run stops early; its folder then holds what was finished.
    """
    return start(prepare(config), listener or Listener())


def prepare(config: Config) -> Prepared:
    """Find, check and build everything. Raises like `train`."""
    rule, program = load_compiled(config.rule, config.first_parameters, config.backend)
    output = load_rule(config.output, {}) if config.output else None
    programs = program, output.compile(config.backend) if output else None
    return prepare_with(config, rule, output, programs, layers=load_layers(config))


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
    engine.init(architecture, *programs, config, [program for _, program in constraints], taught)
    return Prepared(config, dataset, architecture, engine, rule, output, programs, constraints, layers)


def start(prepared: Prepared, listener: Listener) -> Run:
    """Train what was prepared, into a new folder. Raises UserError, Interrupted, TrainingDiverged."""
    with Recording(prepared, listener) as record:
        for epoch in run(prepared.engine, prepared.dataset, prepared.config, prepared.schedule, listener):
            record.add(epoch)
    return record.result


class Recording:
    """A run on its way into its folder, as a context: what ends it early is raised as Interrupted, TrainingDiverged.

    Of several processes that share a run, one keeps its folder and says what there is to say.
    """

    def __init__(self, prepared: Prepared, listener: Listener) -> None:
        self.prepared, self.leads = prepared, prepared.engine.leads
        self.listener = listener if self.leads else Listener()
        where = prepared.config.out or Path("runs") / _folder_name(prepared)
        self.folder = RunFolder.create(where if self.leads else Path(mkdtemp()) / "run")
        self.result = Run(prepared.config.model_copy(update={"out": self.folder.path}), self.folder.path)
        self.result.verdict = prepared.experiment.verdict

    def __enter__(self) -> Self:
        prepared, config = self.prepared, self.prepared.config
        _describe(self.folder, prepared, self.result.config)
        self.events = _events(self.folder) if config.tensorboard else None
        per_epoch = prepared.dataset.train.batches_per_epoch(config.data.batch_size)
        self.listener.begin(prepared.title, config.epochs, per_epoch)
        for note in prepared.notes:
            self.listener.note(note)
        return self

    def add(self, epoch: Epoch) -> None:
        """An epoch is done."""
        self.result.epochs.append(epoch)
        record = epoch.record()
        self.folder.add_metrics(record)
        self.folder.write_weights(weights(self.prepared.engine.state()))
        if epoch.probes:
            self.folder.write_arrays("feedback.safetensors", self.prepared.engine.probes.pairs)
        for name, value in record.items():
            if self.events and value is not None and name != "epoch":
                self.events.add_scalar(name, value, epoch.epoch)
        self.listener.epoch(epoch)

    def diverged(self, error: Diverged) -> TrainingDiverged:
        """The run has come to its end in this way."""
        self.result.status = "diverged"
        return _explained(error, self.result)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        raised: Stopped | None = None
        if isinstance(error, Diverged):
            raised = self.diverged(error)
        if isinstance(error, KeyboardInterrupt | Interrupted) and self.result.status == "finished":
            self.result.status = "interrupted"
            raised = Interrupted(
                f"interrupted in epoch {len(self.result.epochs)} of {self.result.config.epochs}",
                f"what was finished before it is in {self.result.folder}",
                self.result,
            )
        self.listener.end()
        if self.events:
            self.events.close()
        self.folder.write_json("summary.json", self.result.summary())
        if not self.leads:
            rmtree(self.folder.path.parent)
        if raised:
            raise raised from None


def load_dataset(config: Config) -> Dataset:
    """The images that a run learns from and is tested with. Raises UserError."""
    dataset = data.load(config.data.name, config.data.folder, **config.data.options)
    dataset = dataset.limited(config.data.train_images, config.data.test_images)
    return dataset.standardized() if config.data.standardize else dataset


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
            optimizers[name] = OptimizerConfig.model_validate({**own, **asked})
        used = {f.optimizer for f in program.functions if f.role == "grad"}
        for name in sorted(used - optimizers.keys()):
            raise UserError(
                f"the rule {program.rule} trains by an optimizer `{name}`, which the configuration does not have",
                f"set it, for example --set optimizers.{name}.lr=0.01",
            )
    for optimizer in optimizers.values():
        if optimizer.name not in BUILT_IN:
            _load("optimizer", optimizer.name, optimizer.parameters)
    rule = programs[0]
    for name in config.schedules:
        if rule is None or name not in rule.parameters:
            which = "there is no rule" if rule is None else f"`{name}` of {rule.rule} is static: the compiler fixes it"
            raise UserError(f"the parameter `{name}` cannot follow a schedule: {which}")
    return config.model_copy(
        update={
            "model": config.model.model_copy(update={"name": config.model.name or dataset.model}),
            "optimizer": optimizers.pop(TASK),
            "optimizers": optimizers,
        }
    )


class Events(Protocol):
    """The part of a TensorBoard writer that a run uses."""

    def add_scalar(self, tag: str, scalar_value: Any, global_step: int) -> None:
        """Record a number."""

    def close(self) -> None:
        """Write what is left."""


def _events(folder: RunFolder) -> Events:
    writer: Events = need("tensorboardX", "TensorBoard events", "train").SummaryWriter(str(folder.path / "tensorboard"))
    return writer


def _folder_name(prepared: Prepared) -> str:
    rule = prepared.rule.name if prepared.rule else "autograd"
    return f"{rule}-{prepared.architecture.name}-{prepared.dataset.name}-seed{prepared.config.seed}"


def _describe(folder: RunFolder, prepared: Prepared, config: Config) -> None:
    folder.write_text("config.toml", to_toml(config))
    folder.write_json("environment.json", environment(backend(config.backend).packages))
    for rule, program in zip((prepared.rule, prepared.output), prepared.programs, strict=True):
        if program is not None:  # with the values of this run
            source = rule.compile(program.backend).source if rule else program.source
            folder.write_text(f"{program.rule}_{program.backend}.py", source)
        if rule is not None:
            prefix = "" if rule is prepared.rule else "output_"
            folder.write_text(f"{prefix}{rule.name}.rule", rule.text)
    for number, one in enumerate(prepared.layers.values(), 1):
        if one is not None:
            named, taught = one
            folder.write_text(f"layers{number}_{taught.rule}_{taught.backend}.py", taught.source)
            folder.write_text(f"layers{number}_{named.name}.rule", named.text)
    for constraint, emitted in prepared.constraints:
        folder.write_text(f"{constraint.name}.rule", constraint.text)
        folder.write_text(f"{constraint.name}_{emitted.backend}.py", emitted.source)
    folder.write_json("ledger.json", prepared.experiment.record())


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
    return list(dict.fromkeys(notes))


def _explained(diverged: Diverged, result: Run) -> TrainingDiverged:
    config = result.config
    tries = [f"a smaller learning rate (optimizer.lr is {config.optimizer.lr:g})"]
    if not config.schedule.warmup:
        tries.append("a warm-up (schedule.warmup=1)")
    tries.append("a rule whose feedback is normalised, such as nusf or usf_sn")
    return TrainingDiverged(
        f"the run diverged in epoch {len(result.epochs)}: the loss is {diverged.loss}, "
        f"and such a number appeared first in {diverged.where}",
        f"try {', '.join(tries)}; what was finished before is in {result.folder}",
        result,
    )
