"""Write a rule, watch it being rejected, and mend it.

The idea: feedback that follows the sign of the forward weights, at a tenth of their mean size.
"""

from __future__ import annotations

import ruledsl

DRAFT = """
rule my_feedback "Signs of the forward weights, at a fixed size" {
  param size = 0.1 in (0, inf) "size of every feedback weight"

  feedback send = size * sign(W) @ delta
}
"""

if __name__ == "__main__":
    print("The first draft forgets that W leads forwards:\n")
    try:
        ruledsl.parse(DRAFT, name="my_feedback.rule")
    except ruledsl.RuleError as error:
        print(error)

    turned = DRAFT.replace("sign(W)", "sign(W.T)")
    print("\nTurned around, it fits. But does a feedback synapse know the sign of a forward weight?\n")
    try:
        ruledsl.parse(turned, name="my_feedback.rule")
    except ruledsl.RuleError as error:
        print(error)

    honest = turned.replace("delta\n}", "delta\n\n  locality { allow sign(W) -> send }\n}")
    rule = ruledsl.parse(honest, name="my_feedback.rule")
    print("\nA rule that says what it needs is accepted:\n")
    print(honest.strip())
    print(f"\nverdict: {rule.verdict}")
    for entry in rule.ledger:
        print(f"  {entry.flow} -> {entry.sink}   line {entry.line}: {entry.term}")

    print("\nTold to need nothing, feedback has to be learned. This is Kolen-Pollack:\n")
    local = ruledsl.load("kolen_pollack")
    print(local.text)
    print(f"verdict: {local.verdict}, ledger: {list(local.ledger)}")
