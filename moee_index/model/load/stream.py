"""Stream a checkpoint into a model slice by slice, quantising on the way.

Which tensor goes where is decided from the files' headers alone, so that missing, unexpected or
misshapen tensors are errors by name before a weight is read. Then every slice is read from the
memory-mapped file, quantised or cast, stored and dropped: no bf16 layer is ever in memory. Weights
that come quantised are dequantised here, one slice at a time, unless they are in our own format.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import torch

from moee_index.errors import ModelError
from moee_index.model.arch.select import ModelPlan
from moee_index.model.checkpoint.bitsandbytes import FourBitMatrix
from moee_index.model.checkpoint.faults import reading_weights
from moee_index.model.checkpoint.find import Checkpoint
from moee_index.model.checkpoint.tensors import Part, Readers, dense, open_weights
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
    plan: ModelPlan,
    checkpoint: Checkpoint,
    storage: Storage,
    shapes: dict[str, tuple[int, ...]],
    *,
    home: Home | None = None,
    progress: Progress | None = None,
) -> None:
    """Fill an empty model from a checkpoint that is not in our own 4 bits.

    shapes: of the model's tensors before anything became 4-bit. home: tensors, by name on disk, to
    store the weights in (a draft's, mapped); without it they get memory of their own.

    Raises ModelError naming the tensor that is missing, unexpected, misshapen or not finite.
    """
    done = 0
    with reading_weights(checkpoint.weights), ExitStack() as files:
        readers = {file: files.enter_context(open_weights(file)) for file in checkpoint.weights}
        sources = plan_sources(checkpoint, plan, shapes, readers)
        total = sum(source.bytes for parts in sources.values() for source in parts)
        for target, piece, quantized in _quantized_ahead(sources, shapes, readers, plan):
            _put(plan.model, target, shapes[target], piece, quantized, storage, checkpoint, home)
            done += piece.part.nbytes
            if progress is not None:
                progress("loading", min(done, total), total)


def _quantized_ahead(
    sources: dict[str, list[Source]],
    shapes: dict[str, tuple[int, ...]],
    readers: Readers,
    plan: ModelPlan,
) -> Iterator[tuple[str, Piece, Quantized | None]]:
    """All pieces in order; those for 4 bits are quantised by a few threads, at most a slice or two
    ahead each."""
    waiting: deque[tuple[str, Piece, Future[Quantized] | None]] = deque()
    with ThreadPoolExecutor(_QUANTIZERS) as pool:
        for target, parts in sources.items():
            for piece in pieces(target, shapes[target], parts, readers, plan):
                stack = four_bit_home(plan.model, target)
                job = None if stack is None else pool.submit(_quantized, piece.part, stack)
                waiting.append((target, piece, job))
                if len(waiting) > 2 * _QUANTIZERS:
                    yield _finished(*waiting.popleft())
        while waiting:
            yield _finished(*waiting.popleft())


def _finished(
    target: str, piece: Piece, job: Future[Quantized] | None
) -> tuple[str, Piece, Quantized | None]:
    return target, piece, job.result() if job is not None else None


def _quantized(part: Part, stack: NF4Stack) -> Quantized:
    if isinstance(part, FourBitMatrix) and (ready := part.as_ours()) is not None:
        return ready
    weights = dense(part)
    if stack.turned:
        weights = weights.T.contiguous()
    return Quantized(*quantize(weights))


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
    """Store one piece in its target: in a 4-bit stack, or cast in a dense tensor."""
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
    tensor = getattr(module, attribute)
    if tensor.is_meta:
        if home is not None:
            tensor = home[target]
        else:
            dtype = dense_dtype(model, target, tensor, storage.kept)
            tensor = torch.empty(shape, dtype=dtype, device=storage.device)
        assign(module, attribute, tensor)
    if len(shape) < 3:
        tensor.data.copy_(part)
    else:
        tensor.data[piece.matrix, piece.row : piece.row + len(part)] = part.to(tensor.device)


def _check_finite(part: torch.Tensor, target: str, checkpoint: Checkpoint) -> None:
    # The sum of finite numbers overflows float32 only past 1e38, so one cheap pass finds NaN and
    # inf; a block at a time, because a large embedding in float32 would take a gigabyte.
    if not part.is_floating_point():
        return
    for block in torch.split(part.reshape(-1), _CHECKED):
        if not bool(torch.isfinite(block.sum(dtype=torch.float32))):
            raise ModelError(f"{checkpoint.path}: {target} holds values that are not finite")
