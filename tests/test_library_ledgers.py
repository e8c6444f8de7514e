"""What the synapses of every library rule would have to know (DESIGN, section 7): the verdict and the exact ledger."""

from __future__ import annotations

import pytest

import ruledsl

LOCAL, NONLOCAL = "local", "nonlocal"
OPERATIONS_ON_FEEDBACK = {"reverse(B) -> B", "pool(batch) -> B", "pool(units) -> B", "pool(units) -> send"}
BIAS_ON_FEEDBACK = {"pool(positions) -> B", "pool(positions) -> send"}
LEDGERS: dict[str, tuple[str, set[str]]] = {
    "backprop": (NONLOCAL, {"reverse(W) -> send"}),
    "feedback_alignment": (LOCAL, set()),
    "usf": (NONLOCAL, {"sign(W) -> send"}),
    "nusf": (NONLOCAL, {"sign(W) -> send"}),
    "brsf": (NONLOCAL, {"sign(W) -> send"}),
    "frsf": (NONLOCAL, {"sign(W) -> send"}),
    "brsf_p": (NONLOCAL, {"sign(W) -> send"}),
    "frsf_p": (NONLOCAL, {"sign(W) -> send"}),
    "usf_init": (NONLOCAL, {"sign(W) -> send"}),
    "usf_sn": (NONLOCAL, {"sign(W) -> send", "norm(W) -> send"}),
    "direct_feedback_alignment": (LOCAL, {"broadcast(e) -> send"}),
    "dense_feedback_alignment": (LOCAL, {"broadcast(delta[k]) -> send"}),
    "backprop_noise": (NONLOCAL, {"reverse(W) -> send", "pool(units) -> W", "pool(units) -> send"}),
    "backprop_alignment": (NONLOCAL, {"reverse(W) -> send"}),
    "weight_mirror": (LOCAL, {"pool(batch) -> B"}),
    "kolen_pollack": (LOCAL, set()),
    "symmetric_alignment": (NONLOCAL, {"value(W) -> B"}),
    "activation_alignment": (NONLOCAL, {"reverse(B) -> B"} | BIAS_ON_FEEDBACK),
    "weight_mirror_tpe": (LOCAL, {"pool(batch) -> B"}),
    "weight_mirror_ad": (LOCAL, {"pool(batch) -> B"}),
    "information_alignment": (LOCAL, set()),
    "weight_mirror_ad_ops": (NONLOCAL, OPERATIONS_ON_FEEDBACK),
    "information_alignment_tpe": (
        NONLOCAL,
        OPERATIONS_ON_FEEDBACK | BIAS_ON_FEEDBACK | {"multiplex(post -> pre) -> B"},
    ),
    "direct_kolen_pollack": (LOCAL, {"broadcast(e) -> send", "broadcast(e) -> B"}),
    "direct_sign_symmetry": (LOCAL, {"broadcast(e) -> send", "broadcast(e) -> C"}),
    "drtp": (LOCAL, {"broadcast(target) -> send"}),
    "oja": (LOCAL, set()),
    "oja_subspace": (NONLOCAL, {"reverse(W) -> W", "multiplex(pre -> post) -> W"}),
    "constant_norm": (NONLOCAL, {"norm(W) -> n", "norm(W) -> W"}),
    "frozen_signs": (LOCAL, set()),
    "manhattan_1": (LOCAL, set()),
    "manhattan_2": (LOCAL, set()),
    "manhattan_3": (LOCAL, set()),
    "sgd": (LOCAL, set()),
    "adam": (LOCAL, set()),
    "noisy_sgd": (LOCAL, set()),
}


@pytest.mark.parametrize("name", LEDGERS)
def test_the_ledger_of_the_library_is_that_of_the_design(name: str) -> None:
    rule = ruledsl.load(name)
    assert (rule.verdict, {f"{entry.flow} -> {entry.sink}" for entry in rule.ledger}) == LEDGERS[name]


@pytest.mark.parametrize("name", ruledsl.names())
def test_the_library_checks_without_a_warning(name: str) -> None:
    assert ruledsl.load(name).diagnostics == []
