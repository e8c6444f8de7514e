"""Several runs and what they say together: `compare(config, ["backprop", "kolen_pollack"], seeds=[0, 1, 2])`."""

from ruledsl.experiments.compare import Comparison, compare, resume
from ruledsl.experiments.grid import parse_grid
from ruledsl.experiments.row import Row

__all__ = ["Comparison", "Row", "compare", "parse_grid", "resume"]
