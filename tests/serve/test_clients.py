"""The packages that people have, unchanged, and the bodies that others send."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import cohere
import numpy as np
import openai
import pytest
from serving import Served

from moee_index import Encoder, Index, rerank
from moee_index.export.single_vectors import embed_texts

TEXTS = ["A volcano erupts in Iceland", "Parliament votes on the budget", "A volcano erupts"]


@pytest.fixture(scope="module")
def client(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{served.url}/v1", api_key="none is needed here")


def vectors(response: Any) -> np.ndarray:
    assert [item.index for item in response.data] == list(range(len(response.data)))
    return np.array([item.embedding for item in response.data], dtype=np.float32)


@pytest.mark.parametrize("method", ["sum", "hs", "rw", "concat"])
def test_openai_gets_unit_vectors_of_the_model(
    client: openai.OpenAI, tiny: Encoder, method: Any
) -> None:
    """By default, with its own wish for base64: it decodes what it gets."""
    response = client.embeddings.create(model=f"tiny#{method}", input=TEXTS)
    found = vectors(response)
    expected = embed_texts(TEXTS, tiny, method=method) / (np.sqrt(2) if method == "sum" else 1)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-3)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert response.usage.prompt_tokens == response.usage.total_tokens > 0


def test_a_bare_name_means_sum(client: openai.OpenAI) -> None:
    bare, named = (
        vectors(client.embeddings.create(model=name, input=TEXTS)) for name in ("tiny", "tiny#sum")
    )
    np.testing.assert_allclose(bare, named, atol=2e-3)


def test_floats_are_the_same_as_base64(client: openai.OpenAI) -> None:
    packed = vectors(client.embeddings.create(model="tiny", input=TEXTS[0]))
    plain = vectors(client.embeddings.create(model="tiny", input=TEXTS[0], encoding_format="float"))
    np.testing.assert_allclose(packed, plain, atol=2e-3)


def test_without_a_wish_the_answer_holds_floats(served: Served) -> None:
    answer = served.post("/v1/embeddings", {"model": "tiny", "input": "a text"})
    assert isinstance(answer.json["data"][0]["embedding"][0], float)
    body = {"model": "tiny", "input": "a text", "encoding_format": "base64"}
    packed = served.post("/v1/embeddings", body).json["data"][0]["embedding"]
    assert len(base64.b64decode(packed)) == 4 * len(answer.json["data"][0]["embedding"])


@pytest.mark.parametrize("method", ["sum", "hs", "rw", "concat"])
def test_vectors_of_an_index_are_those_of_embed_index(
    client: openai.OpenAI, news_index: Path, tiny: Encoder, method: Any
) -> None:
    found = vectors(client.embeddings.create(model=f"news#{method}", input=TEXTS))
    with Index.open(news_index) as index:
        expected = embed_texts(TEXTS, tiny, index, method=method)
    np.testing.assert_allclose(found, expected, atol=1e-2)


def test_lists_of_any_length_are_divided_inside(client: openai.OpenAI) -> None:
    texts = [f"text number {number}" for number in range(3000)]
    found = vectors(client.embeddings.create(model="tiny#hs", input=texts))
    assert len(found) == 3000
    for position in (0, 1234, 2999):
        alone = vectors(client.embeddings.create(model="tiny#hs", input=texts[position]))[0]
        assert float(alone @ found[position]) > 0.9995


def test_the_models_are_listed(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert names[:2] == ["tiny", "tiny#sum"]
    assert {"tiny#hs", "tiny#rw", "news#sum", "passages#hs"} <= set(names)


@pytest.mark.parametrize(
    ("wish", "word"),
    [
        ({"dimensions": 64}, "512"),
        ({"model": "other"}, "other"),
        ({"model": "tiny#max"}, "tiny#max"),
        ({"input": []}, "empty"),
    ],
)
def test_openai_is_told_what_is_wrong(
    client: openai.OpenAI, wish: dict[str, Any], word: str
) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.embeddings.create(**{"model": "tiny", "input": "a", **wish})
    assert caught.value.status_code in (400, 404)
    assert word in caught.value.body["message"]  # type: ignore[index]


def test_dimensions_may_be_what_they_are(client: openai.OpenAI) -> None:
    response = client.embeddings.create(model="tiny#hs", input="a", dimensions=256)
    assert vectors(response).shape == (1, 256)


# What langchain-openai's OpenAIEmbeddings sends: without check_embedding_ctx_length=False the ids
# of tiktoken's cl100k_base, several texts a request.
LANGCHAIN_IDS = {
    "input": [[32, 4008, 69, 43854, 59811, 82, 304, 41313], [67182, 479, 16968, 389, 279, 8199]],
    "model": "tiny",
    "encoding_format": "base64",
}
LANGCHAIN_TEXTS = {
    "input": ["A volcano erupts in Iceland", "Parliament votes on the budget"],
    "model": "tiny",
    "encoding_format": "base64",
}


@pytest.mark.parametrize("ids", [LANGCHAIN_IDS["input"], LANGCHAIN_IDS["input"][0]])
def test_token_ids_are_refused_and_the_setting_is_named(served: Served, ids: Any) -> None:
    answer = served.post("/v1/embeddings", {**LANGCHAIN_IDS, "input": ids})
    assert answer.status == 400
    assert "check_embedding_ctx_length=False" in answer.error["message"]


def test_langchains_texts_are_embedded(served: Served) -> None:
    answer = served.post("/v1/embeddings", LANGCHAIN_TEXTS)
    assert answer.status == 200 and len(answer.json["data"]) == 2


# Reranking

DOCUMENTS = ["Parliament votes on the budget", "Ash from a volcano grounds flights", "A recipe"]
QUERY = "volcano eruption"


def test_cohere_gets_scores_from_0_to_1(served: Served, tiny: Encoder) -> None:
    client = cohere.ClientV2(api_key="none is needed here", base_url=served.url)
    response = client.rerank(model="tiny", query=QUERY, documents=DOCUMENTS, top_n=2)
    expected = rerank(QUERY, DOCUMENTS, tiny)[:2]
    assert [result.index for result in response.results] == [int(hit.id) for hit in expected]
    for result, hit in zip(response.results, expected, strict=True):
        assert result.relevance_score == pytest.approx((hit.score + 2) / 4, abs=2e-3)
        assert 0 <= result.relevance_score <= 1


def test_coheres_first_client_gets_the_texts_it_asks_for(served: Served) -> None:
    client = cohere.Client(api_key="none is needed here", base_url=served.url)
    response = client.rerank(model="tiny", query=QUERY, documents=DOCUMENTS, return_documents=True)
    texts = [result.document.text for result in response.results if result.document is not None]
    assert sorted(texts) == sorted(DOCUMENTS)


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_the_shape_of_the_question_is_that_of_the_answer(served: Served, path: str) -> None:
    jina = {"model": "tiny", "query": QUERY, "documents": DOCUMENTS, "top_n": 1}
    answer = served.post(path, jina).json
    assert answer["results"][0]["index"] == 1 and len(answer["results"]) == 1
    assert answer["usage"]["total_tokens"] > 0
    tei = {"query": QUERY, "texts": DOCUMENTS, "return_text": True, "truncate": True}
    ranked = served.post(path, tei).json
    assert [each.keys() for each in ranked] == [{"index", "score", "text"}] * 3
    assert ranked[0]["text"] == DOCUMENTS[1]
    raw = served.post(path, {**tei, "raw_scores": True, "return_text": False}).json
    for each, unmapped in zip(ranked, raw, strict=True):
        assert each["score"] == pytest.approx((unmapped["score"] + 2) / 4, abs=1e-3)


@pytest.mark.parametrize(
    ("method", "alpha", "most"),
    [("sum", None, 2.0), ("sum", 3.0, 4.0), ("hs", None, 1.0), ("rw", None, 1.0),
     ("concat", None, 1.0)],
)  # fmt: skip
def test_relevance_is_a_fixed_map_of_the_methods_range(
    served: Served, method: str, alpha: float | None, most: float
) -> None:
    body = {"query": QUERY, "documents": DOCUMENTS, "method": method, "alpha": alpha}
    for result in served.post("/v1/rerank", body).json["results"]:
        assert result["relevance_score"] == pytest.approx((result["score"] + most) / (2 * most))


def test_of_two_lists_a_texts_relevance_is_the_same(served: Served) -> None:
    one, other = (
        served.post("/v1/rerank", {"query": QUERY, "documents": [DOCUMENTS[1], *more]}).json
        for more in (["A recipe"], ["Another text", "and a third"])
    )
    scores = [
        next(each["relevance_score"] for each in answer["results"] if each["index"] == 0)
        for answer in (one, other)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


@pytest.mark.parametrize("lexical", [0.0, 0.4])
def test_an_index_reranks_with_its_standardizer_and_words(
    served: Served, news_index: Path, tiny: Encoder, lexical: float
) -> None:
    answer = served.post(
        "/v1/rerank",
        {"model": "news", "query": QUERY, "documents": DOCUMENTS, "lexical": lexical},
    ).json
    with Index.open(news_index) as index:
        words = index.words(lexical)
        expected = rerank(QUERY, DOCUMENTS, tiny, standardizer=index.standardizer, words=words)
    assert [each["index"] for each in answer["results"]] == [int(hit.id) for hit in expected]
    for each, hit in zip(answer["results"], expected, strict=True):
        assert each["score"] == pytest.approx(hit.score, abs=2e-2)
        least, most = (lexical - 1, 1) if lexical else (-2, 2)
        mapped = (each["score"] - least) / (most - least)
        assert each["relevance_score"] == pytest.approx(mapped)


# Text Embeddings Inference


@pytest.mark.parametrize(
    "body",
    [
        {"inputs": "What is a volcano?"},
        {"inputs": ["What is a volcano?"], "truncate": True},
        {"inputs": ["What is a volcano?"], "normalize": True, "truncate": False,
         "truncation_direction": "Right", "prompt_name": None, "dimensions": None},
    ],
)  # fmt: skip
def test_tei_gets_a_bare_list_of_vectors(served: Served, body: dict[str, Any]) -> None:
    (vector,) = served.post("/embed", body).json
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    same = served.post("/v1/embeddings", {"model": "tiny", "input": "What is a volcano?"})
    np.testing.assert_allclose(vector, same.json["data"][0]["embedding"], atol=2e-3)


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"inputs": [[101, 2054]]}, "check_embedding_ctx_length"),
        ({"inputs": "word " * 600, "truncate": False}, "512 tokens"),
        ({"inputs": "a", "normalize": False}, "normalize"),
        ({"inputs": "a", "truncation_direction": "Left"}, "truncation_direction"),
        ({"inputs": "a", "prompt_name": "query"}, "prompt_name"),
    ],
)
def test_tei_is_told_what_does_not_go(served: Served, body: dict[str, Any], word: str) -> None:
    answer = served.post("/embed", body)
    assert answer.status == 400
    assert word in answer.error["message"]


def test_tei_is_told_of_the_model(served: Served) -> None:
    info = served.get("/info").json
    assert info["model_id"] == "tiny" and info["max_input_length"] == 512
