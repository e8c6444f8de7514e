"""The version of the package, which emitted modules name."""

__version__ = "0.1.0"
