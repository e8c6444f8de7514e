"""The standard library: one `.rule` file per learning rule, optimizer or constraint (installed as `ruledsl.rules`)."""
