"""The training engine of the PyTorch backend; its contract is `ruledsl.training.engine.Engine`."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ruledsl.architectures import Architecture
from ruledsl.assembly import part_of
from ruledsl.data import Batch, Split
from ruledsl.errors import RuleWarning, UserError
from ruledsl.program import TASK, Program, Schedule
from ruledsl.streams import number
from ruledsl.training import probes
from ruledsl.training.config import Config, OptimizerConfig
from ruledsl.training.connections import connections, followed
from ruledsl.training.engine import Diverged, Score, Steps
from ruledsl.training.freezing import frozen_layers
from ruledsl.training.schedule import Clock
from ruledsl_torch.conversion import convert
from ruledsl_torch.losses import mean_loss
from ruledsl_torch.network import NetworkState, observe
from ruledsl_torch.networks import activations, build
from ruledsl_torch.optimization import optimizer
from ruledsl_torch.places import place_of
from ruledsl_torch.probing import look
from ruledsl_torch.replicas import meet
from ruledsl_torch.routing import Optimizers, receivers
from ruledsl_torch.rule_optimizer import RuleOptimizer
from ruledsl_torch.steps import advance

State = dict[str, NDArray[Any]]


class Engine:
    """One network, one rule and its optimizers. Networks of one seed begin with the same W and b under every rule."""

    def init(
        self,
        architecture: Architecture,
        rule: Program | None,
        output: Program | None,
        config: Config,
        constraints: Sequence[Program] = (),
        layers: Mapping[str, Program | None] = {},
    ) -> None:
        """See `ruledsl.training.engine.Engine.init`."""
        self.place = place_of(config)
        self.leads = self.place.rank == 0
        self.losses, self.narrow, self.seed = config.loss, config.precision == "bfloat16", config.seed
        self.notes: list[str] = []
        self.faster_together = False
        if config.threads:
            torch.set_num_threads(config.threads)
        self.architecture = architecture
        self.probes = probes.Probes()
        self.net: nn.Module = build(architecture, config.seed).to(self.place.device)
        self._seed_noise()
        self.network: NetworkState | None = None
        if rule is not None:
            # Only phases that draw activity need to know how much of it.
            programs = (rule, output, *layers.values())
            drives = any(f.role == "drive" for program in programs if program for f in program.functions)
            if drives and config.data.batch_size_after:
                raise UserError(
                    "a phase that draws its own input needs batches of one size", "leave out data.batch_size_after"
                )
            size = config.data.batch_size // self.place.count if drives else 2
            example = torch.zeros(size, *architecture.input_shape, device=self.place.device)
            with warnings.catch_warnings():  # the loss is as they want it
                warnings.filterwarnings("ignore", ".* does not follow the scale of the loss", RuleWarning)
                convert(
                    self.net,
                    rule,
                    rules=layers,
                    output=output,
                    constraints=constraints,
                    example=example,
                    activations=activations(architecture),
                    seed=config.seed,
                )
            self.network = self.net.ruledsl  # type: ignore[assignment]
        elif constraints or layers:
            what = "constraints" if constraints else "rules for single layers"
            raise UserError(f"{what} need a rule for the network", "rule = backprop learns what autograd learns")
        if config.channels_last:
            self.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.layout = torch.channels_last if config.channels_last else torch.contiguous_format
        frozen = frozen_layers(architecture, config.frozen)
        # Errors travel through frozen layers, and what they meet there may learn: the optimizers alone leave them out.
        self.frozen = [p for path, p in self.net.named_parameters() if path.rpartition(".")[0] in frozen]
        settings = {TASK: config.optimizer, **config.optimizers}
        groups = _learning(receivers(self.network, self.net), {id(parameter) for parameter in self.frozen})
        self.optimizers = Optimizers(self.network, {name: _optimizer(settings[name], groups[name]) for name in groups})
        self.optimizers.clips = {name: one.clip for name, one in settings.items() if one.clip is not None}
        for name, one in self.optimizers.items():
            if isinstance(one, RuleOptimizer):
                one.draws = self._draws(config.seed, name)
        self.rates = {name: setting.lr for name, setting in settings.items()}
        self.changing = config.schedules
        self.as_all = _following_the_rule(architecture, rule, output, layers) if self.changing else frozenset()
        self.forward: nn.Module = torch.compile(self.net) if config.compile else self.net  # type: ignore[assignment]
        if self.place.count > 1:
            phases = self.network is not None and self.network.schedule != Schedule()
            self.forward = DistributedDataParallel(self.forward, find_unused_parameters=phases)
            if self.network is not None and self.network.in_step:
                meet(self.network, self.forward)  # the first phases may not see the batch

    def steps(self, run: Steps) -> Iterator[Score | None]:
        """See `ruledsl.training.engine.Engine.steps`."""
        for index, (batch, clock) in enumerate(zip(run.batches(), run.clocks, strict=True)):
            yield self.step(batch, run.factors(index), clock)

    def step(self, batch: Batch, factors: Mapping[str, float], clock: Clock) -> Score | None:
        """One step; `factors` on learning rates by optimizer, and "" on all others."""
        images, labels = (self.place.share(value) for value in self._tensors(batch))
        self._set_rates(factors)
        self.step_number, self.drawn = clock.step, Counter[str]()
        network = self.network
        if network is None:
            return self._learn(images, labels)
        for name, schedule in self.changing.items():
            network.change(name, schedule.at(clock.progress), self.as_all)
        rate = factors.get(TASK, factors[""]) * self.rates[TASK]
        self.optimizers.observe(epoch=clock.epoch, progress=clock.progress)
        observe(self.forward, target=labels, epoch=clock.epoch, progress=clock.progress, lr=rate)
        network.step, network.epoch = clock.step, clock.epochs_passed
        network.begin_step()
        score = None
        while network.step == clock.step:
            score = self._learn(images, labels) if network.sees_batch else score
            advance(self.forward)
        return score

    def evaluate(self, split: Split, batch_size: int) -> Score:
        """See `ruledsl.training.engine.Engine.evaluate`."""
        self.net.eval()
        loss, wrong, count = 0.0, 0, 0
        with torch.no_grad():
            for batch in split.in_order(batch_size):
                images, labels = self._tensors(batch)
                with self._precision():
                    logits = self.net(images)
                logits = logits.float()
                score = _score(logits, labels, len(labels) * mean_loss(self.losses.plain, logits, labels).item())
                loss, wrong, count = loss + score.loss, wrong + score.wrong, count + score.images
        if not np.isfinite(loss):
            raise Diverged(loss, self._where(images))
        return Score(loss / count, wrong, count)

    def probe(self, held_out: Split) -> dict[str, float]:
        """See `ruledsl.training.engine.Engine.probe`."""
        batch = held_out.sample(probes.HELD_OUT)
        images, labels = self._tensors(batch)
        with torch.random.fork_rng(devices=[]):
            plain = build(self.architecture, 0).to(self.place.device)
        paths = [place.path for place in self.architecture.weight_layers()]
        loss = partial(mean_loss, self.losses)
        return self.probes.measure(look(self.net, plain, paths, images, labels, self.rates[TASK], loss))

    def together(self, others: Sequence[Engine]) -> None:
        """See `ruledsl.training.engine.Engine.together`: one after the other."""

    def peak_memory(self) -> int | None:
        """See `ruledsl.training.engine.Engine.peak_memory`."""
        device = self.place.device
        return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None

    def agreed(self, number: float) -> float:
        """See `ruledsl.training.engine.Engine.agreed`."""
        return self.place.largest(number)

    def state(self) -> State:
        """See `ruledsl.training.engine.Engine.state`."""
        state = {f"network.{name}": _copy(value) for name, value in self.net.state_dict().items()}
        for which, one in self.optimizers.items():
            for index, values in one.state_dict()["state"].items():
                for name, value in values.items():
                    if value is not None:
                        state[f"optimizer.{which}.{index}.{name}"] = _copy(torch.as_tensor(value))
        state["random"] = _copy(torch.get_rng_state())
        if self.place.device.type == "cuda":
            state["random_cuda"] = _copy(torch.cuda.get_rng_state(self.place.device))
        if self.network is not None:
            rule = self.network.state()
            state["rule.step"] = np.array(rule["step"])
            state |= {f"rule.clock.{name}": np.array(value) for name, value in rule["clock"].items()}
        return state

    def load_state(self, state: Mapping[str, NDArray[Any]]) -> None:
        """See `ruledsl.training.engine.Engine.load_state`."""
        tensors = {name: torch.from_numpy(np.array(value)) for name, value in state.items()}
        self.net.load_state_dict(_below("network.", tensors))
        for which, one in self.optimizers.items():
            values: dict[int, dict[str, Tensor]] = {}
            for path, value in _below(f"optimizer.{which}.", tensors).items():
                index, name = path.split(".", 1)
                values.setdefault(int(index), {})[name] = value
            one.load_state_dict({**one.state_dict(), "state": values})
        torch.set_rng_state(tensors["random"])
        if "random_cuda" in tensors and self.place.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["random_cuda"], self.place.device)
        if self.place.count > 1:  # what was saved is that of one process
            self._seed_noise(int(tensors.get("rule.step", torch.zeros(()))))
        if self.network is not None:
            self.network.load_state(
                {
                    "step": int(tensors["rule.step"]),
                    "clock": {name: float(value) for name, value in _below("rule.clock.", tensors).items()},
                }
            )

    def _learn(self, images: Tensor, labels: Tensor) -> Score:
        """One pass through the network, and what the optimizers make of it."""
        self.net.train()
        with self._precision():
            logits = self.forward(images)
        logits = logits.float()
        loss = mean_loss(self.losses, logits, labels)
        score = self._joint(_score(logits, labels, loss.item()))
        if not np.isfinite(score.loss):
            raise Diverged(score.loss, self._where(images))
        self.optimizers.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        for parameter in self.frozen:
            parameter.grad = None
        self.optimizers.step()
        return score

    def _seed_noise(self, *names: int) -> None:
        """What dropout draws from, in each process its own."""
        rank = (self.place.rank,) if self.place.rank else ()
        torch.manual_seed(number(self.seed, "dropout", *rank, *names))

    def _tensors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        images, labels = torch.from_numpy(batch.images), torch.from_numpy(batch.labels)
        layout = self.layout if images.dim() == 4 else torch.contiguous_format
        return images.to(self.place.device, memory_format=layout), labels.to(self.place.device)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.place.device.type, torch.bfloat16, enabled=self.narrow)

    def _joint(self, score: Score) -> Score:
        """Of the whole batch, of which this process has a share."""
        if self.place.count == 1:
            return score
        loss, wrong, images = self.place.total(score.loss * score.images, score.wrong, score.images)
        return Score(loss / images, int(wrong), int(images))

    def _draws(self, seed: int, optimizer: str) -> Callable[[Tensor, str], torch.Generator]:
        """By parameter and name, what an optimizer draws from: it follows from these, the step, and how often before
        in this step."""
        paths = {id(parameter): path for path, parameter in self.net.named_parameters()}

        def source(parameter: Tensor, name: str) -> torch.Generator:
            path = paths[id(parameter)]
            draw = f"{optimizer} {path} {name}"
            self.drawn[draw] += 1
            key = number(seed, "optimizer", optimizer, path, name, self.step_number, self.drawn[draw])
            return torch.Generator(parameter.device).manual_seed(key)

        return source

    def _set_rates(self, factors: Mapping[str, float]) -> None:
        for name, one in self.optimizers.items():
            for group in one.param_groups:
                group["lr"] = factors.get(name, factors[""]) * self.rates[name]

    def _where(self, images: Tensor) -> str:
        """The layer in which a number that is not finite appeared first.

        Weights are looked at from the output down, the way that errors travel; then activity from the input up.
        """
        for path in reversed(list(self.architecture.activations())):
            module = self.net.get_submodule(path)
            for name, value in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                if not torch.isfinite(value).all():
                    return f"layer {path}: its {name}"
        overflown: list[str] = []

        def look(path: str, output: Tensor) -> None:
            if not torch.isfinite(output).all():
                overflown.append(path)

        hooks = [
            module.register_forward_hook(lambda module, inputs, output, path=path: look(path, output))
            for path, module in self.net.named_modules()
            if path and not list(module.children())
        ]
        try:
            with torch.no_grad():
                self.net(images)
        finally:
            for hook in hooks:
                hook.remove()
        return f"layer {overflown[0]}: its activity" if overflown else "the loss itself"


def _optimizer(config: OptimizerConfig, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    if config.name == "adam":
        return torch.optim.Adam(
            groups, config.lr, config.betas, config.eps, weight_decay=config.weight_decay, fused=True
        )
    if config.name == "sgd":
        return torch.optim.SGD(
            groups, config.lr, momentum=config.momentum, nesterov=config.nesterov, weight_decay=config.weight_decay
        )
    return optimizer(groups, config.name, lr=config.lr, **config.parameters)


def _following_the_rule(
    architecture: Architecture, rule: Program | None, output: Program | None, layers: Mapping[str, Program | None]
) -> frozenset[str]:
    """The layers that follow the network's own rule, whose parameters may change, and none that was given by name."""
    if rule is None:
        return frozenset()
    own = part_of(rule, {})
    found = followed(connections(architecture, 1), own, output, layers)
    return frozenset(path for path, part in found.items() if part is own)


def _learning(groups: dict[str, list[dict[str, Any]]], frozen: set[int]) -> dict[str, list[dict[str, Any]]]:
    """The groups of optimizers, without what does not learn."""
    found = {
        name: [{**group, "params": [p for p in group["params"] if id(p) not in frozen]} for group in some]
        for name, some in groups.items()
    }
    return {name: kept for name, some in found.items() if (kept := [group for group in some if group["params"]])}


def _score(logits: Tensor, labels: Tensor, loss: float) -> Score:
    return Score(loss, int((logits.argmax(1) != labels).sum()), len(labels))


def _copy(tensor: Tensor) -> NDArray[Any]:
    return np.array(tensor.detach().cpu().numpy())


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
