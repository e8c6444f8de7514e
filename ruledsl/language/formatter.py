"""Text -> the same text in its canonical form: one statement a line, two spaces a level, comments where they stood."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from ruledsl.diagnostics import RuleError
from ruledsl.language import tree
from ruledsl.language.lexer import Comment
from ruledsl.language.parser import Reading, read
from ruledsl.language.tree import Definition
from ruledsl.language.wrapping import STEP, WIDTH, lay_out
from ruledsl.source import Source, Span

Entry = tree.First | tree.Each | tree.Alternate
Statement = tree.Item | Entry | tree.Clause


def format_text(text: Source) -> str:
    """The canonical form; reading it gives the same tree. Raises RuleError where the text has errors.

    Comments stay before or behind the statement where they stood; one inside a statement goes before it.
    Up to one empty line between statements is kept.
    """
    reading = read(text)
    if reading.diagnostics:
        raise RuleError(reading.diagnostics)
    return _Formatter(reading).format()


class _Formatter:
    def __init__(self, reading: Reading) -> None:
        self.file = reading.file
        self.comments = reading.comments
        self.braces = [token.span for token in reading.tokens if token.type == "LBRACE"]
        self.next_comment = 0
        self.lines: list[str] = []

    def format(self) -> str:
        """The whole file."""
        end = self.file.span.end_line + 1
        self.statements(self.file.definitions, 0, Span(end, 1, end, 1))
        return "\n".join(self.lines) + "\n"

    def statements(self, nodes: Sequence[Definition | Statement], indent: int, end: Span) -> None:
        """The statements of a block whose `}` is at `end`, with the comments between them."""
        last = None  # the line of the text where the last thing that was written ended
        for number, node in enumerate(nodes):
            following = nodes[number + 1].span if number + 1 < len(nodes) else end
            last = self.own_comments(node.span, indent, last)
            first_line = node.span.line
            if last is not None and (
                first_line - last > 1 or (isinstance(node, Definition) and not self.comment_above())
            ):
                self.lines.append("")
            self.statement(node, indent, following)
            last = node.span.end_line
        self.own_comments(end, indent, last)

    def comment_above(self) -> bool:
        """Whether the last line written is a comment."""
        return bool(self.lines) and self.lines[-1].lstrip().startswith("#")

    def statement(self, node: Definition | Statement, indent: int, following: Span) -> None:
        """A statement or definition, what stands in it, and the comment behind it."""
        block = _block(node)
        if block is None:
            inside = self.take(node.span.end_line, node.span.end_column)
            self.lines += [" " * indent + comment.text for comment in inside]
            self.lines.append(" " * indent + _text(node, indent))
            self.trailing(node.span, following)
            return
        brace = self.braces[bisect_left(self.braces, node.span)]
        self.lines += [" " * indent + comment.text for comment in self.take(brace.line, brace.column)]
        end = Span(node.span.end_line, node.span.end_column - 1, node.span.end_line, node.span.end_column)
        head = " " * indent + _head(node, indent)
        commented = self.next_comment < len(self.comments) and self.comments[self.next_comment].span < end
        if not block and not commented:
            self.lines.append(head + " {}")
        elif brace.line == end.line and not commented and (short := _one_line(node, block, head)):
            self.lines.append(short)
        else:
            self.lines.append(head + " {")
            self.trailing(brace, block[0].span if block else end)
            self.statements(block, indent + STEP, end)
            self.lines.append(" " * indent + "}")
        self.trailing(end, following)

    # --- comments ---

    def take(self, line: int, column: int) -> list[Comment]:
        """The comments up to a place that were not written yet."""
        start = self.next_comment
        while self.next_comment < len(self.comments) and self.comments[self.next_comment].span < (line, column):
            self.next_comment += 1
        return self.comments[start : self.next_comment]

    def own_comments(self, before: Span, indent: int, last: int | None) -> int | None:
        """The comments before a place, each on its own line; the line of the text where the last of them was."""
        for comment in self.take(before.line, before.column):
            if last is not None and comment.span.line - last > 1:
                self.lines.append("")
            self.lines.append(" " * indent + comment.text)
            last = comment.span.line
        return last

    def trailing(self, span: Span, following: Span) -> None:
        """The comment behind a statement or brace, if one stands on its last line and nothing between them."""
        if self.next_comment < len(self.comments):
            comment = self.comments[self.next_comment]
            if comment.span.line == span.end_line and comment.span < following:
                self.lines[-1] += "  " + comment.text
                self.next_comment += 1


def _one_line(node: Definition | Statement, block: Sequence[Statement], head: str) -> str | None:
    """A block that its author wrote on one line, if it may stay there: one plain statement, and no definition."""
    if len(block) != 1 or _block(block[0]) is not None or isinstance(node, Definition):
        return None
    line = f"{head} {{ {_text(block[0], 0, wide=True)} }}"
    return line if len(line) <= WIDTH else None


def _block(node: Definition | Statement) -> Sequence[Statement] | None:
    """What stands in the braces of a node; None if it has none."""
    match node:
        case Definition() | tree.When() | tree.AfterStep() | tree.Phase():
            return node.body
        case tree.Schedule():
            return node.entries
        case tree.Locality():
            return node.clauses
        case _:
            return None


def _head(node: Definition | Statement, indent: int) -> str:
    """What stands before the brace of a block."""
    match node:
        case Definition():
            return f"{node.kind} {node.name.id}" + _doc(node.title)
        case tree.When():
            return "when " + lay_out(node.condition, indent + 5, indent, 2)
        case tree.AfterStep():
            return "after step"
        case tree.Phase():
            return f"phase {node.name.id}"
        case tree.Schedule():
            return "schedule"
        case _:
            return "locality"


def _text(node: Definition | Statement, indent: int, wide: bool = False) -> str:
    """A statement without a block; `wide`: on one line, however long."""
    tail = ""

    def value(head: str, expr: tree.Expr, equals: str = "=") -> str:
        column = -10_000_000 if wide else indent + len(head)
        return head + lay_out(expr, column, indent, len(tail), equals) + tail

    match node:
        case tree.Source():
            return f"source {_quoted(node.text)}"
        case tree.Param():
            tail = _interval(node.interval) + _doc(node.doc)
            return value(f"{'static ' if node.static else ''}param {node.name.id} = ", node.default)
        case tree.Declaration():
            tail = _doc(node.doc)
            return value(
                f"{node.kind} {node.name.id} : {_type(node.type)} {'~' if node.random else '='} ", node.initial
            )
        case tree.Let():
            return value(f"let {node.name.id} = ", node.value)
        case tree.Primitive():
            return value(f"primitive {node.name.id} = ", node.value)
        case tree.Feedback():
            return value(f"feedback {node.slot.id} = ", node.value)
        case tree.Grad():
            tail = _by(node.by)
            return value(f"grad {node.target.id} = ", node.value)
        case tree.Assign():
            return value(f"{node.target.id} <- ", node.value)
        case tree.Minimize():
            tail = f" over {_names(node.over)}{_by(node.by)}"
            return value("minimize ", node.energy)
        case tree.OptimizerChoice():
            return value(f"optimizer {node.slot.id} = ", node.value, " = ")
        case tree.Drive():
            return value(f"drive {node.signal.id} = ", node.value)
        case tree.Extends():
            return f"extends {node.name.id}"
        case tree.Use():
            if not node.keywords:
                return f"use {node.name.id}"
            call = tree.Call.model_construct(span=node.span, function=node.name, args=(), keywords=node.keywords)
            return value("use ", call, " = ")
        case tree.First():
            tail = f" epochs : {_names(node.phases)}"
            return value("first ", node.count)
        case tree.Each():
            return f"each step : {_names(node.phases)}"
        case tree.Alternate():
            return f"alternate : {_names(node.phases)}"
        case tree.Clause():
            argument = " -> ".join(lay_out(place, 0, 0) for place in (node.argument, node.towards) if place)
            return f"{node.verb} {node.channel.id}({argument})" + (f" -> {node.sink.id}" if node.sink else "")
        case _:
            raise AssertionError(f"{type(node).__name__} has a block")


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _doc(text: str | None) -> str:
    return "" if text is None else f" {_quoted(text)}"


def _by(name: tree.Ident | None) -> str:
    return f" by {name.id}" if name else ""


def _names(names: Sequence[tree.Ident]) -> str:
    return ", ".join(name.id for name in names)


def _interval(interval: tree.Interval | None) -> str:
    if interval is None:
        return ""
    low, high = (lay_out(bound, 0, 0) for bound in (interval.low, interval.high))
    return f" in {'[' if interval.low_closed else '('}{low}, {high}{']' if interval.high_closed else ')'}"


def _type(type_: tree.TypeRef) -> str:
    spaces = [space for space in (type_.source, type_.target) if space]
    return " -> ".join(space.id + (f"[{space.index}]" if space.index else "") for space in spaces)
