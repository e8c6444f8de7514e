"""The formatter changes the looks of a text, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from language.texts import bare, expressions, words, written

from ruledsl.diagnostics import RuleError
from ruledsl.language import tree
from ruledsl.language.formatter import format_text
from ruledsl.language.parser import parse, read
from ruledsl.language.printer import print_expression
from ruledsl.source import Source

relaxed = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)

UNTIDY = """\
# top comment


# second
rule   a "t" { # header
  # own

  let a = 1 let b = f(x, # inside
     y) + (2+3)*4 # behind


  # before the end

} # after a
rule b {}
# about c
rule c { # only a comment
}
optimizer d { let long = outer(delta_delta_delta_delta, x_x_x_x_x_x_x_x_x_x, mean=batch) + outer(v, delta[k] , mean=all)
 when (a > 1) and not (b or c) { p <- (a ** 2) ** -b } when x { when y { p <- 1} } optimizer t = sgd(lr=0.1)
 use k(at=.05) schedule { alternate:task,align } # tail
 locality { # h
   allow value(W)   # all
   forbid broadcast(delta[k])->send }
 weight B:post[k]->pre~normal(0,1) static param n=true param q=-1 in[-1,1)"d \\"q\\" \\\\"
}
# end"""

TIDY = """\
# top comment

# second
rule a "t" {  # header
  # own

  let a = 1
  # inside
  let b = f(x, y) + (2 + 3) * 4  # behind

  # before the end
}  # after a

rule b {}
# about c
rule c {  # only a comment
}

optimizer d {
  let long = outer(delta_delta_delta_delta, x_x_x_x_x_x_x_x_x_x, mean=batch)
    + outer(v, delta[k], mean=all)
  when a > 1 and not (b or c) { p <- (a ** 2) ** -b }
  when x {
    when y { p <- 1 }
  }
  optimizer t = sgd(lr = 0.1)
  use k(at = .05)
  schedule { alternate : task, align }  # tail
  locality {  # h
    allow value(W)  # all
    forbid broadcast(delta[k]) -> send
  }
  weight B : post[k] -> pre ~ normal(0, 1)
  static param n = true
  param q = -1 in [-1, 1) "d \\"q\\" \\\\"
}
# end
"""


def expression(text: str) -> tree.Expr:
    file, diagnostics = parse(Source(f"rule a {{ let v = {text} }}"))
    assert not diagnostics, diagnostics
    let = file.definitions[0].body[0]
    assert isinstance(let, tree.Let)
    return let.value


def test_an_untidy_text_becomes_tidy() -> None:
    assert format_text(Source(UNTIDY)) == TIDY


@pytest.mark.parametrize(
    ("untidy", "tidy"),
    [
        ("((a+b))*c", "(a + b) * c"),
        ("a+(b*c)", "a + b * c"),
        ("a-(b-c)", "a - (b - c)"),
        ("(a-b)-c", "a - b - c"),
        ("(a**b)**c", "(a ** b) ** c"),
        ("a**(b**c)", "a ** b ** c"),
        ("(-a)**b", "(-a) ** b"),
        ("-(a**b)", "-a ** b"),
        ("a**(-b)", "a ** -b"),
        ("(W@x).T", "(W @ x).T"),
        ("(W.T)@x", "W.T @ x"),
        ("(2).T", "(2).T"),
        ("(M*S)@v", "(M * S) @ v"),
        ("W@x*2", "(W @ x) * 2"),
        ("a*b/c", "a * b / c"),
        ("(A@B)@v", "A @ B @ v"),
        ("(a<b)==(c<d)", "(a < b) == (c < d)"),
        ("not(a and b)or c", "not (a and b) or c"),
        ("(not a)==b", "(not a) == b"),
        ("(if a then b else c)+d", "(if a then b else c) + d"),
        ("if a then b else(if c then d else e)", "if a then b else if c then d else e"),
        ("f((a), mean = all)", "f(a, mean=all)"),
        ("-(-a)", "--a"),
        ("1e-3+.50", "1e-3 + .50"),
    ],
)
def test_brackets_stay_only_where_the_meaning_needs_them(untidy: str, tidy: str) -> None:
    assert print_expression(expression(untidy)) == tidy
    assert bare(expression(tidy)) == bare(expression(untidy))


@given(expressions)
@relaxed
def test_a_printed_expression_reads_as_the_same_expression(expr: tree.Expr) -> None:
    assert bare(expression(print_expression(expr))) == bare(expr) == bare(expression(" ".join(words(expr))))


@given(written())
@relaxed
def test_formatting_keeps_the_tree_and_every_comment_and_is_idempotent(case: tuple[tree.File, str, list[str]]) -> None:
    file, text, comments = case
    reading = read(Source(text))
    assert not reading.diagnostics
    assert bare(reading.file) == bare(file)
    tidy = format_text(Source(text))
    again = read(Source(tidy))
    assert bare(again.file) == bare(file)
    assert [comment.text for comment in again.comments] == comments
    assert format_text(Source(tidy)) == tidy


def test_blocks_of_one_statement_stay_on_their_line_if_they_were_on_one() -> None:
    text = "rule a {\n  locality { allow sign(W) -> send }\n  when c {\n    let z = 1\n  }\n}\n"
    assert format_text(Source(text)) == text


def test_a_long_statement_breaks_at_its_terms_branches_and_arguments() -> None:
    long = "a_name_of_some_length"
    text = f"""\
rule a {{
  let terms = {long} * {long} + {long}
    - {long} * {long}
  let branches = if {long} then {long} + {long}
    else if {long} then {long} * {long}
    else {long}
  let arguments = 2 * outer(
    {long} * {long} + {long},
    {long} * {long},
    mean=batch
  ) * {long}
}}
"""
    assert format_text(Source(text)) == text


def test_a_text_with_errors_is_not_formatted() -> None:
    with pytest.raises(RuleError, match="E0101"):
        format_text(Source("rule a { let }"))


def test_windows_line_ends_and_a_byte_order_mark_go_away() -> None:
    assert format_text(Source("\ufeffrule a {\r\n  # c\r\n  let x = 1\r\n}\r\n")) == "rule a {\n  # c\n  let x = 1\n}\n"
