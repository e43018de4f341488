"""What the page asks beside searches: routing, values of fields, filters, passages."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from serving import Served, news

from moee_index import Encoder, Index

QUERY = "a vote in parliament"


def routed(served: Served, **body: Any) -> Any:
    return served.post("/v1/indexes/news/routing", body)


def test_routing_adds_up_to_what_the_hit_says(served: Served) -> None:
    hit = served.post("/v1/search", {"index": "news", "query": QUERY}).json["hits"][0]
    answer = routed(served, document=hit["id"], query=QUERY).json
    assert answer["rw"] == pytest.approx(hit["rw"], abs=1e-5)
    assert answer["hs"] == pytest.approx(hit["hs"], abs=1e-5)
    assert len(answer["layers"]) == 4
    shares = [sum(layer["shared"]) for layer in answer["layers"]]
    assert sum(shares) == pytest.approx(answer["rw"], abs=1e-6)
    assert shares == pytest.approx([layer["contribution"] for layer in answer["layers"]])
    for layer in answer["layers"]:
        assert sum(layer["left"]) == pytest.approx(1) == sum(layer["right"])


def test_routing_of_two_documents_is_that_of_their_rows(served: Served) -> None:
    first, second = (document.id for document in news(2))
    both = routed(served, document=second, other=first).json
    turned = routed(served, document=first, other=second).json
    assert both["rw"] == pytest.approx(turned["rw"])
    assert both["layers"][0]["left"] == turned["layers"][0]["right"]
    like = served.post("/v1/search", {"index": "news", "like": first, "k": 119}).json["hits"]
    hit = next(hit for hit in like if hit["id"] == second)
    assert both["rw"] == pytest.approx(hit["rw"], abs=1e-5)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"document": "nobody", "query": "x"}, 404),
        ({"document": "nobody"}, 400),
        ({"document": "x", "query": "x", "other": "x"}, 400),
        ({"document": "x", "query": " "}, 400),
        ({"query": "x"}, 400),
        ({"document": "x", "query": "x", "more": 1}, 400),
        ({"document": "\ud800", "query": "x"}, 400),
    ],
)
def test_routing_of_nothing(served: Served, body: Any, status: int) -> None:
    assert routed(served, **body).status == status


def test_a_document_of_several_passages_is_named_by_one(
    served: Served, passages_index: Path
) -> None:
    with Index.open(passages_index) as index:
        split = next(name for name in index.ids() if name.endswith("#2")).removesuffix("#2")
    path = "/v1/indexes/passages/routing"
    answer = served.post(path, {"document": split, "query": QUERY})
    assert answer.status == 400 and f"{split}#1" in answer.error["message"]
    assert served.post(path, {"document": f"{split}#2", "query": QUERY}).status == 200


def test_documents_that_use_an_expert_are_told_with_how_many_were_looked_at(
    served: Served, news_index: Path, tiny: Encoder
) -> None:
    from moee_index.index.routing import usage

    path = "/v1/indexes/news/routing/documents"
    answer = served.get(f"{path}?layer=1&expert=3").json
    assert (answer["rows"], answer["looked_at"], answer["seed"]) == (120, 120, 0)
    with Index.open(news_index) as index:
        names = list(index.ids())
        used = usage(index.vectors(names).rw, tiny.rw_widths, tiny.spec.rw)[:, 64 + 3]
    best = sorted(zip(-used, names, strict=True))[:8]
    assert [document["id"] for document in answer["documents"]] == [name for _, name in best]
    assert answer["documents"][0]["amount"] == pytest.approx(-best[0][0], abs=1e-6)
    others = served.get(f"{path}?layer=1&expert=3&without={quote(best[0][1])}").json
    assert others["documents"][0]["id"] == best[1][1]
    for wrong in ("layer=4&expert=0", "layer=0&expert=64", "layer=-1&expert=0", "layer=0"):
        assert served.get(f"{path}?{wrong}").status == 400, wrong


def test_facets_of_no_field_in_particular_are_those_that_repeat(served: Served) -> None:
    answer = served.post("/v1/indexes/news/facets", {}).json
    assert answer["matching"] == 120
    (part,) = answer["facets"]
    assert part == {
        "field": "part",
        "distinct": 2,
        "missing": 0,
        "values": [
            {"value": "morning", "count": 80, "filter": 'part = "morning"'},
            {"value": "evening", "count": 40, "filter": 'part = "evening"'},
        ],
    }


def test_facets_are_counted_under_a_filter_and_cut(served: Served) -> None:
    body = {"fields": ["number", "part"], "filter": "number < 9", "values": 4}
    number, part = served.post("/v1/indexes/news/facets", body).json["facets"]
    assert (number["distinct"], len(number["values"])) == (9, 4)
    assert [value["count"] for value in part["values"]] == [6, 3]
    for wrong in ({"fields": ["nothing"]}, {"filter": "part ="}, {"values": 0}):
        assert served.post("/v1/indexes/news/facets", wrong).status == 400, wrong


def test_facets_of_a_query_with_signs_count_what_meets_them(served: Served) -> None:
    query = "vote -election"
    answer = served.post("/v1/indexes/news/facets", {"query": query}).json
    body = {"index": "news", "query": query, "syntax": True, "k": 120}
    hits = served.post("/v1/search", body).json["hits"]
    assert answer["matching"] == len(hits) < 120
    assert sum(value["count"] for value in answer["facets"][0]["values"]) == len(hits)
    assert served.post("/v1/indexes/news/facets", {"query": 'a "phrase'}).status == 400


def test_signs_are_no_part_of_what_is_compared(served: Served) -> None:
    name = news(1)[0].id
    signed = routed(served, document=name, query="+vote -storm", syntax=True).json
    plain = routed(served, document=name, query="vote").json
    assert signed["rw"] == pytest.approx(plain["rw"], abs=1e-6)
    assert signed["rw"] != pytest.approx(
        routed(served, document=name, query="+vote -storm").json["rw"], abs=1e-6
    )


def test_the_filter_of_a_value_finds_its_documents(served: Served) -> None:
    for facet in served.post("/v1/indexes/news/facets", {"fields": ["title", "part"]}).json[
        "facets"
    ]:
        for value in facet["values"]:
            body = {"filter": value["filter"]}
            found = served.post("/v1/indexes/news/filter", body).json
            assert found["matching"] == value["count"], value


def test_a_filter_is_looked_at(served: Served) -> None:
    def look(filter: str) -> Any:
        return served.post("/v1/indexes/news/filter", {"filter": filter}).json

    assert look("number < 9")["matching"] == 9
    wrong = look("number < ")
    assert wrong["matching"] is None and wrong["error"]["position"] == 10
    assert "nothing" in look("nothing = 1")["error"]["message"]
    huge = served.post("/v1/indexes/news/filter", {"filter": "number < 1 or " * 400 + "id = ''"})
    assert huge.status == 400


def test_passages_know_their_neighbours(served: Served, passages_index: Path) -> None:
    with Index.open(passages_index) as index:
        names = list(index.ids())
        split = next(name for name in names if name.endswith("#2")).removesuffix("#2")
        passages = index.passages([split])[split]
    base = "/v1/indexes/passages/passages?id="
    first = served.get(base + quote(split)).json
    assert (first["id"], first["number"], first["of"]) == (f"{split}#1", 1, len(passages))
    assert first["previous"] is None and first["next"] == f"{split}#2"
    second = served.get(base + quote(f"{split}#2")).json
    assert (second["text"], second["previous"]) == (passages[1].text, f"{split}#1")
    assert second["document"] == split and "title" in second["metadata"]
    assert served.get(base + "nobody").status == 404
    assert served.get(base + quote(f"{split}#99")).status == 404


def test_a_document_that_is_not_split_is_its_own_passage(served: Served) -> None:
    document = news(1)[0]
    found = served.get(f"/v1/indexes/news/passages?id={quote(document.id)}").json
    assert (found["text"], found["number"], found["of"]) == (document.text, 1, 1)
    assert found["previous"] is found["next"] is None
