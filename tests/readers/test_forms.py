"""Small files in the forms of other projects: what is read of each, and with which options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from moee_index.errors import CorpusError
from moee_index.readers.corpus import read_corpora

FORMS = Path(__file__).parents[1] / "data" / "forms"

SAMPLES: list[tuple[str, dict[str, Any], list[tuple[str, str]]]] = [
    (
        "beir",
        {},
        [
            ("MED-10", "Statin use A cohort of women with breast cancer."),
            ("MED-14", "Meals low in salt."),
        ],
    ),
    ("mteb", {}, [("1", "Tides follow the moon."), ("2", "Sea Ships wait for the tide.")]),
    (
        "pyserini/array.json",
        {"text_field": "contents"},
        [("doc1", "contents of document 1."), ("doc2", "Title of 2\nand its contents.")],
    ),
    ("pyserini/one.json", {"text_field": "contents"}, [("doc3", "One document a file.")]),
    (
        "pyserini/lines.json",
        {"text_field": "contents"},
        [("doc4", "string 4"), ("doc5", "string 5")],
    ),
    (
        "msmarco/collection.tsv",
        {"header": False, "columns": ["id", "text"]},
        [
            (
                "0",
                "The presence of communication amid scientific minds was equally important to the "
                'success of the "Manhattan Project".',
            ),
            (
                "1",
                '"The Manhattan Project and its atomic bomb helped bring an end to World War II.',
            ),
            ("2", "Essay on The Manhattan Project."),
        ],
    ),
    (
        "msmarco-v2/msmarco_doc_00.gz",
        {"format": "jsonl", "id_field": "docid", "text_field": "body"},
        [
            ("msmarco_doc_00_0", "Ice Ice is frozen water."),
            ("msmarco_doc_00_4806", "Fog Fog is a cloud."),
        ],
    ),
    (
        "msmarco-v2/msmarco_passage_00.gz",
        {"format": "jsonl", "id_field": "pid", "text_field": "passage"},
        [("msmarco_passage_00_0", "Ice is frozen water.")],
    ),
    (
        "tevatron/corpus.jsonl",
        {"id_field": "docid"},
        [("4048", "Rivers The Rhine flows north."), ("4049", "Lakes Constance is a lake.")],
    ),
    (
        "mrtydi/corpus.jsonl.gz",
        {"id_field": "docid"},
        [("1#0", "หน้าหลัก วิกิพีเดียดำเนินการ"), ("1#1", "หน้าหลัก สารานุกรม")],
    ),
    (
        "c4/c4-train.00000-of-00001.json.gz",
        {"id_field": "url"},
        [
            ("https://example.org/bbq", "Beginners BBQ class.\nDo you want to get better?"),
            ("https://example.org/l", "Biomedics lenses."),
        ],
    ),
    (
        "wikipedia/wiki_00",
        {"format": "jsonl"},
        [("12", "Anarchism Anarchism is a political philosophy.\n\nHistory."), ("25", "Autism")],
    ),
    (
        "dolly/databricks-dolly-15k.jsonl",
        {"text_field": "response"},
        [
            ("databricks-dolly-15k:1", "In August 2000."),
            ("databricks-dolly-15k:2", "Tope"),
        ],
    ),
    (
        "alpaca/alpaca_data.json",
        {"text_field": "output"},
        [
            ("alpaca_data:1", "1. Eat well.\n2. Sleep."),
            ("alpaca_data:2", "Red, blue and yellow."),
        ],
    ),
    (
        "mongodb/export.json",
        {"id_field": "_id.$oid"},
        [("5f4e3d2c1b0a", "A record of MongoDB."), ("5f4e3d2c1b0b", "Another.")],
    ),
    (
        "spreadsheets/excel-de.csv",
        {"delimiter": ";"},
        [("1", 'Zeile eins\nZeile zwei; mit "Zitat"'), ("2", "Brötchen")],
    ),
    ("spreadsheets/excel-sep.csv", {}, [("1", "cats, dogs")]),
    ("spreadsheets/excel-mac.csv", {}, [("1", "cats"), ("2", "two\nlines")]),
    ("spreadsheets/libreoffice.csv", {}, [("1", "Ships, boats"), ("2", 'He said "no"')]),
    ("spreadsheets/pandas.csv", {}, [("a", "first\nline"), ("b", "")]),
    ("spreadsheets/sheets.tsv", {}, [("1", '"Quoted" word'), ("2", '5" disk')]),
]


@pytest.mark.parametrize(
    ("name", "options", "expected"), SAMPLES, ids=lambda value: str(value)[:30]
)
def test_forms_of_other_projects(
    name: str, options: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    documents = read_corpora([FORMS / name], **options)
    assert [(document.id, document.content) for document in documents] == expected


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("pyserini/array.json", "'contents' looks like it: --text-field contents"),
        ("msmarco/collection.tsv", "--no-header --columns id,text"),
        ("msmarco-v2/msmarco_doc_00.gz", "unknown kind of file"),
        ("sentence-transformers/sentences.jsonl.gz", "a list where a JSON object belongs"),
        ("sentence-transformers/sets.jsonl.gz", "no text field 'text'; there are 'query', 'pos'"),
        ("alpaca/alpaca_data.json", "no text field 'text'; there are 'instruction', 'input'"),
        ("spreadsheets/excel-de.csv", "give --delimiter ';'"),
        ("spreadsheets/excel-unicode.txt", "is UTF-16 text, not UTF-8; convert it"),
        ("mongodb/export.json", r"take what is in it with --id-field _id.$oid"),
    ],
)
def test_what_is_said_without_the_options(name: str, reason: str) -> None:
    with pytest.raises(CorpusError) as caught:
        list(read_corpora([FORMS / name]))
    assert reason in str(caught.value)
    assert str(caught.value).startswith(str(FORMS / name))


def test_metadata_of_a_spreadsheet_stays_the_text_it_is() -> None:
    first, _ = read_corpora([FORMS / "spreadsheets/excel-de.csv"], delimiter=";")
    assert first.metadata == {"Preis": "1,50"}
    first, _ = read_corpora([FORMS / "spreadsheets/pandas.csv"])
    assert first.metadata == {"column 1": "0"}
