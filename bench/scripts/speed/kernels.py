r"""The 4-bit kernels of each instruction set beside what the machine can do.

    python bench/scripts/speed/kernels.py [--shape 2048 2048] [--matrices 32] [--threads N] [--json]

For each instruction set of this processor, in billions of weights a second (the best of several
passes over matrices that no cache holds): dequantizing, and products of 1 to 256 rows a matrix;
beside each product the other way to it, dequantizing and torch's own product, and the share of the
bytes a second with which the codes alone are read. torch's own products use every instruction set
that the processor has, unless ONEDNN_MAX_CPU_ISA, MKL_ENABLE_INSTRUCTIONS and ATEN_CPU_CAPABILITY
say otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from harness import make_parser, seconds, show

from moee_index.model.nf4.linear import rounded_rows
from moee_index.model.nf4.native import library
from moee_index.model.nf4.stack import NF4Stack, Workspace

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
PASSES = 5


def random_stack(matrices: int, rows: int, cols: int) -> NF4Stack:
    """A stack of random codes, double-quantized."""
    stack = NF4Stack(matrices, rows, cols, double_quant=True)
    stack.allocate()
    for name, (shape, dtype) in stack.shapes().items():
        whole = torch.randint(0, 256, shape, dtype=torch.uint8)
        setattr(stack, name, whole if dtype == torch.uint8 else whole.float() / 256)
    return stack


def best(call: Callable[[], object]) -> float:
    """The fewest seconds of several calls."""
    return min(seconds(call) for _ in range(PASSES))


def read_rate(stack: NF4Stack) -> float:
    """Bytes a second at which torch reads the codes."""
    words = stack.packed.view(torch.int32)
    return stack.packed.nbytes / best(words.max)


def dequantized_products(stack: NF4Stack, x: torch.Tensor, workspace: Workspace) -> None:
    """x [m, cols] times each matrix by way of dequantized weights, as experts without kernels."""
    padded = torch.cat((x, x[:1].expand(rounded_rows(len(x)) - len(x), -1)))
    for index in range(stack.n):
        weights = stack.dequantize([index], x.dtype, workspace)[0]
        torch.nn.functional.linear(padded, weights)


def measure(
    stack: NF4Stack, name: str, dtype: torch.dtype, rate: float
) -> Iterator[dict[str, Any]]:
    """Rows of the table for one instruction set and dtype."""
    weights, workspace = stack.n * stack.size, Workspace()
    some = range(min(4, stack.n))
    took = best(lambda: stack.dequantize(some, dtype, workspace))
    row = {"isa": name, "dtype": str(dtype).removeprefix("torch.")}
    yield {**row, "what": "dequantize", "gweights_s": len(some) * stack.size / took / 1e9}
    every = list(range(stack.n))
    for count in ROWS:
        x = torch.randn(count, stack.cols).to(dtype)
        source = torch.arange(count).repeat(stack.n)
        starts = [count * index for index in range(stack.n + 1)]
        fused = best(partial(stack.multiply, every, starts, x, source))
        other = best(partial(dequantized_products, stack, x, workspace))
        yield {
            **row,
            "what": f"{count} rows",
            "gweights_s": weights / fused / 1e9,
            "dequantized_gweights_s": weights / other / 1e9,
            "gflop_s": 2 * weights * count / fused / 1e9,
            "of_reading": stack.packed.nbytes / fused / rate,
        }


def main() -> None:
    """Measure every instruction set in turn and print a table."""
    parser = make_parser(__doc__)
    parser.add_argument("--shape", type=int, nargs=2, default=(2048, 2048))
    parser.add_argument("--matrices", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    stack = random_stack(given.matrices, *given.shape)
    rate = read_rate(stack)
    show({"read_gb_s": rate / 1e9}, given.json, f"codes are read at {rate / 1e9:.1f} GB/s")
    for name in library.available():
        dtypes = [torch.float32, torch.bfloat16] if name == "avx512bf16" else [torch.float32]
        with library.forced(name):
            for dtype in dtypes:
                for row in measure(stack, name, dtype, rate):
                    line = f"{name:10} {row['dtype']:8} {row['what']:>10} {row['gweights_s']:7.2f}"
                    if "gflop_s" in row:
                        line += (
                            f"  (dequantized first {row['dequantized_gweights_s']:6.2f})"
                            f" {row['gflop_s']:7.0f} GFLOP/s, {row['of_reading']:.0%} of reading"
                        )
                    show(row, given.json, line)


if __name__ == "__main__":
    main()
