"""Several runs and what they say together: `compare(config, ["backprop", "kolen_pollack"], seeds=[0, 1, 2])`."""

from ruledsl.experiments.compare import Comparison, Row, compare

__all__ = ["Comparison", "Row", "compare"]
