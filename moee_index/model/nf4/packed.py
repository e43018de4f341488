"""NF4 matrices in the layout of bitsandbytes' fast CPU product, for a few tokens at a time.

Where a standard stack is dequantised before it is multiplied, this one is multiplied as it is:
4-bit codes are all that is read (7 times faster than dequantising for one row, even at some 50
rows). It needs AVX512-BF16, computes in bfloat16 and keeps absmax in bfloat16.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
from torch import nn

from moee_index.backends import Kernel, cpu_kernel, has_avx512bf16, import_bitsandbytes
from moee_index.model.load.weight_file import Specs
from moee_index.model.nf4.parameters import under
from moee_index.model.nf4.quantize import BLOCK
from moee_index.model.nf4.stack import NF4Linear, NF4Stack, stacks
from moee_index.model.nf4.tensor_like import TensorLike

ROWS = 32
_KERNEL = "gemv_4bit_inference_cpu_nf4_bf16"


@cache
def fast_kernel() -> Kernel | None:
    """bitsandbytes' packed product, or None where this processor or its build lacks it, or it
    multiplies another layout than this one."""
    kernel = cpu_kernel(_KERNEL) if has_avx512bf16() else None
    return kernel if kernel is not None and _multiplies(kernel) else None


def _multiplies(kernel: Kernel) -> bool:
    """Whether a product gives the matrix back where it is multiplied with the unit matrix."""
    rows, cols = 2 * ROWS, 2 * BLOCK
    stack = NF4Stack(1, rows, cols, double_quant=False)
    stack.allocate()
    stack.put(0, 0, torch.randn(rows, cols, generator=torch.Generator().manual_seed(0)))
    packed = PackedStack.of(stack)
    found = _product(kernel, packed.codes[0], packed.absmax[0], torch.eye(cols).bfloat16())
    return torch.allclose(found.float(), packed.matrix(0, torch.float32).T, rtol=2**-7)


def _product(
    kernel: Kernel, codes: torch.Tensor, absmax: torch.Tensor, x: torch.Tensor
) -> torch.Tensor:
    """x bfloat16 [m, cols] times one packed matrix transposed: bfloat16 [m, rows]."""
    rows, cols = absmax.shape[1], x.shape[1]
    out = torch.empty((len(x), rows), dtype=torch.bfloat16)
    kernel(
        ctypes.c_int64(len(x)),
        ctypes.c_int64(rows),
        ctypes.c_int64(cols),
        ctypes.c_void_p(x.data_ptr()),
        ctypes.c_void_p(codes.data_ptr()),
        ctypes.c_void_p(absmax.data_ptr()),
        ctypes.c_void_p(out.data_ptr()),
        ctypes.c_int64(BLOCK),
        ctypes.c_int64(x.stride(0)),
        ctypes.c_int64(out.stride(0)),
    )
    return out


class PackedStack(TensorLike):
    """n matrices [rows, cols] packed for the fast product.

    codes: uint8 [n, rows / 32, cols / 2, 32]: for each block of 32 rows and each pair of columns,
    byte 2·r + c holds column c of row r (low nibble) and of row r + 16 (high nibble). absmax:
    bfloat16 [n, cols / 64, rows]. 0.531 bytes a weight.
    """

    codes: torch.Tensor
    absmax: torch.Tensor

    def __init__(self, n: int, rows: int, cols: int) -> None:
        super().__init__()
        self.n, self.rows, self.cols = n, rows, cols
        self.register_buffer("codes", None)
        self.register_buffer("absmax", None)

    def shapes(self) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
        """Shape and dtype of each buffer."""
        return {
            "codes": ((self.n, self.rows // ROWS, self.cols // 2, ROWS), torch.uint8),
            "absmax": ((self.n, self.cols // BLOCK, self.rows), torch.bfloat16),
        }

    @classmethod
    def of(cls, stack: NF4Stack, home: Mapping[str, torch.Tensor] | None = None) -> PackedStack:
        """Pack a standard stack matrix by matrix; its codes are unchanged, absmax is rounded.

        Of a stack that holds nothing yet an empty one is made. home: tensors that shall hold
        the packed buffers, by name.
        """
        packed = cls(stack.n, stack.rows, stack.cols)
        packed.flat, packed.dtype = stack.flat, stack.dtype
        if not stack.holds_weights:
            return packed
        for name, (shape, dtype) in packed.shapes().items():
            setattr(packed, name, home[name] if home else torch.empty(shape, dtype=dtype))
        for index in range(stack.n):
            pack_codes(stack.packed[index].view(stack.rows, -1), packed.codes[index])
            absmax = stack.full_absmax(torch.tensor([index]))
            packed.absmax[index] = absmax.view(stack.rows, -1).T
        return packed

    def multiply(self, index: int, x: torch.Tensor) -> torch.Tensor:
        """x bfloat16 [m, cols] times matrix `index` transposed: bfloat16 [m, rows]."""
        kernel = fast_kernel()
        assert kernel is not None
        return _product(kernel, self.codes[index], self.absmax[index], x.contiguous())

    def matrix(self, index: int, dtype: torch.dtype) -> torch.Tensor:
        """Matrix `index` [rows, cols] in memory of its own; for the few that are not multiplied by
        `multiply`."""
        codes = self.codes[index].view(self.rows // ROWS, self.cols // 2, ROWS // 2, 2)
        both = torch.stack((codes & 15, codes >> 4), dim=1).permute(0, 1, 3, 2, 4)
        table = import_bitsandbytes().functional.get_4bit_type("nf4", device="cpu")
        values: torch.Tensor = table[both.reshape(self.rows, self.cols).long()]
        absmax = self.absmax[index].float().T.repeat_interleave(BLOCK, dim=1)
        return values.mul_(absmax).to(dtype)

    def extra_repr(self) -> str:
        return f"n={self.n}, rows={self.rows}, cols={self.cols}, packed"


class PackedLinear(nn.Module):
    """An `NF4Linear` whose weight is packed."""

    def __init__(self, linear: NF4Linear, home: Mapping[str, torch.Tensor] | None = None) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = PackedStack.of(linear.weight, home)
        self.bias = linear.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        product = self.weight.multiply(0, x.reshape(-1, self.in_features))
        if self.bias is not None:
            product += self.bias
        return product.view(*x.shape[:-1], self.out_features)


def cannot_pack(model: nn.Module) -> str | None:
    """Why a 4-bit model cannot be packed, or None if it can."""
    if fast_kernel() is None:
        return "bitsandbytes has no fast product for this processor"
    for name, stack in stacks(model):
        if stack.read_by_owner:
            return f"{name} is multiplied in its class's own way"
        if stack.rows % ROWS or stack.cols % BLOCK:
            return f"{name} is {stack.rows} x {stack.cols}"
    for name, module in model.named_modules():
        if not getattr(module, "is_transposed", False):
            continue
        if any(isinstance(child, NF4Stack) and not child.turned for child in module.children()):
            return f"the matrices of {name} lie transposed"
    return None


def packed_specs(model: nn.Module) -> Specs:
    """The buffers that `pack_model` will make of a standard model's stacks, by name."""
    return {
        f"{name}.{part}": spec
        for name, stack in stacks(model)
        for part, spec in PackedStack(stack.n, stack.rows, stack.cols).shapes().items()
    }


def pack_model(model: nn.Module, home: Mapping[str, torch.Tensor] | None = None) -> None:
    """Replace every standard stack of a model by a packed one, one at a time.

    home: tensors that shall hold the packed buffers, under the names of `packed_specs`.
    """
    parts = ("codes", "absmax")
    # No list may hold the old stacks, or both forms would be in memory to the end.
    parents = [
        (path, one)
        for path, one in model.named_modules()
        if not isinstance(one, NF4Stack | NF4Linear)
    ]
    for path, parent in parents:
        for name in [name for name, _ in parent.named_children()]:
            child = getattr(parent, name)
            full = f"{path}.{name}".lstrip(".")
            if isinstance(child, NF4Linear):
                own = under(home, f"{full}.weight", parts)
                setattr(parent, name, PackedLinear(child, own))
            elif isinstance(child, NF4Stack):
                setattr(parent, name, PackedStack.of(child, under(home, full, parts)))


def pack_codes(standard: torch.Tensor, out: torch.Tensor) -> None:
    """Standard codes uint8 [rows, cols / 2] (even column in the high nibble) into the packed
    layout `out` uint8 [rows / 32, cols / 2, 32]."""
    rows, pairs = standard.shape
    # numpy: its bit operations and strided copies on small integers are many times torch's rate
    halves = standard.numpy().reshape(rows // ROWS, 2, ROWS // 2, pairs)
    low, high = halves[:, 0], halves[:, 1]
    both = np.empty((*low.shape, 2), dtype=np.uint8)
    np.bitwise_or(low >> 4, high & 0xF0, out=both[..., 0])
    np.bitwise_or(low & 0x0F, high << 4, out=both[..., 1])
    # both columns of a pair move as one 16-bit number
    target = out.numpy().reshape(rows // ROWS, pairs, ROWS).view(np.uint16)
    np.copyto(target, both.view(np.uint16)[..., 0].transpose(0, 2, 1))
