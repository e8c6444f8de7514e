"""What a layer that follows a rule can't be part of: an error or a warning says so before anything depends on it."""

from __future__ import annotations

from typing import Any

import torch

from ruledsl.errors import UserError
from ruledsl_torch.layers import RuleLayer, Unconnected, checks
from ruledsl_torch.speaking import warn_once


def check(module: RuleLayer) -> None:
    """Raises UserError where an export or a transform of torch.func would take something else for the rule."""
    if not torch.compiler.is_compiling():
        check_transforms()
    elif torch.compiler._is_exporting_flag:  # what is_exporting() says; in torch 2.11 it says so to torch.compile too
        check_export(module)


def check_export(module: RuleLayer) -> None:
    """A program that torch.export makes has no rule. Raises UserError where it is made of a network in training."""
    if not any(parameter.requires_grad for _, parameter in module.read_parameters()):
        return
    if module.training:
        kept = f"torch.export keeps of {module.rule} what its layers compute forwards, and learns by backpropagation"
        if torch.compiler.is_dynamo_compiling():  # where no class of our own can be made
            raise RuntimeError(kept)
        raise UserError(kept, "net.eval() and torch.no_grad() export it for inference; torch.compile keeps its rule")
    if not torch.compiler.is_dynamo_compiling():  # which can't warn, and whose programs have no gradients at all
        warn_once(
            module if isinstance(module.network, Unconnected) else module.network,
            "export",
            f"the exported program has no {module.rule}: trained further, it would learn by backpropagation",
            "with torch.no_grad(): torch.export.export(net.eval(), ...)",
        )


def check_transforms() -> None:
    """Raises UserError inside transforms of torch.func that need another derivative than a rule has."""
    kinds = [each.key() for each in torch._C._functorch.get_interpreter_stack() or ()]
    if torch._C._functorch.TransformType.Jvp in kinds:
        raise UserError(
            "a rule says what a backward pass brings, and has no derivative in forward mode (jvp, jacfwd, hessian)",
            "torch.func.grad, vjp and jacrev differentiate backwards; under torch.no_grad() layers compute plain maps",
        )
    if kinds.count(torch._C._functorch.TransformType.Grad) > 1:
        raise UserError(
            "what a rule puts in the place of a gradient has no derivative of its own: this network is differentiated "
            "once, and not twice",
            "hand what the inner torch.func.grad computes to the outer one as an argument, not as a function of it",
        )


def refuse_script(module: RuleLayer) -> Any:
    """What torch.jit.script asks every module for. Raises UserError."""
    raise UserError(
        f"TorchScript has no {module.rule}: torch.jit.script can't take a layer that follows a rule",
        "torch.compile(net) keeps its rule; torch.jit.trace of net.eval() under torch.no_grad() is for inference",
    )


checks.append(check)
RuleLayer.__prepare_scriptable__ = refuse_script  # type: ignore[attr-defined]
