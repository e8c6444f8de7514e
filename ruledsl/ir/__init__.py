"""The rule as equations: typed nodes, the operations they are made of, and what is done to them."""
