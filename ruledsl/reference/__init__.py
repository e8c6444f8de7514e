"""The meaning of a rule, executed directly on NumPy float64: the oracle of all tests."""

from ruledsl.reference.interpreter import Outputs, evaluate, initial, run_phase

__all__ = ["Outputs", "evaluate", "initial", "run_phase"]
