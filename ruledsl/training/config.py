"""What a run is: every setting of training, with its meaning and its default."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    Tag,
    field_validator,
    model_validator,
)

from ruledsl.emit.backend import default_backend
from ruledsl.errors import suggest

LARGEST = 2**31 - 1
"""What a count may be: backends keep counts in 32 bits."""
Count = Annotated[int, Field(gt=0, le=LARGEST)]
CountOrZero = Annotated[int, Field(ge=0, le=LARGEST)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A table of the configuration: unknown fields are errors, values are never NaN or infinite."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ModelConfig(Section):
    """The network."""

    name: str = Field(
        default="", description="a network of ruledsl.architectures; empty: the one that fits the dataset"
    )
    options: dict[str, Any] = Field(
        default={}, description="options of that network, such as hidden = [300, 100] of mlp"
    )
    batch_norm: bool = Field(
        default=False,
        description="of the network that fits the dataset, that with batch normalisation, if there is one",
    )

    @model_validator(mode="after")
    def _has_such_a_form(self) -> Self:
        if self.batch_norm and self.name and not self.name.endswith("_bn"):
            raise ValueError(f"batch_norm is for the network that fits the dataset; {self.name} was asked for by name")
        return self


class DataConfig(Section):
    """The dataset and its batches."""

    name: str = Field(
        default="digits", description="a dataset of ruledsl.data: digits, mnist, fashion_mnist, synthetic"
    )
    folder: Path | None = Field(
        default=None, description="where its files are; left out: $RULEDSL_DATA, then the cache folder"
    )
    options: dict[str, Any] = Field(default={}, description="options of that dataset, such as classes = 3 of synthetic")
    batch_size: Count = Field(default=32, description="images in a training step")
    batch_size_after: dict[Annotated[int, Field(gt=0)], Count] = Field(
        default={}, description="other sizes, by how many epochs are over: { 3 = 500 }"
    )
    test_batch_size: Count = Field(default=500, description="images at once in an evaluation")
    standardize: bool = Field(default=True, description="shift and scale the pixels to mean 0 and variance 1")
    augment: list[str] = Field(
        default=[],
        description="changes at random, in order: pad_crop 4, crop 24, flip, cutout 8, random_resized_crop 224",
    )
    workers: Annotated[int, Field(ge=0, le=1024)] = Field(
        default=0, description="processes that read the images of a folder; 0: the one that trains"
    )
    train_images: Count | None = Field(default=None, description="use only so many training images")
    test_images: Count | None = Field(default=None, description="use only so many test images")

    def size_in(self, epoch: int) -> int:
        """The size of a batch in an epoch, from 0."""
        passed = [after for after in self.batch_size_after if after <= epoch]
        return self.batch_size_after[max(passed)] if passed else self.batch_size


class LossConfig(Section):
    """What the network is taught to make small: a mean over the images of a batch."""

    name: Literal["cross_entropy", "mean_squared_error", "binary_cross_entropy"] = Field(
        default="cross_entropy",
        description="with softmax; half the squared distance to the target; or a sum over classes with sigmoids",
    )
    label_smoothing: Share = Field(
        default=0.0, description="so much of the target is spread over all classes; not in an evaluation"
    )

    @property
    def plain(self) -> LossConfig:
        """Without smoothing."""
        return self.model_copy(update={"label_smoothing": 0.0})


class ScheduleConfig(Section):
    """How the learning rate changes: a linear warm-up, then factors at the ends of epochs."""

    warmup: NonNegativeFloat = Field(
        default=0.0, description="epochs in which the learning rate rises linearly to its value"
    )
    every: Count | None = Field(default=None, description="multiply by `factor` each time so many epochs are over")
    at: list[Count] = Field(
        default=[], description="multiply by `factor` when so many epochs are over; instead of `every`"
    )
    factor: PositiveFloat = Field(default=0.1, description="what the learning rate is multiplied by")
    cosine: bool = Field(
        default=False, description="after the warm-up, let the learning rate fall to zero along half a cosine"
    )


USUAL_RATES = {"adam": 0.001, "sgd": 0.01, "noisy_sgd": 0.01}
BUILT_IN = ("sgd", "adam")
"""Optimizers that every backend has of its own; their other settings are fields of `OptimizerConfig`."""


OWNERS = {"momentum": ("sgd",), "nesterov": ("sgd",), "betas": ("adam",), "eps": ("adam",), "weight_decay": BUILT_IN}
"""Settings that not every optimizer has, and those that do."""


class OptimizerConfig(Section):
    """What turns pseudo-gradients into steps."""

    name: str = Field(
        default="adam", description="adam, sgd, another optimizer of the library, or the path of a .rule file"
    )
    lr: NonNegativeFloat = Field(
        default_factory=lambda data: USUAL_RATES.get(data.get("name", ""), 0.001),
        description="learning rate, before the schedule; left out: 0.01 for sgd, 0.001 for others",
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of sgd")
    nesterov: bool = Field(default=False, description="Nesterov's momentum, of sgd")
    weight_decay: NonNegativeFloat = Field(
        default=0.0, description="pulls parameters to zero; off where the rule decays itself"
    )
    betas: tuple[Share, Share] = Field(default=(0.9, 0.999), description="averaging of adam, each below 1")
    eps: PositiveFloat = Field(default=1e-8, description="added to the denominator of adam")
    schedule: ScheduleConfig | None = Field(
        default=None,
        description="of its own, from the first step of the run on; left out, that of the run",
    )
    clip: PositiveFloat | None = Field(
        default=None,
        description="scale pseudo-gradients down to this norm, of all of them together, where it is larger",
    )
    parameters: dict[str, float | bool] = Field(
        default={}, description="of an optimizer of the library other than adam and sgd"
    )

    @field_validator("name")
    @classmethod
    def _is_an_optimizer(cls, name: str) -> str:
        if name in BUILT_IN or name.endswith(".rule"):
            return name
        from ruledsl import library

        if name not in library.names():
            raise ValueError(f"there is no such optimizer; {suggest(name, library.names())}")
        if library.load(name).kind != "optimizer":
            raise ValueError(f"{name} is a {library.load(name).kind}, no optimizer")
        return name

    @model_validator(mode="after")
    def _settings_fit(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum")
        if self.parameters and self.name in BUILT_IN:
            raise ValueError(f"{self.name} has no `parameters`: its settings are fields beside them, such as lr")
        # Without a name it may be one that a rule brings along: what fits is looked at when that is known.
        for name, owners in OWNERS.items() if "name" in self.model_fields_set else ():
            if self.name not in owners and getattr(self, name) != type(self).model_fields[name].default:
                own = f"; {self.name} takes its own, as parameters.{name}" if self.name not in BUILT_IN else ""
                raise ValueError(f"{name} is for {' and '.join(owners)}{own}")
        return self

    @property
    def decay(self) -> float:
        """How strongly the optimizer pulls parameters to zero."""
        return self.weight_decay or self.parameters.get("weight_decay", 0.0) or self.parameters.get("decay", 0.0)


def as_settings(name: str, values: Mapping[str, float | bool]) -> dict[str, Any]:
    """Fields of `OptimizerConfig` for an optimizer as a rule writes it: `sgd(lr = 1)` has no momentum."""
    lr = {"lr": values["lr"]} if "lr" in values else {}
    own = {key: value for key, value in values.items() if key != "lr"}
    if name == "sgd":
        return {"name": name, "momentum": 0.0, **lr, **own}
    if name == "adam":
        betas = (own.pop("beta1", 0.9), own.pop("beta2", 0.999))
        return {"name": name, **lr, "betas": betas, "eps": own.pop("epsilon", 1e-8)}
    return {"name": name, **lr, "parameters": own}


class ParameterSchedule(Section):
    """How a parameter of the rule changes in the course of the training."""

    start: float = Field(description="its value in the first step")
    end: float = Field(description="its value at the end")
    shape: Literal["linear", "geometric", "cosine"] = Field(default="linear", description="the way between")

    @model_validator(mode="after")
    def _geometric_has_one_sign(self) -> Self:
        if self.shape == "geometric" and self.start * self.end <= 0:
            raise ValueError("a geometric way leads from a number to another of the same sign")
        return self

    def at(self, progress: float) -> float:
        """The value when this part of the training is over (0 to 1)."""
        if self.shape == "geometric":
            return self.start * math.pow(self.end / self.start, progress)
        way = progress if self.shape == "linear" else (1 - math.cos(math.pi * progress)) / 2
        return self.start + way * (self.end - self.start)


NO_RULE = "none"
"""In the place of a rule's name: the layer is left alone, and learns by the backend's own differentiation."""


class LayerConfig(Section):
    """What the layers of a pattern learn by."""

    rule: str = Field(
        description="a rule of the library, the path of a .rule file, or none, which leaves the layers alone"
    )
    parameters: dict[str, float | bool] = Field(default={}, description="parameters of that rule, static ones too")

    @model_validator(mode="after")
    def _parameters_belong_to_a_rule(self) -> Self:
        if self.rule == NO_RULE and self.parameters:
            raise ValueError("layers that are left alone have no parameters")
        return self


ParameterValue = Annotated[
    Annotated[float | bool, Tag("value")] | Annotated[ParameterSchedule, Tag("schedule")],
    Discriminator(lambda given: "schedule" if isinstance(given, Mapping | ParameterSchedule) else "value"),
]


class Config(Section):
    """A training run."""

    rule: str = Field(default="backprop", description="a rule of the library, or the path of a .rule file")
    output: str | None = Field(default=None, description="another rule for the layers at the network's output")
    constraints: list[str] = Field(
        default=[], description="what holds after each step: constraints of the library, or paths of .rule files"
    )
    parameters: dict[str, ParameterValue] = Field(
        default={},
        description="parameters of the rule, static ones too; { start = 0.1, end = 0.001 } for one that changes",
    )
    constraint_parameters: dict[str, dict[str, float | bool]] = Field(
        default={}, description="parameters of the constraints, by their names"
    )
    backend: str = Field(
        default_factory=default_backend, description="who computes: an installed backend that can train"
    )
    epochs: CountOrZero = Field(default=15, description="passes over the training images")
    seed: int = Field(
        ge=0,
        le=2**63 - 1,
        default=0,
        description="determines weights, order of the images, dropout and all other noise",
    )
    threads: Annotated[int, Field(gt=0, le=1024)] | None = Field(
        default=None, description="CPU threads; left out: the backend's choice"
    )
    device: str | None = Field(
        default=None, description="what computes: cpu, gpu, cuda, tpu; left out: the best that the backend can open"
    )
    devices: Count | None = Field(
        default=None, description="how many devices share a batch; left out: all that the backend can open"
    )
    processes: Count | None = Field(
        default=None, description="how many processes share each batch, on one host or several; each is started alike"
    )
    compile: bool = Field(
        default=False, description="let the backend's compiler fuse the network (slow start, faster steps)"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of activity and errors; weights, sums and the optimizer stay in float32"
    )
    channels_last: bool = Field(
        default=False, description="how PyTorch keeps images in memory; JAX always has channels last"
    )
    frozen: list[str] = Field(default=[], description="patterns of the names of layers that do not learn: fc*, conv1")
    probe_every: CountOrZero = Field(
        default=1, description="epochs between measurements of feedback alignment; 0: never"
    )
    checkpoint_every: NonNegativeFloat | None = Field(
        default=60.0, description="seconds between checkpoints; one is always written at the end"
    )
    tensorboard: bool = Field(default=False, description="also write TensorBoard events")
    out: Path | None = Field(default=None, description="the run folder; left out: a new one below runs/")
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    optimizers: dict[str, OptimizerConfig] = Field(
        default={}, description="further optimizers, for what a rule trains `by` them"
    )
    layers: dict[str, LayerConfig] = Field(
        default={},
        description='rules by patterns of the layers\' names, such as [layers."conv*"]; the first that fits counts',
    )
    schedule: ScheduleConfig = ScheduleConfig()
    rules: dict[str, dict[str, Any]] = Field(
        default={}, description="by rules' names, what is different for them: [rules.weight_mirror.optimizer] lr = 0.1"
    )

    @field_validator("rules")
    @classmethod
    def _are_configurations(cls, rules: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        for name, values in rules.items():
            for field in values.keys() & {"rule", "rules", "out"}:
                raise ValueError(f"what is different for {name} cannot be its {field}")
            cls.model_validate(values)
        return rules

    @field_validator("out")
    @classmethod
    def _has_a_name(cls, out: Path | None) -> Path | None:
        if out is not None and not out.name:
            raise ValueError("a run makes a folder of its own: give it a name")
        return out

    @property
    def schedules(self) -> dict[str, ParameterSchedule]:
        """The parameters of the rule that change."""
        return {name: value for name, value in self.parameters.items() if isinstance(value, ParameterSchedule)}

    @property
    def first_parameters(self) -> dict[str, float | bool]:
        """Every parameter of the rule that is set, with the value that it begins with."""
        return {
            name: value.start if isinstance(value, ParameterSchedule) else value
            for name, value in self.parameters.items()
        }
