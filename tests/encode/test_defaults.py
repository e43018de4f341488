"""A checkpoint's own options in moee_index.json and its positions: a bad value is told where it
stands.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fakes.small_checkpoint import edit_json as edit
from moee_index.encode.encoder import Encoder
from moee_index.errors import MisuseError, ModelError


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"prompt": "no hole"}, "'prompt' 'no hole' is neither a known prompt"),
        ({"prompt": 5}, "'prompt' 5 is not text"),
        ({"query-prompt": "half \ud83d {text}"}, "'query-prompt' holds half a surrogate pair"),
        ({"pooling": "first"}, "'pooling' first is unknown; known: last, mean"),
        ({"max-tokens": "512"}, "'max-tokens' 512 must be an integer"),
        ({"max-tokens": True}, "'max-tokens' True must be an integer"),
        ({"max-tokens": 0}, "'max-tokens' 0 must be at least 1"),
        ({"max-tokens": 300}, "'max-tokens' 300 is more than the 256 positions"),
        ({"rw": []}, r"'rw' \[\] is unknown"),
        ({"lexical": 1.5}, "'lexical' 1.5 must be a number from 0 to 1"),
        ({"lexical": "0.4"}, "'lexical' 0.4 must be a number from 0 to 1"),
        ({"lexical": None}, "'lexical' None must be a number from 0 to 1"),
        ({"lexical": True}, "'lexical' True must be a number from 0 to 1"),
        ({"format": 2}, "has format 2"),
        ({"quantization": {"type": "fp4"}}, "has type fp4, this version reads nf4"),
        ({"quantization": {"bytes": "many"}}, "'bytes' of 'quantization' is not of type int"),
    ],
)
def test_a_bad_value_of_moee_index_json_blames_that_file(
    checkpoint: Path, said: dict[str, Any], told: str
) -> None:
    (checkpoint / "moee_index.json").write_text(json.dumps(said))
    with pytest.raises(ModelError, match=rf"moee_index\.json:? (.quantization. )?{told}"):
        Encoder.load(checkpoint)


def test_more_tokens_than_positions_are_refused_with_both_numbers(checkpoint: Path) -> None:
    assert Encoder.load(checkpoint).spec.max_tokens == 256  # the default, where there are fewer
    assert Encoder.load(checkpoint, max_tokens=256).spec.max_tokens == 256
    with pytest.raises(
        MisuseError, match=r"--max-tokens 257 is more than the 256 positions.*max_p"
    ):
        Encoder.load(checkpoint, max_tokens=257)
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256}
    edit(checkpoint / "config.json", rope_parameters=yarn | {"rope_theta": 10000.0})
    assert Encoder.load(checkpoint, max_tokens=1024).spec.max_tokens == 1024
    with pytest.raises(MisuseError, match="1025 is more than the 1024"):
        Encoder.load(checkpoint, max_tokens=1025)


def test_an_index_keeps_the_tokens_that_it_was_built_with(checkpoint: Path) -> None:
    from dataclasses import replace

    spec = replace(Encoder.load(checkpoint).spec, max_tokens=400)
    assert Encoder.for_spec(spec).spec.max_tokens == 400
