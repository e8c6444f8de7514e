"""What people do to their training loops, as functions of a rule, each beside the loop that it has to equal.

A loop trains a small network of double precision for a few steps, through all phases of its rule, and returns what the
network holds in the end. Nothing in these networks mixes examples.
"""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from backends.loops import loops
from backends.torch import small
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

import ruledsl
from ruledsl.errors import RuleWarning
from ruledsl_torch import advance, complete, convert, observe, optimizers

Values = dict[Any, Tensor]
STEPS, BATCH, LR = 3, 6, 0.1
TOLD = "does not follow the scale of the loss"
"""Part of what `convert` says of a rule whose pseudo-gradients a scale of the loss does not reach."""


# --- outcomes ---


class Same(NamedTuple):
    """It is the plain loop; `cosine`: every value points where that of the plain loop does."""

    tolerance: float = 1e-9
    cosine: float | None = None


class Refused(NamedTuple):
    """It raises an error that says this."""

    message: str


class Warned(NamedTuple):
    """It goes its way with exactly one warning, which says this; `same`: whether that is the way of the plain loop."""

    message: str
    same: bool = False


Outcome = Same | Refused | Warned
SAME = Same()


@dataclass(frozen=True)
class Probe:
    """A loop, the plain one that it is held against, and what must come of it.

    outcome  for every rule that `but` does not name
    """

    loop: Callable[[str], Values]
    plain: Callable[[str], Values]
    outcome: Outcome = SAME
    but: dict[str, Outcome] = field(default_factory=dict)

    def of(self, rule: str) -> Outcome:
        """What must come of it under a rule."""
        return self.but.get(rule, self.outcome)


# --- networks and loops ---


class Twice(nn.Module):
    """[batch, 6] -> [batch, 3], with one layer in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.fc(torch.relu(self.fc(x)))))


class Unrolled(nn.Module):
    """The same with a layer for each place; `tied`: of one weight and one bias."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)
        if tied:
            self.fc2.weight, self.fc2.bias = self.fc1.weight, self.fc1.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.fc2(torch.relu(self.fc1(x)))))


def batch(net: nn.Module) -> tuple[Tensor, Tensor]:
    """x and labels."""
    shape = (2, 8, 8) if isinstance(net, small.ConvNet) else (6,)
    x = torch.randn(BATCH, *shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x, torch.tensor([0, 1, 2, 1, 0, 2])


def network(rule: str, build: Callable[[], nn.Module] = small.MLP, seed: int = 0, **options: Any) -> nn.Module:
    """A network that follows a rule, past the phases of its first epochs."""
    torch.manual_seed(0)
    net = build().double().eval()
    return follow(net, rule, seed, **options)


@cache
def compiled_rule(rule: str, **parameters: float) -> Any:
    """A rule with its parameters, read once for all probes."""
    return ruledsl.load(rule, **parameters).compile("torch")


def follow(net: nn.Module, rule: str, seed: int = 0, sends: bool = False, **options: Any) -> nn.Module:
    """Convert a network, and tell it all that a rule of the library may want to know, and that stays as it is.

    sends  whether the first layer does
    """
    x, labels = batch(net)
    x.requires_grad_(sends)
    parameters = {name: options.pop(name) for name in list(options) if isinstance(options[name], float)}
    program = compiled_rule(rule, **parameters)
    net = convert(net, program, example=x, seed=seed, activations=loops.ACTIVATIONS.get(type(net)), **options)
    observe(net, epoch=5, progress=0.5, lr=LR, target=labels)
    return net


def sgd(parameters: Any, lr: float = LR, momentum: float = 0.9) -> torch.optim.Optimizer:
    """That of most loops here: with momentum, so that a gradient that is wrong once shows later too."""
    return torch.optim.SGD(parameters, lr=lr, momentum=momentum)


def is_driven(rule: str, phase: str) -> bool:
    """Whether layers have an input of their own in a phase of a rule."""
    return any(f.role == "drive" and f.phase == phase for f in ruledsl.load(rule).compile("torch").functions)


def names_optimizers(net: nn.Module) -> bool:
    """Whether its rule means pseudo-gradients for another optimizer than the task's."""
    return any(by.optimizer != "task" for layer in net.ruledsl.layers.values() for by in layer.teaches or ())


def optimizer_of(net: nn.Module, make: Callable[..., Any] = sgd, **others: Any) -> Any:
    """The optimizer of the documented loop: one, or as many as the rule names."""
    return optimizers(net, task=make, **others) if names_optimizers(net) else make(net.parameters())


def backward(net: nn.Module, x: Tensor, labels: Tensor) -> None:
    """The backward pass of a plain loop."""
    F.cross_entropy(net(x), labels).backward()


def passes(net: nn.Module, steps: int = STEPS) -> Iterator[None]:
    """The passes of some steps, each followed by `advance`."""
    for _ in range(steps):
        number = net.ruledsl.step
        while net.ruledsl.step == number:
            if net.ruledsl.sees_batch:
                yield
            advance(net)


def train(
    net: nn.Module,
    backward: Callable[[Any, Tensor, Tensor], None] = backward,
    step: Callable[[Any], Any] = lambda optimizer: optimizer.step(),
    optimizer: Any = None,
    steps: int = STEPS,
    run: Any = None,
    clear: Callable[[Any], None] = lambda optimizer: optimizer.zero_grad(),
) -> Values:
    """The loop of the documentation; returns what the network holds in the end."""
    optimizer = optimizer_of(net) if optimizer is None else optimizer
    x, labels = batch(net)
    for _ in passes(net, steps):
        observe(net, target=labels)
        clear(optimizer)
        backward(net if run is None else run, x, labels)
        step(optimizer)
    return held(net)


def held(net: nn.Module) -> Values:
    """What a network holds."""
    return {name: value.clone() for name, value in net.state_dict().items()}


def gradients(
    net: nn.Module, backward: Callable[[nn.Module, Tensor, Tensor], None] = backward, scale: float = 1.0
) -> Values:
    """By phase and parameter, what the backward passes of two steps leave in `.grad`. Nothing moves."""
    optimizers(net, task=partial(sgd, lr=0.0))
    found: Values = {}
    x, labels = batch(net)
    for _ in passes(net, 2):
        observe(net, target=labels)
        net.zero_grad()
        backward(net, x.to(net.ruledsl.layers[next(iter(net.ruledsl.layers))].weight.dtype), labels)
        grads = {name: p.grad * scale for name, p in net.named_parameters() if p.grad is not None}
        found = {(net.ruledsl.phase, name): gradient for name, gradient in grads.items()} | found
    return found


@cache
def plain(rule: str, build: Callable[[], nn.Module] = small.MLP) -> Values:
    """What the documented loop comes to."""
    return train(network(rule, build))


@cache
def plain_gradients(rule: str) -> Values:
    """Those of the documented loop."""
    return gradients(network(rule))


def looped(**parts: Any) -> Callable[[str], Values]:
    """A loop with parts of its own."""
    return lambda rule: train(network(rule), **parts)


# --- several backward passes, and the loss's scale ---


def micro_batches(net: nn.Module, x: Tensor, labels: Tensor) -> None:
    """One third of the batch after the other."""
    for part, own in zip(x.split(2), labels.split(2), strict=True):
        observe(net, target=own)
        (F.cross_entropy(net(part), own) / 3).backward()


def backward_twice(net: nn.Module, x: Tensor, labels: Tensor) -> None:
    """Half of the loss, twice through the same graph."""
    loss = F.cross_entropy(net(x), labels) / 2
    loss.backward(retain_graph=True)
    loss.backward()


def scaled_by_hand(net: nn.Module, x: Tensor, labels: Tensor) -> None:
    """The loss of a plain loop, scaled, and the gradients brought back."""
    (F.cross_entropy(net(x), labels) * 1024).backward()
    for parameter in net.parameters():
        if parameter.grad is not None:
            parameter.grad /= 1024


def with_scaler(
    rule: str,
    make: Callable[..., Any] = sgd,
    overflow: int | None = None,
    together: bool = True,
) -> Values:
    """A loop with GradScaler; `overflow`: the step whose loss is infinite, and which it skips."""
    net = network(rule)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=100)

    def scaled(net: nn.Module, x: Tensor, labels: Tensor) -> None:
        factor = float("inf") if net.ruledsl.step == overflow else 1.0
        scaler.scale(F.cross_entropy(net(x), labels) * factor).backward()

    def step(optimizer: Any) -> None:
        scaler.step(optimizer)
        scaler.update()

    return train(net, scaled, step, optimizer_of(net, make))


@cache
def without_scaler(rule: str, make: Callable[..., Any] = sgd, skipped: int | None = None) -> Values:
    """The same without."""
    net = network(rule)
    return train(
        net, step=lambda optimizer: net.ruledsl.step != skipped and optimizer.step(), optimizer=optimizer_of(net, make)
    )


fused_adam = partial(torch.optim.Adam, lr=0.01, fused=True)
fused_sgd = partial(torch.optim.SGD, lr=LR, momentum=0.9, fused=True)

PENALTIES = {
    "backprop_alignment": "strength",
    "direct_kolen_pollack": "decay",
    "direct_sign_symmetry": "decay",
    "kolen_pollack": "decay",
}
"""Parameters that say how much a term without errors weighs against the loss."""


def penalties(rule: str, times: float) -> dict[str, float]:
    """Those of a rule, so that they weigh against a loss that is as many times as large as they do against one."""
    return {PENALTIES[rule]: 0.01 * times} if rule in PENALTIES else {}


def summed(rule: str) -> Values:
    """The sum of the batch's losses, and a learning rate that is smaller by as much."""

    def of_sums(net: nn.Module, x: Tensor, labels: Tensor) -> None:
        F.cross_entropy(net(x), labels, reduction="sum").backward()

    net = network(rule, **penalties(rule, BATCH))
    return train(net, of_sums, optimizer=optimizer_of(net, partial(sgd, lr=LR / BATCH)))


def averaged(rule: str) -> Values:
    """The mean of the batch's losses."""
    return train(network(rule, **penalties(rule, 1.0)))


def gradients_of_sums(rule: str) -> Values:
    """What backward passes of a sum leave, as many times as small."""

    def of_sums(net: nn.Module, x: Tensor, labels: Tensor) -> None:
        F.cross_entropy(net(x), labels, reduction="sum").backward()

    return gradients(network(rule), of_sums, 1 / BATCH)


# --- other ways through the network ---


def checkpointed(rule: str, reentrant: bool = False) -> Values:
    """The whole network runs a second time in the backward pass."""

    def again(net: nn.Module, x: Tensor, labels: Tensor) -> None:
        x = x.clone().requires_grad_(reentrant)
        F.cross_entropy(checkpoint(net, x, use_reentrant=reentrant), labels).backward()

    return train(network(rule, sends=reentrant), again)


def of_inputs_too(net: nn.Module, x: Tensor, labels: Tensor) -> None:
    """A backward pass in which every layer sends."""
    backward(net, x.clone().requires_grad_(), labels)


@cache
def sending(rule: str, build: Callable[[], nn.Module] = small.MLP) -> Values:
    """What the documented loop comes to where every layer sends."""
    return train(network(rule, build, sends=True), of_inputs_too)


class Checkpointing(small.MLP):
    """Layers run a second time in the backward pass."""

    reentrant = False

    def forward(self, x: Tensor) -> Tensor:
        again = partial(checkpoint, use_reentrant=self.reentrant)
        hidden = again(lambda x: torch.relu(self.fc1(x)), x)
        return self.fc3(again(lambda x: torch.tanh(self.fc2(x)), hidden))


class Reentrant(Checkpointing):
    """The same with the reentrant kind."""

    reentrant = True


loops.ACTIVATIONS |= dict.fromkeys((Checkpointing, Reentrant), loops.ACTIVATIONS[small.MLP])


def under_autocast(net: nn.Module, x: Tensor, labels: Tensor) -> None:
    """Layers compute in bf16."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = F.cross_entropy(net(x), labels)
    loss.backward()


def autocast(rule: str) -> Values:
    """The gradients of a network of single precision."""
    return gradients(network(rule).float(), under_autocast)


def channels_last(rule: str) -> Values:
    """Images and kernels whose channels come last in memory."""

    def last(net: nn.Module, x: Tensor, labels: Tensor) -> None:
        backward(net, x.contiguous(memory_format=torch.channels_last), labels)

    return train(network(rule, small.ConvNet).to(memory_format=torch.channels_last), last)


def shared_layer(rule: str) -> Values:
    """The gradients of a layer in two places."""
    return gradients(network(rule, Twice, sends=True), of_inputs_too)


def unrolled(rule: str) -> Values:
    """The gradients of two layers that hold what one in two places would hold, added up."""
    source, net = (network(rule, build, sends=True) for build in (Twice, Unrolled))
    theirs = dict(source.named_parameters()) | dict(source.named_buffers())
    with torch.no_grad():
        for name, value in (*net.named_parameters(), *net.named_buffers()):
            value.copy_(theirs[name.replace("fc1", "fc").replace("fc2", "fc")])
    found: Values = {}
    for (phase, name), gradient in gradients(net, of_inputs_too).items():
        key = phase, name.replace("fc1", "fc").replace("fc2", "fc")
        found[key] = found.get(key, 0) + gradient
    return found


def tied(rule: str) -> Values:
    """The gradients of two layers of one weight."""
    return gradients(network(rule, partial(Unrolled, tied=True)))


def untied(rule: str) -> Values:
    """The same with two weights, added up."""
    source, net = silently(network, rule, partial(Unrolled, tied=True)), network(rule, Unrolled)
    net.load_state_dict(source.state_dict())
    found: Values = {}
    for (phase, name), gradient in gradients(net).items():
        key = phase, name.replace("fc2", "fc1") if name in ("fc2.weight", "fc2.bias") else name
        found[key] = found.get(key, 0) + gradient
    return found


def silently(do: Callable[..., Any], *arguments: Any) -> Any:
    """What is said of a network that only lends its values is not said."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuleWarning)
        return do(*arguments)


# --- frozen tensors ---


def is_weight(name: str) -> bool:
    return name == "fc2.weight"


def is_feedback(name: str) -> bool:
    return name.startswith("fc") and not name.endswith((".weight", ".bias"))


def frozen(rule: str, chosen: Callable[[str], bool]) -> Values:
    """Parameters that need no gradient."""
    net = network(rule)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(not chosen(name))
    return train(net)


def put_back(rule: str, chosen: Callable[[str], bool]) -> Values:
    """The same parameters, which move, and are put back whenever they have."""
    net = network(rule)
    still = {name: p.detach().clone() for name, p in net.named_parameters() if chosen(name)}

    def of_those(net: nn.Module, x: Tensor, labels: Tensor) -> None:
        net.load_state_dict(still, strict=False)
        backward(net, x, labels)

    def step(optimizer: Any) -> None:
        optimizer.step()
        net.load_state_dict(still, strict=False)

    return {**train(net, of_those, step), **still}


# --- compiled, functional, exported ---


def compiled(rule: str) -> Values:
    """Two steps of a compiled network."""
    torch._dynamo.reset()
    net = network(rule)
    return train(net, steps=2, run=torch.compile(net, backend="aot_eager", fullgraph=True))


def plain_steps(rule: str, steps: int = 2) -> Values:
    """So many steps of the documented loop."""
    return train(network(rule), steps=steps)


def functional(net: nn.Module) -> Callable[[Values, Tensor, Tensor], Tensor]:
    """The loss as a function of parameters; of a batch, or of one example."""
    buffers = dict(net.named_buffers())

    def loss(own: Values, x: Tensor, labels: Tensor) -> Tensor:
        one = labels.dim() == 0
        output = functional_call(net, {**own, **buffers}, (x[None] if one else x,))
        return F.cross_entropy(output, labels[None] if one else labels)

    return loss


def own(net: nn.Module) -> Values:
    return {name: p.detach() for name, p in net.named_parameters()}


def func_grad(rule: str) -> Values:
    """torch.func.grad, with what counts once a step."""
    net = ready(rule)
    return complete(net, grad(functional(net))(own(net), *batch(net)))


def func_grad_summed(rule: str) -> Values:
    """torch.func.grad alone."""
    net = ready(rule)
    return grad(functional(net))(own(net), *batch(net))


def per_example(rule: str) -> Values:
    """Gradients of each example, averaged."""
    net = ready(rule)
    each = vmap(grad(functional(net)), in_dims=(None, 0, 0), randomness="different")(own(net), *batch(net))
    return {name: value.mean(0) for name, value in each.items()}


def ready(rule: str) -> nn.Module:
    """A network before its task pass."""
    net = network(rule)
    optimizers(net, task=sgd)
    return net


@cache
def one_pass(rule: str, whole: bool = False) -> Values:
    """What one backward pass leaves; `whole`: with what counts once a step."""
    net = ready(rule)
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)  # as torch.func.grad gives where nothing arrives
    backward(net, *batch(net))
    if whole:
        complete(net)
    return {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}


def exported(rule: str) -> Values:
    """A network in training, exported and trained on."""
    net = network(rule).train()
    program = torch.export.export(net, (batch(net)[0],), strict=False).module()
    return train(net, run=program)


# --- copies ---


def copied(rule: str, copy_of: Callable[[nn.Module], nn.Module]) -> Values:
    """A copy of a network that has learnt a little goes on."""
    net = network(rule)
    train(net, steps=1)
    other = copy_of(net)
    train(net, steps=1)  # what happens to the original does not reach the copy
    return train(other, steps=2)


@cache
def stopped(rule: str) -> Values:
    """A network goes on with a new optimizer."""
    net = network(rule)
    train(net, steps=1)
    return train(net, steps=2)


def loaded(rule: str) -> Values:
    """Another network, made with another seed, goes on from a checkpoint."""
    net = network(rule)
    train(net, steps=1)
    file = io.BytesIO()
    torch.save({"net": net.state_dict(), "ruledsl": net.ruledsl.state()}, file)
    file.seek(0)
    other, saved = network(rule, seed=7), torch.load(file)
    other.load_state_dict(saved["net"])
    other.ruledsl.load_state(saved["ruledsl"])
    return train(other, steps=2)


def averaging(rule: str, ema: bool) -> Values:
    """The running averages of a network that learns; and a forward pass of them."""
    net = network(rule)
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.5) if ema else None)

    def step(optimizer: Any) -> None:
        optimizer.step()
        average.update_parameters(net)

    found = train(net, step=step)
    average(batch(net)[0]).sum().backward()
    return {**found, **{f"average of {name}": p.detach() for name, p in average.module.named_parameters()}}


def averages(rule: str, ema: bool) -> Values:
    """The same by hand."""
    net = network(rule)
    seen: list[Values] = []

    def step(optimizer: Any) -> None:
        optimizer.step()
        seen.append({name: p.detach().clone() for name, p in net.named_parameters()})

    found = train(net, step=step)
    for name in seen[0]:
        values = [each[name] for each in seen]
        mean = sum(values) / len(values)
        if ema:
            mean = values[0]
            for value in values[1:]:
                mean = 0.5 * mean + 0.5 * value
        found[f"average of {name}"] = mean
    return found


# --- optimizers ---


def clipped(rule: str) -> Values:
    """What a step of clipped gradients changes, in units of the limit: what counts once a step is clipped too."""
    net = network(rule, **penalties(rule, 100.0))
    plain_sgd = partial(sgd, momentum=0.0)
    others = {"align": plain_sgd} if names_optimizers(net) else {}
    lengths: Values = {}

    def step(optimizer: Any) -> None:
        before = held(net)
        complete(net)
        nn.utils.clip_grad_norm_(net.parameters(), 1e-3)
        optimizer.step()
        moved = [(before[name] - p.detach()).square().sum() for name, p in net.named_parameters()]
        lengths[net.ruledsl.step] = torch.stack(moved).sum().sqrt() / (LR * 1e-3)

    train(net, step=step, optimizer=optimizer_of(net, plain_sgd, **others))
    return lengths


def unclipped(rule: str) -> Values:
    """A limit that nothing reaches."""

    def step(optimizer: Any) -> None:
        nn.utils.clip_grad_norm_(parameters, 1e9)
        optimizer.step()

    net = network(rule)
    parameters = list(net.parameters())
    return train(net, step=step)


def zeroed(rule: str, alone: bool = False) -> Values:
    """Gradients that are zeros before each pass, where a plain loop has none; `alone`: for one optimizer."""
    net = network(rule)
    optimizer = sgd(net.parameters()) if alone else None
    return train(net, optimizer=optimizer, clear=lambda _: net.zero_grad(set_to_none=False))


def made_before(rule: str) -> Values:
    """An optimizer that was made before convert."""
    torch.manual_seed(0)
    net = small.MLP().double().eval()
    optimizer = sgd(net.parameters())
    return train(follow(net, rule), optimizer=optimizer)


def in_groups(rule: str) -> Values:
    """Two groups of parameters for the task."""

    def make(given: Any) -> torch.optim.Optimizer:
        each = [p for part in given for p in (part["params"] if isinstance(part, dict) else [part])]
        return sgd([{"params": each[:1]}, {"params": each[1:], "lr": LR}])

    net = network(rule)
    return train(net, optimizer=optimizer_of(net, make))


@cache
def with_closure(rule: str, explicit: bool, lbfgs: bool = True) -> Values:
    """An optimizer that calls the loop's passes; `explicit`: which complete the gradients themselves."""
    net = network(rule)
    x, labels = batch(net)
    optimizer = torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=3) if lbfgs else sgd(net.parameters())

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), labels)
        loss.backward()
        if explicit:
            complete(net)
        return loss

    return train(net, lambda *_: None, lambda optimizer: optimizer.step(closure), optimizer)


@cache
def single(rule: str) -> Values:
    """One optimizer for everything, also where the rule names others."""
    net = network(rule)
    return train(net, optimizer=sgd(net.parameters()))


def lbfgs_for_the_task(rule: str) -> Values:
    """Where a rule names further optimizers, they would have to share the steps of this one."""
    net = network(rule)
    if not names_optimizers(net):
        return with_closure(rule, explicit=False)
    return train(net, optimizer=optimizers(net, task=torch.optim.LBFGS))


def by_hand(rule: str) -> Values:
    """A loop without an optimizer."""
    net = network(rule)

    def step(_: Any) -> None:
        complete(net)
        with torch.no_grad():
            for parameter in net.parameters():
                if parameter.grad is not None:
                    parameter -= LR * parameter.grad

    return train(net, step=step, optimizer=(), clear=lambda _: net.zero_grad())


def without_momentum(rule: str) -> Values:
    """The same with optimizers."""
    net = network(rule)
    make = partial(sgd, momentum=0.0)
    others = {"align": make} if names_optimizers(net) else {}
    return train(net, optimizer=optimizer_of(net, make, **others))


def ones(values: Callable[[str], Values]) -> Callable[[str], Values]:
    """In the place of every value, 1."""
    return lambda rule: {key: torch.ones_like(value) for key, value in silently(values, rule).items()}


def pickled(net: nn.Module) -> nn.Module:
    """A copy."""
    return pickle.loads(pickle.dumps(net))


def deep(net: nn.Module) -> nn.Module:
    """A copy."""
    return copy.deepcopy(net)
