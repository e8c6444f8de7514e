"""ruledsl: learning rules as mathematics, checked for locality and compiled to PyTorch and JAX.

rule = ruledsl.load("kolen_pollack")
rule.verdict, rule.ledger
program = rule.compile("torch")      # program.source is text, program.module is live
"""

from ruledsl.diagnostics import Diagnostic, RuleError
from ruledsl.errors import UserError
from ruledsl.library import load, names, parse
from ruledsl.program import Program
from ruledsl.rule import Rule
from ruledsl.version import __version__

__all__ = ["Diagnostic", "Program", "Rule", "RuleError", "UserError", "__version__", "load", "names", "parse"]
