"""Five rules from text to trained networks: check, compile, train, compare. `make demo` runs this.

Every step is a command that you can type yourself. It trains a small LeNet on the 8x8 digits that come with
scikit-learn, with three seeds for each rule.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ruledsl.cli.main import main as ruledsl
from ruledsl.training.run_folder import RunFolder

RULES = ("backprop", "feedback_alignment", "usf_sn", "kolen_pollack", "direct_feedback_alignment")


def run(*arguments: str, shown: bool = True) -> None:
    """One command, as typed; the demo ends where it fails."""
    if shown:
        print(f"\n$ ruledsl {' '.join(arguments)}", flush=True)
    if status := ruledsl(arguments):
        sys.exit(status)


def main() -> None:
    """Write everything into a new folder below runs/, and name it."""
    folder = RunFolder.create(Path("runs") / "demo").path
    compiled = folder / "compiled"
    compiled.mkdir()

    print("1. What would every synapse have to know?")
    run("check", *RULES)

    print("\n2. The same mathematics, in PyTorch and JAX")
    run("compile", "usf_sn", "--backend", "torch")
    for rule in RULES:
        for backend in ("torch", "jax"):
            target = str(compiled / f"{rule}_{backend}.py")
            run("compile", rule, "--backend", backend, "-o", target, shown=False)
    print(f"\n{2 * len(RULES)} modules, five rules for two frameworks, are in {compiled}")

    print("\n3. Training, on equal terms")
    run(
        *("compare", *RULES, "--data", "digits", "--model", "digits_lenet", "--seeds", "3", "--epochs", "15"),
        # For networks this small a second thread costs more than it does, and much more on a busy machine.
        *("--set", "threads=1", "--out", str(folder / "training")),
    )


if __name__ == "__main__":
    main()
