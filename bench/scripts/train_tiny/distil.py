"""The losses of the distillation, its data, and the gradients of one step."""

import json
import random
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from student import Geometry, Student, pack
from teacher import SHARD
from texts import GROUP
from tokenizers import Tokenizer
from torch import Tensor, nn


def standardized(x: Tensor) -> Tensor:
    """Per dimension over the batch, then unit length; [n, d]."""
    return F.normalize((x - x.mean(0)) / (x.std(0) + 1e-6), dim=1)


def similarity_loss(x: Tensor, target: Tensor, temperature: float = 0.05) -> Tensor:
    """Rows of the similarity matrix against the teacher's: KL divergence and squared error."""
    similar = standardized(x)
    similar = similar @ similar.T
    itself = torch.eye(len(x), dtype=torch.bool)
    wanted = (target / temperature).masked_fill(itself, -1e4).log_softmax(1)
    given = (similar / temperature).masked_fill(itself, -1e4).log_softmax(1)
    divergence = F.kl_div(given, wanted, log_target=True, reduction="batchmean")
    return divergence + 10 * (similar - target).masked_fill(itself, 0).square().mean()


class Heads(nn.Module):
    """Linear maps from standardised HS and RW to the teacher's vector, for training alone."""

    def __init__(self, geometry: Geometry, teacher: int = 384) -> None:
        super().__init__()
        self.hs = nn.Linear(geometry.hidden, teacher)
        self.rw = nn.Linear(geometry.layers * geometry.experts, teacher)

    def loss(self, head: nn.Linear, x: Tensor, teacher: Tensor) -> Tensor:
        """1 - cosine, mean over the texts."""
        z = (x - x.mean(0)) / (x.std(0) + 1e-6)
        return 1 - F.cosine_similarity(head(z), teacher).mean()


class Groups:
    """The groups whose teacher vectors are there, each once before any twice.

    sources: pairs of a file of groups and the folder of their vectors.
    """

    def __init__(self, sources: list[tuple[Path, Path]], tokenizer: Tokenizer) -> None:
        self.sources, self.tokenizer = sources, tokenizer
        self.texts = [json.loads(path.read_text(encoding="utf-8")) for path, _ in sources]
        self.ids: dict[tuple[int, int], list[list[int]]] = {}
        self.vectors: dict[tuple[int, int], NDArray[np.float16]] = {}
        self.waiting: deque[tuple[int, int, int]] = deque()
        self.first = np.zeros((0, 0), np.float16)
        self.rng = random.Random(0)  # noqa: S311 - no secret
        self.look()

    def look(self) -> None:
        """Take in shards of vectors that have appeared."""
        for source, (_, folder) in enumerate(self.sources):
            for path in sorted(folder.glob("[0-9]*.npy")):
                shard = int(path.stem)
                key = source, shard
                if key in self.vectors:
                    continue
                self.vectors[key] = np.load(path)
                part = self.texts[source][shard * SHARD : (shard + 1) * SHARD]
                found = self.tokenizer.encode_batch([text for group in part for text in group])
                self.ids[key] = [e.ids for e in found]
                self.waiting.extend((source, shard, place) for place in range(SHARD))
        self.rng.shuffle(self.waiting)

    def take(self, count: int) -> tuple[list[list[int]], Tensor]:
        """Token ids of count * 8 texts, and the teacher's vectors [n, 384]."""
        chosen = []
        for _ in range(count):
            if not self.waiting:
                everything = [(*key, i) for key in self.vectors for i in range(SHARD)]
                self.rng.shuffle(everything)
                self.waiting.extend(everything)
            chosen.append(self.waiting.popleft())
        return self._texts(chosen)

    def take_near(self, count: int, among: int = 4) -> tuple[list[list[int]], Tensor]:
        """As `take`, but groups of one subject: by chance out of the among * count whose first
        texts the teacher puts nearest to one of them."""
        if len(self.first) != len(self.vectors) * SHARD:
            self.first = np.concatenate([v[::GROUP] for v in self.vectors.values()])
        close = self.first.astype(np.float32) @ self.first[self.rng.randrange(len(self.first))]
        near = np.argpartition(-close, among * count)[: among * count].tolist()
        keys = list(self.vectors)
        chosen = [(*keys[i // SHARD], i % SHARD) for i in self.rng.sample(near, count)]
        return self._texts(chosen)

    def _texts(self, chosen: list[tuple[int, int, int]]) -> tuple[list[list[int]], Tensor]:
        ids: list[list[int]] = []
        found = []
        for source, shard, place in chosen:
            rows = slice(place * GROUP, (place + 1) * GROUP)
            here = zip(
                self.ids[source, shard][rows], self.vectors[source, shard][rows], strict=True
            )
            for text, vector in here:
                if text:
                    ids.append(text)
                    found.append(vector)
        return ids, torch.from_numpy(np.stack(found)).float()


def gradients(
    student: Student,
    heads: Heads,
    head: float,
    ids: list[list[int]],
    teacher: Tensor,
    pool: ThreadPoolExecutor,
    parts: int,
) -> dict[str, float]:
    """Set the gradients of one step; the losses by name.

    The texts are dealt out to `parts` Python threads that compute with one core each; the loss
    joins them. One such thread a core is faster than one stream of operations on all cores.
    """
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    dealt = [order[i::parts] for i in range(parts)]
    teacher = teacher[[i for part in dealt for i in part]]
    leaves = list(student.cast().values())
    outputs = list(pool.map(lambda part: student(pack([ids[i] for i in part])), dealt))
    joined = [torch.cat(x).detach().requires_grad_() for x in list(zip(*outputs, strict=True))[:2]]
    hs, rw = joined
    target = teacher @ teacher.T
    losses = {
        "hs": similarity_loss(hs, target),
        "rw": similarity_loss(rw, target),
        "head hs": head * heads.loss(heads.hs, hs, teacher),
        "head rw": head * heads.loss(heads.rw, rw, teacher),
    }
    heads.zero_grad(set_to_none=True)
    torch.stack(list(losses.values())).sum().backward()
    sizes = [len(part) for part in dealt]
    given = zip(*(x.grad.split(sizes) for x in joined if x.grad is not None), strict=True)
    share = torch.tensor(0.01 / parts)
    found = list(
        pool.map(
            lambda both: torch.autograd.grad(both[0], leaves, (*both[1], share)),
            zip(outputs, given, strict=True),
        )
    )

    def add(place: int) -> None:
        for value, *each in list(zip(student.weights.values(), *found, strict=True))[place::parts]:
            value.grad = each[0].float()
            for other in each[1:]:
                value.grad += other

    list(pool.map(add, range(parts)))
    balance = sum(output[2].item() for output in outputs) / parts
    return {name: value.item() for name, value in losses.items()} | {"balance": balance}
