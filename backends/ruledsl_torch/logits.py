"""Where the logits of a network stand. Rules that read `e` are told the error there, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ruledsl.assembly import Place
from ruledsl.errors import UserError
from ruledsl_torch.converted import ConvertedNetwork, perturbed_logits, squashed
from ruledsl_torch.following import upstream
from ruledsl_torch.linear import KINDS, kind_of
from ruledsl_torch.structures import Path, part_at, tensors, with_part_at

Where = str | int | Callable[[Any], Tensor] | nn.Module

WAYS = "convert(..., logits=...) takes a key of the output, a function of it, or a module of the network"


class Logits:
    """What `convert(..., logits=...)` says.

    path        where they stand in the network's output; () for all of it, None before `find` was asked
    find        a function of the output that returns them, asked once
    module      the name of the module whose output they are, whatever happens after it
    deliberate  whether that module is an activation by itself, so that errors are wanted after it
    shape       with the batch, as an example showed it; None without one
    squashed    why what an example showed are no logits
    late        the layers that ran after the module
    beside      those on whose output the network's output depends, and the logits do not
    checked     the paths of further tensors in an output of which it was seen that none is computed from the logits
    """

    def __init__(self, net: nn.Module, where: Where | None = None) -> None:
        """Raises UserError for what says nothing about this network."""
        self.path: Path | None = ()
        self.find: Callable[[Any], Tensor] | None = None
        self.module: str | None = None
        self.shape: tuple[int, ...] | None = None
        self.squashed: UserError | None = None
        self.deliberate = False
        self.late: list[str] = []
        self.beside: set[str] = set()
        self.checked: set[frozenset[Path]] = set()
        if isinstance(where, nn.Module):
            name = next((name for name, module in net.named_modules() if module is where), None)
            if name is None:
                raise UserError(f"logits= is a {type(where).__name__} that is no module of the network", WAYS)
            self.module = name or None
            self.deliberate = not any(True for _ in where.parameters())
        elif isinstance(where, str):
            self.path = tuple(int(key) if key.lstrip("-").isdigit() else key for key in where.split("."))
        elif isinstance(where, int) and not isinstance(where, bool):
            self.path = (where,)
        elif callable(where):
            self.path, self.find = None, where
        elif where is not None:
            raise UserError(f"logits={where!r} names no logits", WAYS)

    # --- at convert time ---

    @contextmanager
    def watching(self, net: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[None]:
        """While an example goes through the network, keep what the module makes, and which layers run after it."""
        made: list[Any] = []
        self._nodes: dict[Any, str] = {}

        def meet(module: nn.Module, inputs: Any, output: Any) -> None:
            made[:] = [output]
            self.late = []

        self._made = made
        hooks = [module.register_forward_hook(partial(self._later, name)) for name, module in layers.items()]
        if self.module is not None:
            hooks.append(net.get_submodule(self.module).register_forward_hook(meet))
        try:
            yield
        finally:
            del self._made, self._nodes
            for hook in hooks:
                hook.remove()

    def _later(self, name: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if self.module is not None:
            self.late.append(name)
        if isinstance(output, Tensor) and output.grad_fn is not None:
            self._nodes[output.grad_fn] = name
            if output._is_view() and output._base is not None:
                self._nodes[output._base.grad_fn] = name

    def look(self, output: Any) -> tuple[int | None, UserError | None]:
        """The number of classes that an example's output shows, or why it shows none."""
        try:
            logits = self._shown(output)
            if not isinstance(logits, Tensor) or logits.dim() < 2:
                seen = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                raise UserError(f"the logits are {seen}, where [batch, classes] was expected", WAYS)
        except UserError as error:
            return None, error
        self.shape = tuple(logits.shape)
        reached = [upstream(part.grad_fn, self._nodes) for _, part in tensors(output)]
        self.beside = set().union(*reached) - upstream(logits.grad_fn, self._nodes)
        self.squashed = None if self.deliberate else squashed(logits)
        if self.module is None and self.squashed is None:
            try:
                self._check_others(output, logits)
            except UserError as error:
                self.squashed = error
        return self.shape[-1], None

    def _shown(self, output: Any) -> Any:
        if self.module is None:
            return self.of(output)
        if not self._made:
            raise UserError(f"the logits are the output of {self.module}, which the example did not reach")
        return self._made[0]

    def fit(self, places: Mapping[str, Place], layers: Mapping[str, nn.Module]) -> None:
        """Raises UserError where the example showed that a layer's rule can't be told the errors that it reads."""
        for name, place in places.items():
            binding = place.part.binding
            if binding.direct and self.squashed is not None:
                raise self.squashed
            if binding.direct and name in self.late:
                raise UserError(
                    f"{place.part.rule} reads e, and {name} runs after {self.module}, where the logits are",
                    "give that layer another rule, or name a later module",
                )
            if binding.direct and name in self.beside:
                apart = [other for other, at in places.items() if at.part.binding.direct and other in self.beside]
                given = ", ".join(f'"{other}": "backprop"' for other in apart)
                raise UserError(
                    f"{place.part.rule} reads e, and {', '.join(apart)} lead past the logits to the network's output: "
                    "the error of the logits is none of theirs",
                    f"rules={{{given}}} gives them another rule, and logits= says where the logits are",
                )
            if binding.reads_out and self.sequence:
                self._fit_positions(name, place, layers[name])
        self.squashed = None  # an error holds on to the example's activities

    @property
    def sequence(self) -> bool:
        """Whether logits are [batch, *positions, classes]."""
        return self.shape is not None and len(self.shape) > 2

    def _fit_positions(self, name: str, place: Place, layer: nn.Module) -> None:
        assert self.shape is not None
        if place.part.binding.dense:
            raise UserError(
                f"{place.part.rule} reads delta[k], which belong to no position of logits {list(self.shape)}"
            )
        alike = place.output_shape is None or place.output_shape[:-1] == self.shape[:-1]
        if KINDS[kind_of(layer)][1] > 1 or not (alike or isinstance(layer, nn.Embedding)):
            activity = [] if place.output_shape is None else list(place.output_shape)
            raise UserError(
                f"{place.part.rule} reads e or target, the logits are {list(self.shape)}, taken for [batch, "
                f"*positions, classes], and the activity of {name} is {activity}, without the same [batch, *positions]",
                "give that layer another rule",
            )

    # --- in a pass ---

    def of(self, output: Any) -> Any:
        """The logits in an output. Raises UserError where they are not found, and says what there is.

        An output that is one tensor needs no path: some networks return several in training and one in evaluation.
        """
        if self.path is None:
            assert self.find is not None
            try:
                found = self.find(output)
            except (AttributeError, LookupError, TypeError) as error:
                raise UserError(f"logits= is a function that fails on {described(output)}: {error}", WAYS) from error
            self.path = next((path for path, part in tensors(output) if part is found), None)
            if self.path is None:
                raise UserError(
                    "logits= is a function whose result is no part of the network's output, but computed from it",
                    "name the tensor itself, or the module that makes it: logits=net.head",
                )
            self.find = None  # a path can be pickled and compiled
        if isinstance(output, Tensor):
            return output
        try:
            logits = part_at(output, self.path)
        except LookupError:
            named = ".".join(map(str, self.path))
            raise UserError(f"the network's output has no {named}: it is {described(output)}", WAYS) from None
        if not self.path and not isinstance(logits, Tensor):
            raise UserError(f"the network's output is {described(output)}, and which part are the logits?", WAYS)
        return logits

    def perturb(self, output: Any, zeros: Sequence[Tensor], network: ConvertedNetwork) -> Any:
        """The output of a pass with perturbations of the logits, and everything else in it as it was."""
        if self.module is not None:
            raise UserError(
                f"{network.rule} reads e, and layers that follow it ran after {self.module}, where the logits are, "
                "or that module did not run, or ran without gradients",
                "give them another rule, name another module as logits=, or checkpoint with use_reentrant=False",
            )
        if self.path is not None and isinstance(output, Tensor):
            return perturbed_logits(output, zeros, network)
        logits = self.of(output)
        places = [path for path, part in tensors(output) if part is logits] or [self.path]
        self._check_others(output, logits)
        changed = perturbed_logits(logits, zeros, network)
        for path in places:
            output = with_part_at(output, path or (), changed)
        return output

    def _check_others(self, output: Any, logits: Tensor) -> None:
        """Raises UserError where something else in the output is computed from the logits, and misses the zeros."""
        others = {path: part for path, part in tensors(output) if part.requires_grad and part is not logits}
        paths = frozenset(others)
        if not others or paths in self.checked:
            return
        if torch.compiler.is_compiling():
            from torch._dynamo.comptime import comptime

            comptime(_unseen)
            return
        for path, part in others.items():
            if logits.grad_fn is not None and _depends(part.grad_fn, logits.grad_fn):
                name = ".".join(map(str, path))
                raise UserError(
                    f"{name} in the network's output is computed from the logits inside the network, where rules that "
                    "read e can't be told its error",
                    "compute the loss outside, as in loss(net(x).logits, labels), or name the module that makes the "
                    "logits: convert(..., logits=net.head)",
                )
        self.checked.add(paths)


def described(output: Any) -> str:
    """The type of an output, and the names of its tensors."""
    names = [".".join(map(str, path)) for path, _ in tensors(output) if path]
    return type(output).__name__ + (f" with {', '.join(names)}" if names else "")


def _depends(node: Any, other: Any) -> bool:
    """Whether a node of the autograd graph lies after another one."""
    stack, visited = [node], {None}
    while stack:
        node = stack.pop()
        if node is other:
            return True
        if node not in visited:
            visited.add(node)
            stack += [further for further, _ in node.next_functions]
    return False


def _unseen(context: Any) -> None:
    """While torch.compile traces: raises UserError, since nothing is known of what was computed from what."""
    raise UserError(
        "the output of this network has several tensors, and whether one is computed from the logits is seen only "
        "where it is not compiled",
        "give convert an example=, run one batch before compiling, or name a module: convert(..., logits=net.head)",
    )
