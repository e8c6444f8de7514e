"""The parser reads what the language allows, and says everything that is wrong with the rest."""

from __future__ import annotations

from pathlib import Path

import pytest
from language.texts import bare

from ruledsl.diagnostics import Diagnostic, RuleError, Source
from ruledsl.language import grammar, tree
from ruledsl.language.lexer import LONGEST_FILE, MOST_WORDS, Words
from ruledsl.language.parser import parse
from ruledsl.library import read
from ruledsl.messages import MESSAGES
from ruledsl.source import Span

WEIGHT_MIRROR = """\
rule weight_mirror "Weight mirrors" {
  source "Akrout et al. 2019, Algorithm 1, eqs. 3-7 and 21"

  param eta_B   = 0.1 in (0, inf)  "mirroring rate"
  param decay_B = 0.5 in [0, 1]    "mirroring weight decay"

  weight B : post -> pre ~ normal(0, sqrt(2 / fan_in))

  feedback send = B @ delta

  phase mirror {
    drive x = normal(0, 1)
    let z   = relu(W @ x + b)
    B <- (1 - decay_B) * B + eta_B * outer(x, center(z, batch), mean=all)
  }

  schedule {
    first 2 epochs : mirror
    each step      : task, mirror
  }

  locality { allow pool(batch) -> B }
}
"""


def body(text: str) -> tuple[tree.Item, ...]:
    file, diagnostics = parse(Source(f"rule a {{ {text} }}"))
    assert not diagnostics, diagnostics
    return file.definitions[0].body


def errors(text: str) -> list[Diagnostic]:
    return parse(Source(text))[1]


# --- what can be read --------------------------------------------------------------------------------------


def test_weight_mirror_is_read_whole_with_the_place_of_every_part() -> None:
    file, diagnostics = parse(Source(WEIGHT_MIRROR))
    assert not diagnostics
    (rule,) = file.definitions
    assert (rule.kind, rule.name.id, rule.title) == ("rule", "weight_mirror", "Weight mirrors")
    kinds = [type(item).__name__ for item in rule.body]
    assert kinds == ["Source", "Param", "Param", "Declaration", "Feedback", "Phase", "Schedule", "Locality"]
    source, eta, decay, weight, feedback, phase, schedule, locality = rule.body
    assert isinstance(source, tree.Source) and source.text.startswith("Akrout et al. 2019")
    assert isinstance(eta, tree.Param) and eta.interval is not None and eta.doc == "mirroring rate"
    assert isinstance(eta.interval.high, tree.Number) and eta.interval.high.value == float("inf")
    assert not eta.interval.low_closed and not eta.interval.high_closed
    assert isinstance(decay, tree.Param) and decay.interval is not None
    assert decay.interval.low_closed and decay.interval.high_closed
    assert isinstance(weight, tree.Declaration) and weight.random and weight.kind == "weight"
    assert weight.type.source is not None and (weight.type.source.id, weight.type.target.id) == ("post", "pre")
    assert isinstance(feedback, tree.Feedback) and feedback.span == Span(9, 3, 9, 28)
    assert feedback.value.span == Span(9, 19, 9, 28)
    assert isinstance(phase, tree.Phase) and [type(item).__name__ for item in phase.body] == ["Drive", "Let", "Assign"]
    assert isinstance(schedule, tree.Schedule) and isinstance(schedule.entries[0], tree.First)
    assert [phase.id for phase in schedule.entries[1].phases] == ["task", "mirror"]
    assert isinstance(locality, tree.Locality) and locality.clauses[0].argument == tree.Name(
        span=Span(22, 25, 22, 30), id="batch"
    )


@pytest.mark.parametrize(
    "text",
    [
        "extends backprop use frozen_signs(at = 0.05) use constant_norm",
        "static param n = true when n { let a = 1 } when not n and 1 < 2 { }",
        "fixed M : post -> pre ~ uniform(0, 1) feedback send = (M * sign(W.T)) @ delta",
        "fixed D : post[k] -> pre ~ normal(0, 1) feedback send = B @ delta + sum(k, D[k] @ delta[k])",
        "optimizer align = adam(lr = 0.0098) optimizer task = sgd(lr = 0.1, momentum = 0.9, nesterov = true)",
        "primitive amp = -dot(f, h) minimize 0.001 * amp over W, B by align",
        "grad W = outer(delta, x) + decay * W grad B = outer(x, delta) by align",
        "state tau : p = zeros() after step { let t = -sign(g) + m * tau tau <- t p <- p + lr * t }",
        "schedule { alternate : task, align } locality { }",
        "locality { allow sign(W) -> send allow norm(W) -> send forbid broadcast(delta[k]) }",
        'state s : scalar = 0 fresh M : post -> pre ~ signs(0.5) "doc"',
        "let z = if progress < 0.5 then x else if step > 3 then y else -y ** 2",
    ],
)
def test_every_form_of_the_design_is_read(text: str) -> None:
    assert body(text)


def test_one_file_may_hold_rules_optimizers_and_constraints() -> None:
    file, diagnostics = parse(Source('rule a {} optimizer b "B" { p <- p - lr * g } constraint c { }'))
    assert not diagnostics
    assert [(d.kind, d.name.id) for d in file.definitions] == [("rule", "a"), ("optimizer", "b"), ("constraint", "c")]


def test_words_of_the_schedule_are_names_elsewhere() -> None:
    items = body(
        "let first = step * epochs step <- each + alternate(first) phase epochs { } schedule { each step : first }"
    )
    assert [type(item).__name__ for item in items] == ["Let", "Assign", "Phase", "Schedule"]


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("a + b * c", "a + (b * c)"),
        ("a - b - c", "(a - b) - c"),
        ("a / b @ c * d", "((a / b) @ c) * d"),
        ("-a ** b", "-(a ** b)"),
        ("a ** -b ** c", "a ** (-(b ** c))"),
        ("-a * b", "(-a) * b"),
        ("-M.T @ v", "(-(M.T)) @ v"),
        ("not a == b", "not (a == b)"),
        ("a or b and not c", "a or (b and (not c))"),
        ("a < b + c", "a < (b + c)"),
        ("if a or b then c else d + e", "if (a or b) then c else (d + e)"),
        ("(a)", "a"),
        ("f(a, b,)", "f(a, b)"),
        ("f(\n  a,  # why\n  k=1\n)", "f(a, k=1)"),
    ],
)
def test_operators_bind_as_in_python(text: str, meaning: str) -> None:
    assert bare(body(f"let v = {text}")) == bare(body(f"let v = {meaning}"))


def test_texts_know_two_escapes() -> None:
    (source,) = body(r'source "a \"quoted\" \\ word"')
    assert isinstance(source, tree.Source) and source.text == 'a "quoted" \\ word'


def test_a_text_without_errors_means_what_lark_alone_makes_of_it() -> None:
    text = Source(WEIGHT_MIRROR)
    assert parse(text)[0].definitions == grammar.rule_parser().parse(Words(text))


@pytest.mark.parametrize("damaged", [b"", b"not what lark keeps", None])
def test_a_damaged_or_missing_analysis_of_the_grammar_is_made_anew(
    damaged: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = grammar.rule_parser.__wrapped__()
    (kept,) = (tmp_path / "ruledsl").iterdir()
    if damaged is None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(kept))  # where no folder can be made
    else:
        kept.write_bytes(damaged)
    again = grammar.rule_parser.__wrapped__()
    for lark in (made, again, grammar.rule_parser.__wrapped__()):
        assert lark.parse(Words(Source(WEIGHT_MIRROR))) == parse(Source(WEIGHT_MIRROR))[0].definitions


# --- what is wrong -----------------------------------------------------------------------------------------

# text, code, line, column, a part of the message or help; every text has exactly one error
WRONG = [
    ("rule a { let x = }", "E0101", 1, 18, "expected an expression, found `}`"),
    ("rule a { B = outer(x, delta) }", "E0101", 1, 12, "write `B <- ...`"),
    ("rule a { B < - W }", "E0101", 1, 12, "`<-` is one sign"),
    ("rule a { when a <-1 { } }", "E0101", 1, 17, "write `< -`"),
    ("rule a { weight B : post -> pre normal(0, 1) }", "E0101", 1, 33, "say how it starts"),
    ("rule a { weight B ~ normal(0, 1) }", "E0101", 1, 19, "weight B : post -> pre"),
    ("rule a { let x = 1, let y = 2 }", "E0101", 1, 19, "need no separator"),
    ("rule a { let x = 1 < y < 2 }", "E0101", 1, 24, "don't chain"),
    ("rule a { let x = 1 + if a then b else c }", "E0101", 1, 22, "in brackets"),
    ("rule a { let x = if a then b }", "E0101", 1, 30, "two branches"),
    ("rule a { let in = 1 }", "E0101", 1, 14, "`in` is a word of the language"),
    ("rule a { let let = 1 }", "E0101", 1, 14, "`let` is a word of the language"),
    ("rule a { let x = f(x / rule) }", "E0101", 1, 24, "`rule` is a word of the language"),
    ("rule a { schedule { each step : task, when } let y = 2 }", "E0101", 1, 39, "`when` is a word of the language"),
    ("rule a { locality { allow sign(W) fresh -> send } }", "E0101", 1, 35, "expected `->`, `allow`"),
    ("rule a { schedule { each step : task let x = 1 }", "E0101", 1, 38, "the `{` in line 1 has no `}`"),
    ("rule rule { let x = 1 }", "E0101", 1, 6, "`rule` is a word of the language"),
    ("rule a { feedbak send = B @ delta }", "E0101", 1, 10, "did you mean `feedback`?"),
    ("rul a { let x = 1 }", "E0101", 1, 1, "did you mean `rule`?"),
    ("rule a { let x = 2 y }", "E0101", 1, 20, "is an operator missing between `2` and `y`?"),
    ("rule a { let x = (1 + 2\n let y = 3 }", "E0101", 2, 2, "the `(` in line 1, column 18 is not closed"),
    ("rule a { let x = 1) }", "E0101", 1, 19, "no bracket that this `)` could close"),
    ("rule a { when x > 0: { } }", "E0101", 1, 20, "in braces"),
    ("rule a { allow sign(W) }", "E0101", 1, 10, "stands in `locality { ... }`"),
    ("rule a { first 2 epochs : task }", "E0101", 1, 10, "stands in `schedule { ... }`"),
    ("rule a { } }", "E0101", 1, 12, "one `}` too many"),
    ("let x = 1 rule a { }", "E0101", 1, 1, "statements stand in a definition"),
    ("rule a { let x = 1\nrule b { }", "E0101", 2, 1, "the `{` in line 1 has no `}`"),
    ("rule a { optimizer t = sgd() optimizer b { } constraint c { }", "E0101", 1, 30, "the `{` in line 1"),
    ("rule a { schedule { each step : task\nlet x = 1 }", "E0101", 2, 1, "the `{` in line 1 has no `}`"),
    ("rule a let x = 1 }", "E0101", 1, 8, "expected `{` or a text in double quotes"),
    ("rule a { schedule each step : task } }", "E0101", 1, 19, "expected `{`"),
    ("rule a { phase { drive x = 1 } let y = 2 }", "E0101", 1, 16, "expected a name"),
    ("rule a { use norm(0.1) }", "E0101", 1, 19, "expected a name or `)`"),
    ("rule a { let x = W^2 + W }", "E0102", 1, 19, "write `**` for a power"),
    ("rule a { let x = W' @ y }", "E0102", 1, 19, "write `.T` for a transpose"),
    ("rule a { let x = 1; let y = 2 }", "E0102", 1, 19, "leave it out"),
    ("rule a { let Ꮤ = 1 }", "E0102", 1, 14, "CHEROKEE LETTER TA"),
    ("rule a { let W = wеight }", "E0102", 1, 18, "CYRILLIC SMALL LETTER IE (U+0435)"),
    ("rule a { let δ = 1 }", "E0102", 1, 14, "write `delta`"),
    ("rule a { B ← 1 }", "E0102", 1, 12, "LEFTWARDS ARROW (U+2190); write `<-`"),
    ("rule a { let x\u00a0= 1 }", "E0102", 1, 15, "U+00A0"),
    ("rule a { let x = 1 # \u202e hidden\n }", "E0102", 1, 22, "RIGHT-TO-LEFT OVERRIDE (U+202E), which can't be seen"),
    ('rule a { source "a\u0000b" }', "E0102", 1, 19, "U+0000"),
    ("rule a { let x = ((1 + \u0007 2)) }", "E0102", 1, 24, "`U+0007`"),
    ("rule a {\n  phase m {\n    let x = 1\n}\n", "E0103", 2, 11, "the file ends inside `phase m`"),
    ("rule a { let x = 1", "E0103", 1, 8, "the file ends inside `rule a`"),
    ("rule a { schedule {", "E0103", 1, 19, "the file ends inside `schedule`"),
    ('rule a { source "abc }', "E0104", 1, 17, "a text ends on the line where it starts"),
    ('rule a "title {\n  let x = 1\n}', "E0104", 1, 8, "closing quote"),
    ("rule a { let x = " + "(" * 101 + "1" + ")" * 101 + " }", "E0105", 1, 118, "more than 100 levels"),
    ("rule a { let x = 1" + " + 1" * 100 + " let y = 2 }", "E0105", 1, 18, "more than 100 levels"),
    ("rule a { let x = " + "- " * 100 + "1 }", "E0105", 1, 18, "with `let`"),
    ("rule a { let x = 2" + " ** 2" * 100 + " }", "E0105", 1, 18, "levels"),
    ("rule a { let x = " + "if a then b else " * 100 + "c }", "E0105", 1, 18, "levels"),
    ("rule a { let x = f(a=1, " + "- " * 2_000 + "b) }", "E0105", 1, 25, "levels"),
    ("rule a { let x = W" + ".T" * 100 + " }", "E0105", 1, 18, "levels"),
    ("rule a {" + "when b {" * 100 + "}" * 101, "E0105", 1, 808, "levels"),
    ("rule a { let x = 1_000 }", "E0106", 1, 18, "write `1000`"),
    ("rule a { let x = 1.2.3 }", "E0106", 1, 18, "`1.2.3` is not a number"),
    ("rule a { let x = 0.1x }", "E0106", 1, 18, "write `0.1 * x`"),
    ("rule a { let x = 1e999 }", "E0106", 1, 18, "too large"),
    ("rule a { let x = 1e-999 }", "E0106", 1, 18, "too small"),
    ("rule a { let x = ٣ }", "E0106", 1, 18, "is not a number"),
    ("x" * (LONGEST_FILE + 1), "E0107", 1, 1, str(LONGEST_FILE)),
    ("# only a comment", "E0108", 1, 1, "a file starts with `rule NAME"),
    ("", "E0108", 1, 1, "no rule"),
    ("rule a { let __class__ = 1 }", "E0110", 1, 14, "a name starts with a letter"),
    ("rule a { param lambda = 1 }", "E0110", 1, 16, "call it `lam`"),
    ("rule a { static param n = True }", "E0110", 1, 27, "write `true`"),
    ("rule a { source 'abc' }", "E0110", 1, 17, 'write it in double quotes: `"abc"`'),
    (r'rule a { source "a\n" }', "E0110", 1, 19, "knows the escapes"),
    ("rule a { B += 1 }", "E0110", 1, 12, "write `B <- B + ...`"),
    ("rule a { let x = W.transpose }", "E0110", 1, 19, "the `T` of a transpose"),
    ("rule a { let x = f(a=1, b) }", "E0110", 1, 25, "before all arguments with one"),
    ("rule a { let x = f(a=1, a=2) }", "E0110", 1, 25, "given twice"),
    ("rule a { // why\n }", "E0110", 1, 10, "starts with `#`"),
    ("a " * (MOST_WORDS + 1), "E0111", 1, 2 * MOST_WORDS + 1, str(MOST_WORDS)),
]


@pytest.mark.parametrize(("text", "code", "line", "column", "says"), WRONG, ids=[f"{w[1]}-{w[4][:30]}" for w in WRONG])
def test_one_slip_makes_one_error_at_its_place(text: str, code: str, line: int, column: int, says: str) -> None:
    (error,) = errors(text)
    assert (error.code, error.span.line, error.span.column) == (code, line, column), error
    assert says in f"{error.message}\n{error.help}"
    assert error.text is not None


def test_bytes_that_are_no_text_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.rule"
    path.write_bytes(b'rule a "\xff" { }')
    with pytest.raises(RuleError, match="E0109"):
        read(path)


def test_every_code_of_the_grammar_has_a_test() -> None:
    codes = {code for code in MESSAGES if code.startswith("E01")}
    assert codes == {wrong[1] for wrong in WRONG} | {"E0109"}


def test_all_errors_are_found_in_one_go_and_the_rest_is_read() -> None:
    text = """\
rule a {
  param eta = in (0, 1)
  weight B : post ->
  let x = (1 + 2
  feedback send = B @ @ delta
  let fine = 1
  phase {
    drive x = 2 +
    let fine = 2
  }
  schedule { first x : y   each step : task }
  B = 3
  C = 4
  weigth D : post -> pre ~ zeros()
}
rule b { let fine = 3 }
rule c { let x = 1 + }
"""
    file, diagnostics = parse(Source(text))
    assert [d.span.line for d in diagnostics] == [2, 4, 5, 5, 7, 9, 11, 12, 13, 14, 17]
    assert [d.name.id for d in file.definitions] == ["a", "b", "c"]
    kept = [type(item).__name__ for item in file.definitions[0].body]
    assert kept == ["Let", "Phase", "Schedule"]
    assert len(file.definitions[1].body) == 1


def test_a_definition_before_an_error_is_kept() -> None:
    file, diagnostics = parse(Source("rule a { let x = 1 } } rule b { let y = 2 } let z = 3"))
    assert len(diagnostics) == 2
    assert [(definition.name.id, len(definition.body)) for definition in file.definitions] == [("a", 1), ("b", 1)]


def test_a_wrong_head_does_not_hide_what_is_in_its_block() -> None:
    lines = ["rule a {", "  when {", "    let = 1", "  }", "  phase 3 {", "    let = 2", "  }", "  let = 3", "}"]
    assert [error.span.line for error in errors("\n".join(lines))] == [2, 3, 5, 6, 8]
