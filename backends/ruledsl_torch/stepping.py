"""What an optimizer's step has to do with the layers of any network, and what a loop without such a step has to do.

Terms that count once a step are in `ruledsl_torch.once`, phases that teach some tensors in `ruledsl_torch.phased`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self
from weakref import WeakSet, ref

import torch
from torch import Tensor, nn

from ruledsl_torch import once as terms
from ruledsl_torch.hooks import Plan, listen
from ruledsl_torch.layers import RuleLayer, check_moves
from ruledsl_torch.once import Once as Once
from ruledsl_torch.once import OnceLayer, completed
from ruledsl_torch.phased import PhasedLayer, taught_by
from ruledsl_torch.plain import PlainLayer, Unconnected, transforming
from ruledsl_torch.speaking import warn_once

STRIKES = 3  # as often do weights move without a step before anything is said


class StepLayer(PhasedLayer, OnceLayer, RuleLayer):
    """A layer that has something to do when an optimizer steps: terms that count once, phases that teach some tensors.

    It notices where weights move without such a step.
    """

    _sent = False
    _stepped = False
    _alone = False
    _strikes = 0
    _seen: tuple[int, int] | None = None

    def follow(self, generator: Any = None, **facts: Any) -> Self:
        """See `RuleLayer.follow`."""
        listen(self, stepped)
        super().follow(generator, **facts)
        listen(self, check_order)
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        listen(self, stepped)
        super().__setstate__(state)
        listen(self, check_order)

    def due(self) -> Iterator[Once]:
        """See `OnceLayer.due`; what serves sending alone stays where a layer sends to nobody."""
        return (once for once in PhasedLayer.due(self) if self._sent or not once.to_send)

    def watch(self, x: Tensor) -> None:
        """Notice whether there is somebody to send to, and weights that moved without an optimizer's step."""
        if torch.compiler.is_compiling():
            if x.requires_grad:  # without a look at what it was, on which a compiler would compile anew
                self._sent = True
            return
        if x.requires_grad and not self._sent:
            self._sent = True
            self.check_follower()
        weight, functional = self.stored, transforming()
        seen = (id(weight), weight._version) if not functional else _identity(weight)
        if seen != self._seen:
            moved = self._seen is not None and not self._stepped
            self._strikes = self._strikes + 1 if moved else 0
            self._seen, self._stepped = seen, False
            if self._strikes == STRIKES and functional:
                mend = "gradients = complete(net, gradients)  # of ruledsl_torch, before the parameters move"
                self.speak("the parameters that torch.func differentiates move", mend)
            elif self._strikes == STRIKES and weight.requires_grad and weight.is_leaf:
                self.listen_for_gradient(weight)

    def listen_for_gradient(self, weight: Tensor) -> None:
        """Speak when the next gradient of a weight comes: an average of other networks' weights never gets one."""
        heard = ref(self)

        def speak(gradient: Tensor) -> None:
            handle.remove()
            layer = heard()
            if layer is not None:
                mend = "complete(net)  # of ruledsl_torch, after backward() and before the parameters move"
                layer.speak("the parameters move without a step of torch.optim", mend)

        handle = weight.register_hook(speak)

    def check_follower(self) -> None:
        """Warn where W moved alone while the layer sent to nobody, and what moves as W moves serves sending now."""
        apart = [once.tensor for once in self.once if once.to_send and once.tensor in self.followers]
        if self._alone and apart:
            warn_once(
                self.network,
                "alone",
                f"{self.path or 'the network'} sent its error to nobody until now, and W moved without {apart[0]}, "
                f"which {self.rule} moves as W moves: they differ by what W has learnt",
                "x.requires_grad_()  # the input, also while all layers before this one are frozen",
            )

    def speak(self, why: str, mend: str) -> None:
        """Say that what counts once a step is missing."""
        names = ", ".join({"weight": "W", "bias": "b"}.get(once.tensor, once.tensor) for once in self.once)
        message = f"{why}, and the pseudo-gradients of {self.rule} lack what counts once a step (of {names})"
        warn_once(self.network, "once", message, mend)

    def share_of(self, name: str) -> Any:
        """See `OnceLayer.share_of`; rows of a parameter. Raises UserError for a tensor that is computed from others."""
        check_moves(self, {name: self.rule})
        return id(self.held(name)), self.parts.get(name)

    def with_once(self, once: Once, summed: Tensor, scale: Tensor | None) -> Tensor:
        """See `OnceLayer.with_once`; of rows of a larger parameter, these alone."""
        rows = self.parts.get(once.tensor)
        if rows is None:
            return super().with_once(once, summed, scale)
        whole = summed.clone()
        rows.of(whole).copy_(super().with_once(once, rows.of(whole), scale))
        return whole


def _identity(weight: Tensor) -> tuple[int, int]:
    """What stays the same, whatever transforms of torch.func have wrapped a tensor, until it moves."""
    while torch._C._functorch.is_functorch_wrapped_tensor(weight):
        weight = torch._C._functorch.get_unwrapped(weight)
    return weight.untyped_storage()._cdata, weight._version


ORDERED: WeakSet[Plan] = WeakSet()


def stepped(optimizer: torch.optim.Optimizer, plan: Plan) -> None:
    """Layers know that an optimizer steps; of those that share a weight, the first in their network counts."""
    if plan not in ORDERED:
        plan.layers = in_order(plan.layers)
        ORDERED.add(plan)
    for layer in plan.layers:
        if isinstance(layer, StepLayer):
            layer._stepped = True
            if not layer._sent and not layer._alone:
                layer._alone = layer._seen is not None and layer.stored.grad is not None


def check_order(optimizer: torch.optim.Optimizer, plan: Plan) -> None:
    """Warn where a step comes after `advance`: the gradients are those of the phase before, and nothing learns."""
    if all(given is not None for _, _, given, _ in plan.changed):  # and none was left out, as nearly always
        return
    for network in {id(layer.network): layer.network for layer in plan.layers if layer.teaches is not None}.values():
        now, _ = ((), ()) if isinstance(network, Unconnected) or network.stepping else taught_by(network)
        meant = [parameter.grad for key, parameter in plan.own.items() if key in now]
        if meant and all(gradient is None for gradient in meant):
            message = (
                f"an optimizer steps in the phase {network.phase} of {network.rule}, and all gradients are of another "
                "phase: nothing learns"
            )
            warn_once(network, "order", message, "optimizer.step(); advance(net)  # in this order")


def in_order(layers: Iterable[PlainLayer]) -> list[PlainLayer]:
    """Layers in the order of their networks; last, those that no network lists."""
    found = {id(layer): layer for layer in layers}
    networks = {id(layer.network): layer.network for layer in found.values()}
    connected = [network for network in networks.values() if not isinstance(network, Unconnected)]
    order = [id(layer) for network in connected for layer in network.layers.values()]
    return [found[key] for key in dict.fromkeys([*order, *found]) if key in found]


def complete(
    net: nn.Module,
    gradients: Mapping[str, Tensor] | None = None,
    parameters: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Add what counts once a step to the pseudo-gradients that backward passes have summed.

    The steps of `torch.optim` do so by themselves. Whoever moves parameters otherwise calls this after the backward
    passes of a step, and before the parameters move; also before gradients are clipped, if that is to count what is
    added (the step after that adds nothing, nor does a second call before that). It changes `.grad`.

    gradients   by parameter name, as `torch.func.grad` gives them: nothing is changed, and all of them are returned,
                complete, for `parameters` by name; left out, for those that the network has
    """
    if parameters is not None and gradients is not None:
        given = {f"net.{name}": value for name, value in parameters.items()}
        return torch.func.functional_call(_Completing(net), given, (gradients,))  # type: ignore[no-any-return]
    layers = [layer for layer in net.modules() if isinstance(layer, StepLayer)]
    for layer in layers:
        layer._stepped = True
    if gradients is None:
        terms.complete(net)
        return {}
    due = [(layer, once) for layer in layers for once in layer.due() if not layer.stands_beside(once)]
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    found = completed(due, lambda parameter: gradients.get(names.get(id(parameter), "")))
    return {**gradients, **{names[key]: gradient for key, (_, gradient) in found.items()}}


class _Completing(nn.Module):
    """`complete` as a module, to be called with other parameters than those of the network."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return complete(self.net, gradients)
