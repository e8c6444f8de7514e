"""Parity: whether terms of an update are odd in the errors, so that nobody knows before where they lead."""

from __future__ import annotations

from typing import Literal, NamedTuple

from ruledsl.ir.nodes import Node, walk
from ruledsl.locality.intervals import Intervals
from ruledsl.locality.updates import Parts
from ruledsl.passes.scaling import ERRORS

Parity = Literal["odd", "even", "zero"]
_EVEN = ("abs", "sq", "norm", "std", "l2_norm")
_KEPT = ("neg", "sign", "tanh", "transpose", "total", "sum_all", "sum_k", "mean")
_PRODUCTS = ("mul", "div", "apply", "outer", "dot")
_SUMMED = ("apply", "outer", "dot", "total", "sum_all", "sum_k", "mean")
_BENT = ("sign", "tanh")


class _Kind(NamedTuple):
    """How a value answers when all errors change their sign; None where in no such way.

    driven   it follows something that the rule sets or draws: as a factor that keeps its sign, or freely
    hears    it depends on errors
    bent     it is not proportional to the errors; a sum of such goes where it is known before, as that of `e * abs(e)`
             over the classes of a softmax
    """

    parity: Parity | None
    driven: Literal["no", "gate", "freely"] = "no"
    hears: bool = False
    bent: bool = False


_DRIVEN = ("no", "gate", "freely")


def follow_errors(parts: Parts, intervals: Intervals) -> bool:
    """Whether all terms are odd in the errors, and the rule has no hand on their signs, nor weighs one with others."""
    kinds = [_kind_of(term, intervals) for term in parts.terms]
    if any(kind.parity != "odd" or kind.driven == "freely" for kind in kinds):
        return False
    return len(kinds) < 2 or not (parts.chosen or any(kind.driven == "gate" for kind in kinds))


def _kind_of(term: Node, intervals: Intervals) -> _Kind:
    memo: dict[int, _Kind] = {}
    for node in walk(term):
        core = clipped(node, even=True)
        if core:
            kind = memo[id(core)]
            kind = kind._replace(bent=kind.bent or not _holds_probabilities(node))
        else:
            kind = _kind(node, [memo[id(arg)] for arg in node.args], intervals)
        if kind.driven == "freely" and kind.parity in ("even", "zero") and intervals.of(node).one_sided:
            kind = kind._replace(driven="gate")
        memo[id(node)] = kind
    return memo[id(term)]


def _holds_probabilities(clip: Node) -> bool:
    """Whether a clip leaves errors of a softmax alone: these lie between -1 and 1."""
    limits = [n.constant for part in (clip, *clip.args) for n in part.args if n.constant is not None]
    return all(abs(limit) >= 1 for limit in limits)


def _kind(node: Node, args: list[_Kind], intervals: Intervals) -> _Kind:
    match node.op:
        case "const":
            return _Kind("zero" if node.constant == 0 else "even")
        case "signal":
            heard = node.attrs[0] in ERRORS
            return _Kind("odd" if heard else "even", hears=heard)
        case "scalar":
            name = str(node.attrs[0])
            return _Kind("even", "freely" if name in ("step", "epoch", "progress", "lr") else "no")
        case "tensor":
            declared = intervals.equations.tensors[str(node.attrs[0])]
            return _Kind("even", "freely" if declared.kind in ("state", "fresh") else "no")
        case "random":
            return _Kind("even", "freely")
        case "count":
            return _Kind("even")
        case "full_like":
            return args[1]
    kind = _combined(node, args)
    bent = any(arg.bent for arg in args) or node.op in _BENT
    if kind.parity == "odd" and node.op in (*_PRODUCTS, "where"):
        listening = [arg for part, arg in zip(node.args, args, strict=True) if arg.hears and part.type.kind != "scalar"]
        bent = bent or len(listening) > (1 if node.op != "where" or not args[0].hears else 0)
    if node.op == "where" and not args[0].hears:
        bent = any(arg.bent for arg in args)
    known = bent and node.op in _SUMMED and kind.parity == "odd"
    return kind._replace(parity=None if known else kind.parity, hears=any(arg.hears for arg in args), bent=bent)


def _combined(node: Node, args: list[_Kind]) -> _Kind:
    """What an operation makes of the parities of its arguments, and of what drives them."""
    driven = max((arg.driven for arg in args), key=_DRIVEN.index)
    parities = [arg.parity for arg in args]
    if node.op in _PRODUCTS:
        if None in parities:
            return _Kind(None, driven)
        if "zero" in parities:
            return _Kind("zero")
        return _Kind("odd" if parities.count("odd") % 2 else "even", driven)
    if node.op in _KEPT:
        return args[-1]
    if node.op in _EVEN:
        return _Kind(None if parities[0] is None else "even", driven)
    if node.op == "where":
        parities = parities[1:] if parities[0] in ("even", "zero") else [None]
    if node.op in ("add", "sub", "where"):
        found = {parity for parity in parities if parity != "zero"}
        parity = (found.pop() if found else "zero") if len(found) < 2 else None
        several = sum(p != "zero" for p in parities) > 1
        gated = driven == "gate" and (parity != "odd" or several)  # of two gates, one can be opened at a time
        return _Kind(parity, "freely" if gated else driven)
    return _Kind("even" if all(parity in ("even", "zero") for parity in parities) else None, _freely(driven))


def _freely(driven: Literal["no", "gate", "freely"]) -> Literal["no", "gate", "freely"]:
    return "no" if driven == "no" else "freely"


def clipped(node: Node, even: bool = False) -> Node | None:
    """The v of `clip(v, low, high)`, where zero lies between these; with `even`, in the middle."""
    if node.op not in ("min", "max"):
        return None
    inner = node.args[0] if node.args[0].op in ("min", "max") else node.args[1]
    limits = [n.constant for part in (node, inner) for n in part.args if n.constant is not None]
    core = [n for n in inner.args if n.constant is None]
    clips = {node.op, inner.op} == {"min", "max"} and len(limits) == 2 and len(core) == 1
    middle = clips and min(limits) < 0 < max(limits) and (not even or sum(limits) == 0)
    return core[0] if middle else None
