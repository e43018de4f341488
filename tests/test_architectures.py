"""Every Mixture-of-Experts architecture that transformers knows, on tiny random checkpoints.

`python tests/test_architectures.py` writes the table of the README. The architectures are found by
a walk over the installed library: a new release's new one is a missing row, not silence.
"""

from __future__ import annotations

import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import architectures
import numpy as np
import pytest
import torch
from architectures import VOCABULARY

from moee_index.embeddings import Embeddings
from moee_index.errors import ModelError
from moee_index.model import running
from moee_index.model.checkpoint import Checkpoint, find_checkpoint
from moee_index.model.four_bits import assert_four_bits
from moee_index.model.matrices import left_in_16_bits
from moee_index.model.nf4 import stacks
from moee_index.model.quantizing import quantize_checkpoint
from moee_index.model.routing import scores_by_sigmoid
from moee_index.model.running import RunningModel, TokenizedText
from moee_index.model.storage import Choice

README = Path(__file__).parent.parent / "README.md"
BEGIN = "<!-- models: written by tests/test_architectures.py -->"
END = "<!-- end of models -->"

# What is no model for this program, and what it is told.
REFUSED = {
    "diffusion_gemma": "no causal decoder",
    "doge": "not one row a token",
    "nllb-moe": "an encoder with a decoder",
    "openai_privacy_filter": "no causal decoder",
    "switch_transformers": "an encoder with a decoder",
}

ALL = {one.kind: one for one in architectures.architectures()}
RUN = [kind for kind in ALL if kind not in REFUSED]

# Of quite different lengths; longer than any sliding window or block of the tiny configs.
LENGTHS = (23, 1, 9, 40, 2)
_CHOICE = np.random.default_rng(0)
IDS = [tuple(int(i) for i in _CHOICE.integers(3, VOCABULARY, size=n)) for n in LENGTHS]
TEXTS = [TokenizedText(ids, (0, len(ids))) for ids in IDS]
BEGINNING = (5, 6, 7, 8, 9)
BEGUN = [TokenizedText(BEGINNING + ids, (5, 5 + len(ids))) for ids in IDS]


@dataclass
class Made:
    """A checkpoint, the model it was saved from, and what that gives for `IDS`."""

    checkpoint: Checkpoint
    model: Any
    wanted: Embeddings


def make(kind: str, directory: Path) -> Made:
    model = architectures.write_checkpoint(ALL[kind], directory)
    found = Embeddings(*architectures.reference(model, IDS))
    return Made(find_checkpoint(directory), model, found)


@pytest.fixture(scope="module", params=RUN)
def own(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Every architecture's checkpoint in turn, made once."""
    return make(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(autouse=True)
def in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """4 bits computed in float32, so that near-ties of routers cannot fall the other way."""
    monkeypatch.setattr(running, "choose_compute", lambda *_: Choice(torch.float32, "a test"))


def load(checkpoint: Checkpoint, bits: int, pooling: str = "last", **options: Any) -> RunningModel:
    return RunningModel(
        checkpoint, bits=bits, double_quant=False, rw="logits", pooling=pooling, **options
    )


def one_by_one(model: RunningModel, texts: list[TokenizedText] = TEXTS) -> Embeddings:
    found = [model.embed([text]) for text in texts]
    return Embeddings(
        np.concatenate([one.hs for one in found]), np.concatenate([one.rw for one in found])
    )


def apart(found: Embeddings, wanted: Embeddings) -> tuple[float, float]:
    """Largest differences of HS and of RW, relative to the largest element of each."""
    assert found.hs.shape == wanted.hs.shape and found.rw.shape == wanted.rw.shape
    return (
        float(np.abs(found.hs - wanted.hs).max() / np.abs(wanted.hs).max()),
        float(np.abs(found.rw - wanted.rw).max() / np.abs(wanted.rw).max()),
    )


def cosines(found: Embeddings, wanted: Embeddings) -> tuple[float, float]:
    """Median cosines of HS and of RW."""

    def median(a: np.ndarray, b: np.ndarray) -> float:
        lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
        return float(np.median((a * b).sum(1) / lengths))

    return median(found.hs, wanted.hs), median(found.rw, wanted.rw)


def test_32_bits_are_transformers_own_forward(own: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(own.checkpoint, 32)
    alone = one_by_one(model)
    assert max(apart(alone, own.wanted)) < 1e-5
    assert max(apart(model.embed(TEXTS), alone)) < 1e-5
    # a shared beginning, where layers allow it
    monkeypatch.setattr(running, "_WORTH_SHARING", 1)
    found = model.embed(BEGUN)
    model.shares_beginnings = False
    assert max(apart(found, one_by_one(model, BEGUN))) < 1e-5
    model.pooling = "mean"
    assert max(apart(model.embed(TEXTS), one_by_one(model))) < 1e-5


def test_4_bits_are_transformers_own_forward_with_rounded_weights(own: Made) -> None:
    model = load(own.checkpoint, 4)
    assert_four_bits(model.model)
    architectures.round_weights(own.model, [name for name, _ in stacks(model.model)])
    wanted = Embeddings(*architectures.reference(own.model, IDS))
    alone = one_by_one(model)
    assert max(apart(alone, wanted)) < 1e-4
    assert max(apart(model.embed(TEXTS), alone)) < 1e-5


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_model_for_this_is_refused_by_name(kind: str, tmp_path: Path) -> None:
    architectures.write_checkpoint(ALL[kind], tmp_path)
    for bits in (4, 16):
        with pytest.raises(ModelError, match=REFUSED[kind]):
            load(find_checkpoint(tmp_path), bits)


def swap_gate_and_up(module: Any) -> None:
    gate = type(module)._apply_gate
    module._apply_gate = lambda x: gate(module, torch.cat(x.chunk(2, dim=-1)[::-1], dim=-1))


def forget_bias(module: Any) -> None:
    module.has_bias = False


def forget_norm(module: Any) -> None:
    module.has_post_expert_norm = False


def swap_experts(module: Any) -> None:
    module.down_proj.packed = module.down_proj.packed.flip(0)
    module.down_proj.absmax = module.down_proj.absmax.flip(0)


@pytest.mark.parametrize(
    ("kind", "mutation"),
    [
        ("mixtral", swap_gate_and_up),
        ("mixtral", swap_experts),
        ("gpt_oss", forget_bias),
        ("muse_spark", forget_norm),
    ],
)
def test_a_wrong_layout_could_not_pass(kind: str, mutation: Any, tmp_path: Path) -> None:
    own = make(kind, tmp_path)
    model = load(own.checkpoint, 4)
    right = one_by_one(model)
    for module in model.model.modules():
        if hasattr(module, "is_transposed"):
            mutation(module)
    assert max(apart(one_by_one(model), right)) > 100 * 1e-4


@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss", "nemotron_h", "muse_spark", "zaya"])
def test_grouped_products_know_every_layout(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moee_index.model import experts

    own = make(kind, tmp_path)
    model = load(own.checkpoint, 4)
    wanted = model.embed(TEXTS)
    monkeypatch.setattr(experts, "grouped", lambda _device: True)
    assert max(apart(model.embed(TEXTS), wanted)) < 1e-5


@pytest.mark.parametrize("kind", ["deepseek_v3", "gpt_oss", "jetmoe", "dbrx", "qwen3_vl_moe"])
def test_a_four_bit_checkpoint_gives_the_same(kind: str, tmp_path: Path) -> None:
    own = make(kind, tmp_path / "source")
    quantised = quantize_checkpoint(tmp_path / "source", tmp_path / "four", double_quant=False)
    direct = one_by_one(load(own.checkpoint, 4))
    assert max(apart(one_by_one(load(find_checkpoint(quantised), 4)), direct)) < 1e-5
    dense = one_by_one(load(find_checkpoint(quantised), 32))
    assert min(cosines(dense, direct)) > 0.999


@pytest.mark.parametrize(
    ("kind", "said"),
    [("qwen3_vl_moe", None), ("gpt_oss", "is 64 x 96"), ("llama4_text", "its class's own way")],
)
def test_packed_where_the_layout_is_the_kernels(
    kind: str, said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from moee_index.model import loading
    from moee_index.model.packed import fast_kernel

    if fast_kernel() is None:
        pytest.skip("the packed product needs a processor with AVX512-BF16")
    monkeypatch.undo()
    monkeypatch.setattr(loading, "LARGE", 0)
    own = make(kind, tmp_path)
    model = load(own.checkpoint, 4, few_texts=True)
    if said is not None:
        assert model.layout.value == "standard" and said in model.layout.reason
        return
    assert model.layout.value == "packed", model.layout.reason
    assert min(cosines(one_by_one(model), one_by_one(load(own.checkpoint, 4)))) > 0.99


def test_a_packed_matrix_is_the_standard_one() -> None:
    from moee_index.model.nf4 import NF4Stack
    from moee_index.model.packed import PackedStack

    stack = NF4Stack(2, 64, 128, double_quant=False)
    stack.allocate()
    for index in range(2):
        weights = torch.randn(64, 128, generator=torch.Generator().manual_seed(index))
        stack.put(index, 0, weights.bfloat16())
    packed = PackedStack.of(stack)
    for index in range(2):
        assert torch.equal(packed.matrix(index, torch.float32), stack.matrix(index, torch.float32))


def test_a_stack_stands_in_for_its_tensor() -> None:
    from moee_index.model.nf4 import NF4Stack

    stack = NF4Stack(3, 64, 128, double_quant=True)
    stack.allocate()
    stack.dtype = torch.float32
    generator = torch.Generator().manual_seed(0)
    for index in range(3):
        stack.put(index, 0, torch.randn(64, 128, generator=generator))
    whole = torch.stack([stack.matrix(index, torch.float32) for index in range(3)])
    x = torch.randn(3, 5, 64, generator=generator)
    x[1, 2:] = 0
    linear = torch.nn.functional.linear
    assert stack.shape == whole.shape and stack.dim() == stack.ndim == 3
    torch.testing.assert_close(torch.bmm(x, stack), torch.bmm(x, whole))
    assert torch.equal(linear(x[0], stack[2].T), linear(x[0], whole[2].T))
    assert torch.equal(stack[torch.tensor(1)], whole[1]) and torch.equal(stack[1:], whole[1:])
    assert torch.equal(stack.transpose(1, 2), whole.transpose(1, 2))
    assert torch.equal(stack.float(), whole) and torch.equal(stack.to(torch.float32), whole)
    assert torch.equal(x @ stack, x @ whole)
    flat = NF4Stack(1, 192, 128, double_quant=False)
    flat.allocate()
    flat.flat, flat.dtype = True, torch.float32
    flat.put(0, 0, whole.reshape(192, 128))
    dense = flat.matrix(0, torch.float32)
    assert flat.shape == (192, 128) and torch.equal(
        flat @ x[0, 0].repeat(2), dense @ x[0, 0].repeat(2)
    )
    assert torch.equal(flat.view(-1, 64, 128)[2], dense[128:])
    assert torch.equal(flat.view((3, 64, 128))[torch.tensor(1)], dense[64:128])
    with pytest.raises(AttributeError):
        _ = flat.no_such_thing


def test_what_cannot_be_had_in_four_bits_says_so_and_runs_in_16(tmp_path: Path) -> None:
    config = architectures.tiny_config(
        ALL["olmoe"].config_class, hidden_size=40, intermediate_size=33
    )
    ALL["olmoe"].model_class(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"gate_up_proj is 66 x 40, .* take --bits 16"):
        load(find_checkpoint(tmp_path), 4)
    assert load(find_checkpoint(tmp_path), 16).rw_dim == 4 * 8


def test_what_stays_in_16_bits_is_told(tmp_path: Path) -> None:
    told: list[str] = []
    load(make("jamba", tmp_path).checkpoint, 4, tell=told.append)
    assert any("layers.*.mamba.A_log" in line for line in told)


def test_routers_of_attention_are_no_rw(tmp_path: Path) -> None:
    model = load(make("jetmoe", tmp_path).checkpoint, 4)
    assert model.rw_dim == 4 * 8  # as many routers again choose attention heads


def test_rw_is_of_scores_not_of_probabilities(tmp_path: Path) -> None:
    checkpoint = make("gemma4_text", tmp_path).checkpoint
    given = {"bits": 32, "double_quant": False, "pooling": "last"}
    logits = RunningModel(checkpoint, rw="logits", **given).embed(TEXTS).rw
    assert (logits < 0).any()
    softmax = RunningModel(checkpoint, rw="softmax", **given).embed(TEXTS).rw
    wanted = torch.from_numpy(logits).view(len(TEXTS), -1, 8).softmax(-1)
    np.testing.assert_allclose(softmax, wanted.flatten(1), atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "sigmoid"), [("glm4_moe", True), ("minimax_m2", True), ("qwen2_moe", False)]
)
def test_sigmoid_where_the_router_scores_so(kind: str, sigmoid: bool, tmp_path: Path) -> None:
    from moee_index.errors import MisuseError
    from moee_index.model.architecture import rw_kind

    architectures.write_checkpoint(ALL[kind], tmp_path)
    if sigmoid:
        assert rw_kind("sigmoid", find_checkpoint(tmp_path)) == "sigmoid"
        return
    with pytest.raises(MisuseError, match="does not score by sigmoid"):
        rw_kind("sigmoid", find_checkpoint(tmp_path))


def names() -> dict[str, list[str]]:
    """Row of the table -> its kinds of checkpoints, the text model's first."""
    packages: dict[str, list[str]] = {}
    for kind, one in ALL.items():
        packages.setdefault(one.name, []).append(kind)
    found = {}
    for kinds in packages.values():
        text = ", ".join(f"`{kind}`" for kind in kinds if not ALL[kind].multi_modal)
        whole = ", ".join(f"`{kind}`" for kind in kinds if ALL[kind].multi_modal)
        name = f"{text}; text of {whole}" if text and whole else text or f"text of {whole}"
        found[name.replace("`deepseek_ocr2_text`", "`deepseek`")] = kinds
    return found


def test_every_architecture_has_its_row() -> None:
    table = README.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]
    assert sorted(rows[1:]) == sorted(names()), "run: python tests/test_architectures.py"


def test_the_walk_finds_what_is_known() -> None:
    known = """olmoe qwen2_moe deepseek qwen3_moe qwen3_5_moe mixtral deepseek_v2 deepseek_v3
    gpt_oss granitemoe granitemoehybrid granitemoeshared phimoe glm4_moe ernie4_5_moe lfm2_moe
    hunyuan_v1_moe dots1 jetmoe minimax flex_olmo exaone_moe afmoe llama4 qwen3_next nemotron_h"""
    assert set(known.split()) <= {one.name for one in ALL.values()}


def row(kinds: list[str], directory: Path) -> str:
    """What one row of the table says after its name: the worst of its kinds of checkpoints."""
    if kinds[0] in REFUSED:
        return f"refused: {REFUSED[kinds[0]]} | | | | | |"
    exact, rounded, near, notes = [], [], [], ""
    for kind in kinds:
        own = make(kind, directory / kind)
        exact.append(apart(one_by_one(load(own.checkpoint, 32)), own.wanted))
        model = load(own.checkpoint, 4)
        four = one_by_one(model)
        near.append(cosines(four, own.wanted))
        notes = notes or features(model)
        architectures.round_weights(own.model, [name for name, _ in stacks(model.model)])
        wanted = Embeddings(*architectures.reference(own.model, IDS))
        rounded.append(apart(four, wanted))
    worst = [
        " / ".join(f"{max(one[part] for one in pairs):.0e}" for part in (0, 1)).replace(
            "0e+00", "0"
        )
        for pairs in (exact, rounded)
    ]
    close = " / ".join(f"{min(one[part] for one in near):.2f}" for part in (0, 1))
    return f"{worst[0]} | {worst[1]} | {close} | {notes} |"


def features(model: RunningModel) -> str:
    """Whether a model's routers score by sigmoid, whether a prompt's beginning is computed once,
    what of its matrices stays in 16 bits."""
    scores = "yes" if scores_by_sigmoid(model.model) else "no"
    model.embed(BEGUN)
    shared = "yes" if model._shared is not None else "no"
    left = {re.sub(r"^layers\.\d+\.", "", one.name) for one in left_in_16_bits(model.model)}
    return f"{scores} | {shared} | {', '.join(f'`{name}`' for name in sorted(left))}"


def table() -> str:
    lines = [
        "| `model_type` | 32 bits | 4 bits, exact | 4 bits | sigmoid | shared | 16 bits |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(running, "choose_compute", lambda *_: Choice(torch.float32, "a table"))
        patch.setattr(running, "_WORTH_SHARING", 1)
        for name, kinds in names().items():
            lines.append(f"| {name} | {row(kinds, Path(directory))}")
    return "\n".join(lines)


if __name__ == "__main__":
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    made = table()
    README.write_text(f"{before}{BEGIN}\n\n{made}\n\n{END}{after}", encoding="utf-8")
    sys.exit(0)
