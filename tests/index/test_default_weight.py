"""How much words weigh in a search that does not say: as the model or `tune` has it, told once."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from commands import one_line_error, run

from fakes.indexes import fake_documents, without_postings
from fakes.word_encoder import FakeEncoder
from moee_index import Encoder
from moee_index.errors import IndexChangedError, MisuseError, ModelError
from moee_index.index import (
    Index,
    add_documents,
    build_index,
    compact_index,
    delete_documents,
    reindex,
    save_alpha,
    save_weights,
)
from moee_index.index.store.layout import MANIFEST
from moee_index.index.store.manifest import Manifest
from moee_index.model.load.quantize import quantize_checkpoint


@dataclass
class WordyEncoder(FakeEncoder):
    """Of a model that has a weight of words for its indexes."""

    lexical: float = 0.4


@pytest.fixture
def index(tmp_path: Path) -> Path:
    build_index(tmp_path / "i", fake_documents(80), WordyEncoder(batch_tokens=30))
    return tmp_path / "i"


def test_what_is_not_said_is_the_index_s(index: Path) -> None:
    encoder = FakeEncoder()
    with Index.open(index, encoder) as opened:
        assert opened.lexical == 0.4
        assert opened.search("w3 w4", 9) == opened.search("w3 w4", 9, lexical=0.4)
        assert opened.search("w3 w4", 9) != opened.search("w3 w4", 9, lexical=0)
        assert opened.search(["w3", "w4"])[1] == opened.search("w4", lexical=0.4)
        embeddings = encoder.encode(["w3 w4"])
        dense = opened.search_embeddings(embeddings, 9)
        assert dense == opened.search_embeddings(embeddings, 9, lexical=0)
        assert dense[0] == opened.search("w3 w4", 9, lexical=0)
        fused = opened.search_embeddings(embeddings, 9, texts=["w3 w4"])
        assert fused[0] == opened.search("w3 w4", 9)
        assert {hit.lexical for hit in opened.like("d3")} == {None}


def test_every_change_of_an_index_keeps_it(index: Path) -> None:
    add_documents(index, fake_documents(90)[80:], FakeEncoder())
    delete_documents(index, ["d1"])
    compact_index(index)
    reindex(index, standardize="rw")
    save_alpha(index, 0.5)
    manifest = Manifest.read(index)
    assert (manifest.lexical_weight, manifest.alpha, manifest.tuned) == (0.4, 0.5, False)
    with Index.open(index) as opened:
        assert opened.info()["lexical_weight"] == 0.4


def test_weights_are_saved_together(index: Path) -> None:
    save_weights(index, 2.0, 0.0)
    manifest = Manifest.read(index)
    assert (manifest.alpha, manifest.lexical_weight, manifest.tuned) == (2.0, 0.0, True)
    save_weights(index, 2.0, 1.0)
    with Index.open(index) as opened:  # and no encoder
        assert [hit.id for hit in opened.search("w3 w4", 5)] == [
            hit.id for hit in opened.search("w3 w4", 5, lexical=1)
        ]
        with pytest.raises(MisuseError, match="without an encoder"):
            opened.search("w3 w4", lexical=0.9)
    before = (index / MANIFEST).read_bytes()
    for wrong in (1.5, -1, float("nan"), "0.4"):
        with pytest.raises(MisuseError, match=r"^lexical is"):
            save_weights(index, 1.0, wrong)  # type: ignore[arg-type]
    assert (index / MANIFEST).read_bytes() == before


def test_an_index_without_postings_has_none(index: Path) -> None:
    without_postings(index)
    assert Manifest.read(index).lexical_weight == 0.4
    with Index.open(index, FakeEncoder()) as opened:
        assert opened.lexical == 0
        assert opened.search("w3 w4") == opened.search("w3 w4", lexical=0)
        with pytest.raises(MisuseError, match="has no postings"):
            opened.search("w3 w4", lexical=0.4)
    with pytest.raises(MisuseError, match="has no postings"):
        save_weights(index, 1.0, 0.4)
    save_weights(index, 1.0, 0.0)


def test_a_manifest_that_says_nothing_is_as_before(tmp_path: Path) -> None:
    build_index(tmp_path / "i", fake_documents(3), FakeEncoder())
    content = json.loads((tmp_path / "i" / MANIFEST).read_bytes())
    assert not {"lexical_weight", "tuned"} & set(content)
    manifest = Manifest.read(tmp_path / "i")
    assert (manifest.lexical_weight, manifest.tuned) == (0.0, False)
    replace(manifest, lexical_weight=0.25, tuned=True).write(tmp_path / "i")
    manifest = Manifest.read(tmp_path / "i")
    assert (manifest.lexical_weight, manifest.tuned) == (0.25, True)


def test_a_model_that_has_a_weight(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "moee_index.json").write_text('{"lexical": 0.4}')
    assert Encoder.load(checkpoint).lexical == 0.4
    assert Encoder.load(checkpoint).with_batch_tokens(8).with_prompt("none").lexical == 0.4
    quantize_checkpoint(checkpoint, tmp_path / "four")
    assert json.loads((tmp_path / "four" / "moee_index.json").read_text())["lexical"] == 0.4
    corpus = tmp_path / "c.txt"
    corpus.write_text("The ferry was late because of the fog.\nBakeries close at noon.\n")
    index, told = tmp_path / "i", "lexical weight 0.4, the default of model olmoe; --lexical 0"
    built = run("build", corpus, "--index", index, "--model", checkpoint)
    assert built.stderr.count("lexical weight 0.4: the default of model olmoe") == 1
    (line,) = (x for x in run("info", index).stdout.splitlines() if x.startswith("lexical"))
    assert line.split() == ["lexical", "0.4"]
    answered = run("query", "fog", "ferry", "--index", index, "--json")
    assert answered.stderr.count(told) == 1
    assert [json.loads(line)["lexical"] for line in answered.stdout.splitlines()] == [0.4, 0.4]
    assert json.loads(answered.stdout.splitlines()[0])["hits"][0]["words"] == ["fog"]
    for given in ("0", "0.7"):
        answered = run("query", "fog", "--index", index, "--json", "--lexical", given)
        assert "lexical weight" not in answered.stderr
        assert json.loads(answered.stdout).get("lexical", 0) == float(given)
    liked = run("query", "--like", "c:1", "--index", index, "--json")
    assert "lexical" not in json.loads(liked.stdout) and "lexical" not in liked.stderr
    save_weights(index, 1.0, 0.6)
    answered = run("query", "fog", "--index", index)
    assert f"lexical weight 0.6, the default of index {index};" in answered.stderr
    without_postings(index)
    answered = run("query", "fog", "--index", index, "--json")
    assert "lexical" not in answered.stdout + answered.stderr
    wrong = run("query", "fog", "--index", index, "--lexical", "0.4", status=2)
    assert "has no postings" in one_line_error(wrong)


def test_a_model_that_has_a_language(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "moee_index.json").write_text('{"language": "en"}')
    encoder = Encoder.load(checkpoint)
    assert encoder.with_batch_tokens(8).language == "en"
    documents, told = fake_documents(3), list[str]()
    build_index(tmp_path / "i", documents, encoder, notify=told.append)
    assert [line for line in told if line.startswith("language")] == [
        "language en: the default of model olmoe; --language changes it"
    ]
    assert Manifest.read(tmp_path / "i").language == "en"
    assert build_index(tmp_path / "i", documents, encoder).unchanged
    # What was asked for, or is there already, goes before it.
    build_index(tmp_path / "none", documents, encoder, language="none")
    assert Manifest.read(tmp_path / "none").language == "none"
    assert build_index(tmp_path / "none", documents, encoder).unchanged
    with pytest.raises(IndexChangedError, match=r"language 'none' \(now 'en'\)"):
        build_index(tmp_path / "none", documents, encoder, language="en")
    (checkpoint / "moee_index.json").write_text('{"language": "xx"}')
    with pytest.raises(ModelError, match=r"moee_index\.json: language is 'xx'"):
        build_index(tmp_path / "wrong", documents, Encoder.load(checkpoint))
    (checkpoint / "moee_index.json").write_text('{"language": 7}')
    with pytest.raises(ModelError, match="'language' 7 must be a language's code"):
        Encoder.load(checkpoint)
