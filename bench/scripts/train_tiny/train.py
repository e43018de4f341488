"""Make `tiny`: a small OLMoE distilled from all-MiniLM-L6-v2 on a few CPU cores.

    python bench/scripts/train_tiny/train.py COMMAND

COMMAND is texts, everyday, science, vectors, start, train, idf, evaluate, in this order. The
steps, the schedule and the command line are here; texts.py and everyday.py make the texts,
teacher.py has the teacher, student.py and kernels.py the architecture, distil.py the losses,
scores.py the measuring.
"""

import json
import math
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import zip_longest
from pathlib import Path

import click
import numpy as np
import scores
import torch
from distil import Groups, Heads, gradients
from everyday import everyday
from student import Geometry, Student, load, pack
from teacher import MAX_TOKENS, Teacher, cache, first_student, write_tokenizer
from texts import GROUP, prepare, scientific
from tokenizers import Tokenizer
from torch import nn

Folder = click.Path(path_type=Path)
Existing = click.Path(path_type=Path, exists=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Make `tiny`."""


@main.command()
@click.argument("sources", nargs=-1, required=True, type=Existing)
@click.option("--out", required=True, type=Folder, help="groups of eight texts, JSON")
@click.option("--groups-an-article", default=4)
def texts(sources: tuple[Path, ...], out: Path, groups_an_article: int) -> None:
    """Cut the training texts out of .zst files of articles."""
    groups = prepare(list(sources), groups_an_article)
    out.write_text(json.dumps(groups), encoding="utf-8")
    click.echo(f"{len(groups)} groups of {GROUP} texts")


@main.command()
@click.option("--groups", required=True, type=Existing)
@click.option("--skip", default=24000, help="groups that are used already")
@click.option("--count", default=6000)
@click.option("--out", required=True, type=Folder, help="groups of eight texts, JSON")
def science(groups: Path, skip: int, count: int, out: Path) -> None:
    """Pick the most scientific of the remaining groups."""
    everything = json.loads(groups.read_text(encoding="utf-8"))
    out.write_text(json.dumps(scientific(everything[skip:], count)), encoding="utf-8")


@main.command(name="everyday")
@click.option("--groups", required=True, type=Existing, help="for nouns")
@click.option("--out", required=True, type=Folder, help="groups of eight texts, JSON")
@click.option("--count", default=8000)
@click.option("--seed", default=1)
def everyday_command(groups: Path, out: Path, count: int, seed: int) -> None:
    """Make up short sentences of everyday life and news."""
    made = everyday(json.loads(groups.read_text(encoding="utf-8")), count, seed)
    out.write_text(json.dumps(made), encoding="utf-8")


@main.command()
@click.option("--teacher", required=True, type=Existing, help="folder of all-MiniLM-L6-v2")
@click.option("--groups", required=True, type=Existing)
@click.option("--out", required=True, type=Folder, help="folder of NNNN.npy, 1000 groups each")
@click.option("--first", default=0)
@click.option("--last", default=24, help="the shard after the last one")
@click.option("--threads", default=2)
def vectors(teacher: Path, groups: Path, out: Path, first: int, last: int, threads: int) -> None:
    """Cache the teacher's vectors; those that exist are kept."""
    torch.set_num_threads(1)
    everything = json.loads(groups.read_text(encoding="utf-8"))
    cache(Teacher(teacher), everything, out, first, last, threads, click.echo)


@main.command()
@click.option("--teacher", required=True, type=Existing)
@click.option("--groups", required=True, type=Existing, help="for the tokens' frequencies")
@click.option("--out", required=True, type=Folder)
@click.option("--hidden", default=256)
@click.option("--layers", default=4)
@click.option("--experts", default=64)
@click.option("--width", default=128)
@click.option("--top-k", default=4)
@click.option("--seed", default=0)
def start(
    teacher: Path,
    groups: Path,
    out: Path,
    hidden: int,
    layers: int,
    experts: int,
    width: int,
    top_k: int,
    seed: int,
) -> None:
    """Write the tokenizer and the weights that training starts from."""
    torch.manual_seed(seed)
    origin = write_tokenizer(teacher, out)
    heads = hidden // 64
    sizes = Geometry(len(origin), hidden, layers, heads, experts, width, top_k, MAX_TOKENS)
    sample = json.loads(groups.read_text(encoding="utf-8"))
    student = first_student(Teacher(teacher), sample, origin, out, sizes)
    click.echo(f"{len(origin)} tokens, {sum(p.numel() for p in student.parameters())} weights")


def student_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a checkpoint, cutting at the model's limit."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(MAX_TOKENS)
    return tokenizer


def encoder(student: Student, tokenizer: Tokenizer) -> scores.Encode:
    """texts -> HS, RW of the student as it stands."""

    student.cast()

    def encode(texts: list[str]) -> tuple[scores.Floats, scores.Floats]:
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


@main.command()
@click.option("--groups", required=True, multiple=True, type=Existing)
@click.option(
    "--vectors", required=True, multiple=True, type=Existing, help="one for each --groups"
)
@click.option("--start", "source", required=True, type=Existing, help="checkpoint to go on from")
@click.option("--out", required=True, type=Folder)
@click.option("--validation", type=Existing, help="an STS file, scored at times")
@click.option("--minutes", default=60.0, help="length of the schedule, by the clock")
@click.option("--begin-at", default=0.0, help="share of the schedule that is already behind")
@click.option("--batch", default=32, help="groups a step")
@click.option("--near", default=0, help="of 100 steps, those on groups of one subject")
@click.option("--rate", default=1e-3)
@click.option("--floor", default=0.02, help="the rate at the end, as a share")
@click.option("--head", default=1.0, help="weight of the regression on the teacher's vector")
@click.option("--four-bit-from", default=0.8, help="share of the time after which 4 bits are felt")
@click.option("--threads", default=2)
@click.option("--every", default=5.0, help="minutes between validations and checkpoints")
@click.option("--state", type=Folder, help="optimiser state: read where it exists, written")
def train(
    groups: tuple[Path, ...],
    vectors: tuple[Path, ...],
    source: Path,
    out: Path,
    validation: Path | None,
    minutes: float,
    begin_at: float,
    batch: int,
    near: int,
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
    data = Groups(list(zip(groups, vectors, strict=True)), tokenizer)
    pool = ThreadPoolExecutor(threads)
    parameters = [*student.weights.values(), *heads.parameters()]
    shares = [parameters[i::threads] for i in range(threads)]
    optimizers = [
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
        for optimizer, old in zip(optimizers, saved["optimisers"], strict=True):
            optimizer.load_state_dict(old)

    def keep() -> None:
        publish(student, source, out)
        if state:
            both = {"optimisers": [o.state_dict() for o in optimizers], "heads": heads.state_dict()}
            beside = state.with_name(state.name + ".new")
            torch.save(both, beside)
            beside.replace(state)

    begin = time.monotonic()
    step = seen = tokens = 0
    last = 0.0
    average: dict[str, float] = {}
    while True:
        passed = begin_at + (time.monotonic() - begin) / 60 / minutes
        if passed >= 1:
            break
        factor = min(1.0, passed / 0.02 + 0.05)
        factor *= floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * passed))
        for optimizer in optimizers:
            for settings in optimizer.param_groups:
                settings["lr"] = rate * factor
        if passed >= four_bit_from and step % 8 == 0:
            student.refresh_errors()
        if step % 100 == 0:
            data.look()
        ids, teacher = data.take_near(batch) if step * 37 % 100 < near else data.take(batch)
        losses = gradients(student, heads, head, ids, teacher, pool, threads)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        list(pool.map(lambda o: o.step(), optimizers))
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
@click.option("--groups", required=True, multiple=True, type=Existing)
@click.option("--last", multiple=True, type=int, help="how many groups of each are counted")
@click.argument("model", type=Existing)
def idf(groups: tuple[Path, ...], last: tuple[int, ...], model: Path) -> None:
    """Count the tokens of the training texts: MODEL's table for pooling `idf`."""
    from moee_index import Encoder
    from moee_index.token_weights import FILE, TokenCounts

    encoder, counts = Encoder.load(model, pooling="mean"), TokenCounts()
    for file, most in zip_longest(groups, last):
        held = json.loads(file.read_text(encoding="utf-8"))[:most]
        encoder.count_tokens([text for group in held for text in group], counts)
    (model / FILE).write_bytes(counts.weights().to_bytes())
    click.echo(f"{counts.texts} texts")


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
