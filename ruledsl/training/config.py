"""What a run is: every setting of training, with its meaning and its default."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)


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


class DataConfig(Section):
    """The dataset and its batches."""

    name: str = Field(
        default="digits", description="a dataset of ruledsl.data: digits, mnist, fashion_mnist, synthetic"
    )
    folder: Path | None = Field(
        default=None, description="where its files are; left out: $RULEDSL_DATA, then the cache folder"
    )
    options: dict[str, Any] = Field(default={}, description="options of that dataset, such as classes = 3 of synthetic")
    batch_size: PositiveInt = Field(default=32, description="images in a training step")
    test_batch_size: PositiveInt = Field(default=500, description="images at once in an evaluation")
    standardize: bool = Field(default=True, description="shift and scale the pixels to mean 0 and variance 1")
    train_images: PositiveInt | None = Field(default=None, description="use only so many training images")
    test_images: PositiveInt | None = Field(default=None, description="use only so many test images")


USUAL_RATES = {"adam": 0.001, "sgd": 0.01}


class OptimizerConfig(Section):
    """What turns pseudo-gradients into steps."""

    name: Literal["sgd", "adam"] = Field(default="adam", description="adam or sgd")
    lr: NonNegativeFloat = Field(
        default_factory=lambda data: USUAL_RATES.get(data.get("name", ""), 0.0),
        description="learning rate, before the schedule; left out: 0.001 for adam, 0.01 for sgd",
    )
    momentum: float = Field(default=0.9, ge=0, lt=1, description="of sgd")
    nesterov: bool = Field(default=False, description="Nesterov's momentum, of sgd")
    weight_decay: NonNegativeFloat = Field(
        default=0.0, description="pulls parameters to zero; off where the rule decays itself"
    )
    betas: tuple[float, float] = Field(default=(0.9, 0.999), description="averaging of adam")
    eps: PositiveFloat = Field(default=1e-8, description="added to the denominator of adam")

    @model_validator(mode="after")
    def _nesterov_has_momentum(self) -> Self:
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov needs a momentum")
        return self


class ScheduleConfig(Section):
    """How the learning rate changes: a linear warm-up, then factors at the ends of epochs."""

    warmup: NonNegativeFloat = Field(
        default=0.0, description="epochs in which the learning rate rises linearly to its value"
    )
    every: PositiveInt | None = Field(
        default=None, description="multiply by `factor` each time so many epochs are over"
    )
    at: list[PositiveInt] = Field(
        default=[], description="multiply by `factor` when so many epochs are over; instead of `every`"
    )
    factor: PositiveFloat = Field(default=0.1, description="what the learning rate is multiplied by")


class Config(Section):
    """A training run."""

    rule: str = Field(default="backprop", description="a rule of the library, or the path of a .rule file")
    output: str | None = Field(default=None, description="another rule for the last layer")
    parameters: dict[str, float | bool] = Field(default={}, description="parameters of the rule, static ones too")
    backend: str = Field(
        default="torch", description="who computes: torch, or another installed backend that can train"
    )
    epochs: NonNegativeInt = Field(default=15, description="passes over the training images")
    seed: NonNegativeInt = Field(
        default=0, description="determines weights, order of the images, dropout and all other noise"
    )
    threads: PositiveInt | None = Field(default=None, description="CPU threads; left out: the backend's choice")
    compile: bool = Field(
        default=False, description="let the backend's compiler fuse the network (slow start, faster steps)"
    )
    probe_every: NonNegativeInt = Field(
        default=1, description="epochs between measurements of feedback alignment; 0: never"
    )
    tensorboard: bool = Field(default=False, description="also write TensorBoard events")
    out: Path | None = Field(default=None, description="the run folder; left out: a new one below runs/")
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    optimizers: dict[str, OptimizerConfig] = Field(
        default={}, description="further optimizers, for what a rule trains `by` them"
    )
    schedule: ScheduleConfig = ScheduleConfig()
