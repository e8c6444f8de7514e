"""Multi-head attention as what it computes: four linear maps, and between them nothing that learns."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ruledsl_torch.projection import Projection, Rows

INPUTS = ("q_proj", "k_proj", "v_proj")


class MultiheadAttention(nn.MultiheadAttention):
    """An nn.MultiheadAttention whose projections are the layers `q_proj`, `k_proj`, `v_proj` and `out_proj`.

    The first three have no parameters of their own: the attention keeps `in_proj_weight` (or `q_proj_weight` and the
    other two) and `in_proj_bias`, of which each of them reads its rows. So it is one network, whether a call attends to
    itself or to something else, and whichever way the kernels are stored. `bias_k` and `bias_v` stand behind the
    projections: no rule has a word for them, and they learn by their gradient.
    """

    q_proj: nn.Module
    k_proj: nn.Module
    v_proj: nn.Module

    @property
    def _qkv_same_embed_dim(self) -> bool:
        # An nn.TransformerEncoderLayer asks this before it computes everything at once, by its own layers' weights.
        return bool(self.__dict__["_qkv_same_embed_dim"]) and not self._evoked()

    def _evoked(self) -> bool:
        """Whether this forward pass is one without errors whose backward pass comes by each layer all the same."""
        networks = (module.__dict__.get("network") for module in self._modules.values() if module is not None)
        return any(network is not None and network.evoking for network in networks)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """What nn.MultiheadAttention computes, in the same shapes: its output, and the attention weights or None."""
        if query.is_nested or not (torch.is_grad_enabled() or self._evoked()):
            return super().forward(
                query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            )
        batched = _shapes_checked(query, key, value, key_padding_mask, attn_mask, self.num_heads)
        if not batched:
            query, key, value = query[None], key[None], value[None]
            key_padding_mask = None if key_padding_mask is None else key_padding_mask[None]
        elif not self.batch_first:
            query, key, value = (each.transpose(0, 1) for each in (query, key, value))
        if len(query) != len(key) or key.shape[:2] != value.shape[:2]:
            shapes = ", ".join(str(list(each.shape)) for each in (query, key, value))
            raise AssertionError(
                f"query, key and value are {shapes}: they need one batch, and key and value one length"
            )
        mask, causal = self._mask(query, key, key_padding_mask, attn_mask, need_weights, is_causal)
        q, k, v = self._heads(self.q_proj(query)), self.k_proj(key), self.v_proj(value)
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(len(k), 1, -1)], 1)
            v = torch.cat([v, self.bias_v.expand(len(v), 1, -1)], 1)
        k, v = self._heads(k), self._heads(v)
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = (q * math.sqrt(1.0 / self.head_dim)) @ k.transpose(-2, -1)
            weights = F.softmax(scores if mask is None else scores + mask, dim=-1)
            weights = F.dropout(weights, dropout) if dropout else weights
            attended = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            attended = F.scaled_dot_product_attention(q, k, v, mask, dropout, causal)
        output = self.out_proj(attended.transpose(1, 2).flatten(2))
        if not batched:
            return output[0], None if weights is None else weights[0]
        return output if self.batch_first else output.transpose(0, 1), weights

    def _heads(self, v: Tensor) -> Tensor:
        """[batch, length, embed_dim] -> [batch, heads, length, head_dim]"""
        return v.view(*v.shape[:-1], self.num_heads, self.head_dim).transpose(1, 2)

    def _mask(
        self,
        query: Tensor,
        key: Tensor,
        key_padding_mask: Tensor | None,
        attn_mask: Tensor | None,
        need_weights: bool,
        is_causal: bool,
    ) -> tuple[Tensor | None, bool]:
        """What is added to the scores, ready to combine with [batch, heads, length, source length]; whether it is left
        to the attention itself to be causal.
        """
        if is_causal and attn_mask is None:
            raise RuntimeError("Need attn_mask if specifying the is_causal hint.")
        batch, length, source = len(query), query.shape[1], key.shape[1]
        padding = _additive(key_padding_mask, query, "key_padding_mask", attn_mask)
        if is_causal and padding is None and not need_weights:
            return None, True
        mask = _additive(attn_mask, query, "attn_mask")
        if mask is not None:
            expected = (length, source) if mask.dim() == 2 else (batch * self.num_heads, length, source)
            if mask.shape != expected:
                raise RuntimeError(
                    f"The shape of the {mask.dim()}D attn_mask is {mask.shape}, but should be {expected}."
                )
            mask = mask[None, None] if mask.dim() == 2 else mask.view(batch, self.num_heads, length, source)
        if padding is not None:
            padding = padding[:, None, None]
            mask = padding if mask is None else mask + padding
        added = (self.bias_k is not None) + bool(self.add_zero_attn)  # of the keys that nothing hides
        return None if mask is None else F.pad(mask, (0, added)), False


_shapes_checked: Callable[..., bool] = F._mha_shape_check  # type: ignore[attr-defined]
"""Whether there is a batch. Raises AssertionError for numbers of axes that do not go together."""


def _additive(mask: Tensor | None, like: Tensor, name: str, other: Tensor | None = None) -> Tensor | None:
    """A mask in the form that is added to scores: minus infinity where a boolean one says True."""
    found: Tensor | None = F._canonical_mask(
        mask=mask,
        mask_name=name,
        other_type=F._none_or_dtype(other),
        other_name="attn_mask",
        target_type=like.dtype,
        check_other=other is not None,
    )
    return found


def open_attention(module: Any) -> None:
    """Give an nn.MultiheadAttention its four layers, in place; its parameters stay where they are."""
    size = module.embed_dim
    fused = module.in_proj_weight is not None
    widths = (size, module.kdim, module.vdim)
    out_proj = module._modules.pop("out_proj")  # it runs last, and stands last
    module.__class__ = MultiheadAttention
    for index, (name, width) in enumerate(zip(INPUTS, widths, strict=True)):
        rows = (index * size, (index + 1) * size)
        weight = Rows("in_proj_weight", *rows) if fused else Rows(f"{name}_weight")
        bias = None if module.in_proj_bias is None else Rows("in_proj_bias", *rows)
        module.add_module(name, Projection(module, width, size, weight, bias).train(module.training))
    module.add_module("out_proj", out_proj)


def close_attention(module: Any) -> None:
    """The inverse: an nn.MultiheadAttention, with its weights."""
    for name in INPUTS:
        del module._modules[name]
    module.__class__ = nn.MultiheadAttention
