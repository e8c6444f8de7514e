"""Do not trust the analysis: run the compiled code, and compare it with what the rule means."""
