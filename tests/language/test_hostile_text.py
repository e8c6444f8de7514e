"""No text makes the parser raise anything, blow up, or think for long."""

from __future__ import annotations

import gc
import itertools
import random
import string
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from language.test_parser import WEIGHT_MIRROR

from ruledsl.diagnostics import render
from ruledsl.language.formatter import format_text
from ruledsl.language.grammar import spellings
from ruledsl.language.lexer import MOST_ERRORS
from ruledsl.language.parser import parse, read
from ruledsl.source import Source

SECONDS = 1.0
HEAD = "rule a { let x = "
R = random.Random(1)

LARGE = {
    "brackets": HEAD + "(" * 10_000 + "1" + ")" * 10_000 + " let y = 1 }",
    "brackets without end": HEAD + "(" * 900_000,
    "square brackets": HEAD + "W[" * 20_000,
    "calls": HEAD + "f(" * 15_000 + ")" * 15_000 + "}",
    "sum": HEAD + "1" + " + 1" * 20_000 + "}",
    "signs": HEAD + "- " * 45_000 + "1}",
    "powers": HEAD + "2" + "**2" * 20_000 + "}",
    "transposes": HEAD + "W" + ".T" * 40_000 + "}",
    "negations": HEAD + "not " * 45_000 + "1}",
    "conditions": HEAD + "if a then b else " * 8_000 + "1}",
    "conditions of conditions": HEAD + "if " * 40_000 + "}",
    "blocks": "rule a {" + "when b {" * 15_000,
    "blocks of nobody": "{" * 45_000,
    "ends of blocks": "rule a {" + "}" * 45_000,
    "a long name": HEAD + "x" * 900_000 + " }",
    "a long number": HEAD + "1" * 900_000 + " }",
    "a long text": 'rule a { source "' + "a" * 900_000 + '" }',
    "a long comment": "rule a { #" + "a" * 900_000,
    "a line of spaces": HEAD + " " * 900_000 + "}",
    "empty lines": "\n" * 900_000 + HEAD + "}",
    "comments": "#\n" * 300_000,
    "quotes": '"' * 900_001,
    "single quotes": "a' " * 300_000,
    "backslashes": '"' + "\\" * 900_000,
    "open texts": 'source "\n' * 100_000,
    "dots": "." * 900_000,
    "strange characters": "$%" * 450_000,
    "nulls": "\0" * 900_000,
    "surrogates": "\ud800" * 500_000,
    "combining marks": "e" + "\u0301" * 500_000,
    "statements without end": "rule a {" + "let " * 45_000,
    "names": "rule a {" + "foo bar\n" * 22_000,
    "heads of blocks": "rule a {\n" + "foo {\n" * 22_000,
    "blocks after a wrong head": "rule a { optimizer 3 " + "{} " * 16_000,
    "statements after an error in deep blocks": "rule a {" + "when b {" * 99 + ") let " * 20_000,
    "rules": "rule a " * 22_000,
    "arguments": HEAD + "f(" + "a, " * 20_000 + "a) }",
    "latin": bytes(R.randrange(256) for _ in range(500_000)).decode("latin-1"),
    "printable": "".join(R.choices(string.printable, k=500_000)),
    "anything": "".join(map(chr, R.choices(range(0x11000), k=300_000))),
}


@pytest.mark.parametrize("name", LARGE)
def test_a_large_and_hostile_text_is_judged_within_a_second(name: str) -> None:
    text = Source(LARGE[name])
    gc.freeze()  # what other tests keep in memory is not searched again and again for this one's sake
    start = time.process_time()
    _, diagnostics = parse(text)
    taken = time.process_time() - start
    gc.unfreeze()
    assert taken < SECONDS
    assert len(diagnostics) <= MOST_ERRORS + 1
    for diagnostic in diagnostics[:3]:
        assert len(render(diagnostic)) < 2_000


@given(st.text(max_size=60) | st.binary(max_size=60).map(lambda data: data.decode("latin-1")))
@settings(max_examples=150)
def test_random_text_is_rejected_in_peace(content: str) -> None:
    _, diagnostics = parse(Source(content))
    assert diagnostics
    for diagnostic in diagnostics:
        assert "\n" not in diagnostic.message
        render(diagnostic)


words = st.sampled_from(
    [*spellings().values(), "W", "x", "B", "2", '"doc"', ".T", "\n", "# c\n", "first", "é", "'", '"']
)


@given(st.lists(words, max_size=40).map(" ".join), st.booleans())
@settings(max_examples=300)
def test_random_words_are_judged_in_peace(content: str, inside: bool) -> None:
    _judge("rule a {\n" + content + "\n}" if inside else content)


@given(st.data())
@settings(max_examples=200)
def test_a_mutated_rule_is_judged_in_peace(data: st.DataObject) -> None:
    content = WEIGHT_MIRROR
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(content)))
        end = min(len(content), start + data.draw(st.integers(0, 30)))
        content = content[:start] + data.draw(words | st.text(max_size=3)) + content[end:]
    _judge(content)


def test_every_short_sequence_of_words_comes_to_an_end() -> None:
    few = ["rule a", "optimizer", "schedule", "when", '""', "{", "}", "first", "B <-"]
    for sequence in itertools.product(few, repeat=4):
        _judge(" ".join(sequence))


def test_a_rule_cut_anywhere_is_judged_in_peace() -> None:
    for end in range(len(WEIGHT_MIRROR) - 2):
        _, diagnostics = _judge(WEIGHT_MIRROR[:end])
        assert 1 <= len(diagnostics) <= 2, WEIGHT_MIRROR[:end]


def _judge(content: str) -> tuple[object, list[object]]:
    """Read a text; what it means and what is wrong with it, or how it looks, is known afterwards."""
    reading = read(Source(content))
    lines = content.count("\n") + 1
    for diagnostic in reading.diagnostics:
        assert 1 <= diagnostic.span.line <= lines and diagnostic.span.column >= 1
        assert diagnostic.message and render(diagnostic)
    if not reading.diagnostics:
        assert format_text(Source(format_text(Source(content)))) == format_text(Source(content))
    return reading.file, list(reading.diagnostics)
