"""Equations to equations: lowering a typed rule, differentiating its energies, simplifying."""
