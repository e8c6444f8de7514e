"""Every rule of the library under the habits of people's loops: the plain loop's outcome, a warning, or a refusal.

What a table does not name has its probe's default outcome. Nothing differs in silence.
"""

from __future__ import annotations

import re
import warnings
from functools import partial

import pytest
from backends.loops import loops, probes
from backends.loops.probes import SAME, Probe, Refused, Same, Values, Warned
from backends.torch import small
from torch.nn import functional as F

from ruledsl.errors import RuleWarning, UserError

UNSCALED = {name: Warned("the loss is scaled") for name in ("activation_alignment", "drtp", "oja", "oja_subspace")}
"""What reads no errors does not scale with the loss, and a scaler makes it small beside what does."""
PASSES = {name: Warned("backward passes went into one step") for name in UNSCALED}
BY_HAND = {name: Warned(probes.TOLD) for name in UNSCALED}
"""Nobody sees this in a loop: `convert` has said it."""
SUMMED = {name: outcome for name, outcome in BY_HAND.items() if name != "activation_alignment"}
"""The alignment of activities has an optimizer of its own."""

ALIGNED = [name for name in loops.LIBRARY if probes.is_driven(name, "align")]
SEVERAL = {name: Refused("optimizers(net, task=...) makes every optimizer that the rule names") for name in ALIGNED}
"""In phases with an input of their own there is no backward pass, and nobody who could step."""

FAR = ("direct_feedback_alignment", "direct_kolen_pollack", "direct_sign_symmetry")
DENSE = "dense_feedback_alignment"

PROBES: dict[str, Probe] = {
    "accumulation": Probe(probes.looped(backward=probes.micro_batches), probes.plain, SAME, PASSES),
    "retain_graph": Probe(probes.looped(backward=probes.backward_twice), probes.plain, SAME, PASSES),
    "GradScaler": Probe(probes.with_scaler, probes.plain, SAME, UNSCALED),
    "GradScaler, fused Adam": Probe(
        partial(probes.with_scaler, make=probes.fused_adam),
        partial(probes.without_scaler, make=probes.fused_adam),
        SAME,
        UNSCALED,
    ),
    "GradScaler, fused SGD": Probe(
        partial(probes.with_scaler, make=probes.fused_sgd),
        partial(probes.without_scaler, make=probes.fused_sgd),
        SAME,
        UNSCALED,
    ),
    "GradScaler, a step with an infinite loss": Probe(
        partial(probes.with_scaler, overflow=1), partial(probes.without_scaler, skipped=1), SAME, UNSCALED
    ),
    "GradScaler, fused, a step with an infinite loss": Probe(
        partial(probes.with_scaler, make=probes.fused_sgd, overflow=1),
        partial(probes.without_scaler, make=probes.fused_sgd, skipped=1),
        SAME,
        UNSCALED,
    ),
    "a loss scaled by hand": Probe(probes.looped(backward=probes.scaled_by_hand), probes.plain, SAME, BY_HAND),
    "a sum, and as small a learning rate": Probe(probes.summed, probes.averaged, SAME, SUMMED),
    "the gradients of a sum": Probe(probes.gradients_of_sums, probes.plain_gradients, SAME, BY_HAND),
    "checkpoint of the network": Probe(probes.checkpointed, probes.plain),
    "reentrant checkpoint of the network": Probe(partial(probes.checkpointed, reentrant=True), probes.sending),
    "checkpoints in the network": Probe(partial(probes.plain, build=probes.Checkpointing), probes.plain),
    "reentrant checkpoints in the network": Probe(
        partial(probes.sending, build=probes.Reentrant),
        probes.sending,
        SAME,
        {
            **dict.fromkeys(FAR, Refused("do not reach a layer that a reentrant checkpoint runs")),
            DENSE: Refused("reads delta[k], and fc2 runs where autograd does not look"),
        },
    ),
    "autocast": Probe(
        probes.autocast,
        probes.plain_gradients,
        Same(cosine=0.99),
        {"nusf": Same(cosine=0.98)},  # the signs that it sends to b by nearly cancel
    ),
    "channels_last": Probe(probes.channels_last, partial(probes.plain, build=small.ConvNet)),
    "a layer in two places": Probe(
        probes.shared_layer, probes.unrolled, SAME, {DENSE: Refused("reads delta[k], and fc runs 2 times")}
    ),
    "a weight of two layers": Probe(
        probes.tied,
        probes.untied,
        SAME,
        dict.fromkeys(
            ("kolen_pollack", "direct_kolen_pollack", "direct_sign_symmetry"),
            Warned("learns what its own layer alone teaches it", same=True),
        ),
    ),
    "frozen W": Probe(
        partial(probes.frozen, chosen=probes.is_weight),
        partial(probes.put_back, chosen=probes.is_weight),
        SAME,
        {"kolen_pollack": Warned("goes on learning", same=True)},
    ),
    "frozen B": Probe(
        partial(probes.frozen, chosen=probes.is_feedback), partial(probes.put_back, chosen=probes.is_feedback)
    ),
    "compile": Probe(probes.compiled, probes.plain_steps),
    "func.grad": Probe(probes.func_grad_summed, probes.one_pass),
    "func.grad, completed": Probe(probes.func_grad, partial(probes.one_pass, whole=True)),
    "vmap over examples": Probe(
        probes.per_example, probes.one_pass, SAME, {"drtp": Refused("a target for 6 examples for this batch of 1")}
    ),
    "export": Probe(probes.exported, probes.plain, Refused("what its layers compute forwards")),
    "deepcopy": Probe(partial(probes.copied, copy_of=probes.deep), probes.stopped),
    "pickle": Probe(partial(probes.copied, copy_of=probes.pickled), probes.stopped),
    "state_dict": Probe(probes.loaded, probes.stopped),
    "average of weights": Probe(partial(probes.averaging, ema=False), partial(probes.averages, ema=False)),
    "exponential average of weights": Probe(partial(probes.averaging, ema=True), partial(probes.averages, ema=True)),
    "clip_grad_norm_, completed": Probe(probes.clipped, probes.ones(probes.clipped), Same(1e-3)),
    "clip_grad_norm_, out of reach": Probe(probes.unclipped, probes.plain),
    "zero_grad(set_to_none=False)": Probe(probes.zeroed, probes.plain),
    "zero_grad(set_to_none=False), one optimizer": Probe(
        partial(probes.zeroed, alone=True), probes.single, SAME, SEVERAL
    ),
    "an optimizer made before convert": Probe(
        probes.made_before,
        probes.single,
        SAME,
        {
            **SEVERAL,
            **dict.fromkeys(
                (*FAR[1:], "activation_alignment", "kolen_pollack", "symmetric_alignment"),
                Warned("has a pseudo-gradient, and none of the optimizers that step has it"),
            ),
        },
    ),
    "two groups of parameters": Probe(probes.in_groups, probes.plain),
    "a closure": Probe(partial(probes.with_closure, explicit=False, lbfgs=False), probes.single, SAME, SEVERAL),
    "LBFGS": Probe(
        partial(probes.with_closure, explicit=False), partial(probes.with_closure, explicit=True), SAME, SEVERAL
    ),
    "LBFGS among several": Probe(
        probes.lbfgs_for_the_task,
        partial(probes.with_closure, explicit=True),
        SAME,
        dict.fromkeys(
            ("activation_alignment", "symmetric_alignment", *ALIGNED), Refused("LBFGS, chosen for task, computes")
        ),
    ),
    "no optimizer": Probe(probes.by_hand, probes.without_momentum, SAME, SEVERAL),
}


@pytest.mark.parametrize("rule", loops.LIBRARY)
@pytest.mark.parametrize("name", PROBES)
def test_every_rule_does_what_its_equations_say_or_says_that_it_does_not(name: str, rule: str) -> None:
    probe, outcome = PROBES[name], PROBES[name].of(rule)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", RuleWarning)
        if isinstance(outcome, Refused):
            with pytest.raises(UserError, match=re.escape(outcome.message)):
                probe.loop(rule)
        else:
            found = probe.loop(rule)
    said = [str(each.message) for each in caught if issubclass(each.category, RuleWarning)]
    if not isinstance(outcome, Warned) or outcome.message != probes.TOLD:
        said = [each for each in said if probes.TOLD not in each]
    if not isinstance(outcome, Warned):
        assert not said
    else:
        assert len(said) == 1 and outcome.message in said[0] and "help: " in said[0], said
    if not isinstance(outcome, Refused):
        compare(found, probes.silently(probe.plain, rule), outcome)


def compare(found: Values, expected: Values, outcome: Same | Warned) -> None:
    """A warning of something that changes nothing is a false one."""
    if isinstance(outcome, Warned) and not outcome.same:
        with pytest.raises(AssertionError):
            loops.assert_same(found, expected)
    elif isinstance(outcome, Warned) or outcome.cosine is None:
        loops.assert_same(found, expected, 1e-9 if isinstance(outcome, Warned) else outcome.tolerance)
    else:
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            cosine = F.cosine_similarity(found[name].double().flatten(), value.flatten(), dim=0)
            assert cosine >= outcome.cosine or not value.any(), name


def test_what_the_tables_name_is_in_the_library() -> None:
    named = {rule for probe in PROBES.values() for rule in probe.but}
    assert named <= {*loops.LIBRARY}
