"""The emitted functions and layers against the reference: what a pass computes, and what it doesn't."""

from __future__ import annotations

import itertools

import pytest
import torch
from backends.torch import passes, small
from geometries import CONVS, DENSE
from torch import nn
from torch.nn import functional as F

import ruledsl
from ruledsl.emit.binding import Pass
from ruledsl.errors import UserError
from ruledsl.program import INIT, TASK, Program
from ruledsl.verification.executor import deviation
from ruledsl.verification.geometries import DenseGeometry
from ruledsl_torch import advance, convert, observe, optimizers
from ruledsl_torch.attributes import ATTRIBUTES
from ruledsl_torch.layers import DECLARED, RuleLayer
from ruledsl_torch.linear import KINDS
from ruledsl_torch.projection import Projection, Rows
from ruledsl_torch.stepping import StepLayer

TOLERANCE = 1e-10
FEW = (DENSE[0], *(geometry for geometry in CONVS if geometry.name == "everything"))
BUNDLES = ("pre -> post", "post -> pre", "out -> pre", "out -> post", "post[k] -> pre")
MESSAGES = "  ".join(f"allow multiplex({bundle})" for bundle in BUNDLES)
ALLOW = (
    "locality { allow reverse(W)  allow pool(batch)  allow pool(positions)  allow pool(units)  MORE\n" + MESSAGES + " }"
)
TEXTS = {
    "several_optimizers": """
      optimizer second = sgd(lr = 0.1)
      optimizer third = sgd(lr = 0.1)
      weight B : post -> pre ~ normal(0, 1)
      feedback send = B @ delta
      grad W = outer(delta, x)
      grad W = 0.5 * outer(u, x) by second
      grad W = -W by third
      grad b = total(u) by second
      grad B = outer(x, delta) by second
      grad B = 2 * B by third
    """,
    "states_from_activity": """
      state from_x : pre = 0
      state from_u : post = 0
      state from_y : post = 0
      state from_delta : post = 0
      state from_e : out = 0
      state from_target : out = 0
      state from_map : pre -> post = 0
      state own : scalar = 0
      feedback send = W.T @ delta
      from_x <- total(0.5 * from_x + x)
      from_u <- total(from_u - u)
      from_y <- total(y)
      from_delta <- total(delta / batch_size)
      from_e <- total(from_e + e)
      from_target <- total(target)
      from_map <- from_map + outer(y, x)
      own <- 0.5 * own + sq(from_u)
      MORE broadcast(e)  allow broadcast(target)  allow value(W)
    """,
    "states_from_far_away": """
      fixed D : post[k] -> pre ~ normal(0, 1)
      state s : pre = 0
      feedback send = W.T @ delta + sum(k, D[k] @ delta[k])
      s <- total(s + sum(k, D[k] @ delta[k]))
      MORE broadcast(delta[k])
    """,
    "two_families": """
      fixed D : post[k] -> pre ~ normal(0, 1)
      fixed E : post[k] -> pre ~ normal(0, 1)
      feedback send = sum(k, D[k] @ delta[k]) - sum(k, E[k] @ delta[k]) * x
      grad W = outer(delta, sum(k, E[k] @ delta[k]))
      MORE broadcast(delta[k])
    """,
    "phases": """
      optimizer second = sgd(lr = 0.1)
      weight B : post -> pre ~ normal(0, 1)
      weight C : post -> pre ~ normal(0, 1)
      state m : post = 0
      feedback send = (B + C) @ delta
      phase silent { grad B = outer(x, u)  m <- m + total(y)  grad C = B * C by second }
      phase loud { grad B = outer(x, delta)  grad W = W  m <- total(delta) }
      phase own {
        drive x = normal(0, 1)
        let z = tanh(W @ x + b)
        C <- C + outer(x, z)
        grad B = outer(x, u) by second
      }
      schedule { alternate : task, silent, loud, own }
    """,
    "scalars": """
      param rate = 0.3
      feedback send = (W.T @ delta) * (step + epoch * progress + lr) / batch_size
      grad W = outer(delta, x) * fan_in / fan_out + rate * W * classes
      grad b = total(delta) * lr + b * progress
    """,
    "zeros": "feedback send = 0  grad b = 0  W <- W + outer(u, x, mean=all)",
    "reads_the_bias": """
      state s : post = 0
      feedback send = W.T @ (delta * (1 + b))
      grad W = outer(delta + b, x)
      b <- total(b - delta)
      s <- s + b
    """,
    "targets": """
      weight R : out -> post ~ normal(0, 1)
      fixed B : out -> pre ~ normal(0, 1)
      feedback send = B @ (e - target)
      grad R = outer(R @ target - y, target)
      grad W = outer(R @ e, x)
      MORE broadcast(e)  allow broadcast(target)
    """,
    "after_step": """
      fixed size : scalar = norm(W)
      state mean_W : pre -> post = W
      feedback send = W.T @ delta
      after step { W <- size * W / norm(W)  mean_W <- 0.9 * mean_W + 0.1 * W  b <- 0.5 * b }
      MORE norm(W)  allow norm(mean_W)  allow value(W)
    """,
}
NASTY = {
    "linear": """
      weight padding : post -> pre ~ normal(0, 1)
      feedback send = padding @ delta
      grad padding = outer(x, u)
    """,
    "rule_layer": "param forward = 0.5  feedback send = forward * (W.T @ delta)",
    "conv2d": """
      state needs_x : post = 0
      weight needs_W : post -> pre ~ normal(0, 1)
      feedback send = needs_W @ (delta * needs_x)
      grad needs_W = outer(x, delta)
      needs_x <- total(needs_x + u)
    """,
    "tensors": """
      optimizer second = sgd(lr = 0.1)
      weight start : post -> pre ~ normal(0, 1)
      weight network : post -> pre ~ normal(0, 1)
      state optimizers : post = 0
      state reads_out : post = 0
      state ctx : post = 0
      state zero : post = 0
      state W_next : post = 0
      state backward_passes : scalar = 0
      feedback send = (start + network) @ (delta * ctx)
      W <- W + outer(u, x)
      optimizers <- total(u)
      reads_out <- reads_out + optimizers
      backward_passes <- backward_passes + sq(u)
      ctx <- zero
      zero <- ctx + W_next
      W_next <- total(u)
      grad start = outer(x, delta)
      grad start = outer(x, u) by second
    """,
    "phases_": """
      weight B : post -> pre ~ normal(0, 1)
      state mirror : post = 0
      feedback send = B @ delta
      phase train { grad B = outer(x, u) }
      phase forward { grad B = outer(x, delta) }
      phase mirror { drive x = normal(0, 1)  mirror <- total(u) }
      phase draw_mirror { mirror <- total(y) }
      phase enforce { drive x = normal(0, 1)  B <- B + outer(x, u) }
      after step { mirror <- 0.5 * mirror }
    """,
}


def parsed(name: str, text: str) -> ruledsl.Rule:
    body, _, more = text.partition("MORE")
    allowed = ALLOW.replace("MORE", f"allow {more}" if more else "")
    return ruledsl.parse(f"rule {name} {{ {body} {allowed} }}")


RULES = {name: parsed(name, text) for name, text in {**TEXTS, **NASTY}.items()}


def rule_of(name: str) -> ruledsl.Rule:
    return RULES[name] if name in RULES else ruledsl.load(name)


def assert_equal(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for output, value in expected.items():
        full = torch.as_tensor(found[output]).detach().expand(value.shape).numpy()
        assert deviation(full, value) <= TOLERANCE, output


every_rule = pytest.mark.parametrize("name", [*passes.library(), *RULES])
few_geometries = pytest.mark.parametrize("geometry", FEW, ids=str)


@every_rule
@few_geometries
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
def test_a_layer_computes_in_every_phase_what_the_reference_says(name, geometry, bias):
    case = passes.Case(rule_of(name), geometry, bias)
    for phase in dict.fromkeys(f.phase for f in case.program.functions if f.phase != INIT):
        assert_equal(case.run_layer(phase), case.expected(phase))


@every_rule
@few_geometries
def test_a_function_computes_in_every_pass_what_the_reference_says(name, geometry):
    case = passes.Case(rule_of(name), geometry)
    for own in case.program.binding.passes:
        later = {f"next {output.target}" for output in own.later.outputs}
        expected = {output: value for output, value in case.expected(own.phase).items() if output not in later}
        found, _ = case.run_function(own)
        assert_equal(found | case.completed(own.phase, found), expected)


# --- nothing more than what is asked for ---

ASKED = ["feedback_alignment", "kolen_pollack", "usf_sn", "direct_feedback_alignment", "drtp", "weight_mirror", *RULES]
every_asked = pytest.mark.parametrize("name", ASKED)


def needed(program: Program, own: Pass, learned: frozenset[str]) -> set[str]:
    """The functions that a pass has to call where these inputs need gradients, from what the functions are for."""
    sending = {t.name for t in program.tensors if t.feedback_only and t.kind != "forward"}
    functions = program.of_phase(own.phase)
    if own.errors and own.phase != TASK:
        functions = (*program.of_phase(TASK), *functions)
    wanted = [f for f in functions if f.role == "send" and "x" in learned]
    for f in program.of_phase(own.phase):
        if f.role == "grad" and f.target in learned and (f.target not in sending or "x" in learned or not own.errors):
            wanted.append(f)
        if f.role == "assign" and f"next {f.target}" not in {f"next {output.target}" for output in own.later.outputs}:
            wanted.append(f)
    names = {f.name for f in wanted}
    for f in reversed(functions):
        if f.role == "term" and any(f.target in g.arguments for g in functions if g.name in names):
            names.add(f.name)
    return names


def subsets(own: Pass) -> list[frozenset[str]]:
    found = [frozenset(c) for size in range(1, 5) for c in itertools.combinations(own.learned, size)]
    return found if len(found) <= 32 else found[::3]


@every_asked
def test_nothing_is_computed_that_nobody_asked_for(name, monkeypatch):
    case = passes.Case(rule_of(name), DENSE[0])
    called: list[str] = []

    def counted(function):
        return lambda *arguments: called.append(function.__name__) or function(*arguments)

    for function in case.program.functions:
        monkeypatch.setattr(case.program.module, function.name, counted(getattr(case.program.module, function.name)))
    for own in case.program.binding.passes:
        everything, _ = case.run_function(own)
        for learned in subsets(own):
            called.clear()
            found, _ = case.run_function(own, learned)
            assert sorted(called) == sorted(needed(case.program, own, learned)), (own.phase, learned)
            for output, value in found.items():
                if value is not None and value.any():
                    assert torch.equal(value, everything[output]), (own.phase, learned, output)


class Kept(torch.autograd.graph.saved_tensors_hooks):
    """What is kept for backward passes."""

    def __init__(self) -> None:
        self.tensors: list[torch.Tensor] = []
        super().__init__(lambda tensor: self.tensors.append(tensor) or tensor, lambda tensor: tensor)


@every_asked
def test_what_is_read_is_saved_and_nothing_else(name):
    case = passes.Case(rule_of(name), DENSE[0])
    functions = {f.name: f for f in case.program.functions}
    for own in case.program.binding.passes:
        for learned in subsets(own):
            given = case.arguments(own, learned)
            flat = [each for key, value in given.items() for each in (value if key == "rest" else [value])]
            kept = Kept()
            with kept:
                made = case.function(own).apply(*flat)
            u = given["u"] if "u" in given else made[0] if isinstance(made, tuple) else made
            tensors = {**{key: value for key, value in given.items() if isinstance(value, torch.Tensor)}, "u": u}
            read = {each for called in needed(case.program, own, learned) for each in functions[called].arguments}
            read |= {"u"} if "y" in read else set()
            expected = [tensors[each].data_ptr() for each in sorted(read & tensors.keys() - set(own.scalars))]
            family = [each.data_ptr() for each in given.get("rest", ()) if each is not None]
            found = [each.data_ptr() for each in kept.tensors]
            assert sorted(each for each in found if each not in family) == sorted(expected), (own.phase, learned)
            if read & set(own.families):
                assert set(family) <= set(found)


# --- names ---


@pytest.mark.parametrize("kind", [*KINDS, RuleLayer, StepLayer])
def test_every_name_of_a_layer_is_known(kind):
    given = {nn.Linear: (2, 2), nn.Embedding: (2, 2), Projection: (nn.Linear(2, 2), 2, 2, Rows("weight"), None)}
    sizes = given.get(kind, (2, 2, 1))
    instance = kind if issubclass(kind, RuleLayer) else kind(*sizes)
    names = {*dir(instance), *DECLARED, "backward_passes"}
    assert sorted(name for name in names if not name.startswith("_") and name not in ATTRIBUTES) == []


def test_a_phase_leaves_to_torch_what_is_called_so():
    layer, _ = passes.Case(RULES["phases_"], DENSE[0]).layer()
    assert layer.train(False) is layer and not layer.training
    assert {"train_", "forward_", "enforce_"} <= set(dir(layer))


# --- in networks ---


@pytest.mark.parametrize("build", [small.mlp, small.convnet])
@pytest.mark.parametrize("place", ["everywhere", "below", "output"])
@pytest.mark.parametrize("name", RULES)
def test_whatever_a_rule_has_in_it_trains_a_network(name, place, build):
    if name == "two_families" and place != "below":
        pytest.skip("a sum over no layers has no shape, which the last layer would need")
    net = build(torch.float64)
    x, labels = small.batch(net, torch.float64)
    activations = {path: torch.tanh for path, module in net.named_modules() if type(module) in KINDS}
    rule = RULES["scalars"] if place == "output" else rule_of(name)
    output = {"below": RULES["scalars"], "output": rule_of(name)}.get(place)
    convert(net, rule, output=output, example=x, seed=0, activations=activations)
    optimizer = optimizers(net, task=lambda parameters: torch.optim.SGD(parameters, lr=0.001))
    for step in range(8):
        observe(net, target=labels, epoch=step / 4, progress=0.1, lr=0.1)
        optimizer.zero_grad()
        F.cross_entropy(net(x), labels).backward()
        optimizer.step()
        advance(net)
    assert all(value.isfinite().all() for value in net.state_dict().values())
    assert net.ruledsl.step > 0


def test_maps_from_far_away_and_a_tensor_of_their_name_are_refused():
    text = """
    rule both {
      fixed D : post[k] -> pre ~ normal(0, 1)
      fixed D_0 : post -> pre ~ normal(0, 1)
      feedback send = D_0 @ delta + sum(k, D[k] @ delta[k])
      locality { allow broadcast(delta[k]) }
    }
    """
    net = small.mlp()
    with pytest.raises(UserError, match="both calls a tensor `D_0`, and Linear has a part of that name"):
        convert(net, ruledsl.parse(text), example=small.batch(net)[0])


@pytest.mark.parametrize(
    "name", ["output", "inputs", "ctx", "zero", "shapes", "rest", "count", "families", "layer", "u_"]
)
def test_a_tensor_may_be_called_like_what_a_pass_calls_its_own(name):
    """The tensor has the shape of u, so that the one taken for the other would pass unnoticed."""
    text = f"""
    rule r {{
      weight {name} : post -> pre ~ normal(0, 1)
      fixed D : post[k] -> pre ~ normal(0, 1)
      fixed E : post[k] -> pre ~ normal(0, 1)
      state m : post = 0
      feedback send = {name} @ delta + sum(k, D[k] @ delta[k]) - sum(k, E[k] @ delta[k]) * x
      grad {name} = outer(x, u) + 0.1 * {name}
      m <- total(m + u - y)
      phase silent {{ grad {name} = outer(x, u) - {name} }}
      schedule {{ each step : task, silent }}
      locality {{
        allow broadcast(delta[k])  allow pool(positions)
        allow multiplex(post[k] -> pre)  allow multiplex(post -> pre)
      }}
    }}
    """
    case = passes.Case(ruledsl.parse(text), DenseGeometry("square", 5, 5))
    for phase in ("task", "silent"):
        found, expected = case.run_layer(phase), case.expected(phase)
        assert found.keys() == expected.keys()
        for output, value in expected.items():
            assert deviation(found[output].detach(), value) <= TOLERANCE, (phase, output)
