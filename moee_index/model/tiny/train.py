"""Make `tiny`: a small OLMoE distilled from all-MiniLM-L6-v2 on a few CPU cores.

Steps, each a subcommand: `texts` (groups of neighbouring texts), `vectors` (the teacher's, cached),
`start` (vocabulary and first weights), `train`, `evaluate`. Knows the losses and the schedule;
texts.py knows the text, student.py the architecture, scores.py the measuring.
"""

import json
import os
import random
import shutil
import time
import unicodedata
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import numpy as np
import scores
import texts as cut
import torch
import torch.nn.functional as F
from student import Geometry, Student, load, pack
from tokenizers import Tokenizer
from torch import Tensor, nn

MAX_TOKENS = 512
SHARD = 1000
"""groups in a file of teacher vectors"""

Folder = click.Path(path_type=Path)
Existing = click.Path(path_type=Path, exists=True)


@click.group()
def main() -> None:
    """Make `tiny`."""


@main.command(name="texts")
@click.argument("sources", nargs=-1, required=True, type=Existing)
@click.option("--out", required=True, type=Folder, help="groups of eight texts, JSON")
@click.option("--groups-an-article", default=4)
def texts_command(sources: tuple[Path, ...], out: Path, groups_an_article: int) -> None:
    """Cut the training texts out of .zst files of articles."""
    groups = cut.prepare(list(sources), groups_an_article)
    out.write_text(json.dumps(groups), encoding="utf-8")
    click.echo(f"{len(groups)} groups of {cut.GROUP} texts")


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


@main.command()
@click.option("--teacher", required=True, type=Existing, help="folder of all-MiniLM-L6-v2")
@click.option("--groups", required=True, type=Existing)
@click.option("--out", required=True, type=Folder, help="folder of NNNN.npy, 1000 groups each")
@click.option("--first", default=0)
@click.option("--last", default=40, help="the shard after the last one")
@click.option("--threads", default=2)
def vectors(teacher: Path, groups: Path, out: Path, first: int, last: int, threads: int) -> None:
    """Cache the teacher's vectors, two shards at a time; shards that exist are kept."""
    torch.set_num_threads(1)
    model = Teacher(teacher)
    everything = json.loads(groups.read_text(encoding="utf-8"))
    out.mkdir(parents=True, exist_ok=True)
    for shard in range(first, last, 2):
        if (out / f"{shard + 1:04d}.npy").exists():
            continue
        begin = time.monotonic()
        part_texts = [t for g in everything[shard * SHARD : (shard + 2) * SHARD] for t in g]
        found = model.encode(part_texts, threads)
        for number, part in enumerate(found.half().numpy().reshape(2, -1, found.shape[1])):
            beside = out / f"{shard + number:04d}.part"
            with beside.open("wb") as file:
                np.save(file, part)
            os.replace(beside, out / f"{shard + number:04d}.npy")
        click.echo(f"shards {shard}, {shard + 1}: {time.monotonic() - begin:.0f} s")


def kept(token: str) -> bool:
    """Whether a token of the teacher's vocabulary stays: Latin, Greek, digits, signs."""
    if token.startswith("["):
        return token in ("[", "[PAD]", "[UNK]")
    for character in token:
        if character.isascii() or unicodedata.category(character)[0] not in "LM":
            continue
        if unicodedata.name(character, "?").split()[0].split("-")[0] not in (
            [
                "LATIN",
                "GREEK",
                "MODIFIER",
                "MICRO",
                "SUPERSCRIPT",
                "FEMININE",
                "MASCULINE",
                "SCRIPT",
                "DOUBLE",
            ]
        ):
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


@main.command()
@click.option("--teacher", required=True, type=Existing)
@click.option("--groups", required=True, type=Existing, help="for the tokens' frequencies")
@click.option("--out", required=True, type=Folder)
@click.option("--layers", default=4)
@click.option("--experts", default=64)
@click.option("--width", default=128)
@click.option("--top-k", default=4)
@click.option("--hidden", default=256)
@click.option("--seed", default=0)
def start(
    teacher: Path,
    groups: Path,
    out: Path,
    layers: int,
    experts: int,
    width: int,
    top_k: int,
    hidden: int,
    seed: int,
) -> None:
    """Write the tokenizer and the weights that training starts from.

    A token's embedding is the teacher's vector of that token alone, centred, on the first hidden-1
    principal axes, weighted by 1e-3 / (1e-3 + frequency); the last axis fills it up to one common
    length, so that the norms keep the weight. A random rotation spreads the axes evenly, which
    makes standardising harmless.
    """
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    data, origin = pruned_tokenizer(teacher)
    (out / "tokenizer.json").write_text(
        json.dumps(data, ensure_ascii=False, separators=(",", ":")), encoding="utf-8"
    )
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "model_max_length": MAX_TOKENS,
        "padding_side": "right",
        "clean_up_tokenization_spaces": True,
    }
    (out / "tokenizer_config.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    sample = json.loads(groups.read_text(encoding="utf-8"))[:4000]
    counts = torch.ones(len(origin))
    for encoding in tokenizer.encode_batch([text for group in sample for text in group]):
        counts += torch.bincount(
            torch.tensor(encoding.ids, dtype=torch.long), minlength=len(counts)
        )
    weight = 1e-3 / (1e-3 + counts / counts.sum())
    frame = Teacher(teacher).tokenizer
    before, after = frame.token_to_id("[CLS]"), frame.token_to_id("[SEP]")
    alone = Teacher(teacher).encode_ids([[before, number, after] for number in origin])
    alone = alone - (alone * counts[:, None]).sum(0) / counts.sum() * 0.5 - alone.mean(0) * 0.5
    _, _, axes = torch.linalg.svd(alone, full_matrices=False)
    vectors = F.normalize(alone @ axes[: hidden - 1].T, dim=1) * weight[:, None]
    rest = (1.0 - vectors.square().sum(1, keepdim=True)).clamp_min(0).sqrt()
    rotation, _ = torch.linalg.qr(torch.randn(hidden, hidden))
    geometry = Geometry(
        len(origin), hidden, layers, hidden // 64, experts, width, top_k, MAX_TOKENS
    )
    student = Student(geometry)
    with torch.no_grad():
        embedding = torch.cat([vectors, rest], dim=1) @ rotation * hidden**0.5
        student.weights["embed_tokens"].copy_(embedding)
    student.save(out)
    click.echo(f"{len(origin)} tokens, {sum(p.numel() for p in student.parameters())} weights")


def standardised(x: Tensor) -> Tensor:
    """Per dimension over the batch, then unit length; [n, d]."""
    return F.normalize((x - x.mean(0)) / (x.std(0) + 1e-6), dim=1)


def similarity_loss(x: Tensor, target: Tensor, temperature: float = 0.05) -> Tensor:
    """Rows of the similarity matrix against the teacher's: KL divergence and squared error."""
    similar = standardised(x)
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
    """The groups whose teacher vectors are there, each once before any twice."""

    def __init__(self, groups: Path, vectors: Path, tokenizer: Tokenizer) -> None:
        self.texts = json.loads(groups.read_text(encoding="utf-8"))
        self.folder, self.tokenizer = vectors, tokenizer
        self.ids: dict[int, list[list[int]]] = {}
        self.vectors: dict[int, np.ndarray] = {}
        self.waiting: deque[int] = deque()
        self.rng = random.Random(0)
        self.look()

    def look(self) -> None:
        """Take in shards of vectors that have appeared."""
        fresh = []
        for path in sorted(self.folder.glob("[0-9]*.npy")):
            shard = int(path.stem)
            if shard in self.vectors:
                continue
            self.vectors[shard] = np.load(path)
            flat = [t for g in self.texts[shard * SHARD : (shard + 1) * SHARD] for t in g]
            found = self.tokenizer.encode_batch(flat)
            self.ids[shard] = [e.ids for e in found]
            fresh += range(shard * SHARD, (shard + 1) * SHARD)
        self.rng.shuffle(fresh)
        self.waiting.extendleft(fresh)

    def take(self, count: int) -> tuple[list[list[int]], Tensor]:
        """Token ids of count * 8 texts, and the teacher's vectors [n, 384]."""
        ids: list[list[int]] = []
        found = []
        for _ in range(count):
            if not self.waiting:
                everything = [s * SHARD + i for s in self.vectors for i in range(SHARD)]
                self.rng.shuffle(everything)
                self.waiting.extend(everything)
            shard, place = divmod(self.waiting.popleft(), SHARD)
            rows = slice(place * cut.GROUP, (place + 1) * cut.GROUP)
            for text, vector in zip(self.ids[shard][rows], self.vectors[shard][rows], strict=True):
                if text:
                    ids.append(text)
                    found.append(vector)
        return ids, torch.from_numpy(np.stack(found)).float()


def student_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint, cutting at the model's limit."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def encoder(student: Student, tokenizer: Tokenizer) -> scores.Encode:
    """texts -> HS, RW of the student as it stands."""

    student.cast()

    def encode(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        ids = [e.ids for e in tokenizer.encode_batch(texts)]
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        hs = np.zeros((len(ids), student.geometry.hidden), np.float32)
        rw = np.zeros((len(ids), student.geometry.layers * student.geometry.experts), np.float32)
        begin = 0
        with torch.inference_mode():
            while begin < len(order):
                end = begin + 1
                while end < len(order) and (end + 1 - begin) * len(ids[order[end]]) <= 8192:
                    end += 1
                batch = order[begin:end]
                h, r, _ = student(pack([ids[i] or [1] for i in batch]))
                hs[batch], rw[batch] = h.numpy(), r.numpy()
                begin = end
        return hs, rw

    return encode


def publish(student: Student, source: Path, out: Path) -> None:
    """Write the checkpoint beside `out`, then put it in its place."""
    beside = out.with_name(out.name + ".new")
    shutil.rmtree(beside, ignore_errors=True)
    student.save(beside)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, beside)
    old = out.with_name(out.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    beside.rename(out)
    shutil.rmtree(old, ignore_errors=True)


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


@main.command()
@click.option("--groups", required=True, type=Existing)
@click.option("--vectors", required=True, type=Existing)
@click.option("--start", "source", required=True, type=Existing, help="checkpoint to go on from")
@click.option("--out", required=True, type=Folder)
@click.option("--validation", type=Existing, help="an STS file, scored at times")
@click.option("--minutes", default=60.0, help="length of the schedule, by the clock")
@click.option("--begin-at", default=0.0, help="share of the schedule that is already behind")
@click.option("--batch", default=32, help="groups a step")
@click.option("--rate", default=1e-3)
@click.option("--floor", default=0.02, help="the rate at the end, as a share")
@click.option("--head", default=1.0, help="weight of the regression on the teacher's vector")
@click.option("--four-bit-from", default=0.8, help="share of the time after which 4 bits are felt")
@click.option("--threads", default=2)
@click.option("--every", default=5.0, help="minutes between validations and checkpoints")
@click.option("--state", type=Folder, help="optimiser state: read where it exists, written")
def train(
    groups: Path,
    vectors: Path,
    source: Path,
    out: Path,
    validation: Path | None,
    minutes: float,
    begin_at: float,
    batch: int,
    rate: float,
    floor: float,
    head: float,
    four_bit_from: float,
    threads: int,
    every: float,
    state: Path | None,
) -> None:
    """Distil. The rate rises for 2 % of the time and falls along a cosine."""
    torch.set_num_threads(1)
    torch.manual_seed(1)
    student = load(source)
    heads = Heads(student.geometry)
    tokenizer = student_tokenizer(source)
    data = Groups(groups, vectors, tokenizer)
    pool = ThreadPoolExecutor(threads)
    parameters = [*student.weights.values(), *heads.parameters()]
    shares = [parameters[i::threads] for i in range(threads)]
    optimisers = [
        torch.optim.AdamW(
            [
                {"params": [p for p in share if p.dim() > 1], "weight_decay": 0.01},
                {"params": [p for p in share if p.dim() == 1], "weight_decay": 0.0},
            ],
            lr=rate,
            betas=(0.9, 0.98),
            fused=True,
        )
        for share in shares
    ]
    if state and state.exists():
        saved = torch.load(state, weights_only=True)
        heads.load_state_dict(saved["heads"])
        for optimiser, old in zip(optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(old)

    def keep() -> None:
        publish(student, source, out)
        if state:
            both = {"optimisers": [o.state_dict() for o in optimisers], "heads": heads.state_dict()}
            beside = state.with_name(state.name + ".new")
            torch.save(both, beside)
            os.replace(beside, state)

    begin = time.monotonic()
    step = seen = tokens = 0
    last = 0.0
    average: dict[str, float] = {}
    while True:
        passed = begin_at + (time.monotonic() - begin) / 60 / minutes
        if passed >= 1:
            break
        factor = min(1.0, passed / 0.02 + 0.05)
        factor *= floor + (1 - floor) * 0.5 * (1 + np.cos(np.pi * passed))
        for optimiser in optimisers:
            for settings in optimiser.param_groups:
                settings["lr"] = rate * factor
        if passed >= four_bit_from and step % 8 == 0:
            student.refresh_errors()
        if step % 100 == 0:
            data.look()
        ids, teacher = data.take(batch)
        losses = gradients(student, heads, head, ids, teacher, pool, threads)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        list(pool.map(lambda o: o.step(), optimisers))
        step, seen, tokens = step + 1, seen + len(ids), tokens + sum(map(len, ids))
        for name, value in losses.items():
            average[name] = average.get(name, value) * 0.95 + value * 0.05
        if step in (5, 10, 20) or step % 50 == 0:
            told = " ".join(f"{name} {value:.4f}" for name, value in average.items())
            click.echo(
                f"{passed:.3f} step {step} texts {seen} tokens {tokens} "
                f"{seen / (time.monotonic() - begin):.0f} texts/s rate {rate * factor:.2g} {told}"
            )
        if (time.monotonic() - begin) / 60 - last >= every:
            last = (time.monotonic() - begin) / 60
            keep()
            if validation:
                values = scores.sts(encoder(student, tokenizer), validation)
                click.echo(scores.tell(f"minute {last:.1f} validation", values))
    keep()
    if validation:
        click.echo(scores.tell("end", scores.sts(encoder(student, tokenizer), validation)))


@main.command()
@click.argument("folder", type=Existing)
@click.option("--sts", multiple=True, type=Existing, help="STS files")
@click.option("--retrieval", multiple=True, type=Existing, help="BEIR folders")
@click.option("--four-bit", is_flag=True, help="round experts and attention to NF4")
@click.option("--threads", default=2)
def evaluate(
    folder: Path, sts: tuple[Path, ...], retrieval: tuple[Path, ...], four_bit: bool, threads: int
) -> None:
    """Score a checkpoint: hs / rw / sum."""
    torch.set_num_threads(threads)
    student = load(folder)
    if four_bit:
        student.refresh_errors()
    encode = encoder(student, student_tokenizer(folder))
    for path in sts:
        click.echo(scores.tell(f"{path.parent.name} {path.stem}", scores.sts(encode, path)))
    for path in retrieval:
        click.echo(scores.tell(path.name, scores.retrieval(encode, path)))


if __name__ == "__main__":
    main()
