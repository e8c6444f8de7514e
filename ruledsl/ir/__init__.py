"""The vocabulary of equations: nodes, types, the table of operations, printer."""
