"""The PyTorch backend: `convert` a network, train it in any loop, `advance` it after each step; `unconvert` it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ruledsl_torch.emission import BACKEND

if TYPE_CHECKING:
    from ruledsl_torch.conversion import convert as convert
    from ruledsl_torch.network import observe as observe
    from ruledsl_torch.optimization import optimizer as optimizer
    from ruledsl_torch.optimization import optimizers as optimizers
    from ruledsl_torch.stepping import complete as complete
    from ruledsl_torch.steps import advance as advance
    from ruledsl_torch.unconversion import unconvert as unconvert

_ROOMS = {
    "advance": "ruledsl_torch.steps",
    "complete": "ruledsl_torch.stepping",
    "convert": "ruledsl_torch.conversion",
    "observe": "ruledsl_torch.network",
    "optimizer": "ruledsl_torch.optimization",
    "optimizers": "ruledsl_torch.optimization",
    "unconvert": "ruledsl_torch.unconversion",
}
__all__ = ["BACKEND", "advance", "complete", "convert", "observe", "optimizer", "optimizers", "unconvert"]


def __getattr__(name: str) -> Any:
    # Emission needs no torch, and importing torch takes a second: it is imported on first use.
    if name in _ROOMS:
        return getattr(import_module(_ROOMS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
