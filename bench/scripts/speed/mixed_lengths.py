r"""Texts of mixed lengths: ours against the authors' way on the same weights, factor by factor.

    python bench/scripts/speed/mixed_lengths.py \\
        CHECKPOINT --data DIR... [--texts 256] [--transformers]

DIR holds an STS set's test.jsonl (sentence1, sentence2). Of each set the first TEXTS texts are
taken as the authors' evaluator hands them over: the sentence1 of the first TEXTS/2 rows, then
their sentence2 (--order rows: sentence1 and sentence2 of each row in turn). Prompt `none`, last
token. Every way runs in this process on the same 4-bit weights, set by set in turn; each adds one
change to the one before it (see authors_way.py), so the ratios tell the factors apart.
--transformers also runs transformers' own `load_in_4bit` model the authors' way, before anything
else and in a process of its own, since it needs several times the memory.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness import (
    add_model_options,
    import_all,
    make_parser,
    memory,
    need_accelerate,
    run_way,
    say,
    seconds,
    show,
    transformers_model,
)

ORDERS = ("evaluator", "rows")


def read_set(directory: Path, count: int, order: str) -> list[str]:
    """The first `count` texts of an STS set in the order asked for."""
    with (directory / "test.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(line) for _, line in zip(range(count // 2), lines, strict=False)]
    pairs = [(str(row["sentence1"]), str(row["sentence2"])) for row in rows]
    if order == "rows":
        return [text for pair in pairs for text in pair]
    return [pair[side] for side in (0, 1) for pair in pairs]


def measure_ours(given: argparse.Namespace, sets: dict[str, list[str]]) -> list[dict[str, Any]]:
    """One row a way: seconds over all sets, best of the repeats of each set."""
    from authors_way import WAYS, Ways

    from moee_index.encode.encoder import Encoder

    encoder = Encoder.load(
        given.checkpoint,
        double_quant=given.double_quant,
        prompt="none",
        pooling="last",
        batch_tokens=given.batch_tokens,
        threads=given.threads,
        cache=given.cache,
        notify=say,
    )
    return compare(Ways(encoder), sets, given.ways or list(WAYS), given.repeat)


def compare(
    ways: Any, sets: dict[str, list[str]], chosen: Iterable[str], repeat: int
) -> list[dict[str, Any]]:
    """Run ways in turn on each set. Rows in the order of the ways, with the factor over the row
    before and over the first."""
    chosen = list(chosen)
    total = sum(len(texts) for texts in sets.values())
    if "authors" in chosen:
        say(f"head: {ways.head_is}")
    for way in chosen:  # the first batch of a process is no measure of the others
        ways.run(way, next(iter(sets.values()))[:4])
    taken = {way: dict.fromkeys(sets, float("inf")) for way in chosen}
    computed: dict[str, list[Any]] = {}
    for _ in range(repeat):
        computed = {way: [] for way in chosen}
        for name, texts in sets.items():
            for way in chosen:
                spent = seconds(lambda: computed[way].append(ways.run(way, texts)))  # noqa: B023
                taken[way][name] = min(spent, taken[way][name])
                say(f"{name} {way}: {spent:.2f} s")
    rows: list[dict[str, Any]] = []
    for way in chosen:
        spent = sum(taken[way].values())
        rate = total / spent
        rows.append(
            {
                "way": way,
                "texts": total,
                "seconds": spent,
                "texts_per_s": rate,
                "times_before": rate / rows[-1]["texts_per_s"] if rows else 1.0,
                "times_first": rate / rows[0]["texts_per_s"] if rows else 1.0,
                "expert_tokens": sum(one.tokens for one in computed[way]),
                "of_them_padding": sum(one.padding for one in computed[way]),
                "texts_computed": sum(one.texts for one in computed[way]),
                "seconds_of_sets": taken[way],
                "batch_tokens": ways.encoder.batch_tokens,
                "compute": str(ways.running.compute.value),
                "threads": ways.running.threads,
            }
        )
    return rows


def measure_theirs(given: argparse.Namespace, sets: dict[str, list[str]]) -> dict[str, Any]:
    """transformers' own 4-bit model, the authors' call."""
    import torch
    from transformers import AutoTokenizer

    from moee_index.encode.prompts import parse_prompt

    if given.threads is not None:
        torch.set_num_threads(given.threads)
    import_all(json.loads((given.checkpoint / "config.json").read_text())["model_type"])
    tokenizer = AutoTokenizer.from_pretrained(given.checkpoint, padding_side="left")
    tokenizer.pad_token_id = 0
    model = transformers_model(given.checkpoint)
    prompt = parse_prompt("none")

    def run(texts: list[str]) -> None:
        for start in range(0, len(texts), 128):
            inputs = ["".join(prompt.apply(text)) for text in texts[start : start + 128]]
            batch = tokenizer(
                inputs, padding=True, return_tensors="pt", return_token_type_ids=False
            )
            with torch.inference_mode():
                output = model(**batch, output_hidden_states=True, output_router_logits=True)
            output.hidden_states[-1][:, -1].float()

    run(next(iter(sets.values()))[:4])
    spent = {name: seconds(lambda: run(texts)) for name, texts in sets.items()}  # noqa: B023
    total = sum(len(texts) for texts in sets.values())
    return {
        "way": "transformers",
        "texts": total,
        "seconds": sum(spent.values()),
        "texts_per_s": total / sum(spent.values()),
        "seconds_of_sets": spent,
        "threads": torch.get_num_threads(),
        "peak_rss_gb": memory()["peak_rss"],
    }


def line_of(row: dict[str, Any]) -> str:
    """A row for reading."""
    line = f"{row['way']:<13} {row['texts_per_s']:8.3f} texts/s"
    if "times_first" in row:
        line += (
            f"  {row['times_before']:5.2f} times the way before, {row['times_first']:5.2f} the "
            f"first; {row['expert_tokens']} tokens reached experts, {row['of_them_padding']} of "
            "them padding"
        )
    return line


def main() -> None:
    """Print one row a way."""
    parser = make_parser(__doc__)
    add_model_options(parser)
    parser.add_argument("--data", type=Path, nargs="+", required=True, metavar="DIR")
    parser.add_argument("--texts", type=int, default=256, help="texts of each set")
    parser.add_argument("--order", choices=ORDERS, default=ORDERS[0])
    parser.add_argument(
        "--together", action="store_true", help="ours: all sets in one call, as in a build's window"
    )
    parser.add_argument("--ways", nargs="+", metavar="WAY", help="only these, in this order")
    parser.add_argument("--repeat", type=int, default=1, help="the best of so many is taken")
    parser.add_argument("--batch-tokens", type=int)
    parser.add_argument("--transformers", action="store_true", help="theirs as it is, too")
    parser.add_argument("--theirs", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    sets = {
        directory.name: read_set(directory, given.texts, given.order) for directory in given.data
    }
    if given.theirs:
        print(json.dumps(measure_theirs(given, sets)))
        return
    if given.transformers:
        need_accelerate()
        row = run_way(__file__, [*sys.argv[1:], "--theirs"])
        show(row, given.json, line_of(row))
    if given.together:
        sets = {"together": [text for texts in sets.values() for text in texts]}
    for row in measure_ours(given, sets):
        show(row, given.json, line_of(row))


if __name__ == "__main__":
    main()
