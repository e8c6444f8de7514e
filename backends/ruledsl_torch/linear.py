"""The linear map of a weight layer: all that the torch backend knows of geometry.

Activities are [batch, units] or [batch, channels, *size]. Every map between pre and post, in either direction, is a
kernel in the forward layout, which is that of torch's own modules: the transpose of a map is the same tensor.

A new kind of map is one class with the methods of `Dense`, a function that makes one for a module, and a row for each
of torch's modules in `KINDS`.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrize import is_parametrized


class Dense(NamedTuple):
    """u = W @ x with W: [post, pre]; v: [batch, units], or [batch, *positions, units].

    kernel_shape    [post, pre]
    fan_in, fan_out synapses that a post neuron receives, and that a pre neuron makes
    replicas        who has the rest of the batch, see `ruledsl_torch.replicas`
    """

    units_in: int
    units_out: int
    kernel_shape: tuple[int, ...]
    fan_in: int
    fan_out: int
    replicas: Any = None

    def apply(self, M: Tensor, v: Tensor, b: Tensor | None = None) -> Tensor:
        """M @ v, or M @ v + b: [batch, pre] -> [batch, post]"""
        return F.linear(v, M, b)

    def adjoint(self, M: Tensor, v: Tensor) -> Tensor:
        """M.T @ v: [batch, post] -> [batch, pre]"""
        return v @ M

    def outer(self, v_post: Tensor, v_pre: Tensor, mean: str | None = None) -> Tensor:
        """The outer product summed over batch and positions; `all` averages over both, `batch` over the batch."""
        post, pre = (v_post, v_pre) if v_post.dim() == 2 else (v_post.flatten(0, -2), v_pre.flatten(0, -2))
        summed = post.t() @ pre
        return summed if mean is None else summed.div_(len(post) if mean == "all" else len(v_post))

    def spread(self, p: Tensor) -> Tensor:
        """One number per unit, ready to combine with an activity."""
        return p

    def sum_to_units(self, v: Tensor) -> Tensor:
        """Sum over batch and positions: [batch, *positions, units] -> [units]"""
        return v.sum(0) if v.dim() == 2 else v.reshape(-1, v.shape[-1]).sum(0)

    def mean_positions(self, v: Tensor) -> Tensor:
        """Mean over positions, of which the axes stay: v itself where there is one position"""
        return v if v.dim() == 2 else v.mean(tuple(range(1, v.dim() - 1)), keepdim=True)

    def sum_positions(self, v: Tensor) -> Tensor:
        """Sum over positions, of which the axes stay: v itself where there is one position"""
        return v if v.dim() == 2 else v.sum(tuple(range(1, v.dim() - 1)), keepdim=True)

    def positions(self, v: Tensor) -> int:
        """How many v has"""
        return prod(v.shape[1:-1])

    @property
    def units_axis(self) -> int:
        """The last."""
        return -1


class Convolution(NamedTuple):
    """u = W * x in one, two or three dimensions; a unit is a channel.

    kernel_shape    [units_out, units_in / groups, *kernel]
    fan_in, fan_out synapses that a post neuron receives, and that a pre neuron makes, strides aside
    input_size      that of x: what the adjoint returns to
    replicas        who has the rest of the batch
    """

    units_in: int
    units_out: int
    kernel_shape: tuple[int, ...]
    fan_in: int
    fan_out: int
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int
    input_size: tuple[int, ...]
    replicas: Any = None

    def apply(self, M: Tensor, v: Tensor, b: Tensor | None = None) -> Tensor:
        """M @ v, or M @ v + b: [batch, channels_in, *size] -> [batch, channels_out, *size]"""
        convolve = (torch.conv1d, torch.conv2d, torch.conv3d)[len(self.stride) - 1]  # those that autocast knows
        return convolve(v, M, b, self.stride, self.padding, self.dilation, self.groups)

    def adjoint(self, M: Tensor, v: Tensor) -> Tensor:
        """M.T @ v, the exact adjoint of `apply`: [batch, channels_in, *input_size]"""
        only_sizes = v.new_empty((len(v), self.units_in, *self.input_size))
        return self._backward(v, only_sizes, M, (True, False, False))[0]

    def outer(self, v_post: Tensor, v_pre: Tensor, mean: str | None = None) -> Tensor:
        """The kernel gradient, summed over batch and positions; `all` averages over both, `batch` over the batch."""
        only_sizes = v_pre.new_empty(self.kernel_shape)
        summed = self._backward(v_post, v_pre, only_sizes, (False, True, False))[1]
        if mean is None:
            return summed
        return summed.div_(v_post[:, 0].numel() if mean == "all" else len(v_post))

    def spread(self, p: Tensor) -> Tensor:
        """One number per channel, ready to combine with an activity: [channels, 1, 1]"""
        return p.reshape(-1, *(1 for _ in self.stride))

    def sum_to_units(self, v: Tensor) -> Tensor:
        """Sum over batch and positions: [batch, channels, *size] -> [channels]"""
        channels = v.dim() - len(self.stride) - 1
        return v.sum([axis for axis in range(v.dim()) if axis != channels])

    def mean_positions(self, v: Tensor) -> Tensor:
        """Mean over positions: [batch, channels, 1, 1]"""
        return v.mean(tuple(range(-len(self.stride), 0)), keepdim=True)

    def sum_positions(self, v: Tensor) -> Tensor:
        """Sum over positions: [batch, channels, 1, 1]"""
        return v.sum(tuple(range(-len(self.stride), 0)), keepdim=True)

    def positions(self, v: Tensor) -> int:
        """height * width of v"""
        return prod(v.shape[-len(self.stride) :])

    @property
    def units_axis(self) -> int:
        """That of channels."""
        return 1

    def _backward(self, v_post: Tensor, v_pre: Tensor, M: Tensor, mask: tuple[bool, bool, bool]) -> list[Tensor]:
        if not v_post.dtype is v_pre.dtype is M.dtype:  # autocast does not know this operation
            v_pre, M = v_pre.to(v_post.dtype), M.to(v_post.dtype)
        gradients: list[Tensor] = torch.ops.aten.convolution_backward(v_post, v_pre, M, None, *self[5:11], mask)
        return gradients


class TransposedConvolution(Convolution):
    """The transpose of a convolution, forwards.

    kernel_shape    [units_in, units_out / groups, *kernel]
    """

    def apply(self, M: Tensor, v: Tensor, b: Tensor | None = None) -> Tensor:
        """M @ v, or M @ v + b: [batch, channels_in, *size] -> [batch, channels_out, *size]"""
        convolve = (torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d)[len(self.stride) - 1]
        return convolve(v, M, b, self.stride, self.padding, self.output_padding, self.groups, self.dilation)


class Embedding(NamedTuple):
    """u = W.T @ x for x one-hot, given as indices [batch, *]; W: [pre, post]. Nobody can be sent an error.

    kernel_shape    [pre, post]
    fan_in, fan_out synapses that a post neuron receives, and that a pre neuron makes
    replicas        who has the rest of the batch
    """

    units_in: int
    units_out: int
    kernel_shape: tuple[int, ...]
    fan_in: int
    fan_out: int
    padding_idx: int | None
    replicas: Any = None

    def apply(self, M: Tensor, v: Tensor, b: Tensor | None = None) -> Tensor:
        """The rows of M for indices v, or these + b: [batch, *] -> [batch, *, post]"""
        rows = F.embedding(v, M, self.padding_idx)
        return rows if b is None else rows + b

    def adjoint(self, M: Tensor, v: Tensor) -> Tensor:
        """M.T @ v: [batch, *, post] -> [batch, *, pre]"""
        return v @ M.t()

    def outer(self, v_post: Tensor, v_pre: Tensor, mean: str | None = None) -> Tensor:
        """The outer product with one-hot rows: [pre, post]; see `Dense.outer`"""
        summed = v_post.new_zeros(self.kernel_shape)
        summed.index_add_(0, v_pre.reshape(-1), v_post.reshape(-1, self.units_out))
        if self.padding_idx is not None:
            summed[self.padding_idx] = 0
        return summed if mean is None else summed.div_(len(v_post) * (self.positions(v_post) if mean == "all" else 1))

    def spread(self, p: Tensor) -> Tensor:
        """One number per unit, ready to combine with an activity."""
        return p

    sum_to_units, mean_positions, sum_positions = Dense.sum_to_units, Dense.mean_positions, Dense.sum_positions
    positions, units_axis = Dense.positions, Dense.units_axis


class InputMajor(Dense):
    """u = W.T @ x with W: [pre, post]; v: [batch, *, units]. The dense layer of GPT-2, as Hugging Face keeps it.

    kernel_shape    [pre, post]
    """

    def apply(self, M: Tensor, v: Tensor, b: Tensor | None = None) -> Tensor:
        """M.T @ v, or M.T @ v + b: [batch, *, pre] -> [batch, *, post]"""
        return F.linear(v, M.t(), b)

    def adjoint(self, M: Tensor, v: Tensor) -> Tensor:
        """M @ v: [batch, *, post] -> [batch, *, pre]"""
        return v @ M.t()

    def outer(self, v_post: Tensor, v_pre: Tensor, mean: str | None = None) -> Tensor:
        """See `Dense.outer`: [pre, post]"""
        summed = v_pre.flatten(0, -2).t() @ v_post.flatten(0, -2)
        return summed if mean is None else summed.div_(len(v_post) * (self.positions(v_post) if mean == "all" else 1))


def dense(module: Any, x: Tensor | None = None) -> Dense:
    """The map of an nn.Linear."""
    units_in, units_out = module.in_features, module.out_features
    return Dense(units_in, units_out, (units_out, units_in), units_in, units_out)


def convolution(module: Any, x: Tensor | None = None) -> Convolution:
    """The map of an nn.Conv1d, 2d or 3d, for an input x, whose size its adjoint returns to."""
    channels_in, channels_out, synapses = module.in_channels, module.out_channels, prod(module.kernel_size)
    return Convolution(
        channels_in,
        channels_out,
        (channels_out, channels_in // module.groups, *module.kernel_size),
        channels_in // module.groups * synapses,
        channels_out // module.groups * synapses,
        module.stride,
        module.padding if module.padding.__class__ is tuple else symmetric_padding(module),
        module.dilation,
        module.transposed,
        module.output_padding,
        module.groups,
        module.stride if x is None else tuple(x.shape[2:]),
    )


def transposed_convolution(module: Any, x: Tensor | None = None) -> TransposedConvolution:
    """The map of an nn.ConvTranspose1d, 2d or 3d."""
    shape = (module.in_channels, module.out_channels // module.groups, *module.kernel_size)
    return TransposedConvolution(*convolution(module, x)._replace(kernel_shape=shape))


def embedding(module: Any, x: Tensor | None = None) -> Embedding:
    """The map of an nn.Embedding."""
    units_in, units_out = module.num_embeddings, module.embedding_dim
    return Embedding(units_in, units_out, (units_in, units_out), units_in, units_out, module.padding_idx)


def input_major(module: Any, x: Tensor | None = None) -> InputMajor:
    """The map of a Hugging Face Conv1D."""
    units_in, units_out = module.weight.shape
    return InputMajor(units_in, units_out, (units_in, units_out), units_in, units_out)


def tensordot(v: Tensor, M: Tensor, dims: Any) -> Tensor:
    """`torch.tensordot` with M in the element type of v: one of the products that autocast does not know."""
    return torch.tensordot(v, M if M.dtype is v.dtype else M.to(v.dtype), dims=dims)


def only_linear(module: Any) -> bool:
    """Whether a layer computes a linear map alone: padded with zeros, and as much on one side as on the other."""
    alike = not hasattr(module, "padding") or symmetric_padding(module) is not None
    return alike and getattr(module, "padding_mode", "zeros") == "zeros"


def symmetric_padding(module: Any) -> tuple[int, ...] | None:
    """The padding in pixels, alike on both sides; None for a `same` that would pad one side more."""
    if not isinstance(module.padding, str):
        return tuple(module.padding)
    if module.padding == "valid":
        return (0,) * len(module.stride)
    total = [rate * (size - 1) for rate, size in zip(module.dilation, module.kernel_size, strict=True)]
    return None if any(pads % 2 for pads in total) else tuple(pads // 2 for pads in total)


KINDS: dict[type[nn.Module], tuple[Callable[..., Any], int]] = {
    nn.Linear: (dense, 1),
    nn.modules.linear.NonDynamicallyQuantizableLinear: (dense, 1),  # the last map of nn.MultiheadAttention
    nn.Conv1d: (convolution, 2),
    nn.Conv2d: (convolution, 3),
    nn.Conv3d: (convolution, 4),
    nn.ConvTranspose1d: (transposed_convolution, 2),
    nn.ConvTranspose2d: (transposed_convolution, 3),
    nn.ConvTranspose3d: (transposed_convolution, 4),
    nn.Embedding: (embedding, 0),
}
"""By torch's class: how its linear map is made, and how many axes one example has without its batch."""

NAMED: dict[str, tuple[Callable[..., Any], int]] = {
    "transformers.pytorch_utils.Conv1D": (input_major, 1),
}
"""The same for classes of packages that need not be there, by module and name."""


def recognised(kind: type[nn.Module]) -> bool:
    """Whether there is a map for layers of a class. One that is known by name gets its row in `KINDS`."""
    if kind not in KINDS:
        row = NAMED.get(f"{kind.__module__}.{kind.__qualname__}")
        if row is None:
            return False
        KINDS[kind] = row
    return True


def kind_of(module: nn.Module) -> type[nn.Module]:
    """Its class; where its weights are parametrized, the class that it had before."""
    return type(module).__bases__[0] if is_parametrized(module) else type(module)


def with_properties_of(module: nn.Module, kind: type[nn.Module]) -> type[nn.Module]:
    """`kind`, for a module to become; with the properties that compute its weights where these are parametrized."""
    if not is_parametrized(module):
        return kind
    own = {name: value for name, value in vars(type(module)).items() if name not in ("__dict__", "__weakref__")}
    return type(type(module).__name__, (kind,), {**own, "__module__": kind.__module__})
