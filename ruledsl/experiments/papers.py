"""The tables of the papers, row by row: which rule, optimizer, constraints and network make each of them.

`ruledsl list --table liao2` prints one. An experiment is a composition, never a copied file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ruledsl.errors import UserError, suggest

Frozen = Literal["", "the last layer", "all but the last layer"]


@dataclass(frozen=True)
class Row:
    """One row (or column) of a paper's table.

    label        what the paper calls it
    rule, optimizer, constraints   names of the library
    network      a name of `ruledsl.architectures`, and its `options`
    parameters   of the rule
    frozen       the layers that do not learn
    reported     the paper's test error in percent, by dataset
    """

    label: str
    rule: str
    optimizer: str
    network: str
    constraints: tuple[str, ...] = ()
    parameters: Mapping[str, float] = field(default_factory=dict)
    frozen: Frozen = ""
    reported: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PaperTable:
    """A table of a paper."""

    title: str
    rows: tuple[Row, ...]


def _moskovitz(label: str, rule: str, mnist: float | None, cifar: float | None, *constraints: str) -> Row:
    networks = "moskovitz_mnist" if mnist is not None else "moskovitz_cifar10_2"
    reported = {"mnist": mnist} if mnist is not None else {}
    reported |= {"cifar10 (model 1)": cifar} if cifar is not None else {}
    return Row(label, rule, "adam", networks, constraints, reported=reported)


def _liao(
    label: str,
    rule: str,
    mnist: float,
    *,
    bn: bool = False,
    bm: int = 0,
    p: float | None = None,
    frozen: Frozen = "",
) -> Row:
    optimizer = f"manhattan_{bm}" if bm else "sgd"
    network = "liao_mnist_bn" if bn else "liao_mnist"
    parameters = {} if p is None else {"p": p}
    return Row(label, rule, optimizer, network, parameters=parameters, frozen=frozen, reported={"mnist": mnist})


def _akrout(network: str, errors: tuple[float, ...]) -> tuple[Row, ...]:
    """Top-1 errors on ImageNet; "BN first" is batch normalisation before the ReLU (section 6 and appendix D.3)."""
    rules = {
        "backprop": "backprop",
        "feedback alignment": "feedback_alignment",
        "sign-symmetry": "usf",
        "sign-symmetry, BN first": "usf",
        "weight mirrors": "weight_mirror",
        "Kolen-Pollack": "kolen_pollack",
    }
    return tuple(
        Row(
            label,
            rule,
            "sgd",
            network,
            reported={"imagenet": error},
            options={"norm": "before" if "BN first" in label else "after"},
        )
        for (label, rule), error in zip(rules.items(), errors, strict=True)
    )


def _partial(rule: str, numbers: tuple[float, float, float, float]) -> tuple[Row, ...]:
    """Liao Table 3: the share of wrong signs, with BN and BM in every column."""
    shares = (1.0, 0.75, 0.5, 0.25)
    return tuple(
        _liao(f"{rule}, p = {share:.0%}", rule, error, bn=True, bm=1, p=share)
        for share, error in zip(shares, numbers, strict=True)
    )


_BOTTOM: Frozen = "the last layer"
_TOP: Frozen = "all but the last layer"

TABLES: dict[str, PaperTable] = {
    "moskovitz1": PaperTable(
        "Moskovitz et al. 2018, Table 1",
        (
            _moskovitz("BP", "backprop", 0.8, 17.2),
            _moskovitz("BP + Noise", "backprop_noise", 0.8, 17.4),
            _moskovitz("BP + Alignment", "backprop_alignment", 0.9, 17.4),
            _moskovitz("FA", "feedback_alignment", 1.1, 26.6),
            _moskovitz("FA-uSF Init. E/I", "usf_init", 0.9, 18.9, "frozen_signs"),
            _moskovitz("FA-uSF Init.", "usf_init", 0.7, 17.6),
            _moskovitz("FA-uSF SN", "usf_sn", 0.7, 17.7),
            _moskovitz("DFA", "direct_feedback_alignment", 1.0, 28.6),
            _moskovitz("DenseFA", "dense_feedback_alignment", 0.7, 16.9),
            _moskovitz("BP Const.", "backprop", None, None, "constant_norm"),
            _moskovitz("FA-uSF Const.", "usf_init", None, None, "constant_norm"),
            _moskovitz("FA-uSF Const. E/I", "usf_init", None, None, "constant_norm", "frozen_signs"),
        ),
    ),
    "liao2": PaperTable(
        "Liao et al. 2015, Table 2 (experiment A: sign-concordant feedback)",
        (
            _liao("SGD", "backprop", 0.67),
            _liao("BM", "backprop", 0.99, bm=1),
            _liao("BN", "backprop", 0.52, bn=True),
            _liao("BN+BM", "backprop", 0.73, bn=True, bm=1),
            _liao("uSF", "usf", 88.65),
            _liao("NuSF", "nusf", 0.60),
            _liao("uSF+BM", "usf", 0.95, bm=1),
            _liao("uSF+BN", "usf", 0.55, bn=True),
            _liao("uSF+BN+BM", "usf", 0.83, bn=True, bm=1),
            _liao("brSF+BN+BM", "brsf", 0.80, bn=True, bm=1),
            _liao("frSF+BN+BM", "frsf", 0.91, bn=True, bm=1),
        ),
    ),
    "liao3": PaperTable(
        "Liao et al. 2015, Table 3 (experiment B: partly sign-concordant feedback)",
        (
            _liao("SGD", "backprop", 0.67),
            *_partial("brsf_p", (7.87, 8.34, 7.54, 1.01)),
            _liao("brSF+BN+BM", "brsf", 0.80, bn=True, bm=1),
            *_partial("frsf_p", (4.25, 3.56, 1.37, 0.84)),
            _liao("frSF+BN+BM", "frsf", 0.91, bn=True, bm=1),
        ),
    ),
    "liao4": PaperTable(
        "Liao et al. 2015, Table 4 (experiments C1 and C2: fixed random feedback, frozen layers)",
        (
            _liao("SGD", "backprop", 0.67),
            _liao("RndF", "feedback_alignment", 1.81),
            _liao("NuSF", "nusf", 0.60),
            _liao("BN", "backprop", 0.52, bn=True),
            _liao("RndF+BN", "feedback_alignment", 0.83, bn=True),
            _liao("RndF+BM", "feedback_alignment", 1.89, bm=1),
            _liao("RndF+BN+BM", "feedback_alignment", 1.07, bn=True, bm=1),
            _liao("uSF+BN+BM", "usf", 0.83, bn=True, bm=1),
            _liao("SGD, bottom", "backprop", 0.65, frozen=_BOTTOM),
            _liao("SGD, top", "backprop", 3.85, frozen=_TOP),
            _liao("RndF, bottom", "feedback_alignment", 85.50, frozen=_BOTTOM),
            _liao("RndF, top", "feedback_alignment", 3.81, frozen=_TOP),
            _liao("RndF+BN+BM, bottom", "feedback_alignment", 86.74, bn=True, bm=1, frozen=_BOTTOM),
            _liao("RndF+BN+BM, top", "feedback_alignment", 3.81, bn=True, bm=1, frozen=_TOP),
            _liao("uSF+BN+BM, bottom", "usf", 0.66, bn=True, bm=1, frozen=_BOTTOM),
            _liao("uSF+BN+BM, top", "usf", 3.85, bn=True, bm=1, frozen=_TOP),
        ),
    ),
    "liao5": PaperTable(
        "Liao et al. 2015, Table 5 (settings of Batch Manhattan)",
        (
            _liao("SGD", "backprop", 0.67),
            _liao("BM1", "backprop", 0.99, bm=1),
            _liao("BM2", "backprop", 1.30, bm=2),
            _liao("BM3", "backprop", 1.09, bm=3),
            _liao("uSF+BN", "usf", 0.55, bn=True),
            _liao("uSF+BN+BM1", "usf", 0.83, bn=True, bm=1),
            _liao("uSF+BN+BM2", "usf", 0.72, bn=True, bm=2),
            _liao("uSF+BN+BM3", "usf", 0.61, bn=True, bm=3),
        ),
    ),
    "akrout3": PaperTable(
        "Akrout et al. 2019, Figure 3 and section 6 (top-1 error on ImageNet)",
        (
            *_akrout("resnet18", (30.1, 97.4, 39.2, 37.8, 30.2, 29.2)),
            *_akrout("resnet50", (22.9, 98.9, 33.8, 32.6, 23.4, 23.9)),
        ),
    ),
    "kunin5": PaperTable(
        "Kunin et al. 2020, Table 5 (metaparameters found by search), with the rules of B.2",
        (
            Row("R_WM^TPE", "weight_mirror_tpe", "sgd", "resnet18"),
            Row("R_WM+AD^TPE", "weight_mirror_ad", "sgd", "resnet18"),
            Row("R_WM+AD+OPS^TPE", "weight_mirror_ad_ops", "sgd", "resnet18"),
            Row("R_IA^TPE", "information_alignment_tpe", "sgd", "resnet18"),
            Row("R_SA", "symmetric_alignment", "sgd", "resnet18"),
            Row("R_AA", "activation_alignment", "sgd", "resnet18"),
        ),
    ),
}


def table(name: str) -> PaperTable:
    """The table called `name`. Raises UserError where there is none."""
    if name not in TABLES:
        raise UserError(f"there is no table {name!r}", suggest(name, TABLES) or f"one of {', '.join(TABLES)}")
    return TABLES[name]
