"""The two costly parts of the student's layer with their gradients written by hand, for CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor

ROWS = 32
"""An expert's tokens are padded to a multiple of it: few shapes, whose kernels oneDNN reuses."""


class Experts(torch.autograd.Function):
    """Sum over the chosen experts of weight * down(silu(gate x) * up x).

    x: [tokens, hidden] bfloat16; weights, chosen: [tokens, k];
    gate_up: [experts, 2 * width, hidden]; down: [experts, hidden, width].
    Tokens are sorted by expert.
    """

    @staticmethod
    def forward(ctx, x, weights, chosen, gate_up, down):  # type: ignore[no-untyped-def]
        tokens, k = chosen.shape
        order = chosen.flatten().argsort(stable=True)
        counts = torch.bincount(chosen.flatten(), minlength=gate_up.shape[0])
        padded = (counts + ROWS - 1) // ROWS * ROWS
        offsets = padded.cumsum(0)
        shift = (offsets - padded) - (counts.cumsum(0) - counts)
        place = torch.arange(order.numel()) + shift.repeat_interleave(counts)
        inverse = torch.empty_like(order)
        inverse[order] = place
        source = torch.zeros(int(offsets[-1]), dtype=torch.long)
        source[place] = order // k
        sorted_weights = torch.zeros(len(source), dtype=x.dtype)
        sorted_weights[place] = weights.flatten().index_select(0, order).to(x.dtype)
        ends = offsets.tolist()
        xs = x.index_select(0, source)
        gu = xs.new_empty(len(source), gate_up.shape[1])
        _by_expert(xs, gate_up.transpose(1, 2), ends, gu)
        width = down.shape[2]
        ys = torch.empty_like(xs)
        _by_expert(F.silu(gu[:, :width]).mul_(gu[:, width:]), down.transpose(1, 2), ends, ys)
        y = ys.index_select(0, inverse).view(tokens, k, -1)
        ctx.save_for_backward(xs, gu, y, weights, gate_up, down, source, inverse, sorted_weights)
        ctx.ends = ends
        return torch.bmm(weights.to(x.dtype).unsqueeze(1), y).squeeze(1)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        xs, gu, y, weights, gate_up, down, source, inverse, sorted_weights = ctx.saved_tensors
        tokens, k = weights.shape
        width = down.shape[2]
        d_weights = torch.bmm(y, grad.unsqueeze(2)).squeeze(2).to(weights.dtype)
        d_ys = grad.index_select(0, source).mul_(sorted_weights[:, None])
        d_h = xs.new_empty(len(source), width)
        _by_expert(d_ys, down, ctx.ends, d_h)
        gate, up = gu[:, :width], gu[:, width:]
        act = F.silu(gate)
        d_gu = torch.empty_like(gu)
        torch.mul(d_h, act, out=d_gu[:, width:])
        d_gu[:, :width] = torch.ops.aten.silu_backward(d_h.mul_(up), gate)
        h = act.mul_(up)
        d_down, d_gate_up = torch.empty_like(down), torch.empty_like(gate_up)
        start = 0
        for expert, end in enumerate(ctx.ends):
            torch.mm(d_ys[start:end].t(), h[start:end], out=d_down[expert])
            torch.mm(d_gu[start:end].t(), xs[start:end], out=d_gate_up[expert])
            start = end
        d_xs = torch.empty_like(xs)
        _by_expert(d_gu, gate_up, ctx.ends, d_xs)
        d_x = d_xs.index_select(0, inverse).view(tokens, k, -1).sum(1)
        return d_x, d_weights, None, d_gate_up, d_down


def _by_expert(x: Tensor, matrices: Tensor, ends: list[int], out: Tensor) -> None:
    """out[rows of e] = x[rows of e] @ matrices[e]."""
    start = 0
    for expert, end in enumerate(ends):
        torch.mm(x[start:end], matrices[expert], out=out[start:end])
        start = end


class Norm(torch.autograd.Function):
    """x / rms(x) * weight in few passes over the memory; x: [tokens, hidden]."""

    @staticmethod
    def forward(ctx, x, weight, eps):  # type: ignore[no-untyped-def]
        square = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32).square()
        scale = (square / x.shape[1] + eps).rsqrt().to(x.dtype)
        unit = x * scale
        ctx.save_for_backward(unit, scale, weight)
        return unit * weight

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        unit, scale, weight = ctx.saved_tensors
        d_weight = (grad * unit).sum(0)
        d_unit = grad * weight
        along = torch.bmm(d_unit.unsqueeze(1), unit.unsqueeze(2)).squeeze(2) / -unit.shape[1]
        return d_unit.addcmul_(unit, along).mul_(scale), d_weight, None
