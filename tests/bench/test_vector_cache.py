"""Vectors on disk: found again, kept apart, unharmed by kills, found when damaged."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sqlite3
import time
from dataclasses import replace
from pathlib import Path

import forks
import numpy as np
import pytest
from paths import DATA, PARITY

from fakes.tasks import (
    ensure_slowly,
    get,
    identity_of,
    logged,
    never,
    put,
    put_many,
    random_embeddings,
    stored_over,
)
from fakes.word_encoder import fake_spec
from moee_index.bench.adapter.model_facts import count_parameters
from moee_index.bench.vector_cache.encoder import StoredEncoder
from moee_index.bench.vector_cache.store import StoreKey, VectorStore
from moee_index.encode.encoder import Encoder
from moee_index.errors import FingerprintMismatchError, MisuseError, ModelError, StorageError
from moee_index.model.arch.config import vocabulary_of
from moee_index.model.checkpoint.find import find_checkpoint, open_checkpoint
from moee_index.token_weights import FILE, TokenWeights
from moee_index.types import Embeddings

KEY = StoreKey(
    fingerprint="f" * 64,
    bits=4,
    double_quant=True,
    dequantised=False,
    prompt="none",
    template='"{text}"',
    rw="logits",
    pooling="last",
    max_tokens=512,
)
TEXTS = ["one", "two", "three", "", "ünïcode ☂", 'quo"te\n']


def equal(left: Embeddings | None, right: Embeddings) -> bool:
    assert left is not None
    return np.array_equal(left.hs, right.hs) and np.array_equal(left.rw, right.rw)


def rows(embeddings: Embeddings, chosen: list[int]) -> Embeddings:
    return Embeddings(embeddings.hs[chosen], embeddings.rw[chosen])


def test_what_was_put_is_found_in_any_order(tmp_path: Path) -> None:
    store, given = VectorStore(tmp_path), random_embeddings(len(TEXTS))
    assert get(store, KEY, TEXTS) == (None, list(range(len(TEXTS))))
    put(store, KEY, TEXTS[:4], rows(given, [0, 1, 2, 3]))
    found, missing = get(store, KEY, TEXTS)
    assert found is None
    assert missing == [4, 5]
    put(store, KEY, TEXTS[3:], rows(given, [3, 4, 5]))
    order = [5, 0, 0, 4, 3]
    for one in (store, VectorStore(tmp_path)):
        found, missing = get(one, KEY, [TEXTS[i] for i in order])
        assert missing == []
        assert equal(found, rows(given, order))


def test_equal_texts_take_one_row_and_the_first_vector_stays(tmp_path: Path) -> None:
    store, given = VectorStore(tmp_path), random_embeddings(3)
    put(store, KEY, ["a", "a", "b"], given)
    put(store, KEY, ["b", "a", "b"], random_embeddings(3, seed=1))
    assert len(store.shelf(KEY)) == 2
    assert equal(get(store, KEY, ["a", "b"])[0], rows(given, [0, 2]))
    sizes = {path.name: path.stat().st_size for path in store.shelf(KEY).path.glob("*.[fc]*")}
    assert sizes == {"hs.f32": 2 * 20 * 4, "rw.f32": 2 * 12 * 4, "rows.crc": 2 * 8}


@pytest.mark.parametrize(
    "changed",
    [
        {"fingerprint": "e" * 64},
        {"bits": 16},
        {"double_quant": False},
        {"dequantised": True},
        {"prompt": "prompteol"},
        {"template": "reworded {text}"},
        {"rw": "softmax"},
        {"pooling": "mean"},
        {"max_tokens": 128},
        {"token_weights": "e" * 64},
    ],
)
def test_whatever_decides_an_embedding_keeps_vectors_apart(
    tmp_path: Path, changed: dict[str, object]
) -> None:
    store = VectorStore(tmp_path)
    put(store, KEY, ["a"], random_embeddings(1))
    other = replace(KEY, **changed)  # type: ignore[arg-type]
    assert get(store, other, ["a"]) == (None, [0])
    assert len(changed) == 1
    assert set(changed) <= set(StoreKey.__dataclass_fields__)


# Damage


def filled(directory: Path) -> tuple[Path, Embeddings]:
    store, given = VectorStore(directory), random_embeddings(5)
    put(store, KEY, list("abcde"), given)
    store.close()
    return directory / KEY.name, given


@pytest.mark.parametrize("name", ["hs.f32", "rw.f32", "rows.crc"])
def test_rows_that_are_not_all_there_are_made_anew_and_told(tmp_path: Path, name: str) -> None:
    folder, given = filled(tmp_path)
    os.truncate(folder / name, (folder / name).stat().st_size - 1)
    told: list[str] = []
    store = VectorStore(tmp_path, told.append)
    assert get(store, KEY, list("abcde"))[1] == [0, 1, 2, 3, 4]
    (line,) = told
    assert "made anew" in line
    assert str(folder) in line
    put(store, KEY, list("abcde"), given)
    assert equal(get(store, KEY, list("abcde"))[0], given)


@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: (folder / "texts.sqlite").write_bytes(b"no database at all" * 99),
        lambda folder: (folder / "rw.f32").unlink(),
        lambda folder: execute(folder, "DELETE FROM vectors WHERE row = 2"),
        lambda folder: execute(folder, "UPDATE meta SET value = '9' WHERE name = 'format'"),
        lambda folder: execute(folder, "UPDATE meta SET value = '{}' WHERE name = 'key'"),
        lambda folder: execute(folder, "UPDATE meta SET value = 'x' WHERE name = 'dims'"),
        lambda folder: execute(folder, "DELETE FROM meta WHERE name = 'dims'"),
    ],
)
def test_files_that_do_not_belong_together_are_made_anew(tmp_path: Path, harm: object) -> None:
    folder, given = filled(tmp_path)
    harm(folder)  # type: ignore[operator]
    told: list[str] = []
    store = VectorStore(tmp_path, told.append)
    assert get(store, KEY, ["a"]) == (None, [0])
    assert len(told) == 1
    put(store, KEY, ["a"], rows(given, [0]))
    assert equal(get(VectorStore(tmp_path), KEY, ["a"])[0], rows(given, [0]))


def execute(folder: Path, sql: str) -> None:
    connection = sqlite3.connect(folder / "texts.sqlite")
    with connection:
        connection.execute(sql)
    connection.close()


def test_an_altered_row_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    folder, given = filled(tmp_path)
    alter(folder / "rw.f32", 3 * 12 * 4 + 7)
    store = VectorStore(tmp_path)
    assert equal(get(store, KEY, ["a", "c"])[0], rows(given, [0, 2]))
    with pytest.raises(StorageError, match=r"rw.f32 is damaged \(row 3\); remove .* and run again"):
        get(store, KEY, ["a", "d"])


def alter(path: Path, place: int) -> None:
    with path.open("rb+") as file:
        file.seek(place)
        file.write(b"\x55")


def test_a_damaged_row_is_computed_anew(tmp_path: Path) -> None:
    log, texts = tmp_path / "log", ["a", "b b", "c"]
    stored = stored_over(tmp_path / "v", logged(log))
    given = stored.encode(texts)
    stored.store.close()
    log.unlink()
    folder = stored.store.directory / stored.identity.key(False).name
    alter(folder / "hs.f32", 25)
    again, told = stored_over(tmp_path / "v", logged(log)), []
    again.store.notify = told.append
    assert equal(again.encode(["new", *texts, "a"]), logged().vectors(["new", *texts, "a"]))
    assert told == [f"damaged vectors are made anew: 1 in {folder}"]
    assert sorted(log.read_text().splitlines()) == ["a", "new"]
    last = StoredEncoder(VectorStore(tmp_path / "v"), never, stored.identity)
    assert equal(last.encode(texts), given)


# Vectors of format 1: HS and RW side by side in rows.f32, checksums in the table

OLD = DATA / "vectors-format-1"
OLD_TEXTS = ["one", "two words"]


def old_store(directory: Path) -> tuple[Path, Path]:
    """A copy of vectors that an earlier version kept: the store and the folder of its one key."""
    shutil.copytree(OLD, directory)
    (folder,) = directory.iterdir()
    return directory, folder


def test_vectors_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    directory, folder = old_store(tmp_path / "v")
    for _ in range(2):
        told: list[str] = []
        identity = identity_of(fake_spec())
        stored = StoredEncoder(VectorStore(directory, told.append), never, identity)
        assert equal(stored.encode(OLD_TEXTS[::-1]), logged().vectors(OLD_TEXTS[::-1]))
        assert stored.tokens(OLD_TEXTS) == 3
        assert told == []
        assert {path.name for path in folder.iterdir()} == {
            *("hs.f32", "rw.f32", "rows.crc", "texts.sqlite")
        }


def test_a_damaged_row_of_an_earlier_version_is_computed_anew(tmp_path: Path) -> None:
    directory, folder = old_store(tmp_path / "v")
    alter(folder / "rows.f32", (folder / "rows.f32").stat().st_size - 2)
    with pytest.raises(StorageError, match="row 1"):
        get(VectorStore(directory), identity_of(fake_spec()).key(False), OLD_TEXTS)
    stored = stored_over(directory)
    assert equal(stored.encode(OLD_TEXTS), logged().vectors(OLD_TEXTS))
    assert stored.texts_computed == 1


def test_files_of_an_earlier_version_that_do_not_belong_together_are_made_anew(
    tmp_path: Path,
) -> None:
    directory, folder = old_store(tmp_path / "v")
    os.truncate(folder / "rows.f32", 40)
    told: list[str] = []
    key = identity_of(fake_spec()).key(False)
    assert get(VectorStore(directory, told.append), key, OLD_TEXTS) == (None, [0, 1])
    assert len(told) == 1 and "made anew" in told[0]


def test_a_full_disk_leaves_vectors_of_an_earlier_version_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    directory, _ = old_store(tmp_path / "v")
    identity = identity_of(fake_spec())
    with monkeypatch.context() as patch, pytest.raises(StorageError, match="--vectors"):
        patch.setattr(os, "pwrite", full)
        get(VectorStore(directory), identity.key(False), OLD_TEXTS)
    stored = StoredEncoder(VectorStore(directory), never, identity)
    assert equal(stored.encode(OLD_TEXTS), logged().vectors(OLD_TEXTS))


def test_several_processes_read_vectors_of_an_earlier_version(tmp_path: Path) -> None:
    directory, _ = old_store(tmp_path / "v")
    context = forks.context()
    start = context.Event()
    readers = [
        context.Process(target=put_many, args=(str(directory), OLD_TEXTS, start)) for _ in range(3)
    ]
    for reader in readers:
        reader.start()
    start.set()
    for reader in readers:
        reader.join(60)
        assert reader.exitcode == 0
    stored = StoredEncoder(VectorStore(directory), never, identity_of(fake_spec()))
    assert equal(stored.encode(OLD_TEXTS), logged().vectors(OLD_TEXTS))


def test_vectors_that_cannot_be_are_refused(tmp_path: Path) -> None:
    store, given = VectorStore(tmp_path), random_embeddings(2)
    put(store, KEY, ["a"], rows(given, [0]))
    with pytest.raises(ModelError, match="dimensions"):
        put(store, KEY, ["b"], Embeddings(given.hs[1:, :3], given.rw[1:]))
    given.hs[1, 1] = np.nan
    with pytest.raises(ModelError, match="not finite"):
        put(store, KEY, ["b"], rows(given, [1]))
    assert get(store, KEY, ["a", "b"]) == (None, [1])


def test_a_directory_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="--vectors"):
        get(VectorStore(tmp_path / "file" / "vectors"), KEY, ["a"])


# Interruptions and company


def test_rows_that_were_not_committed_are_overwritten(tmp_path: Path) -> None:
    folder, given = filled(tmp_path)
    for name in ("hs.f32", "rw.f32", "rows.crc"):
        with (folder / name).open("ab") as file:
            file.write(b"\xff" * 777)
    store = VectorStore(tmp_path)
    more = random_embeddings(2, seed=3)
    put(store, KEY, ["x", "y"], more)
    again = VectorStore(tmp_path)
    assert equal(get(again, KEY, ["x", "y"])[0], more)
    assert equal(get(again, KEY, list("abcde"))[0], given)


def test_killed_while_embedding_and_started_again_nothing_is_embedded_twice(
    tmp_path: Path,
) -> None:
    texts = [f"text{i}" for i in range(60)]
    log = tmp_path / "log"
    context = forks.context()
    process = context.Process(target=ensure_slowly, args=(str(tmp_path / "v"), str(log), texts))
    process.start()
    deadline = time.monotonic() + 60
    while not log.exists() or len(log.read_text().splitlines()) < 15:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    first = log.read_text().splitlines()

    log.unlink()
    encoder = logged(log, batch_tokens=5)
    stored = stored_over(tmp_path / "v", encoder)
    kept = 60 - len(get(stored.store, stored.identity.key(False), texts)[1])
    # What was computed last had no time to be kept: at most one batch of five.
    assert 10 <= kept < 60
    assert 0 <= len(first) - kept <= 5
    found = stored.encode(texts)
    second = log.read_text().splitlines()
    assert len(second) == 60 - kept == stored.texts_computed
    assert not set(first[:kept]) & set(second)
    assert equal(found, encoder.vectors(texts))


def test_several_writers_share_a_key(tmp_path: Path) -> None:
    texts = [f"text{i} word{i % 3}" for i in range(40)]
    context = forks.context()
    start = context.Event()
    writers = [
        context.Process(target=put_many, args=(str(tmp_path), texts[shift:] + texts[:shift], start))
        for shift in (0, 20)
    ]
    for writer in writers:
        writer.start()
    start.set()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    stored = stored_over(tmp_path)
    assert len(stored.store.shelf(stored.identity.key(False))) == 40
    stored._loader = type(stored._loader)(never)
    assert equal(stored.encode(texts), logged().vectors(texts))


# The stored encoder


def test_a_text_is_embedded_once_and_then_no_model_is_loaded(tmp_path: Path) -> None:
    log = tmp_path / "log"
    texts = ["b b", "a", "b b", "c d e f", "a"]
    stored = stored_over(tmp_path / "v", logged(log))
    done: list[tuple[int, int]] = []
    found = stored.encode(texts, progress=lambda _, n, total: done.append((n, total)))
    assert equal(found, logged().vectors(texts))
    assert sorted(log.read_text().splitlines()) == ["a", "b b", "c d e f"]
    assert done[-1] == (3, 3)
    assert (stored.texts_computed, stored.tokens_computed) == (3, 7)
    assert stored.seconds_computed > 0
    assert stored.loaded

    again = StoredEncoder(VectorStore(tmp_path / "v"), never, stored.identity)
    assert equal(again.encode(texts), found)
    assert again.spec == stored.spec == fake_spec()
    assert again.tokens(["a", "a", "b b", "never seen"]) == 3
    assert not again.loaded
    assert again.texts_computed == 0


def test_plans_read_from_the_store(tmp_path: Path) -> None:
    long = " ".join(["w"] * 40)
    texts = ["x y", long, "x y", "z"]
    stored = stored_over(tmp_path)
    plan = stored.plan(texts)
    assert plan.tokens == 2 + 40 + 1
    assert list(plan.truncated) == [False, True, False, False]
    assert [i for batch in plan.batches for i in batch] == [0, 1, 2, 3]
    assert equal(plan.encode(0), logged().vectors(texts))


def test_queries_under_another_prompt_have_vectors_of_their_own(tmp_path: Path) -> None:
    same = stored_over(tmp_path / "same")
    same.ensure(["a"])
    same.ensure(["a"], query=True)
    assert same.texts_computed == 1

    stored = stored_over(tmp_path / "other", query_prompt="prompteol")
    texts, queries = stored.encode(["a"]), stored.encode(["a"], query=True)
    assert stored.texts_computed == 2
    assert not np.array_equal(texts.hs, queries.hs)
    other = stored_over(tmp_path / "other").with_prompt("prompteol")
    assert equal(other.encode(["a"]), queries)
    assert other.texts_computed == 0


def test_prompts_of_a_model_share_one_load(tmp_path: Path) -> None:
    loads: list[int] = []

    def load():  # type: ignore[no-untyped-def]
        loads.append(1)
        return logged()

    identity = identity_of(fake_spec())
    first = StoredEncoder(VectorStore(tmp_path), load, identity)
    second = first.with_prompt("prompteol", "style")
    first.encode(["a"])
    second.encode(["a"])
    second.encode(["a"], query=True)
    assert len(loads) == 1
    assert second.loaded
    assert (second.identity.prompt, second.identity.query_prompt) == ("prompteol", "style")


def test_another_model_than_expected_is_refused(tmp_path: Path) -> None:
    stored = stored_over(tmp_path, fingerprint="e" * 64)
    with pytest.raises(FingerprintMismatchError, match="fingerprint"):
        stored.encode(["a"])


def test_open_finds_a_model_without_reading_weights(tmp_path: Path) -> None:
    store = VectorStore(tmp_path)
    options = {"bits": 32, "prompt": "prompteol", "max_tokens": 64}
    stored = StoredEncoder.open(store, PARITY / "deepseek", **options)
    assert stored.identity.rw == "softmax"
    assert not stored.identity.dequantised
    texts = ["A text.", "Another one", "A text."]
    found = stored.encode(texts)
    from moee_index.encode.encoder import Encoder

    encoder = Encoder.load(PARITY / "deepseek", **options)  # type: ignore[arg-type]
    expected = encoder.encode(texts)
    np.testing.assert_allclose(found.hs, expected.hs, atol=1e-5)
    np.testing.assert_allclose(found.rw, expected.rw, atol=1e-5)
    assert stored.spec == encoder.spec
    assert stored.tokens(texts) == encoder.plan(texts).tokens
    assert stored.facts["memory_bytes"] == sum(encoder.running.bytes().values())

    again = StoredEncoder.open(VectorStore(tmp_path), PARITY / "deepseek", **options)
    again.checkpoint = None
    assert again.facts == stored.facts
    assert again.spec == encoder.spec
    assert not again.loaded


def test_a_dequantised_checkpoint_is_not_the_one_it_was_made_from(
    tmp_path: Path, four_bit_olmoe: Path
) -> None:
    store = VectorStore(tmp_path)
    keys = {
        (path, bits): StoredEncoder.open(store, path, bits=bits, double_quant=None).identity.key(
            False
        )
        for path in (PARITY / "olmoe", four_bit_olmoe)
        for bits in (4, 32)
    }
    assert keys[PARITY / "olmoe", 4] == keys[four_bit_olmoe, 4]
    assert keys[PARITY / "olmoe", 32] != keys[four_bit_olmoe, 32]


def test_parameters_are_counted() -> None:
    # 3 layers of 64: attention 4·64², q and k norms 2·64, two norms 2·64, router 8·64, and 8
    # experts of 3·64·48, of which 2 are met; a last norm; 2048 embeddings.
    layer = 4 * 64**2 + 4 * 64 + 8 * 64
    expert = 3 * 64 * 48
    assert count_parameters(open_checkpoint(PARITY / "olmoe", name="olmoe")) == {
        "parameters": 3 * (layer + 8 * expert) + 64 + 2048 * 64,
        "embedding_parameters": 2048 * 64,
        "active_parameters": 3 * (layer + 2 * expert) + 64,
    }
    # 4 layers of 256, 64 experts of 3·256·128, 4 of them met; 28,233 embeddings (its README).
    layer, expert = 4 * 256**2 + 4 * 256 + 64 * 256, 3 * 256 * 128
    assert count_parameters(find_checkpoint()) == {
        "parameters": 4 * (layer + 64 * expert) + 256 + 28233 * 256,
        "embedding_parameters": 28233 * 256,
        "active_parameters": 4 * (layer + 4 * expert) + 256,
    }


def test_pooling_idf_keeps_the_vectors_of_each_table_apart(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(PARITY / "olmoe", model)
    store, options = VectorStore(tmp_path / "vectors"), {"bits": 32, "pooling": "idf"}
    with pytest.raises(MisuseError, match="needs a table of token weights"):
        StoredEncoder.open(store, model, **options)
    found = []
    for seed in (1, 2):
        rng = np.random.default_rng(seed)
        table = TokenWeights(rng.gamma(0.5, 3, vocabulary(model)).astype(np.float32))
        (model / FILE).write_bytes(table.to_bytes())
        stored = StoredEncoder.open(store, model, **options)
        assert stored.identity.token_weights == table.checksum
        found.append(stored.encode(["one text of several tokens"]))
        wanted = Encoder.load(model, bits=32, pooling="idf").encode(["one text of several tokens"])
        assert equal(found[-1], wanted)
        again = StoredEncoder.open(store, model, **options)
        assert equal(again.encode(["one text of several tokens"]), wanted)
        assert not again.loaded
    assert not np.allclose(found[0].hs, found[1].hs)
    assert len(list((tmp_path / "vectors").iterdir())) == 2


def vocabulary(model: Path) -> int:
    found = vocabulary_of(open_checkpoint(model, name="model"))
    assert found is not None
    return found
