"""From equations to the source text of a backend."""
