"""From equations to the source text of a backend."""

from ruledsl.emit.backend import Backend, backend, backends
from ruledsl.emit.emitter import emit

__all__ = ["Backend", "backend", "backends", "emit"]
