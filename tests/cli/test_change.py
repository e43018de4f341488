"""add, delete, reindex and compact on the command line: the bundled model, 80 real texts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import one_line_error, run

from moee_index.atomic import WriterLock
from moee_index.index import Index
from moee_index.index.store.layout import MANIFEST
from moee_index.index.store.manifest import Manifest

CORPUS = Path(__file__).parents[2] / "corpora" / "wikinews.jsonl"
CHANGE_FIELDS = [
    "index", "documents", "changed", "bytes", "bytes_before", "segments", "standardize",
    "index_type", "unchanged",
]  # fmt: skip


def texts() -> list[dict[str, Any]]:
    with CORPUS.open(encoding="utf-8") as file:
        found = [json.loads(line) for line, _ in zip(file, range(100), strict=False)]
    return [
        {"id": one["id"], "title": one["title"], "text": one["text"][:300], "n": number}
        for number, one in enumerate(found)
    ]


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 80 texts."""
    folder = tmp_path_factory.mktemp("built")
    corpus = write(folder / "corpus.jsonl", texts()[:80])
    run("-q", "build", corpus, "--index", folder / "i")
    return folder / "i"


@pytest.fixture
def index(built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copytree(built, tmp_path / "i"))


def test_add(index: Path, tmp_path: Path) -> None:
    lines = texts()
    new = write(tmp_path / "new.jsonl", [*lines[70:90], {"id": "empty", "text": " "}])
    result = run("add", index, new, "--json")
    report = json.loads(result.stdout)
    assert list(report) == [
        "index", "read", "added", "updated", "unchanged", "truncated", "skipped", "rejected",
        "documents", "seconds", "texts_per_second", "tokens_per_second",
    ]  # fmt: skip
    assert report["index"] == str(index)
    assert (report["read"], report["added"], report["unchanged"]) == (21, 10, 10)
    assert (report["updated"], report["skipped"], report["documents"]) == (0, 1, 90)
    assert report["texts_per_second"] > 0
    # Another text under an id that is there: told, and nothing is changed.
    other = {**lines[5], "text": "Quite another text about cheese."}
    manifest = (index / MANIFEST).read_bytes()
    changed = write(tmp_path / "changed.jsonl", [lines[95], other])
    told = one_line_error(run("-q", "add", index, changed, status=1))
    assert f"changed.jsonl:2: document {other['id']!r} has different text" in told
    assert "--update" in told
    assert (index / MANIFEST).read_bytes() == manifest
    result = run("-q", "add", index, changed, "--update")
    assert result.stdout.startswith(f"{index}: read 2, added 1, updated 1, unchanged 0")
    assert "91 documents" in result.stdout
    answer = json.loads(
        run("-q", "query", "cheese", "--index", index, "-k", "200", "--json").stdout
    )
    ids = [hit["id"] for hit in answer["hits"]]
    assert len(ids) == len(set(ids)) == 91
    assert ids[0] == other["id"]
    assert answer["hits"][0]["text"] == other["text"]
    assert answer["exact"]
    run("-q", "verify", index, "--full")


def test_update_without_ids_is_refused(index: Path, tmp_path: Path) -> None:
    new = write(tmp_path / "new.jsonl", [{"docid": "1", "text": "A text about cheese."}])
    told = one_line_error(run("-q", "add", index, new, "--update", status=1))
    assert "new.jsonl:1: no id, and --update needs one" in told
    result = run("add", index, new, "--update", "--id-field", "docid")
    assert result.stdout.startswith(f"{index}: read 1, added 1, updated 0")


def test_add_from_stdin_and_lines_that_cannot_be_used(index: Path) -> None:
    line = {**texts()[3], "text": "Another text."}
    stdin = json.dumps({"id": "new", "text": "A new text."}) + "\n" + json.dumps(line) + "\nno\n"
    told = one_line_error(run("-q", "add", index, "-", stdin=stdin, status=1))
    assert "<stdin>" in told or "stdin" in told
    report = json.loads(
        run("-q", "add", index, "-", "--on-bad", "skip", "--json", stdin=stdin).stdout
    )
    assert (report["added"], report["rejected"], report["documents"]) == (1, 2, 81)
    rejected = (index / "rejected.jsonl").read_text().splitlines()
    assert len(rejected) == 2
    # Nothing new at all: what cannot be used is told all the same.
    report = json.loads(
        run("-q", "add", index, "-", "--on-bad", "skip", "--json", stdin=stdin).stdout
    )
    assert (report["added"], report["unchanged"], report["rejected"]) == (0, 1, 2)
    assert len((index / "rejected.jsonl").read_text().splitlines()) == 2


def test_add_refuses_other_models_and_options(index: Path, tmp_path: Path) -> None:
    new = write(tmp_path / "new.jsonl", texts()[80:82])
    for option, given, recorded in (("--pooling", "last", "mean"), ("--bits", "16", "4")):
        told = one_line_error(run("-q", "add", index, new, option, given, status=2))
        assert f"{option} {given} contradicts the index, which was built with {recorded}" in told
    for wrong in ([index], [index, tmp_path / "nowhere.jsonl"], [tmp_path / "nowhere", new]):
        result = run("-q", "add", *wrong, status=2 if len(wrong) == 1 else 1)
        assert "Error: " in result.stderr and "Traceback" not in result.stderr
    assert Manifest.read(index).revision == 1


def test_delete(index: Path, tmp_path: Path) -> None:
    ids = [line["id"] for line in texts()[:80]]
    report = json.loads(run("delete", index, ids[0], ids[1], "--json").stdout)
    assert list(report) == CHANGE_FIELDS
    assert (report["documents"], report["changed"], report["segments"]) == (78, 2, 1)
    assert report["unchanged"] is False
    told = one_line_error(run("delete", index, ids[2], ids[0], status=2))
    assert f"no document {ids[0]!r}; nothing was deleted" in told
    assert "--missing-ok" in told
    result = run("delete", index, ids[2], ids[0], "--missing-ok")
    assert result.stdout.startswith(f"{index}: 1 deleted, 77 documents in 1 segment,")
    result = run("delete", index, ids[0], "--missing-ok")
    assert result.stdout == f"{index}: nothing to do, 77 documents\n"
    assert json.loads(run("delete", index, ids[0], "--missing-ok", "--json").stdout)["unchanged"]
    # Ids out of a file and from stdin, whatever ends their lines.
    (tmp_path / "ids").write_bytes(f"{ids[3]}\r\n\n{ids[4]}".encode())
    assert json.loads(run("delete", index, "--ids", "ids", "--json").stdout)["changed"] == 2
    result = run("delete", index, "--ids", "-", "--json", stdin=f"{ids[5]}\n{ids[6]}\n")
    assert json.loads(result.stdout)["documents"] == 73
    with Index.open(index) as opened:
        assert list(opened.ids()) == ids[7:]
    run("verify", index, "--full")


def test_ids_that_hold_what_ends_lines_elsewhere(index: Path, tmp_path: Path) -> None:
    strange = ["a\u2028b", "c\x0bd", "e\x85f", " g ", "-h"]
    write(tmp_path / "new.jsonl", [{"id": one, "text": f"Text of {one!r}"} for one in strange])
    run("-q", "add", index, "new.jsonl")
    stdin = "\n".join(strange)
    report = json.loads(run("delete", index, "--ids", "-", "--json", stdin=stdin).stdout)
    assert (report["changed"], report["documents"]) == (5, 80)


@pytest.mark.parametrize(
    ("arguments", "stdin", "status", "told"),
    [
        ([], None, 2, "give the ids"),
        (["a", "--ids", "-"], "b", 2, "give the ids"),
        (["--ids", "-"], "\n\n", 1, "holds no ids"),
        (["--ids", "-"], b"\xff\xfe", 1, "not UTF-8"),
        (["--ids", "nowhere"], None, 1, "nowhere: cannot be read"),
        (["--ids", "."], None, 1, "cannot be read"),
        (["nowhere"], None, 2, "no document 'nowhere'"),
    ],
)
def test_ids_that_are_none(
    index: Path, arguments: list[str], stdin: str | bytes | None, status: int, told: str
) -> None:
    assert told in one_line_error(run("delete", index, *arguments, stdin=stdin, status=status))
    assert Manifest.read(index).revision == 1


def test_reindex_and_compact(index: Path) -> None:
    ids = [line["id"] for line in texts()[:80]]
    before = json.loads(run("-q", "query", "music", "--index", index, "--json").stdout)["hits"]
    report = json.loads(run("compact", index, "--json").stdout)
    assert list(report) == CHANGE_FIELDS
    assert report["unchanged"] is True
    assert run("compact", index).stdout == f"{index}: nothing to do, 80 documents\n"
    gone = [one for one in ids if one not in {hit["id"] for hit in before}][:20]
    run("delete", index, *gone)
    result = run("compact", index)
    assert result.stdout.startswith(f"{index}: compacted, 60 documents in 1 segment, ")
    report = json.loads(run("info", index, "--json").stdout)
    assert report["documents"] == 60
    after = json.loads(run("-q", "query", "music", "--index", index, "--json").stdout)["hits"]
    assert after == before
    # 60 documents are too few to fit on unless it is asked for.
    result = run("reindex", index)
    assert f"{index}: standardize none, index type flat, 60 documents" in result.stdout
    assert "standardize none: too few rows to fit on (60," in result.stderr
    result = run("reindex", index, "--standardize", "both", "--index-type", "HNSW16", "--json")
    report = json.loads(result.stdout)
    assert list(report) == CHANGE_FIELDS
    assert (report["standardize"], report["index_type"]) == ("both", "HNSW16")
    assert "index type HNSW16: as requested; approximate" in result.stderr
    assert run("-q", "reindex", index, "--index-type", "flat").stderr == ""
    run("verify", index, "--full")
    told = one_line_error(run("reindex", index, "--index-type", "nonsense", status=2))
    assert "nonsense" in told
    told = one_line_error(run("-q", "reindex", index, "--index-type", "IVF999,Flat", status=2))
    assert "IVF999" in told and "reindex" in told
    assert run("reindex", index, "--standardize", "all", status=2)
    run("verify", index, "--full")


def test_everything_deleted(index: Path, tmp_path: Path) -> None:
    ids = "\n".join(line["id"] for line in texts()[:80])
    report = json.loads(run("delete", index, "--ids", "-", "--json", stdin=ids).stdout)
    assert (report["changed"], report["documents"], report["segments"]) == (80, 0, 0)
    assert report["bytes"] < report["bytes_before"]
    answer = json.loads(run("-q", "query", "music", "--index", index, "--json").stdout)
    assert (answer["hits"], answer["exact"]) == ([], True)
    assert "no hits" in run("-q", "query", "music", "--index", index).stdout
    result = run("-q", "query", "music", "--index", index, "--filter", "n > 3", "--json")
    assert json.loads(result.stdout)["hits"] == []
    assert json.loads(run("info", index, "--json").stdout)["documents"] == 0
    assert "is sound: 0 documents" in run("verify", index, "--full").stdout
    run("-q", "reindex", index)
    run("-q", "compact", index)
    new = write(tmp_path / "new.jsonl", texts()[80:90])
    assert json.loads(run("-q", "add", index, new, "--json").stdout)["documents"] == 10
    run("verify", index, "--full")


CHANGES: list[list[str]] = [["delete", "{}", "x"], ["reindex", "{}"], ["compact", "{}"]]


@pytest.mark.parametrize("arguments", CHANGES, ids=lambda found: found[0])
def test_locked_and_wrong_indexes(index: Path, tmp_path: Path, arguments: list[str]) -> None:
    with WriterLock(index):
        told = one_line_error(run(*(one.format(index) for one in arguments), status=1))
    assert f"another process is writing to {index}; wait" in told
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    for name, reason in (("nowhere", "no such directory"), ("empty", "is not an index"),
                         ("file", "file")):  # fmt: skip
        told = one_line_error(run(*(one.format(name) for one in arguments), status=1))
        assert name in told and reason in told
    assert list((tmp_path / "empty").iterdir()) == []
    assert not (tmp_path / "nowhere").exists()
    content = (index / MANIFEST).read_bytes()
    (index / MANIFEST).write_bytes(content.replace(b'"flat"', b'"flut"', 1))
    told = one_line_error(run(*(one.format(index) for one in arguments), status=1))
    assert MANIFEST in told


def test_add_to_locked_and_damaged_indexes(index: Path, tmp_path: Path) -> None:
    new = write(tmp_path / "new.jsonl", texts()[80:82])
    with WriterLock(index):
        told = one_line_error(run("-q", "add", index, new, status=1))
    assert "another process is writing" in told
    (index / "segment-0001/hs.f32").unlink()
    told = one_line_error(run("-q", "add", index, new, status=1))
    assert "hs.f32" in told
    (tmp_path / "empty").mkdir()
    assert "is not an index" in one_line_error(run("-q", "add", "empty", new, status=1))
