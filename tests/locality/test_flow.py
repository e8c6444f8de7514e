"""No copy of a weight without a line in the ledger: every way to it that we could think of."""

from __future__ import annotations

from pathlib import Path

import pytest

from ruledsl.checked import Checked
from ruledsl.library import _lookup, names
from ruledsl.locality.flow import verdict
from ruledsl.pipeline import check_text
from ruledsl.source import Source

FIXED = "fixed B : post -> pre ~ normal(0, 1)\n"
LEARNED = "weight B : post -> pre ~ normal(0, 1)\nfeedback send = B @ delta\n"


def checked(body: str, kind: str = "rule") -> Checked:
    definitions, syntax = check_text(Source(f"{kind} r {{\n{body}\n}}"), _lookup(Path()), names)
    assert syntax == []
    return definitions[-1]


def flows(body: str, kind: str = "rule") -> set[str]:
    """The ledger, whether it is allowed or not."""
    found = checked(body, kind)
    assert {d.code for d in found.errors} <= {"E0501", "E0502"}, [d.message for d in found.errors]
    return {f"{entry.flow} -> {entry.sink}" for entry in found.ledger}


COPIES: dict[str, tuple[str, set[str]]] = {
    "the transpose itself": ("feedback send = W.T @ delta", {"reverse(W) -> send"}),
    "nothing said at all": ("", {"reverse(W) -> send"}),
    "a product that says nothing": ("feedback send = (1 * W.T) @ delta", {"reverse(W) -> send"}),
    "a transposed sum": (FIXED + "feedback send = (B.T + W).T @ delta", {"value(W) -> send"}),
    "a transposed product": (FIXED + "feedback send = (B.T * W).T @ delta", {"value(W) -> send"}),
    "a quotient": (FIXED + "feedback send = (B / W.T) @ delta", {"value(W) -> send"}),
    "an initial value": ("fixed B : post -> pre = W.T\nfeedback send = B @ delta", {"value(W) -> B"}),
    "two initial values": (
        "fixed V : pre -> post = W\nfixed B : post -> pre = V.T\nfeedback send = B @ delta",
        {"value(W) -> B", "value(V) -> B"},
    ),
    "a state": (
        "state S : pre -> post = 0\nS <- W\nfeedback send = (S.T * 2 + 1) @ delta",
        {"value(S) -> send", "value(W) -> send"},
    ),
    "a state at the feedback synapse": (
        "state B : post -> pre = 0\nB <- W.T\nfeedback send = B @ delta",
        {"value(W) -> B"},
    ),
    "a chain of states against the order of the text": (
        "state A : post -> pre = 0\nstate C : pre -> post = 0\nstate D : pre -> post = 0\n"
        "A <- C.T\nC <- D\nD <- W\nfeedback send = A @ delta",
        {"value(C) -> A", "value(D) -> A", "value(W) -> A"},
    ),
    "an assignment to the feedback weight": (LEARNED + "B <- 0.9 * B + W.T", {"value(W) -> B"}),
    "a pseudo-gradient": (LEARNED + "grad B = B - W.T", {"value(W) -> B"}),
    "a second optimizer": (
        LEARNED + "optimizer align = adam(lr = 0.1)\ngrad B = B - W.T by align",
        {"value(W) -> B"},
    ),
    "an energy": (LEARNED + "minimize -dot(W, B.T) over B", {"value(W) -> B"}),
    "an energy under a square": (LEARNED + "minimize sq(W - B.T) over B", {"value(W) -> B"}),
    "after the step": (LEARNED + "after step { B <- W.T }", {"value(W) -> B"}),
    "another phase": (
        LEARNED + "phase copy { B <- W.T }\nschedule { first 1 epochs : copy }",
        {"value(W) -> B"},
    ),
    "a name in another phase": (
        LEARNED + "phase copy { let c = (W + 0).T\n B <- c }\nschedule { first 1 epochs : copy }",
        {"value(W) -> B"},
    ),
    "a choice by sign": (FIXED + "feedback send = (if W.T > 0 then B else -B) @ delta", {"sign(W) -> send"}),
    "a choice, mirrored": (FIXED + "feedback send = (if 0 >= W.T then B else -B) @ delta", {"sign(W) -> send"}),
    "a choice by value": (FIXED + "feedback send = (if W.T > 0.1 then B else -B) @ delta", {"value(W) -> send"}),
    "a choice by a parameter": (
        "param t = 0\n" + FIXED + "feedback send = (if W.T > t then B else -B) @ delta",
        {"value(W) -> send"},
    ),
    "the sign of a difference": (FIXED + "feedback send = sign(W.T - B) @ delta", {"value(W) -> send"}),
    "the sign of a product": ("feedback send = sign(W * 3 * relu(W)).T @ delta", {"sign(W) -> send"}),
    "the sign of a product that vanishes": ("feedback send = sign(1e-40 * W).T @ delta", {"sign(W) -> send"}),
    "the sign of a power": ("feedback send = sign(W ** 8).T @ delta", {"value(W) -> send"}),
    "the sign of what was compared before": (
        "state S : pre -> post = 0\nS <- W - 0.5\nfeedback send = sign(S.T) @ delta",
        {"value(S) -> send", "value(W) -> send"},
    ),
    "min and max": (FIXED + "feedback send = max(B, W.T) @ delta", {"value(W) -> send"}),
    "a statistic": (FIXED + "feedback send = norm(W) * (B @ delta)", {"norm(W) -> send"}),
    "a statistic, filled in": (FIXED + "feedback send = full_like(B, mean(W)) @ delta", {"stat(W) -> send"}),
    "a statistic that decides": (
        FIXED + "feedback send = B @ delta\nwhen norm(W) > 1 { feedback send = 0 }",
        {"norm(W) -> send"},
    ),
    "a statistic that decides an update": (
        LEARNED + "when std(W) > 1 { B <- 0.9 * B }",
        {"stat(W) -> B"},
    ),
    "a statistic that decides an energy": (
        LEARNED + "minimize if norm(W) > 1 then sq(B) else 0 over B",
        {"norm(W) -> B"},
    ),
    "a statistic in a state": (
        FIXED + "state s : scalar = 0\ns <- sq(W)\nfeedback send = s * (B @ delta)",
        {"norm(W) -> s", "norm(W) -> send"},
    ),
    "a statistic at the start": (
        "fixed s : scalar = norm(W)\n" + FIXED + "feedback send = s * (B @ delta)",
        {"norm(W) -> s", "norm(W) -> send"},
    ),
    "the width of fresh noise": (
        "fresh M : post -> pre ~ normal(0, norm(W))\nfeedback send = M @ delta",
        {"norm(W) -> M"},
    ),
    "the width of first values": (
        "weight M : post -> pre ~ normal(0, std(W))\nfeedback send = M @ delta",
        {"stat(W) -> M"},
    ),
    "the width of what drives a phase": (
        LEARNED + "phase p { drive x = normal(0, norm(W))\n B <- outer(x, W @ x) }\nschedule { alternate : task, p }",
        {"norm(W) -> B"},
    ),
    "what drives a phase, in a state of neurons": (
        LEARNED
        + "state s : pre = 0\nphase p { drive x = normal(0, norm(W))\n s <- total(x) }\n"
        + "grad B = outer(x, delta) * sq(s)\nschedule { alternate : task, p }",
        {"norm(W) -> s", "norm(W) -> B", "pool(units) -> B", "pool(units) -> send"},
    ),
    "the adjoint inside an outer product": (
        "feedback send = outer(W.T @ delta, delta) @ delta",
        {"reverse(W) -> send", "pool(batch) -> send"},
    ),
    "the adjoint in a state of neurons": (
        "state a : pre = 0\na <- total(W.T @ delta)\nfeedback send = a",
        {"reverse(W) -> a", "reverse(W) -> send", "pool(positions) -> send"},
    ),
    "what a constraint remembers": (
        "feedback send = sign(W.T) @ delta\nuse frozen_signs",
        {"sign(W) -> send", "sign(frozen_signs_s) -> send"},
    ),
    "a constraint": (
        FIXED + "feedback send = B @ delta\nuse constant_norm",
        {"norm(W) -> constant_norm_n", "norm(W) -> W"},
    ),
    "a name that the body redefines": ("extends usf_sn\nlet B = W.T", {"reverse(W) -> send"}),
    "what the base does and the body does not say": (
        "extends symmetric_alignment\nfeedback send = sign(B) @ delta",
        {"value(W) -> B"},
    ),
    "maps from far layers, backwards": (
        "fixed D : post[k] -> pre ~ zeros()\nfeedback send = sum(k, D[k] @ (D[k].T @ x))",
        {"reverse(D) -> send"},
    ),
    "a broadcast that is stored": (
        "state s : out = 0\ns <- total(e)\nfixed D : out -> pre ~ zeros()\nfeedback send = D @ (s + 0 * target)",
        {"broadcast(e) -> send", "broadcast(e) -> s", "pool(positions) -> send"},
    ),
}


@pytest.mark.parametrize(("body", "expected"), COPIES.values(), ids=COPIES.keys())
def test_a_copy_is_in_the_ledger(body: str, expected: set[str]) -> None:
    assert flows(body) == expected


LOCAL: dict[str, str] = {
    "applying a map forwards": LEARNED + "grad W = outer(W @ x, x)",
    "reading the activity of its own neurons": LEARNED + "grad W = outer(delta, x) + outer(u * y, x)",
    "a momentum beside W": LEARNED + "state m : pre -> post = 0\nm <- 0.9 * m + W\ngrad W = m - 0.1 * W",
    "the sign of W at W": LEARNED + "grad W = outer(delta, x) + 0.01 * sign(W)",
    "a transpose that is taken back": LEARNED + "grad W = outer(delta, x) + W.T.T",
    "the shape of W": FIXED + "feedback send = full_like(W.T, 1) @ delta + B @ delta",
    "nothing of W": FIXED + "feedback send = (0 * W.T + B) @ delta",
    "a choice of equals": FIXED + "feedback send = (if W.T > 0 then B else B) @ delta",
    "the batch and the width of the layer": FIXED + "feedback send = B @ delta / batch_size * fan_in",
    "noise and counters": "fresh B : post -> pre ~ normal(0, 1 / (1 + step))\nfeedback send = progress * (B @ delta)",
    "a driven phase": LEARNED
    + "phase p { drive x = normal(0, 1)\n B <- outer(x, relu(u)) }\nschedule { alternate : task, p }",
}


@pytest.mark.parametrize("body", LOCAL.values(), ids=LOCAL.keys())
def test_what_a_synapse_may_know_is_not_in_the_ledger(body: str) -> None:
    assert flows(body) == set()


POOLED: dict[str, tuple[str, set[str]]] = {
    "an average over the batch": ("grad W = outer(center(delta, batch), x)", {"pool(batch) -> W"}),
    "an average over the layer": ("grad W = outer(normalize(u, units), x)", {"pool(units) -> W"}),
    "an average over the image": ("grad W = outer(std(u, positions) * delta, x)", {"pool(positions) -> W"}),
    "a statistic of a gradient": ("grad W = outer(delta, x) / norm(outer(delta, x))", {"pool(units) -> W"}),
    "the error of the output": ("fixed D : out -> post ~ zeros()\ngrad W = outer(D @ e, x)", {"broadcast(e) -> W"}),
    "the label": ("fixed D : out -> post ~ zeros()\ngrad W = outer(D @ target, x)", {"broadcast(target) -> W"}),
}


@pytest.mark.parametrize(("body", "expected"), POOLED.values(), ids=POOLED.keys())
def test_averages_and_broadcasts_are_listed_and_leave_a_rule_local(body: str, expected: set[str]) -> None:
    found = checked("feedback send = 0\n" + body)
    assert {f"{entry.flow} -> {entry.sink}" for entry in found.ledger} == expected
    assert verdict(found.ledger) == "local"


def test_an_entry_names_the_term_its_place_and_its_phase() -> None:
    body = LEARNED + "phase copy {\n  B <- 0.5 * B + sign(W.T)\n}\nschedule { each step : task, copy }"
    (entry,) = checked(body).ledger
    assert (entry.term, entry.line, entry.column, entry.phase) == ("sign(W.T)", 5, 18, "copy")
    assert (entry.source, entry.channel, entry.sink) == ("W", "sign", "B")


def test_a_default_is_named_by_what_it_means() -> None:
    (entry,) = checked("grad b = total(delta)").ledger
    assert entry.term == "W.T @ delta"


def test_what_two_phases_need_is_asked_for_once() -> None:
    body = LEARNED + "B <- W.T\nphase p { B <- 2 * W.T }\nschedule { each step : task, p }"
    found = checked(body)
    assert [entry.phase for entry in found.ledger] == ["task", "p"]
    assert [d.code for d in found.errors] == ["E0501"]


def test_an_optimizer_has_a_ledger_of_its_own() -> None:
    assert flows("p <- p - lr * g / norm(p)", "optimizer") == {"norm(p) -> p"}
    assert flows("p <- p - lr * g * std(g)", "optimizer") == {"pool(units) -> p"}
