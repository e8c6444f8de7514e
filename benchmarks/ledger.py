"""What the ledger says of random rules, of rules that smuggle and of honest ones; what `verify` finds without it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter

from attacks.corpus import HONEST, OPEN, SMUGGLERS, checked, expected
from attacks.test_verification import UNSEEN, failures

from benchmarks.targets import Measured
from generators.many import findings
from ruledsl.locality.flow import flows_of

RULES = 100


def measure() -> dict[str, Measured]:
    """Shares, numbers of rules, and seconds."""
    found = sum((findings(seed) for seed in range(RULES)), Counter[str]())
    shares = ", ".join(f"{100 * count / found.total():.1f} % {finding}" for finding, count in found.most_common())
    smuggled = [path.stem for path in (*SMUGGLERS, *OPEN) if not expected(path) <= flows_of(checked(path).ledger)]
    accused = [path.stem for path in HONEST if expected(path) != flows_of(checked(path).ledger)]
    tried = [path for path in (*SMUGGLERS, *OPEN) if path.stem not in UNSEEN]
    overlooked = [path.stem for path in tried if not failures(path, "torch", denied=True)]
    return {
        "unseen": Measured(found["unseen"] / found.total(), f"{found.total()} entries: {shares}"),
        "smuggled": Measured(len(smuggled), f"of {len(SMUGGLERS) + len(OPEN)}; {', '.join(smuggled)}"),
        "accused": Measured(len(accused), f"of {len(HONEST)}; {', '.join(accused)}"),
        "overlooked": Measured(len(overlooked) / len(tried), f"of {len(tried)}; {', '.join(overlooked)}"),
        "verify": Measured(
            min(_verify() for _ in range(2)), "the first start compiles, and may take three times as long"
        ),
    }


def _verify() -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "ruledsl", "verify", "weight_mirror"], check=True, capture_output=True)
    return time.perf_counter() - start
