"""Whether the scripts that measure still run, in a process of their own and as small as can be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from measuring import SCRIPTS, run

from moee_index.model.checkpoint.find import bundled_path

MEASURING = sorted(
    path.relative_to(SCRIPTS).as_posix()
    for path in SCRIPTS.rglob("*.py")
    if "make_parser(__doc__)" in path.read_text(encoding="utf-8") or path.parent == SCRIPTS
)


@pytest.mark.parametrize("script", MEASURING)
def test_every_script_explains_itself(script: str) -> None:
    assert f"bench/scripts/{script}" in run(script, "--help")


def test_the_parts_of_the_device_script_on_a_cpu(tmp_path: Path) -> None:
    sizes = ("--tokens", 128, "--length", 16, "--texts", 2, "--parity", 1, "--build", 70)
    out = run(
        "speed/gpu.py", "--device", "cpu", "--small", "--json", *sizes,
        *("--repeat", 1, "--out", tmp_path / "out"), cache=tmp_path,
    )  # fmt: skip
    rows = [json.loads(line) for line in out.splitlines()]
    parts = ("parity", "load", "one query", "large batch", "halving", "mixed lengths", "build")
    assert list(dict.fromkeys(row["part"] for row in rows)) == [*parts]
    by_part = {row["part"]: row for row in rows}
    compared = [row for row in rows if row["part"] == "parity"]
    assert [row["model"] for row in compared] == ["olmoe", "qwen2_moe", "deepseek"]
    assert all(row["reached"] and row["apart_in_float32"] < 1e-4 for row in compared)
    assert by_part["one query"]["query_s"] > 0
    assert by_part["large batch"]["tokens"] == 128
    assert by_part["large batch"]["ratio"] > 0 and by_part["large batch"]["estimated_gb"] > 0
    assert by_part["halving"]["halvings"] >= 1 and by_part["halving"]["reached"]
    assert "halved" in by_part["halving"]["told"]
    assert by_part["build"]["documents"] == 70
    assert json.loads((tmp_path / "out" / "gpu.json").read_text()) == rows
    lines = (tmp_path / "out" / "gpu.md").read_text().splitlines()
    assert len(lines) == 2 + len(rows) and lines[0] == "| part | figures |"


def test_traffic_of_a_card_is_counted(tmp_path: Path) -> None:
    run("speed/random_checkpoint.py", tmp_path / "model", "--tiny")
    out = run("speed/traffic.py", tmp_path / "model", "--tokens", 128, "--length", 16, "--json")
    row = json.loads(out)
    assert row["bytes_a_token"] > row["bytes_of_products_a_token"] > 0
    assert row["query_waits"] == 1 and 0 < row["estimated_ratio"] < 1


def test_memory_over_batches_of_new_shapes(tmp_path: Path) -> None:
    out = run("speed/large_batch.py", bundled_path(), "--shapes", 2, "--json", cache=tmp_path)
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["memory"] for row in rows] == ["rss", "anonymous"]
    assert all(row["batches"] == 2 and row["first_gb"] > 0 for row in rows)


def test_weights_of_words_on_halves_of_the_queries(tmp_path: Path) -> None:
    beir, lists = tmp_path / "sets" / "Small", tmp_path / "sets" / "Lists"
    (beir / "qrels").mkdir(parents=True)
    lists.mkdir()
    texts = [f"the {word} at the {place}" for word in WORDS for place in PLACES]
    put(beir / "corpus.jsonl", [{"_id": f"d{n}", "text": text} for n, text in enumerate(texts)])
    put(beir / "queries.jsonl", [{"_id": f"q{n}", "text": word} for n, word in enumerate(WORDS)])
    judged = [f"q{n // len(PLACES)}\td{n}\t1\n" for n in range(len(texts))]
    (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(judged))
    for split, words in (("dev", WORDS[:2]), ("test", WORDS[2:])):
        rows = [
            {"query": w, "positive": [f"a {w}"], "negative": ["an end", "a bus"]} for w in words
        ]
        put(lists / f"{split}.jsonl", rows)
    given = ("lexical_weights.py", "--data", beir, lists, "--weights", "0,0.5,1", "--methods", "hs")
    more = ("--work", tmp_path / "work", "--json")
    halves = {
        half: [json.loads(line) for line in run(*given, *more, "--half", half).splitlines()]
        for half in ("choose", "report", "all")
    }
    for half, rows in halves.items():
        ours = [row for row in rows if row["system"] == "tiny"]
        settings = [("words", 1.0), ("hs", 0.0), ("hs", 0.5)]
        assert [(row["method"], row["lexical"]) for row in ours] == settings * 2
        assert [row["metric"] for row in ours] == ["nDCG@10"] * 3 + ["MAP"] * 3
        assert {row["half"] for row in rows} == {half}
        for row in rows:
            if row["method"] == "words":
                assert row["score"] == pytest.approx(100)
    queries = {half: rows[-1]["queries"] for half, rows in halves.items()}
    assert queries == {"choose": 2, "report": 3, "all": 3}
    small = {half: rows[0]["queries"] for half, rows in halves.items()}
    assert small == {"choose": 2, "report": 3, "all": 5}
    picture = tmp_path / "curves.png"
    table = run(*given, *more[:2], "--plot", picture)
    assert "| 0.5 |" in table and "mean of 2, tiny" in table
    assert picture.read_bytes().startswith(b"\x89PNG")


WORDS = ("ferry", "bakery", "violin", "glacier", "lantern")
PLACES = ("harbor", "market", "station", "river")


def put(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
