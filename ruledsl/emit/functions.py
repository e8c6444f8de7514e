"""The functions of an emitted module, and the tensors that they are about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ruledsl.ir.phases import TASK

Role = Literal["send", "grad", "complete", "assign", "init", "draw", "drive", "term"]


@dataclass(frozen=True)
class Function:
    """One function of an emitted module.

    role      what it computes: `send` the error for the layer below; `grad` the pseudo-gradient of `target`, or what a
              backward pass brings to it; `complete` the pseudo-gradient from what backward passes have `summed`;
              `assign` the next value of `target` (`<-`); `init` the first value and `draw` the value in this step of a
              `fresh` tensor; `drive` the activity that a phase puts in place of `target` (`x`);
              `term` a value, called `target`, that several functions of the same phase read
    name      its name in the module
    arguments in the order of its signature: tensors of the rule, signals (`x u delta e target`, `delta_k` for the
              list of `delta[k]`), scalars (`lr step epoch progress fan_in fan_out batch_size`), parameters, earlier
              terms, `layer` (the linear map, see the backends' `linear` module), `phi`, `generator` or `key`, `shape`
    phase     `task`, `after step`, `init`, or the name of a phase of the rule
    optimizer who receives a `grad`: `task` or the name given by `by`
    full      whether its value has the whole shape of what it is for; `send = 0` is one number for all
    scales    whether it scales with the loss, where its result does so in the end
    adds      whether it adds up over micro-batches
    """

    role: Role
    name: str
    arguments: tuple[str, ...]
    phase: str = TASK
    target: str | None = None
    optimizer: str = TASK
    full: bool = True
    scales: bool = True
    adds: bool = True


@dataclass(frozen=True)
class Tensor:
    """A `weight`, `fixed`, `fresh` or `state` of the rule, or the layer's own `W` and `b`.

    space   `("pre", "post")` for a map pre -> post; `("post",)` for one number per neuron; `()` for a scalar.
            Maps between pre and post, in either direction, are stored in the forward kernel's layout; maps from
            `out` as [classes, *space]; maps from `post[k]` as one [*post of layer k, *pre] per layer k downstream.
    learns  `grad`: it has a pseudo-gradient (a parameter of the layer); `assign`: `<-` stores it; None: it stays
    feedback_only  read by nothing but `send` and its own updates: a layer that sends to nobody need not learn it
    own_decay      its pseudo-gradient has a term `c * P` of its own: no optimizer decays it too
    called         what the rule calls it, where the name in the module is another one
    """

    name: str
    kind: Literal["weight", "fixed", "fresh", "state", "forward"]
    space: tuple[str, ...]
    learns: Literal["grad", "assign"] | None = None
    feedback_only: bool = False
    own_decay: bool = False
    called: str = ""

    @property
    def stream(self) -> str:
        """The name by which its random numbers are found: that of the rule, the same in every backend."""
        return self.called or self.name
