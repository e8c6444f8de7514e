"""Rules for people to read: equations, ledger, cost and the bits that move, for the terminal and for LaTeX."""
