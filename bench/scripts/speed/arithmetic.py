"""How many operations a batch takes, and how many a second the device's own product gives.

Operations are those that are really computed: modules are watched during one pass, and the sum of
all layers but the last is compared with what their weights say, so that a product computed past
its module cannot be overlooked. A multiplication and its addition are two operations.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from moee_index.model.arch.grouped import lies_transposed
from moee_index.model.nf4.linear import NF4Linear
from moee_index.model.nf4.stack import NF4Stack
from moee_index.model.run.model import RunningModel, TokenizedText

LINEAR = (nn.Linear, NF4Linear)
_BYTES_OF_WEIGHTS = 256 * 2**20


@dataclass(frozen=True)
class Work:
    """What one batch takes.

    computed, whole: operations computed, and those of a pass that skips nothing; both with the
    attention scores of a causal half. experts: operations of routed experts, within `computed`.
    imbalance: tokens of the busiest expert over the mean, averaged over all layers but
    the last.
    """

    tokens: int
    computed: float
    whole: float
    experts: float
    imbalance: float


@dataclass(frozen=True)
class Shape:
    """Routed experts' geometry: `rows` x `cols` of each of its products, how many experts there
    are and how many a token takes."""

    products: tuple[tuple[int, int], ...]
    experts: int
    top_k: int

    def rows_an_expert(self, tokens: int) -> int:
        """Tokens that reach an expert on average."""
        return max(1, tokens * self.top_k // self.experts)


@contextmanager
def _watched(hooks: list[Any]) -> Iterator[None]:
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class _Layer:
    """Counts what passes the modules of one decoder layer."""

    def __init__(self, layer: nn.Module, routers: Sequence[nn.Module], top_k: int) -> None:
        self.passed = 0.0
        self.experts = 0.0
        self.imbalance: float | None = None
        self.queries: int | None = None
        self.width = 0
        self.hooks: list[Any] = []
        self.whole_per_token = 2.0 * _weights_a_token(layer, top_k)
        inside = {id(child) for router in routers for child in router.modules()}
        for name, module in layer.named_modules():
            if any(module is router for router in routers):
                rows, cols = next(one.shape for one in module.parameters() if one.dim() == 2)
                self._watch(module, rows * cols, cols, is_output=False)
            elif id(module) in inside:
                continue
            elif isinstance(module, LINEAR):
                size = module.in_features * module.out_features
                self._watch(module, size, module.in_features, is_output=name.endswith("o_proj"))
            elif is_experts(module):
                self._watch_experts(module)

    def _watch(self, module: nn.Module, size: int, cols: int, *, is_output: bool) -> None:
        if is_output:
            self.width = cols

        def count(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            rows = (*inputs, *named.values())[0].numel() // cols
            self.passed += 2.0 * size * rows
            if is_output:
                self.queries = (self.queries or 0) + rows

        self.hooks.append(module.register_forward_pre_hook(count, with_kwargs=True))

    def _watch_experts(self, module: Any) -> None:
        shape = shape_of(module, top_k=0)
        size = sum(rows * cols for rows, cols in shape.products)

        def count(_module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            index: torch.Tensor = (*inputs, *named.values())[1]
            tokens = getattr(module, "moee_tokens", None)
            if tokens is not None and tokens.rows is not None:
                index = index.reshape(-1, index.shape[-1])[tokens.rows]
            counts = torch.bincount(index.reshape(-1), minlength=shape.experts).float()
            self.passed += 2.0 * size * index.numel()
            self.experts += 2.0 * size * index.numel()
            self.imbalance = float(counts.max() / counts.mean())

        self.hooks.append(module.register_forward_pre_hook(count, with_kwargs=True))


def _weights_a_token(layer: nn.Module, top_k: int) -> int:
    """Weights that a token meets in a layer, from the matrices there are: stacks of one matrix
    and plain matrices whole, of stacks of experts those of `top_k`."""
    total = 0
    for module in layer.modules():
        if isinstance(module, NF4Stack):
            total += module.rows * module.cols * (top_k if module.n > 1 else 1)
        for parameter in module.parameters(recurse=False):
            if parameter.dim() == 2:
                total += parameter.numel()
            elif parameter.dim() == 3:
                total += parameter[0].numel() * top_k
    return total


def is_experts(module: nn.Module) -> bool:
    """Whether a module holds all routed experts of a layer (transformers' experts interface)."""
    return hasattr(module, "has_gate") and hasattr(module, "num_experts")


def shape_of(experts: Any, top_k: int) -> Shape:
    """The geometry of a layer's routed experts, however their weights are kept."""
    up = getattr(experts, "gate_up_proj" if experts.has_gate else "up_proj")
    products = []
    for held in (up, experts.down_proj):
        rows, cols = held.shape[-2:] if isinstance(held, torch.Tensor) else (held.rows, held.cols)
        products.append((cols, rows) if lies_transposed(experts, held) else (rows, cols))
    return Shape(tuple(products), int(experts.num_experts), top_k)


def experts_of(running: RunningModel) -> Shape:
    """The geometry of a model's routed experts."""
    module = next(module for module in running.model.modules() if is_experts(module))
    return shape_of(module, int(running.model.config.num_experts_per_tok))


def count_operations(running: RunningModel, texts: Sequence[TokenizedText]) -> Work:
    """Operations of `running.embed(texts)`, whose texts must all be of one length.

    Stops the script where a layer other than the last one computed more or less than its weights
    say for all tokens: then the counting, or the model, has changed.
    """
    length = len(texts[0].ids)
    tokens = len(texts) * length
    pairs = len(texts) * length * (length + 1) / 2
    routers = [router.module for router in running.plan.routers]
    top_k = experts_of(running).top_k
    layers = [_Layer(layer, routers, top_k) for layer in running.model.layers]
    running.divides_batches, before = False, running.divides_batches
    with _watched([hook for layer in layers for hook in layer.hooks]):
        running.embed(texts)
    running.divides_batches = before
    computed = whole = 0.0
    for number, layer in enumerate(layers):
        if layer.queries is None:
            raise SystemExit(f"layer {number}: no attention output (o_proj) was seen")
        everything = layer.whole_per_token * tokens
        if number < len(layers) - 1 and layer.passed != everything:
            raise SystemExit(
                f"layer {number}: {layer.passed:.6g} operations were seen, {everything:.6g} "
                "expected; count_operations no longer fits the model's forward"
            )
        # Scores and their sums: 2 products of 2 operations for each pair of tokens and dimension.
        seen = pairs if layer.queries == tokens else layer.queries * length
        computed += layer.passed + 4.0 * seen * layer.width
        whole += everything + 4.0 * pairs * layer.width
    uneven = [layer.imbalance for layer in layers[:-1] or layers if layer.imbalance is not None]
    return Work(
        tokens=tokens,
        computed=computed,
        whole=whole,
        experts=sum(layer.experts for layer in layers),
        imbalance=sum(uneven) / len(uneven),
    )


def product_rate(
    shape: Shape, tokens: int, dtype: torch.dtype, device: torch.device, seconds: float = 2.0
) -> float:
    """Operations a second of `torch.nn.functional.linear` at the experts' shapes, weighted by
    their operations: as many rows as reach an expert of a batch of `tokens` on average.

    Weights cycle through up to 256 MB of matrices, so that none stays in a cache: a batch, too,
    meets each expert once.
    """
    rows = shape.rows_an_expert(tokens)
    operations = spent = 0.0
    for out, cols in shape.products:
        size = out * cols * torch.empty(0, dtype=dtype).element_size()
        matrices = max(4, min(shape.experts, _BYTES_OF_WEIGHTS // size))
        weights = torch.randn((matrices, out, cols), dtype=dtype, device=device) / cols**0.5
        state = torch.randn((rows, cols), dtype=dtype, device=device)
        per_call = 2.0 * rows * out * cols
        operations += per_call
        spent += _seconds_a_call(state, weights, seconds / len(shape.products))
    return operations / spent


def _seconds_a_call(state: torch.Tensor, weights: torch.Tensor, seconds: float) -> float:
    multiply = partial(nn.functional.linear, state)
    with torch.inference_mode():
        multiply(weights[0])
        synchronize(state.device)
        calls, before = 0, time.perf_counter()
        while (taken := time.perf_counter() - before) < seconds or calls < 2 * len(weights):
            for weight in weights:
                multiply(weight)
            synchronize(state.device)
            calls += len(weights)
    return taken / calls


def synchronize(device: torch.device) -> None:
    """Wait for a CUDA device; a processor is never behind."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
