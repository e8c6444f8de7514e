"""One weight in two layers, as in language models: whether the feedback of either can follow it.

What several layers teach a weight adds up. Feedback that is drawn to W itself follows the sum; feedback that is taught
what its own layer teaches W, as that of Kolen and Pollack is, does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from ruledsl.program import Function, program_of
from ruledsl_torch.layers import RuleLayer, held
from ruledsl_torch.speaking import warn_once


def warn_of_shared_weights(net: nn.Module, named: Iterable[tuple[str, RuleLayer]]) -> None:
    """Warn where weights that two layers of a network share part from feedback that only one of them teaches."""
    layers: dict[Any, tuple[str, RuleLayer]] = {}
    for path, layer in named:
        key = (id(held(layer, "weight")), layer.parts.get("weight"))
        other, first = layers.setdefault(key, (path, layer))
        followers = [] if first is layer else _imitators(layer) or _imitators(first)
        if followers:
            warn_once(
                net,
                "shared weight",
                f"{other} and {path} share a weight, and {followers[0]} learns what its own layer alone teaches it: "
                f"W and {followers[0]} drift apart",
                f"untie them: net.{path}.weight = torch.nn.Parameter(net.{path}.weight.detach().clone()), then convert",
            )


def _imitators(layer: RuleLayer) -> list[str]:
    """The tensors of a layer that are taught by its error, and never look at W. None where nobody is sent anything."""
    if isinstance(layer, nn.Embedding) or not layer.sends:
        return []
    functions = program_of(layer).functions
    taught = [(f.target, _read(f, functions)) for f in functions if f.role == "grad" and f.target not in ("W", "b")]
    looking = {target for target, read in taught if "W" in read}
    by_error = {target for target, read in taught if read & {"delta", "e"}}
    return sorted(str(name) for name in by_error - looking)


def _read(function: Function, functions: Sequence[Function]) -> set[str]:
    """What the value of a function depends on, through the terms that it shares with others."""
    terms = [f for f in functions if f.role == "term" and f.phase == function.phase and f.target in function.arguments]
    return set(function.arguments).union(*(_read(term, functions) for term in terms))
