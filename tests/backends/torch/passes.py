"""Emitted functions and layers, fed by hand: every input and every error of a pass is chosen by the test."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

import ruledsl
from ruledsl.emit.binding import Pass
from ruledsl.program import INIT, TASK, Program
from ruledsl.rule import Rule
from ruledsl.verification.cases import CLASSES, DOWNSTREAM, random_values, reference_layer
from ruledsl.verification.executor import Results, collect, python_names, reference_results, renamed
from ruledsl.verification.geometries import Geometry
from ruledsl_torch.executor import layer_of, linear_map
from ruledsl_torch.layers import Gradient, Next, RuleLayer
from ruledsl_torch.network import NetworkState

ATTRIBUTES = {"W": "weight", "b": "bias"}


class Case:
    """A rule on a layer of a geometry: random values, and what the reference makes of them.

    bias   without one, rules read zeros, and nothing is computed for it
    """

    def __init__(self, rule: Rule, geometry: Geometry, bias: bool = True, seed: int = 0) -> None:
        self.rule, self.geometry, self.bias = rule, geometry, bias
        self.program: Program = rule.compile("torch")
        self.names = python_names(self.program, rule.lowered)
        drawn = random_values(rule.lowered, reference_layer(geometry), np.random.default_rng(seed))
        if not bias:
            drawn["u"] = drawn["u"] - reference_layer(geometry).spread(drawn["b"])
            drawn["b"] = np.zeros_like(drawn["b"])
        self.drawn = drawn
        self.values = {name: tensor_of(value) for name, value in renamed(drawn, self.names).items()}

    def expected(self, phase: str) -> Results:
        """By output (`send`, `grad W by task`, `next B`), under the names of the module."""
        results: Results = {}
        found = reference_results(self.rule.lowered, phase, self.geometry, self.drawn)
        if phase in self.program.binding.with_errors:  # errors travel in it as in the task
            found["send"] = reference_results(self.rule.lowered, TASK, self.geometry, self.drawn)["send"]
        for output, value in found.items():
            role, *rest = output.split(" ")
            named = [self.names.get(rest[0], rest[0]), *rest[1:]] if rest else []
            if self.bias or not rest or rest[0] != "b":
                results[" ".join([role, *named])] = value
        return results

    # --- a pass, by the function alone ---

    def function(self, own: Pass) -> type[torch.autograd.Function]:
        """The emitted class of a pass."""
        made = [
            each
            for each in vars(self.program.module).values()
            if isinstance(each, type)
            and issubclass(each, torch.autograd.Function)
            and each.__module__ == self.program.module.__name__
        ]
        return made[self.program.binding.passes.index(own)]

    def arguments(self, own: Pass, learned: Iterable[str] | None = None) -> dict[str, Any]:
        """By name, what the function of a pass is given; those of `learned` need gradients (None: all that may)."""
        found: dict[str, Any] = {}
        learned = own.learned if learned is None else learned
        receivers = {output.receiver: output.target for output in own.received}
        for name in inspect.signature(self.function(own).forward).parameters:
            if name == "rest":
                found["rest"] = [each for family in own.families for each in self.values[family]]
                found["rest"] += [None for _ in DOWNSTREAM] if own.dense else []
            elif name in receivers:
                found[name] = torch.zeros_like(self.values[receivers[name]])
            elif name == "backward_passes":
                found[name] = torch.zeros((), dtype=torch.float64)
            elif name == "layer":
                found[name] = linear_map(self.geometry)
            elif name == "shapes":
                found[name] = DOWNSTREAM
            elif name == "sends":
                found[name] = True
            elif name == "classes":
                found[name] = CLASSES
            elif name == "b" and not self.bias:
                found[name] = None
            elif isinstance(self.values[name], Tensor) and name != "u":
                found[name] = self.values[name].clone().requires_grad_(name in learned)
            else:
                found[name] = self.values[name]
        return found

    def run_function(self, own: Pass, learned: Iterable[str] | None = None) -> tuple[Results, dict[str, Any]]:
        """The results of a pass, and the arguments after it."""
        given = self.arguments(own, learned)
        flat = [each for name, value in given.items() for each in (value if name == "rest" else [value])]
        outputs = self.function(own).apply(*flat)
        backward(own, outputs if isinstance(outputs, tuple) else (outputs,), self.values)
        results: Results = {}
        for name in own.learned:
            output = own.of(name)
            if given[name] is not None and given[name].grad is not None:
                assert output is not None, name
                results["send" if name == "x" else f"grad {name} by {output.optimizer}"] = given[name].grad
        for output in own.received:
            key = f"next {output.target}" if output.kind == "assign" else f"grad {output.target} by {output.optimizer}"
            results[key] = given[output.receiver]
        if not self.bias:
            results = {key: value for key, value in results.items() if key.split(" ")[1:2] != ["b"]}
        return results, given

    def completed(self, phase: str, results: Results) -> Results:
        """What counts once a step, added to what a pass has brought."""
        found = {}
        for once in self.program.binding.once:
            output = f"grad {once.target} by {once.optimizer}"
            if once.phase == phase and output in results:
                given = {**self.values, "layer": linear_map(self.geometry), once.summed: results[output]}
                function = getattr(self.program.module, once.call.function)
                found[output] = function(*(given[name] for name in once.call.arguments))
        return found

    # --- every phase, by the layer ---

    def layer(self) -> tuple[RuleLayer, NetworkState]:
        """A layer that holds the values, in a network of which there is nothing else."""
        layer: Any = layer_of(self.geometry, bias=self.bias, dtype=torch.float64)
        layer.__class__ = vars(self.program.module)[type(layer).__name__]
        network = NetworkState(self.program.rule, {"it": layer}, CLASSES, None)
        network.target = self.values["target"]
        for name in ("step", "epoch", "progress", "lr"):
            network.tell(name, float(self.values[name]))
        layer.follow(
            None,
            network=network,
            path="it",
            classes=CLASSES,
            phi=torch.tanh,
            input_shape=tuple(self.values["x"].shape),
            output_shape=tuple(self.values["u"].shape),
            downstream={f"far_{index}": shape for index, shape in enumerate(DOWNSTREAM)},
        )
        with torch.no_grad():
            for tensor in self.program.tensors:
                value = self.values[tensor.name]
                if isinstance(value, list):
                    for index, each in enumerate(value):
                        getattr(layer, f"{tensor.name}_{index}").copy_(each)
                elif tensor.name != "b" or self.bias:
                    getattr(layer, ATTRIBUTES.get(tensor.name, tensor.name)).copy_(value)
        return layer, network

    def run_layer(self, phase: str) -> Results:
        """The results of a phase."""
        layer, network = self.layer()
        owned = {id(getattr(layer, ATTRIBUTES.get(t.name, t.name), None)): t.name for t in self.program.tensors}
        binding = self.program.binding
        passes = [own for own in binding.passes if own.phase == phase]
        after = [own.phase for own in binding.after]
        if passes:
            return self._run_pass(layer, network, passes[0], owned)
        if phase in after:
            results = layer.after_step[after.index(phase)](layer)
        else:
            drive = layer.drive(phase)
            assert drive is not None
            assert drive.draw(layer, torch.Generator()).shape == self.values["x"].shape
            results = drive.run(layer, self.values["x"])
        return named(results, owned)

    def _run_pass(self, layer: Any, network: NetworkState, own: Pass, owned: Mapping[int, str]) -> Results:
        network.phase, running = own.phase, network.running
        running.output, running.taps, running.evoking = [], {}, None if own.errors else own.phase
        x = self.values["x"].clone().requires_grad_()
        u = layer(x)
        assert torch.allclose(u, self.values["u"], atol=1e-12)
        outputs = (u, *running.output, *running.taps.values()) if own.errors else tuple(running.output)
        backward(own, outputs, self.values)
        results: Results = {} if x.grad is None else {"send": x.grad}
        for name, parameter in layer.named_parameters():
            if parameter.grad is not None:
                given = owned[id(parameter)]
                output = own.of(given)
                assert output is not None, name
                results[f"grad {given} by {output.optimizer}"] = parameter.grad
        for output in own.received:
            if output.kind == "grad" and getattr(layer, output.receiver) is not None:
                results[f"grad {output.target} by {output.optimizer}"] = getattr(layer, output.receiver)
        for once in getattr(layer, "once", ()):
            output = f"grad {owned[id(getattr(layer, once.tensor))]} by {once.optimizer}"
            if once.phase == own.phase and output in results:
                results[output] = once.complete(layer, results[output])
        return results | named(layer.end_pass(own.phase), owned)


def named(results: Iterable[Next | Gradient], owned: Mapping[int, str]) -> Results:
    """By output, what a layer returns."""
    found: Results = {}
    for result in results:
        tensor = owned[id(result.tensor)]
        found[f"next {tensor}" if isinstance(result, Next) else f"grad {tensor} by {result.optimizer}"] = result.value
    return found


def backward(own: Pass, outputs: tuple[Tensor, ...], values: Mapping[str, Any]) -> None:
    """The backward pass, with the values' errors."""
    if own.errors:
        errors = [values["delta"], *([values["e"]] if own.direct else []), *(values["delta_k"] if own.dense else [])]
    else:
        errors = [torch.ones_like(outputs[0])]
    assert len(outputs) == len(errors)
    kept = [(output, error) for output, error in zip(outputs, errors, strict=True) if output.requires_grad]
    if kept:
        torch.autograd.backward([output for output, _ in kept], [error for _, error in kept])


def expected_by_phase(rule: Rule, geometry: Geometry, values: Mapping[str, Any]) -> dict[str, Results]:
    """What the reference makes of values in every phase that has equations."""
    phases = dict.fromkeys(function.phase for function in rule.compile("torch").functions if function.phase != INIT)
    return {phase: reference_results(rule.lowered, phase, geometry, values) for phase in phases}


def with_transposed_kernels(
    program: Program, phase: str, values: Mapping[str, Any], linear: Any, x: Tensor | None = None
) -> Results:
    """What a phase computes by a map whose kernels are [pre, post], for values and results with [post, pre].

    x   what it is given for the x of `values`, if that is not the same
    """
    kernels = {tensor.name for tensor in program.tensors if {*tensor.space} == {"pre", "post"}}
    given = {name: tensor_of(value.T if name in kernels else value) for name, value in values.items()}
    given |= {name: torch.tensor(values[name], dtype=torch.float64) for name in ("step", "epoch", "progress", "lr")}
    if x is not None:
        given["x"] = x
    found = collect(program, phase, {**given, "layer": linear})
    full = {output: values[output.split(" ")[1]] if " " in output else values["x"] for output in found}
    turned = {output: " " in output and output.split(" ")[1] in kernels for output in found}
    arrays = {output: np.asarray(value) for output, value in found.items()}
    return {
        output: np.broadcast_to(value.T if turned[output] else value, np.shape(full[output]))
        for output, value in arrays.items()
    }


def tensor_of(value: Any) -> Any:
    """A value of the reference, for torch."""
    if isinstance(value, list):
        return [tensor_of(each) for each in value]
    if callable(value):
        return torch.tanh if value is np.tanh else lambda v: 1 - torch.tanh(v) ** 2
    return torch.tensor(value, dtype=torch.float64) if isinstance(value, np.ndarray | np.generic) else value


def library() -> list[str]:
    """The learning rules of the library."""
    return [name for name in ruledsl.names() if ruledsl.load(name).kind == "rule"]
