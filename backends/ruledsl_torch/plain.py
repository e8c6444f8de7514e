"""What layers of every rule have in common: their tensors, and what their phases hand to the network.

Standalone files have it from here, so it says no more than their own `convert` needs. What else `ruledsl_torch.convert`
takes care of is in `ruledsl_torch.layers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, NamedTuple, Self

import torch
from torch import Tensor, nn

from ruledsl.errors import UserError
from ruledsl.ir.phases import Schedule
from ruledsl_torch.linear import only_linear

transforming: Callable[[], bool] = torch._C._are_functorch_transforms_active
"""Whether a transform of torch.func (grad, vmap, ...) is active."""

autocasting: Callable[[], bool] = torch._C._is_any_autocast_enabled
"""Whether torch.autocast is active for any kind of device."""


def apply_of(function: type[torch.autograd.Function], module: PlainLayer) -> Callable[..., Any]:
    """`function.apply`, without what that does for transforms where none is active: a fifth of a small step."""
    compiling = torch.compiler.is_compiling()  # where a backward pass runs under the autocast of its forward pass
    if not compiling and autocasting():
        function = under_autocast(function)
    if compiling or transforming():
        module.check_transformed()
        return function.apply
    return super(torch.autograd.Function, function).apply  # type: ignore[misc, no-any-return]


@cache
def under_autocast(function: type[torch.autograd.Function]) -> type[torch.autograd.Function]:
    """The same function, whose backward pass runs under the autocast of its forward pass, as every operation's does."""

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        function.setup_context(ctx, inputs, output)
        kind = inputs[0].device.type
        ctx.autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))

    def backward(ctx: Any, *errors: Tensor) -> Any:
        with torch.autocast(*ctx.autocast):
            return function.backward(ctx, *errors)

    members = {each.__name__: staticmethod(each) for each in (setup_context, backward)}
    return type(function.__name__, (function,), {**members, "__module__": function.__module__})


class Next(NamedTuple):
    """`tensor <- value`, stored when the phase is over."""

    tensor: Tensor
    value: Tensor | float


class Gradient(NamedTuple):
    """A pseudo-gradient of a tensor, for one of the network's optimizers."""

    tensor: Tensor
    value: Tensor
    optimizer: str


class Driven(NamedTuple):
    """A phase with `drive`: `x = draw(layer, generator)`, then `run(layer, x)`.

    serves_sending   whether a layer that sends to nobody has nothing to do in it
    """

    phase: str
    draw: Callable[..., Tensor]
    run: Callable[..., Sequence[Next | Gradient]]
    serves_sending: bool = False


class Taught(NamedTuple):
    """What has a pseudo-gradient for an optimizer in a phase: attributes of the layer."""

    phase: str
    optimizer: str
    tensors: tuple[str, ...]


class Unconnected:
    """In the place of what the layers of a network share, where nobody has made it."""

    replicas = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise UserError("this layer follows a rule that needs a whole network", "net = convert(net, ...) comes first")


class PlainLayer(nn.Module):
    """A layer under any rule; an emitted class says the rest.

    linear_map       what equations call `layer`, for an input x where its size matters
    example_axes     the axes of an input without its batch
    rule             its name; `hyperparameters`: those of the rule's parameters that are numbers
    clocked          the counters `step epoch progress lr` that it reads
    schedule         when each phase runs; `driven`: the phases with `drive`
    with_errors      further phases that see the batch, and in which errors travel; `without_errors`: others
    teaches          what has a pseudo-gradient for which optimizer, and in which phase (None: all of it is the task's)
    beside           pairs: a tensor that holds the pseudo-gradient of another one for a second optimizer
    optimizers       pairs: the name of one that the rule brings along, and what makes it of parameters
    own_decay        tensors whose rule decays them itself
    assigns          whether a backward pass computes next values, so that there is one of it in every step
    passing          buffers for what a backward pass leaves until the pass is over
    after_step       what happens after a step, stage by stage
    reads_out        whether a function reads anything over the network's outputs; `reads_phi`: or the activation
    for_senders      whether it lacks something where it is known to send to nobody

    What convert knows of a layer: `network`, what it shares with others, and `path`, its name there; `classes` of the
    network; `input_shape` and `output_shape` with the batch; `sends`: False where it has nobody to send an error to;
    `downstream`: by name, the shapes of the activities of the layers downstream, without the batch; `phi`, `dphi`.
    """

    linear_map: Callable[..., Any]
    example_axes: ClassVar[int]
    rule: ClassVar[str]
    hyperparameters: ClassVar[tuple[str, ...]] = ()
    clocked: ClassVar[tuple[str, ...]] = ()
    schedule: ClassVar[Schedule] = Schedule()
    driven: ClassVar[tuple[Driven, ...]] = ()
    with_errors: ClassVar[tuple[str, ...]] = ()
    without_errors: ClassVar[tuple[str, ...]] = ()
    teaches: ClassVar[tuple[Taught, ...] | None] = None
    beside: ClassVar[tuple[tuple[str, str], ...]] = ()
    optimizers: ClassVar[tuple[tuple[str, Callable[..., torch.optim.Optimizer]], ...]] = ()
    own_decay: ClassVar[tuple[str, ...]] = ()
    assigns: ClassVar[bool] = False
    passing: tuple[str, ...] = ()
    after_step: ClassVar[tuple[Callable[..., Sequence[Next | Gradient]], ...]] = ()
    reads_out: ClassVar[bool] = False
    reads_phi: ClassVar[bool] = False
    for_senders: ClassVar[bool] = False
    weight: Tensor
    network: Any = Unconnected()
    path = ""
    classes: int | None = None
    input_shape: tuple[int, ...] | None = None
    output_shape: tuple[int, ...] | None = None
    sends = True
    downstream: Mapping[str, tuple[int, ...]] = {}
    phi: Callable[[Tensor], Tensor] | None = None
    stored: Any = property(lambda self: self.weight)  # what tells device and element type, and computes nothing

    def __init__(self, *arguments: Any, generator: Any = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if not only_linear(self):
            raise ValueError("a convolution that follows a rule is padded with zeros, and alike on both sides")
        self.follow(generator)

    @property
    def W(self) -> Tensor:
        """The forward kernel, as rules call it."""
        return self.weight

    @property
    def b(self) -> Tensor | None:
        """The bias, as rules call it; None for a layer without one."""
        bias: Tensor | None = getattr(self, "bias", None)
        return bias

    @property
    def bias_or_zeros(self) -> Tensor:
        """The bias, or zeros in its place."""
        return self.stored.new_zeros(self.linear_map().units_out) if self.b is None else self.b

    def read_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter that the layer reads."""
        yield from self.named_parameters()

    def held(self, name: str) -> Tensor | None:
        """The parameter or buffer of this name; None where there is none."""
        return getattr(self, name, None)

    def dphi(self, v: Tensor) -> Tensor:
        """The derivative of phi, elementwise."""
        assert self.phi is not None
        derivative: Tensor = torch.func.jvp(self.phi, (v,), (torch.ones_like(v),))[1]
        return derivative

    def drive(self, phase: str) -> Driven | None:
        """The phase of this name, where it has an input of its own."""
        return next((driven for driven in self.driven if driven.phase == phase), None)

    def extra_repr(self) -> str:
        """What torch shows of the layer, and its rule."""
        return ", ".join(filter(None, (super().extra_repr(), f"rule={self.rule}")))

    # --- tensors ---

    def follow(self, generator: Any = None, **facts: Any) -> Self:
        """Make the rule's tensors; drawn where the generator is, or the weights are. `facts` become attributes."""
        self.__dict__.update(facts)  # not through nn.Module: an activation that is a module has its place already
        with torch.no_grad(), getattr(generator, "device", self.stored.device):
            self.start(generator)
        return self

    def start(self, generator: Any) -> None:
        """Make the rule's tensors."""

    def learn(self, name: str, shape: Sequence[int], value: Tensor | float) -> None:
        """A tensor that has a pseudo-gradient, with its first value."""
        self.register_parameter(name, nn.Parameter(self._filled(shape, value)))

    def keep(self, name: str, shape: Sequence[int], value: Tensor | float) -> None:
        """A tensor without a pseudo-gradient, with its first value."""
        self.register_buffer(name, self._filled(shape, value))

    def receive(self, name: str, like: Tensor | None) -> None:
        """Room for what a backward pass computes for a tensor beside its gradient, or instead of it."""
        self.register_buffer(name, None if like is None else torch.zeros_like(like), persistent=False)
        self.passing = (*self.passing, name)
        self.count_passes()

    def count_passes(self) -> None:
        """Count backward passes."""
        if "backward_passes" not in self.passing:
            self.register_buffer("backward_passes", self.stored.new_zeros(()), persistent=False)
            self.passing = (*self.passing, "backward_passes")

    def counter(self) -> Tensor | None:
        """Where a backward pass is counted; nowhere inside a transform of torch.func."""
        return None if transforming() else self.get_buffer("backward_passes")

    def _filled(self, shape: Sequence[int], value: Tensor | float) -> Tensor:
        empty = torch.empty(tuple(shape), dtype=self.stored.dtype, device=self.stored.device)
        return empty.copy_(value) if isinstance(value, Tensor) else empty.fill_(value)

    def shape_of(self, *spaces: str) -> tuple[int, ...]:
        """The shape of a tensor over the network's output, or between it and one side of this layer.

        Raises UserError where that depends on what is not known.
        """
        if self.classes is None:
            raise UserError(f"{self.rule} needs to know the number of classes", "give convert an example=")
        inner = [space for space in spaces if space != "out"]
        if not inner:
            return (self.classes,)
        activity = self.input_shape if inner == ["pre"] else self.output_shape
        if activity is not None:
            return (self.classes, *activity[1:])
        units = self.linear_map()
        if self.example_axes != 1:
            raise UserError(
                f"{self.rule} has a map between a convolution's neurons and the output, and their number depends on "
                "the size of the images",
                "give convert an example= of an input batch",
            )
        return (self.classes, units.units_in if inner == ["pre"] else units.units_out)

    def family(self, name: str, downstream: Iterable[str]) -> list[Tensor | None]:
        """The maps `name` from the layers downstream: `D_0` is that from the first one, and so on; None for no map."""
        return [getattr(self, f"{name}_{index}", None) for index, _ in enumerate(downstream)]

    # --- passes ---

    def joint_map(self, x: Tensor) -> Any:
        """The linear map for an input x, where a batch is more than x."""
        return self.linear_map(x)

    def check_transformed(self) -> None:
        """Raises UserError where an export or a transform of torch.func would take something else for the rule."""

    def check_sends(self, x: Tensor) -> None:
        """Raises UserError where an error is to be sent after all."""
        if x.requires_grad and not self.sends:
            raise UserError(
                "this layer's input needs a gradient, which it did not when the network was converted",
                "convert with an example whose requires_grad is set",
            )
        if self.reads_out and x.requires_grad:
            self.check_neurons(x)

    def check_neurons(self, x: Tensor) -> None:
        """Raises UserError where a map between the neurons before this layer and the outputs has another size."""
        if self.input_shape is None:
            if x.dim() > self.example_axes + 1:
                raise UserError(
                    f"the input of {self.path} is {list(x.shape)}, and {self.rule} has a map for every neuron there",
                    "give convert an example= of an input batch",
                )
        elif x.shape[1:] != self.input_shape[1:]:
            raise UserError(
                f"the input of {self.path} is {list(x.shape)}, and that of the example was {list(self.input_shape)}",
                f"{self.rule} has a map for every neuron: convert with an example of the right size",
            )

    def reached(self, x: Tensor) -> Tensor:
        """x; where nothing here needs a gradient, so that no backward pass would come by, as something that does."""
        if x.requires_grad or any(parameter.requires_grad for _, parameter in self.read_parameters()):
            return x
        return x.detach().requires_grad_()

    def refuse_transforms(self) -> None:
        """Raises UserError inside a transform of torch.func, where what a backward pass stores has no place."""
        if transforming():
            raise UserError(
                f"{self.rule} stores what its backward pass computes, which the transforms of torch.func cannot",
                "let loss.backward() differentiate the network",
            )

    def check_pass(self, has_optimizers: bool) -> None:
        """Raises RuntimeError or UserError where what the backward pass left cannot be stored."""
        passes = getattr(self, "backward_passes", None)
        if self.assigns and passes is not None and passes > 1:
            raise RuntimeError(
                f"the backward pass went {passes:.0f} times through layer {self.path!r} since the last advance(net), "
                f"and {self.rule} assigns once per step what it computes there: "
                "call advance(net) after each backward(), and use the layer once per forward pass"
            )
        for holder, target in self.beside:
            moves = getattr(self, target)
            if not has_optimizers and moves is not None and moves.requires_grad:
                by = next(taught.optimizer for taught in self.teaches or () if holder in taught.tensors)
                name = {"weight": "W", "bias": "b"}.get(target, target)
                raise UserError(
                    f"{self.rule} trains {name} by the task optimizer and `by {by}`",
                    "optimizer = optimizers(net, task=...) keeps the two apart",
                )

    def arrived(self, **holders: str) -> list[Next]:
        """By tensor, the next values that a backward pass has left in others; none where it did not come by."""
        if not self.backward_passes:
            return []
        self.backward_passes.zero_()
        pairs = [(getattr(self, target), getattr(self, holder)) for target, holder in holders.items()]
        return [Next(target, value) for target, value in pairs if target is not None and value is not None]

    def end_pass(self, phase: str) -> Sequence[Next | Gradient]:
        """The next values that a pass leaves behind."""
        return ()

    def stages(self) -> Iterator[Sequence[Next | Gradient]]:
        """What happens after a step, stage by stage: the next values."""
        yield from (stage(self) for stage in self.after_step)

    def draw_fresh(self, generator: Any) -> None:
        """Draw what is fresh at every step."""


def filled(value: Tensor | float, shape: Sequence[int], like: Tensor) -> Tensor:
    """A result in its full shape: `send = 0` is one number for all."""
    if not isinstance(value, Tensor):
        return like.new_full(tuple(shape), value)
    return value.expand(tuple(shape))


def handed_on(ctx: Any, delta_k: Sequence[Tensor]) -> list[Tensor | None]:
    """The errors of the layers downstream, for those layers before this one that asked for them."""
    asked = ctx.needs_input_grad[len(ctx.needs_input_grad) - len(delta_k) :]
    return [error if wanted else None for error, wanted in zip(delta_k, asked, strict=True)]
