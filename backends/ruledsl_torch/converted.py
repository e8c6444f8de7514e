"""What the layers of a network share that `ruledsl_torch.convert` made: any output, any wrapper, any weights.

It is what `NetworkState` is, and takes care of more: outputs of several tensors and sequences, replicas that share a
batch, constraints, parametrised weights, and what is no logits though it looks like some.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ruledsl.errors import UserError
from ruledsl_torch.linear import with_properties_of
from ruledsl_torch.network import NetworkState, one_hot
from ruledsl_torch.plain import Driven, PlainLayer
from ruledsl_torch.randomness import Seeded
from ruledsl_torch.replicas import Replicas
from ruledsl_torch.structures import mapped


class ConvertedNetwork(NetworkState):
    """`net.ruledsl` of a converted network.

    logits       what finds them in the network's output, or at one of its modules; None: they are the output
    checked      whether a pass has shown that they are logits; `deliberate`: whether that is not asked
    axes         of the logits: 2, or more where they are [batch, *positions, classes]; so many has `target`
    replicas     the processes that share the batch of the last pass, for a rule that needs to know; else None
    draws        how a network draws that was given a seed, see `ruledsl_torch.randomness.Seeded`; else None
    """

    logits: Any = None
    axes = 2
    checked = deliberate = False
    replicas: Replicas | None = None
    draws: Any = None

    @property
    def clocked(self) -> frozenset[str]:
        """The counters that rules and constraints read."""
        readers = (part for layer in self.layers.values() for part in (layer, *getattr(layer, "constraints", ())))
        return frozenset(name for part in readers for name in part.clocked)

    def become(self, module: nn.Module, kind: type[nn.Module]) -> None:
        """See `NetworkState.become`; properties that compute weights stay."""
        module.__class__ = with_properties_of(module, kind)

    def one_hot(self, target: Tensor) -> Tensor:
        """See `NetworkState.one_hot`."""
        return one_hot(target, self.classes or 0, self.axes)

    def target_rows(self) -> Tensor | None:
        """The target, in which every position is an example of its own."""
        return self.target if self.target is None or self.axes == 2 else self.target.flatten(0, -2)

    def with_errors(self, output: Any, zeros: Sequence[Tensor]) -> Any:
        """The output of a pass in which errors travel, with perturbations of its logits.

        Raises UserError for an output that is no logits, and says where to look for them.
        """
        if self.logits is not None:
            return self.logits.perturb(output, zeros, self)
        if not isinstance(output, Tensor):
            raise UserError(f"the network's output is {type(output).__name__}, where a tensor was expected")
        return perturbed_logits(output, zeros, self)

    def joined(self, module: Any, inputs: Any, output: Any) -> Tensor | None:
        """As a forward hook of the module whose output the logits are: add what has gathered until then."""
        zeros = self.running.output
        if not zeros or not torch.is_grad_enabled():
            return None
        self.running.output = []
        return perturbed_logits(output, zeros, self)

    def evoked(self, output: Any, zeros: Sequence[Tensor]) -> Any:
        """The output of a pass in which no errors travel: a backward pass from any part of it comes by every layer."""
        found: list[Tensor] = []

        def woken(part: Any) -> Any:
            if not isinstance(part, Tensor) or not part.is_floating_point():
                return part
            found.append(part)
            return super(ConvertedNetwork, self).evoked(part, zeros)

        changed = mapped(woken, output)
        if not found:
            raise UserError(f"the network's output is {type(output).__name__}, where tensors were expected")
        return changed

    def forget_pass(self) -> None:
        """Count the next pass anew; also after a step that GradScaler has skipped."""
        layers: Any = self.layers.values()
        for layer in layers:
            if layer.batched:
                layer.forget_passes()

    # --- randomness ---

    def first_source(self, path: str) -> Any:
        """See `NetworkState.first_source`."""
        return super().first_source(path) if self.draws is None else self.draws.first(path)

    def source(self, layer: PlainLayer) -> Any:
        """See `NetworkState.source`."""
        if self.draws is None:
            return super().source(layer)
        return self.draws.in_step(layer.path, self.step, layer.stored.device)

    def state(self) -> dict[str, Any]:
        """See `NetworkState.state`; of a network that was given a seed, that is all that its draws follow from."""
        return {**super().state(), "seed": getattr(self.draws, "seed", None)}

    def load_state(self, state: dict[str, Any]) -> None:
        """The inverse of `state`: the network draws on as that one did."""
        if state.get("seed") is not None:
            self.draws = Seeded(state["seed"])
        elif state.get("generator") is not None:
            self.draws, self.generator = None, self.generator or torch.Generator()
        super().load_state(state)

    def draw_fresh(self, layer: PlainLayer, source: Any) -> None:
        """Draw what is fresh at every step, and then that of the constraints."""
        super().draw_fresh(layer, source)
        for constraint in getattr(layer, "constraints", ()):
            constraint.draw_fresh(layer, source)

    # --- replicas ---

    def together(self, results: Sequence[Any]) -> Sequence[Any]:
        """Of replicas, that of which each has computed its share."""
        if self.replicas is None:
            return results
        shares = {index: result.value for index, result in enumerate(results) if isinstance(result.value, Tensor)}
        whole = dict(zip(shares, self.replicas.averages(list(shares.values())), strict=True))
        return [result._replace(value=whole.get(index, result.value)) for index, result in enumerate(results)]

    def draw(self, layer: PlainLayer, drive: Driven, source: Any) -> Tensor:
        """Each process draws what one process would draw for the joint batch, and takes its share."""
        replicas, shape = self.replicas, layer.input_shape
        if replicas is None or shape is None:
            return super().draw(layer, drive, source)
        layer.input_shape = (shape[0] * replicas.count, *shape[1:])
        try:
            return replicas.share(super().draw(layer, drive, source))
        finally:
            layer.input_shape = shape

    @property
    def in_step(self) -> bool:
        """Whether replicas have to do more than average gradients, so that each pass asks whether there are any."""
        each: Any = self.layers.values()
        return any(
            layer.needs_whole_batch or layer.draws or layer.with_errors or layer.without_errors for layer in each
        )

    def __getstate__(self) -> dict[str, Any]:
        """A copy is nobody's replica until it runs as one."""
        return {**self.__dict__, "replicas": None}


def perturbed_logits(logits: Tensor, zeros: Sequence[Tensor], network: ConvertedNetwork) -> Tensor:
    """Logits with perturbations, each for the errors of one layer. Raises UserError where their shapes do not fit."""
    check_logits(logits, network)
    for zero in zeros:
        if zero.shape != logits.shape:
            zero = _fitted(zero, logits, network)
        logits = logits + zero.to(logits)
    return logits


def check_logits(logits: Any, network: ConvertedNetwork) -> None:
    """Raises UserError for what is no logits of the known number of classes, or was changed since it was."""
    expected = f"[batch, {'' if network.axes == 2 else '*positions, '}{network.classes}]"
    if not isinstance(logits, Tensor):
        raise UserError(f"the logits are {type(logits).__name__}, where a tensor {expected} was expected")
    if logits.dim() > network.axes or not logits.dim() or logits.shape[-1] != network.classes:
        raise UserError(
            f"the network's output is {list(logits.shape)}, where logits {expected} were expected",
            "give convert an example= of the input, from which it learns the number of classes; or name the module "
            "that makes the logits: convert(..., logits=net.head)",
        )
    if network.deliberate:
        return
    if torch.compiler.is_compiling():
        from torch._dynamo.comptime import comptime

        comptime(_check_compiled)
    elif not network.checked:
        problem = squashed(logits)
        if problem is not None:
            raise problem
        network.checked = logits.grad_fn is not None


SQUASHING = ("logsoftmax", "softmax", "sigmoid", "logsigmoid")
EXCHANGING = ("t", "transpose", "permute", "movedim", "swapaxes")
RESHAPING = (
    *("view", "unsafeview", "reshape", "reshapealias", "alias", "flatten", "unflatten", "squeeze", "unsqueeze"),
    *("clone", "contiguous", "to", "tocopy", "float", "expand", "select", "slice", "getitem", "log", "add", "mul"),
    *EXCHANGING,
)


def squashed(logits: Tensor) -> UserError | None:
    """Why the last steps of a network leave no logits; None where nothing is found."""

    def steps(node: Any) -> Iterator[str]:
        while node is not None:
            yield node.name().rstrip("0123456789").removesuffix("Backward")
            before = [further for further, _ in node.next_functions if further is not None]
            node = before[0] if len(before) == 1 else None

    return _problem(steps(logits.grad_fn), logits.dim())


def _check_compiled(context: Any) -> None:
    """The same while torch.compile traces `check_logits`. Raises UserError."""
    made = context.get_local("logits")

    def steps(node: Any) -> Iterator[str]:
        while node.op.startswith("call_"):
            yield str(getattr(node.target, "__name__", node.target))
            if len(node.all_input_nodes) != 1:
                return
            node = node.all_input_nodes[0]

    problem = _problem(steps(made.as_proxy().node), made.as_fake().dim())
    if problem is not None:
        raise problem


def _problem(steps: Iterator[str], axes: int) -> UserError | None:
    """What is wrong with the last steps that made logits, the last one first."""
    name_them = "name the module that makes the logits: convert(..., logits=net.head)"
    for name in steps:
        step = name.lower().replace("_", "")
        if step in SQUASHING:
            return UserError(
                f"the network ends in {name}, and the error of its output is not that of its logits",
                f"leave it to the loss, as cross_entropy and binary_cross_entropy_with_logits do, or {name_them}",
            )
        if step in EXCHANGING and axes > 2:
            return UserError(
                f"the network exchanges axes at its end ({name}), where logits [batch, *positions, classes] were "
                "expected",
                f"exchange them outside, or {name_them}",
            )
        if step not in RESHAPING:
            break
    return None


def _fitted(zero: Tensor, logits: Tensor, network: ConvertedNetwork) -> Tensor:
    """A zero in the shape of the logits: those of one example without a batch, or of all examples of one activity."""
    if logits.dim() == 1 and zero.shape == (1, *logits.shape):
        return zero[0]
    if zero.shape == (1, *logits.shape[1:]):
        return zero
    reached = {getattr(node, "variable", None) for node, _ in getattr(zero.grad_fn, "next_functions", ())}
    names = [name for name, layer in network.layers.items() if any(layer.weight is each for each in reached)]
    raise UserError(
        f"{network.rule} reads e where the logits are {list(logits.shape)}, and the activity of "
        f"{names[0] if names else 'a layer'} is {[*zero.shape[:-1], '*']}: there is no error for each of its examples",
        "give that layer another rule",
    )
