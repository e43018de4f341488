"""A checkpoint into a model, slice by slice, quantised as it comes.

The plan is made from the files' headers alone (which tensor goes where), so that missing,
unexpected or misshapen tensors are errors by name before a weight is read. Then every slice is read
from the memory-mapped file, quantised or cast, laid where it belongs and forgotten: no bf16 layer
ever sits in memory. What comes quantised is dequantised here, one slice at a time, unless it is in
our own format already.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import torch
from safetensors import safe_open

from moee_index.errors import ModelError
from moee_index.model.checkpoint.bitsandbytes import FourBitMatrix
from moee_index.model.checkpoint.find import Checkpoint
from moee_index.model.checkpoint.tensors import Part, Readers, dense
from moee_index.model.load.plan import Piece, Source, pieces, plan_sources
from moee_index.model.nf4.parameters import assign, dense_dtype, four_bit_home, owner, under
from moee_index.model.nf4.stack import NF4Stack, Quantized, quantize
from moee_index.model.precision import Storage
from moee_index.types import Progress

# Threads that quantise slices while the next ones are read.
_QUANTIZERS = 2

# Elements checked at once for values that are not finite.
_CHECKED = 2**22

Home = Mapping[str, torch.Tensor]


def fill_from_sources(
    model: Any,
    checkpoint: Checkpoint,
    storage: Storage,
    shapes: dict[str, tuple[int, ...]],
    *,
    home: Home | None = None,
    progress: Progress | None = None,
) -> None:
    """Fill an empty model from a checkpoint that is not in our own 4 bits.

    shapes: of the model before anything of it became 4-bit. home: tensors by their names on disk
    that shall hold the weights (a draft's, mapped); without it they get memory of their own.

    Raises ModelError naming the tensor that is missing, unexpected, misshapen or not finite.
    """
    done = 0
    with ExitStack() as files:
        readers = {
            file: files.enter_context(safe_open(file, framework="pt"))
            for file in checkpoint.weights
        }
        plan = plan_sources(checkpoint, model, shapes, readers)
        total = sum(source.bytes for sources in plan.values() for source in sources)
        for target, piece, quantized in _quantized_ahead(plan, shapes, readers, model, storage):
            _put(model, target, shapes[target], piece, quantized, storage, checkpoint, home)
            done += piece.part.nbytes
            if progress is not None:
                progress("loading", min(done, total), total)


def _quantized_ahead(
    plan: dict[str, list[Source]],
    shapes: dict[str, tuple[int, ...]],
    readers: Readers,
    model: Any,
    storage: Storage,
) -> Iterator[tuple[str, Piece, Quantized | None]]:
    """All pieces of a plan in order, those for 4 bits quantised by a few threads, no further
    ahead than a slice or two each."""
    waiting: deque[tuple[str, Piece, Future[Quantized] | None]] = deque()
    with ThreadPoolExecutor(_QUANTIZERS) as pool:
        for target, sources in plan.items():
            for piece in pieces(target, shapes[target], sources, readers, model):
                stack = four_bit_home(model, target)
                job = None if stack is None else pool.submit(_quantized, piece.part, stack, storage)
                waiting.append((target, piece, job))
                if len(waiting) > 2 * _QUANTIZERS:
                    yield _finished(*waiting.popleft())
        while waiting:
            yield _finished(*waiting.popleft())


def _finished(
    target: str, piece: Piece, job: Future[Quantized] | None
) -> tuple[str, Piece, Quantized | None]:
    return target, piece, job.result() if job is not None else None


def _quantized(part: Part, stack: NF4Stack, storage: Storage) -> Quantized:
    if isinstance(part, FourBitMatrix) and (ready := part.as_ours()) is not None:
        return ready
    weights = dense(part)
    if stack.turned:
        weights = weights.T.contiguous()
    return Quantized(*quantize(weights.to(storage.device)))


def _put(
    model: Any,
    target: str,
    shape: tuple[int, ...],
    piece: Piece,
    quantized: Quantized | None,
    storage: Storage,
    checkpoint: Checkpoint,
    home: Home | None,
) -> None:
    """Lay one piece where it belongs: into a 4-bit stack, or cast into a dense tensor."""
    if quantized is not None:
        _check_finite(quantized.absmax, target, checkpoint)
        stack = four_bit_home(model, target)
        assert stack is not None
        if not stack.holds_weights:
            stack.allocate(storage.device, under(home, target, stack.shapes()))
        stack.put_quantized(piece.matrix, piece.row, *quantized)
        return
    part = dense(piece.part)
    _check_finite(part, target, checkpoint)
    module, attribute = owner(model, target)
    held = getattr(module, attribute)
    if held.is_meta:
        if home is not None:
            held = home[target]
        else:
            dtype = dense_dtype(model, target, held, storage.kept)
            held = torch.empty(shape, dtype=dtype, device=storage.device)
        assign(module, attribute, held)
    if len(shape) < 3:
        held.data.copy_(part)
    else:
        held.data[piece.matrix, piece.row : piece.row + len(part)] = part.to(held.device)


def _check_finite(part: torch.Tensor, target: str, checkpoint: Checkpoint) -> None:
    # The sum of finite numbers overflows float32 only past 1e38, so one cheap pass finds NaN and
    # inf; a block at a time, for all of a large embedding in float32 would be a gigabyte.
    if not part.is_floating_point():
        return
    for block in torch.split(part.reshape(-1), _CHECKED):
        if not bool(torch.isfinite(block.sum(dtype=torch.float32))):
            raise ModelError(f"{checkpoint.path}: {target} holds values that are not finite")
