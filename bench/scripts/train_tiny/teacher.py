"""The teacher, all-MiniLM-L6-v2: its cached vectors, and what the student takes over from it."""

import json
import time
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from student import Geometry, Student
from tokenizers import Tokenizer
from torch import Tensor

MAX_TOKENS = 512
SHARD = 1000
"""groups of texts in a file of cached vectors"""

KEPT_SCRIPTS = frozenset(
    (
        "LATIN",
        "GREEK",
        "MODIFIER",
        "MICRO",
        "SUPERSCRIPT",
        "FEMININE",
        "MASCULINE",
        "SCRIPT",
        "DOUBLE",
    )
)
"""first words of the Unicode names of letters that stay in the vocabulary"""


class Teacher:
    """all-MiniLM-L6-v2 in bfloat16: mean of the last layer, unit length."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel

        self.model = AutoModel.from_pretrained(folder, dtype=torch.bfloat16).eval()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(MAX_TOKENS)

    def encode_ids(self, ids: list[list[int]], threads: int = 1) -> Tensor:
        """float32 [n, 384]; only texts of equal length share a batch, so no mask is needed."""
        lengths: dict[int, list[int]] = {}
        for place, text in enumerate(ids):
            lengths.setdefault(len(text), []).append(place)
        batches = []
        for length, places in sorted(lengths.items(), reverse=True):
            step = max(1, 4096 // length)
            batches += [places[at : at + step] for at in range(0, len(places), step)]
        out = torch.zeros(len(ids), self.model.config.hidden_size)

        def embed(batch: list[int]) -> None:
            x = torch.tensor([ids[i] for i in batch])
            with torch.inference_mode():
                states = self.model(x, attention_mask=None).last_hidden_state
                out[batch] = F.normalize(states.float().mean(1), dim=1)

        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(embed, batches))
        return out

    def encode(self, texts: list[str], threads: int = 1) -> Tensor:
        """float32 [n, 384]."""
        return self.encode_ids([e.ids for e in self.tokenizer.encode_batch(texts)], threads)


def cache(
    model: Teacher,
    groups: list[list[str]],
    out: Path,
    first: int,
    last: int,
    threads: int,
    tell: Callable[[str], None],
) -> None:
    """Write `NNNN.npy`, float16 [texts of a shard, 384], two shards at a time; files stay."""
    out.mkdir(parents=True, exist_ok=True)
    for shard in range(first, last, 2):
        if (out / f"{shard + 1:04d}.npy").exists():
            continue
        begin = time.monotonic()
        pair = groups[shard * SHARD : (shard + 2) * SHARD]
        found = model.encode([text for group in pair for text in group], threads)
        for number, part in enumerate(found.half().numpy().reshape(2, -1, found.shape[1])):
            beside = out / f"{shard + number:04d}.part"
            with beside.open("wb") as file:
                np.save(file, part)
            beside.replace(out / f"{shard + number:04d}.npy")
        tell(f"shards {shard}, {shard + 1}: {time.monotonic() - begin:.0f} s")


def kept(token: str) -> bool:
    """Whether a token of the teacher's vocabulary stays: Latin, Greek, digits, signs."""
    if token.startswith("["):
        return token in ("[", "[PAD]", "[UNK]")
    for character in token:
        if character.isascii() or unicodedata.category(character)[0] not in "LM":
            continue
        if unicodedata.name(character, "?").split()[0].split("-")[0] not in KEPT_SCRIPTS:
            return False
    return True


def pruned_tokenizer(teacher: Path) -> tuple[dict[str, object], list[int]]:
    """tokenizer.json of the student, and the teacher's id of each of its tokens."""
    data = json.loads((teacher / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = sorted(data["model"]["vocab"].items(), key=lambda item: item[1])
    tokens = [(token, number) for token, number in vocabulary if kept(token)]
    data["model"]["vocab"] = {token: place for place, (token, _) in enumerate(tokens)}
    data["truncation"] = data["padding"] = data["post_processor"] = None
    special = []
    for added in data["added_tokens"]:
        if added["content"] in ("[PAD]", "[UNK]"):
            special.append({**added, "id": data["model"]["vocab"][added["content"]]})
    data["added_tokens"] = special
    return data, [number for _, number in tokens]


def write_tokenizer(teacher: Path, out: Path) -> list[int]:
    """Write the student's tokenizer files; the teacher's id of each token."""
    out.mkdir(parents=True, exist_ok=True)
    data, origin = pruned_tokenizer(teacher)
    compact = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    (out / "tokenizer.json").write_text(compact, encoding="utf-8")
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "model_max_length": MAX_TOKENS,
        "padding_side": "right",
        "clean_up_tokenization_spaces": True,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return origin


def first_embeddings(model: Teacher, origin: list[int], counts: Tensor, hidden: int) -> Tensor:
    """float32 [tokens, hidden]: the embeddings that training starts from.

    The teacher's vector of the token alone, centred, on the first hidden - 1 principal axes, times
    1e-3 / (1e-3 + frequency); the last axis fills it up to one common length, so that the norms
    keep the weight. A random rotation spreads the axes evenly, which makes standardising harmless.
    """
    before, after = model.tokenizer.token_to_id("[CLS]"), model.tokenizer.token_to_id("[SEP]")
    alone = model.encode_ids([[before, number, after] for number in origin])
    usual = (alone * counts[:, None]).sum(0) / counts.sum()
    alone = alone - (usual + alone.mean(0)) / 2
    _, _, axes = torch.linalg.svd(alone, full_matrices=False)
    weight = 1e-3 / (1e-3 + counts / counts.sum())
    vectors = F.normalize(alone @ axes[: hidden - 1].T, dim=1) * weight[:, None]
    rest = (1 - vectors.square().sum(1, keepdim=True)).clamp_min(0).sqrt()
    rotation, _ = torch.linalg.qr(torch.randn(hidden, hidden))
    return torch.cat([vectors, rest], dim=1) @ rotation * hidden**0.5


def first_student(
    model: Teacher, groups: list[list[str]], origin: list[int], out: Path, geometry: Geometry
) -> Student:
    """The student before training; `out` holds its tokenizer and receives its weights."""
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    counts = torch.ones(len(origin))
    for encoding in tokenizer.encode_batch([text for group in groups[:4000] for text in group]):
        ids = torch.tensor(encoding.ids, dtype=torch.long)
        counts += torch.bincount(ids, minlength=len(counts))
    student = Student(geometry)
    with torch.no_grad():
        embeddings = first_embeddings(model, origin, counts, geometry.hidden)
        student.weights["embed_tokens"].copy_(embeddings)
    student.save(out)
    return student
