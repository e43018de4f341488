"""A linear layer with its weight in 4 bits."""

from __future__ import annotations

import torch
from torch import nn

from moee_index.model.nf4.stack import NF4Stack, Workspace

ROW_STEP = 64


class NF4Linear(nn.Module):
    """`nn.Linear` with its weight in 4 bits; a bias stays as it is."""

    weight: NF4Stack

    def __init__(
        self, rows: int, cols: int, *, bias: bool, double_quant: bool, workspace: Workspace
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = cols, rows
        self.weight = NF4Stack(1, rows, cols, double_quant=double_quant)
        self.weight.flat = True
        self.bias = nn.Parameter(torch.empty(rows, device="meta")) if bias else None
        self.workspace = workspace

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.numel() // self.in_features
        if self.weight.multiplies(x.dtype, rows):
            product = self.weight.multiply([0], [0, rows], x.reshape(rows, self.in_features))
            if self.bias is not None:
                product += self.bias
            return product.view(*x.shape[:-1], self.out_features)
        if self.weight.fuses(rows, x.device):
            return self.weight.fused(x, self.bias)
        weight = self.weight.dequantize([0], x.dtype, self.workspace)[0]
        if x.device.type != "cpu":
            return nn.functional.linear(x, weight, self.bias)
        flat = x.reshape(-1, self.in_features)
        count, wanted = len(flat), rounded_rows(len(flat))
        if wanted > count:
            flat = torch.cat((flat, flat[:1].expand(wanted - count, -1)))
        product = nn.functional.linear(flat, weight, self.bias)[:count]
        return product.view(*x.shape[:-1], self.out_features)


def rounded_rows(count: int) -> int:
    """The next power of two, above 64 the next multiple of 64.

    For rows of a product on the CPU: oneDNN builds and keeps a kernel for every new number of rows.
    If the number changes all the time, building costs more than multiplying, and the kernels pile
    up (130 MB more after every 100 batches).
    """
    if count <= ROW_STEP:
        return 1 << max(0, count - 1).bit_length()
    return -(-count // ROW_STEP) * ROW_STEP
