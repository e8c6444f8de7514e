"""The training engine of the PyTorch backend; its contract is `ruledsl.training.engine.Engine`."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ruledsl.architectures import Architecture
from ruledsl.data import Batch, Split
from ruledsl.errors import RuleWarning, UserError
from ruledsl.program import TASK, Program
from ruledsl.streams import number
from ruledsl.training import probes
from ruledsl.training.config import Config, OptimizerConfig
from ruledsl.training.engine import Diverged, Score, Steps
from ruledsl.training.schedule import Clock
from ruledsl_torch.conversion import convert
from ruledsl_torch.network import NetworkState, observe
from ruledsl_torch.networks import activations, build
from ruledsl_torch.optimization import optimizer
from ruledsl_torch.probing import look
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
        if config.device not in (None, "cpu") or max(config.devices or 1, config.processes or 1) > 1:
            raise UserError("`train` with PyTorch computes on one CPU", "leave out device, devices and processes")
        self.leads = True
        self.notes: list[str] = []
        self.faster_together = False
        if config.threads:
            torch.set_num_threads(config.threads)
        self.architecture = architecture
        self.probes = probes.Probes()
        self.net: nn.Module = build(architecture, config.seed)
        torch.manual_seed(number(config.seed, "dropout"))
        self.network: NetworkState | None = None
        if rule is not None:
            # Only phases that draw activity need to know how much of it.
            programs = (rule, output, *layers.values())
            drives = any(f.role == "drive" for program in programs if program for f in program.functions)
            example = torch.zeros(config.data.batch_size if drives else 2, *architecture.input_shape)
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
        settings = {TASK: config.optimizer, **config.optimizers}
        groups = receivers(self.network, self.net)
        self.optimizers = Optimizers(self.network, {name: _optimizer(settings[name], groups[name]) for name in groups})
        for name, one in self.optimizers.items():
            if isinstance(one, RuleOptimizer):
                one.draws = self._draws(config.seed, name)
        self.rates = {name: setting.lr for name, setting in settings.items()}
        self.changing = config.schedules
        self.forward = torch.compile(self.net) if config.compile else self.net

    def steps(self, run: Steps) -> Iterator[Score | None]:
        """See `ruledsl.training.engine.Engine.steps`."""
        for batch, rate, clock in zip(run.batches(), run.rates, run.clocks, strict=True):
            yield self.step(batch, rate, clock)

    def step(self, batch: Batch, rates: float, clock: Clock) -> Score | None:
        """One step; `rates` is the factor on every learning rate."""
        images, labels = torch.from_numpy(batch.images), torch.from_numpy(batch.labels)
        self._set_rates(rates)
        self.step_number, self.drawn = clock.step, Counter[str]()
        network = self.network
        if network is None:
            return self._learn(images, labels)
        parameters = {name: schedule.at(clock.progress) for name, schedule in self.changing.items()}
        rate = rates * self.rates[TASK]
        self.optimizers.observe(epoch=clock.epoch, progress=clock.progress)
        observe(self.net, target=labels, epoch=clock.epoch, progress=clock.progress, lr=rate, **parameters)
        network.step, network.epoch = clock.step, clock.epochs_passed
        network.begin_step()
        score = None
        while network.step == clock.step:
            score = self._learn(images, labels) if network.sees_batch else score
            advance(self.net)
        return score

    def evaluate(self, split: Split, batch_size: int) -> Score:
        """See `ruledsl.training.engine.Engine.evaluate`."""
        self.net.eval()
        loss, wrong, count = 0.0, 0, 0
        with torch.no_grad():
            for batch in split.in_order(batch_size):
                logits, labels = self.net(torch.from_numpy(batch.images)), torch.from_numpy(batch.labels)
                score = _score(logits, labels, functional.cross_entropy(logits, labels, reduction="sum").item())
                loss, wrong, count = loss + score.loss, wrong + score.wrong, count + score.images
        if not np.isfinite(loss):
            raise Diverged(loss, self._where(torch.from_numpy(batch.images)))
        return Score(loss / count, wrong, count)

    def probe(self, held_out: Split) -> dict[str, float]:
        """See `ruledsl.training.engine.Engine.probe`."""
        batch = next(iter(held_out.in_order(probes.HELD_OUT)))
        images, labels = torch.from_numpy(batch.images), torch.from_numpy(batch.labels)
        with torch.random.fork_rng(devices=[]):
            plain = build(self.architecture, 0)
        paths = [place.path for place in self.architecture.weight_layers()]
        return self.probes.measure(look(self.net, plain, paths, images, labels, self.rates[TASK]))

    def together(self, others: Sequence[Engine]) -> None:
        """See `ruledsl.training.engine.Engine.together`: one after the other."""

    def state(self) -> State:
        """See `ruledsl.training.engine.Engine.state`."""
        state = {f"network.{name}": _copy(value) for name, value in self.net.state_dict().items()}
        for which, one in self.optimizers.items():
            for index, values in one.state_dict()["state"].items():
                for name, value in values.items():
                    if value is not None:
                        state[f"optimizer.{which}.{index}.{name}"] = _copy(torch.as_tensor(value))
        state["random"] = _copy(torch.get_rng_state())
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
        logits = self.forward(images)
        loss = functional.cross_entropy(logits, labels)
        score = _score(logits, labels, loss.item())
        if not np.isfinite(score.loss):
            raise Diverged(score.loss, self._where(images))
        self.optimizers.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizers.step()
        return score

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

    def _set_rates(self, factor: float) -> None:
        for name, one in self.optimizers.items():
            for group in one.param_groups:
                group["lr"] = factor * self.rates[name]

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


def _score(logits: Tensor, labels: Tensor, loss: float) -> Score:
    return Score(loss, int((logits.argmax(1) != labels).sum()), len(labels))


def _copy(tensor: Tensor) -> NDArray[Any]:
    return np.array(tensor.detach().cpu().numpy())


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
