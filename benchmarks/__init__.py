"""The numbers that we hold to, measured: `make bench`, or `python -m benchmarks [NAME ...]` for some of them.

Each module here but `targets`, `rules`, `turns` and `__main__` has a function `measure() -> dict[str, Measured]`; its
keys stand in `targets.TARGETS`, with what we want to reach. To add a benchmark: a module, and a row for each of its
numbers.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "tests"))  # for the random rules of tests/generators
