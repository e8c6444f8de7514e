"""Layers under any rule, as `ruledsl_torch.convert` makes them of the layers of any network.

What `PlainLayer` has, and beside it: weights that are computed from other parameters or are part of a larger module,
constraints, replicas, and what a layer can't be part of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from ruledsl.errors import UserError
from ruledsl_torch.plain import Driven as Driven
from ruledsl_torch.plain import Gradient as Gradient
from ruledsl_torch.plain import Next as Next
from ruledsl_torch.plain import PlainLayer
from ruledsl_torch.plain import Taught as Taught
from ruledsl_torch.plain import Unconnected as Unconnected
from ruledsl_torch.plain import apply_of as apply_of
from ruledsl_torch.plain import filled as filled
from ruledsl_torch.plain import handed_on as handed_on
from ruledsl_torch.speaking import warn_once

if TYPE_CHECKING:
    from ruledsl_torch.projection import Rows

checks: list[Callable[[RuleLayer], None]] = []
"""Asked where a layer is compiled, exported, or transformed by torch.func: see `ruledsl_torch.transformations`."""


class RuleLayer(PlainLayer):
    """A layer of any kind under any rule, in any network.

    unscaled      results of its passes (`send`, tensors) that do not scale with the loss
    batched       those that do not add up over micro-batches
    joint         whether its equations reduce over the joint batch of all replicas
    unlike        the equations of which replicas can't compute each its share
    constraints   more of what happens after a step, added from outside

    What convert knows of a layer: `moves`, the rule or constraint that moves `weight` or `bias` beside the task's
    optimizer; `followers`: weights of the rule that move as W moves.

    `parts`: of a layer inside a larger module, `owner`, those of `weight` and `bias` that are rows of its parameters.
    """

    unscaled: ClassVar[tuple[str, ...]] = ()
    batched: ClassVar[tuple[str, ...]] = ()
    joint: ClassVar[bool] = False
    unlike: ClassVar[tuple[str, ...]] = ()
    owner: nn.Module
    parts: Mapping[str, Rows] = {}
    constraints: tuple[Any, ...] = ()
    moves: Mapping[str, str] = {}
    followers: tuple[str, ...] = ()

    @property
    def stored(self) -> Tensor:
        """The weight, or a parameter that it is computed from: tells device and element type, and computes nothing."""
        weight = held(self, "weight")
        return next(self.parameters()) if weight is None else weight

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `to`, `half` and the like do to every tensor. Raises UserError for complex ones."""
        if fn(self.stored.new_empty(0)).is_complex():
            raise UserError(f"{self.rule} is written for real weights, and has no complex conjugates")
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *others: Any) -> None:
        """As torch does; warns where it brings weights, and nothing of what a constraint keeps of them."""
        super()._load_from_state_dict(state_dict, prefix, *others)
        kept = self._buffers.keys() - self._non_persistent_buffers_set
        for constraint in self.constraints if f"{prefix}weight" in state_dict else ():
            if any(name.startswith(f"{constraint.rule}_") and f"{prefix}{name}" not in state_dict for name in kept):
                warn_once(
                    self.network,
                    f"loaded {constraint.rule}",
                    f"{prefix}weight was loaded, and what {constraint.rule} keeps is that of the weight before",
                    "net.load_state_dict(...) before convert, or a state that has the constraint's tensors",
                )

    def read_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter that the layer reads, those among them that the module around it holds."""
        yield from super().read_parameters()
        yield from ((name, part.whole(self.owner)) for name, part in self.parts.items())

    def held(self, name: str) -> Tensor | None:
        """See `held`, below."""
        return held(self, name)

    def gradient_of(self, name: str) -> Tensor | None:
        """The `.grad` of a tensor of the layer, or its rows of it: what is written there, an optimizer will see."""
        parameter = held(self, name)
        gradient = None if parameter is None else parameter.grad
        return gradient if gradient is None or name not in self.parts else self.parts[name].of(gradient)

    @property
    def needs_whole_batch(self) -> bool:
        """Whether gradients averaged over replicas are not all that a step of the joint batch takes."""
        assigns = type(self).end_pass is not RuleLayer.end_pass or bool(self.passing)
        return bool(self.joint or self.unlike or self.driven or assigns)

    @property
    def draws(self) -> bool:
        """Whether anything is drawn anew at every step."""
        added = any(type(each).draw_fresh is not Constraint.draw_fresh for each in self.constraints)
        return added or type(self).draw_fresh is not RuleLayer.draw_fresh

    def extra_repr(self) -> str:
        """What torch shows of the layer, its rule, and its part in the network where that is known."""
        part = getattr(self.__dict__.get("network"), "roles", {}).get(self.path)
        return ", ".join(filter(None, (super().extra_repr(), part and f"part={part}")))

    def follow(self, generator: Any = None, **facts: Any) -> Self:
        """See `PlainLayer.follow`; then what constraints add."""
        if not hasattr(self, "bias"):  # a table of embeddings has none
            self.register_parameter("bias", None)
        super().follow(generator, **facts)
        with torch.no_grad(), getattr(generator, "device", self.stored.device):
            for constraint in self.constraints:
                constraint.start(self, generator)
        return self

    def joint_map(self, x: Tensor) -> Any:
        """The linear map for an input x; it knows the replicas that have the rest of the batch, if there are any."""
        linear_map, replicas = self.linear_map(x), getattr(self.network, "replicas", None)
        if replicas is None:
            return linear_map
        if not hasattr(linear_map, "replicas"):
            kind = type(linear_map).__name__
            raise UserError(f"{kind} has no field `replicas`, which {self.rule} needs for data parallel training")
        return linear_map._replace(replicas=replicas)

    def check_transformed(self) -> None:
        """See `PlainLayer.check_transformed`."""
        for check in checks:
            check(self)

    def check_frozen(self) -> None:
        """Warn where W is frozen and a weight of the rule that moves as W moves is not."""
        if self.followers and not any(p.requires_grad for name, p in self.read_parameters() if _makes_weight(name)):
            for name in self.followers:
                if getattr(self, name).requires_grad:
                    where = f"net.{self.path}" if self.path else "net"
                    warn_once(
                        self,
                        f"frozen {name}",
                        f"{where}.weight is frozen and {name}, which {self.rule} moves as W moves, goes on learning",
                        f"{where}.{name}.requires_grad_(False)",
                    )

    def check_parametrised(self) -> None:
        """Raises UserError where the rule or a constraint moves a tensor that is computed from others."""
        check_moves(self, self.moves)
        # What older hooks compute before a forward pass is that of before the optimizer's step.
        if isinstance(self.__dict__.get("weight"), Tensor) or isinstance(self.__dict__.get("bias"), Tensor):
            training, self.training = self.training, False  # in which spectral_norm takes no further step
            for hook in self._forward_pre_hooks.values():
                if isinstance(hook, BasePruningMethod | WeightNorm | SpectralNorm):
                    hook(self, ())
            self.training = training

    def forget_passes(self) -> None:
        """Count backward passes anew."""
        with torch.no_grad():
            self.get_buffer("backward_passes").zero_()

    def check_pass(self, has_optimizers: bool) -> None:
        """See `PlainLayer.check_pass`."""
        self.check_parametrised()
        self.check_frozen()
        super().check_pass(has_optimizers)

    def stages(self) -> Iterator[Sequence[Next | Gradient]]:
        """What happens after a step, then the constraints, in order."""
        yield from super().stages()
        yield from (stage(constraint, self) for constraint in self.constraints for stage in constraint.after_step)


DECLARED = frozenset({*PlainLayer.__annotations__, *RuleLayer.__annotations__})
"""What every layer has a word for, whether or not it has a value."""


def parametrised(layer: nn.Module, name: str) -> bool:
    """Whether a layer computes its `weight` or `bias` anew from others, so that nothing can be stored in it.

    So it is under torch.nn.utils.parametrize, and under the older hooks of weight_norm, spectral_norm and prune.
    """
    if layer._parameters.get(name) is not None:
        return False
    modules: Any = layer._modules.get("parametrizations", ())
    return name in modules or isinstance(layer.__dict__.get(name), Tensor)


def _makes_weight(name: str) -> bool:
    """Whether a parameter of a layer, by its name, is the weight or one that the weight is computed from."""
    return name.startswith(("weight", "parametrizations.weight."))


def held(layer: nn.Module, name: str) -> Tensor | None:
    """The parameter or buffer of this name; None where there is none, as where a weight is computed from others."""
    part = getattr(layer, "parts", {}).get(name)
    own = layer._parameters.get(name) if part is None else part.whole(layer.owner)
    return layer._buffers.get(name) if own is None else own


def replaced(layer: nn.Module) -> bool:
    """Whether somebody gave this one layer a `forward` of its own, so that it follows no rule."""
    return "forward" in layer.__dict__


def check_moves(layer: nn.Module, moves: Mapping[str, str]) -> None:
    """Raises UserError where a rule (`moves`: by tensor) moves a `weight` or `bias` that is computed from others."""
    for name, rule in moves.items():
        if parametrised(layer, name):
            raise UserError(
                f"{rule} moves the {name} of a layer, which this {type(layer).__name__} computes from other parameters",
                f"torch.nn.utils.parametrize.remove_parametrizations(layer, {name!r}), or prune.remove, comes first",
            )


@contextmanager
def quiet(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Parametrizations in evaluation mode, in which asking for a weight leaves no trace in them."""
    own = [layer.parametrizations for layer in layers if is_parametrized(layer)]
    changed = [(module, module.training) for each in own for module in each.modules()]  # type: ignore[union-attr]
    try:
        for module, _ in changed:
            module.training = False
        yield
    finally:
        for module, training in changed:
            module.training = training


class Constraint:
    """What holds after every step, added to layers of any rule; an emitted class says the rest.

    rule, hyperparameters, clocked, reads_out, reads_phi   as of a layer
    after_step   what happens, stage by stage
    """

    rule: ClassVar[str]
    hyperparameters: ClassVar[tuple[str, ...]] = ()
    clocked: ClassVar[tuple[str, ...]] = ()
    reads_out: ClassVar[bool] = False
    reads_phi: ClassVar[bool] = False
    after_step: ClassVar[tuple[Callable[..., Sequence[Next | Gradient]], ...]] = ()

    def __init__(self, **parameters: float) -> None:
        self.__dict__.update(parameters)

    def start(self, module: RuleLayer, generator: Any = None) -> None:
        """Make what it adds to a layer."""

    def draw_fresh(self, module: RuleLayer, generator: Any = None) -> None:
        """Draw what is fresh at every step."""
