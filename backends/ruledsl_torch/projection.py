"""A linear map whose kernel and bias are rows of what a larger module holds: one Parameter, several layers."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from ruledsl_torch.linear import KINDS, dense


class Rows(NamedTuple):
    """Rows `start` to `stop` of the parameter `holder` of a module; without a stop, all of it."""

    holder: str
    start: int = 0
    stop: int | None = None

    def whole(self, owner: nn.Module) -> Tensor:
        """The parameter."""
        found: Tensor = getattr(owner, self.holder)
        return found

    def of(self, whole: Tensor) -> Tensor:
        """These rows of the parameter, or of what has its shape."""
        return whole if self.stop is None else whole[self.start : self.stop]


class Projection(nn.Module):
    """u = W @ x + b; x: [batch, *, in_features], u: [batch, *, out_features]. It has no parameter of its own.

    owner   the module that holds the parameters. They stay its own, under their names, whatever reads them: a loaded
            state, another device, `functional_call`
    parts   by tensor (`weight`, `bias`), where it lies
    """

    owner: nn.Module
    parts: dict[str, Rows]

    def __init__(self, owner: nn.Module, in_features: int, out_features: int, weight: Rows, bias: Rows | None) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.__dict__["owner"] = owner  # not a child of its child
        self.parts = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}

    @property
    def weight(self) -> Tensor:
        """The kernel: [out_features, in_features]"""
        return self._rows("weight")

    @property
    def bias(self) -> Tensor | None:
        """[out_features], or None"""
        return self._rows("bias") if "bias" in self.parts else None

    def _rows(self, name: str) -> Tensor:
        part = self.parts[name]
        found = part.of(part.whole(self.owner))
        # In a phase that its rule doesn't have, a layer only sends.
        return found.detach() if self.__dict__.get("_sending") else found

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={'bias' in self.parts}"


KINDS[Projection] = (dense, 1)
