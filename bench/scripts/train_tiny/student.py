"""The student: OLMoE's architecture written for training on a few CPU cores.

Weights have the names and shapes that transformers stores; the forward pass takes many texts of
different length with little padding. `save` writes a directory
that plain `transformers` opens as `olmoe`; tests of equality belong to whoever changes this file.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from kernels import Experts, Norm
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

# fmt: off
NF4 = torch.tensor([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
])
# fmt: on
"""the sixteen values of 4-bit NormalFloat (Dettmers et al., QLoRA, 2023)"""


@dataclass(frozen=True)
class Geometry:
    """Sizes of the student; `config` is what transformers calls them."""

    vocabulary: int
    hidden: int = 256
    layers: int = 4
    heads: int = 4
    experts: int = 64
    width: int = 128
    top_k: int = 4
    max_tokens: int = 512
    theta: float = 10000.0
    eps: float = 1e-5

    def config(self) -> dict[str, object]:
        """The contents of config.json."""
        return {
            "architectures": ["OlmoeForCausalLM"],
            "model_type": "olmoe",
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.width,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "num_experts": self.experts,
            "num_experts_per_tok": self.top_k,
            "norm_topk_prob": True,
            "max_position_embeddings": self.max_tokens,
            "rope_theta": self.theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.theta},
            "rms_norm_eps": self.eps,
            "hidden_act": "silu",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "clip_qkv": None,
            "initializer_range": 0.02,
            "router_aux_loss_coef": 0.01,
            "output_router_logits": False,
            "tie_word_embeddings": True,
            "use_cache": False,
            "bos_token_id": None,
            "eos_token_id": None,
            "pad_token_id": 0,
            "dtype": "bfloat16",
        }


@dataclass(frozen=True)
class Packed:
    """Texts sorted by length and cut into buckets, each padded to its longest text.

    ids, mask: [positions], the buckets one after another; shapes: (texts, length) of each bucket;
    order: [texts], the place in the caller's list of each packed text.
    """

    ids: Tensor
    mask: Tensor
    shapes: list[tuple[int, int]]
    order: Tensor


def pack(texts: list[list[int]], slack: float = 0.86) -> Packed:
    """Pack token ids; a bucket's shortest text is at least `slack` of its longest, or 2 shorter."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    ids: list[Tensor] = []
    mask: list[Tensor] = []
    shapes: list[tuple[int, int]] = []
    end = len(order)
    placed: list[int] = []
    while end:
        longest = len(texts[order[end - 1]])
        start = end - 1
        while start and len(texts[order[start - 1]]) >= min(slack * longest, longest - 2):
            start -= 1
        rows = order[start:end]
        block = torch.zeros(len(rows), longest, dtype=torch.long)
        here = torch.zeros(len(rows), longest, dtype=torch.bool)
        for row, text in enumerate(rows):
            block[row, : len(texts[text])] = torch.tensor(texts[text])
            here[row, : len(texts[text])] = True
        ids.append(block.flatten())
        mask.append(here.flatten())
        shapes.append((len(rows), longest))
        placed += rows
        end = start
    return Packed(torch.cat(ids), torch.cat(mask), shapes, torch.tensor(placed))


def nf4_error(weight: Tensor) -> Tensor:
    """What NF4 in blocks of 64 along the last axis adds to a weight, same shape, float32."""
    blocks = weight.detach().float().reshape(-1, 64)
    scale = blocks.abs().amax(1, keepdim=True).clamp_min(1e-12)
    edges = (NF4[1:] + NF4[:-1]) / 2
    codes = torch.bucketize(blocks / scale, edges)
    return (NF4[codes] * scale - blocks).reshape(weight.shape)


class Student(nn.Module):
    """float32 master weights in a flat dictionary; the forward pass runs in bfloat16."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.geometry = g = geometry
        shapes: dict[str, tuple[int, ...]] = {"embed_tokens": (g.vocabulary, g.hidden)}
        for layer in range(g.layers):
            for name in "qkvo":
                shapes[f"layers.{layer}.self_attn.{name}_proj"] = (g.hidden, g.hidden)
            shapes[f"layers.{layer}.self_attn.q_norm"] = (g.hidden,)
            shapes[f"layers.{layer}.self_attn.k_norm"] = (g.hidden,)
            shapes[f"layers.{layer}.input_layernorm"] = (g.hidden,)
            shapes[f"layers.{layer}.post_attention_layernorm"] = (g.hidden,)
            shapes[f"layers.{layer}.mlp.gate"] = (g.experts, g.hidden)
            shapes[f"layers.{layer}.mlp.experts.gate_up_proj"] = (g.experts, 2 * g.width, g.hidden)
            shapes[f"layers.{layer}.mlp.experts.down_proj"] = (g.experts, g.hidden, g.width)
        shapes["norm"] = (g.hidden,)
        self.weights = nn.ParameterDict(
            {
                name.replace(".", "/"): nn.Parameter(_start(name, size))
                for name, size in shapes.items()
            }
        )
        self.errors: dict[str, Tensor] = {}
        self.leaves: dict[str, Tensor] = {}
        frequencies = g.theta ** -(
            torch.arange(0, g.hidden // g.heads, 2).float() * g.heads / g.hidden
        )
        angles = torch.outer(torch.arange(g.max_tokens).float(), frequencies).repeat(1, 2)
        self.register_buffer("cos", angles.cos().bfloat16(), persistent=False)
        sign = torch.ones(g.hidden // g.heads)
        sign[: len(sign) // 2] = -1
        self.register_buffer("sin", (angles.sin() * sign).bfloat16(), persistent=False)

    def quantized_names(self) -> list[str]:
        """The weights that the product keeps in 4 bits: experts and attention matrices."""
        return [n for n in self.weights if n.endswith("_proj")]

    def refresh_errors(self) -> None:
        """From now on the forward pass sees 4-bit weights, gradients pass straight through."""
        self.errors = {n: nf4_error(self.weights[n]).bfloat16() for n in self.quantized_names()}

    def cast(self) -> dict[str, Tensor]:
        """Fix the weights that the next forward passes see: leaves of the graph, bfloat16, the
        embeddings float32. Several threads may then run forward and backward at once."""
        self.leaves = {}
        with torch.no_grad():
            for flat, value in self.weights.items():
                if flat in self.errors:
                    value = value + self.errors[flat]
                leaf = value.detach() if flat == "embed_tokens" else value.bfloat16()
                self.leaves[flat] = leaf.requires_grad_()
        return self.leaves

    def _weight(self, name: str) -> Tensor:
        return self.leaves[name.replace(".", "/")]

    def forward(self, packed: Packed) -> tuple[Tensor, Tensor, Tensor]:
        """One pass with the weights of the last `cast`.

        Returns HS float32 [texts, hidden] and RW float32 [texts, layers * experts], both in the
        caller's order, and the load-balancing loss (Fedus et al., Switch Transformers, 2021,
        equation 4).
        """
        g = self.geometry
        x = F.embedding(packed.ids, self.leaves["embed_tokens"]).bfloat16()
        cos = torch.cat([self.cos[:n].repeat(rows, 1) for rows, n in packed.shapes])
        sin = torch.cat([self.sin[:n].repeat(rows, 1) for rows, n in packed.shapes])
        logits = []
        balance = x.new_zeros((), dtype=torch.float32)
        keep = packed.mask.float()
        for layer in range(g.layers):
            at = f"layers.{layer}."
            x = x + self._attention(at, self._norm(at + "input_layernorm", x), packed, cos, sin)
            y = self._norm(at + "post_attention_layernorm", x)
            scores = F.linear(y.float(), self._weight(at + "mlp.gate").float())
            probabilities = scores.softmax(1)
            top, chosen = probabilities.topk(g.top_k, dim=1)
            top = top / top.sum(1, keepdim=True)
            x = x + Experts.apply(
                y,
                top,
                chosen,
                self._weight(at + "mlp.experts.gate_up_proj"),
                self._weight(at + "mlp.experts.down_proj"),
            )
            logits.append(scores)
            share = torch.bincount(chosen[packed.mask].flatten(), minlength=g.experts).float()
            mean = keep @ probabilities / keep.sum()
            balance = balance + g.experts * (share / share.sum() * mean).sum() / g.layers
        states = torch.cat([self._norm("norm", x).float(), *logits], dim=1)
        sizes = [rows * length for rows, length in packed.shapes]
        pooled = []
        for (rows, length), part, here in zip(
            packed.shapes, states.split(sizes), keep.split(sizes), strict=True
        ):
            here = here.view(rows, 1, length)
            total = torch.bmm(here, part.view(rows, length, -1)).squeeze(1)
            pooled.append(total / here.sum(2))
        back = torch.empty_like(packed.order)
        back[packed.order] = torch.arange(len(back))
        both = torch.cat(pooled).index_select(0, back)
        return both[:, : g.hidden], both[:, g.hidden :], balance

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return Norm.apply(x, self._weight(name), self.geometry.eps)

    def _attention(self, at: str, x: Tensor, packed: Packed, cos: Tensor, sin: Tensor) -> Tensor:
        g = self.geometry
        at += "self_attn."
        q = self._norm(at + "q_norm", F.linear(x, self._weight(at + "q_proj")))
        k = self._norm(at + "k_norm", F.linear(x, self._weight(at + "k_proj")))
        v = F.linear(x, self._weight(at + "v_proj"))
        q, k = (self._rotate(part, cos, sin) for part in (q * (g.hidden // g.heads) ** -0.5, k))
        sizes = [rows * length for rows, length in packed.shapes]
        out = []
        for (rows, length), *parts in zip(
            packed.shapes, q.split(sizes), k.split(sizes), v.split(sizes), strict=True
        ):
            q_, k_, v_ = (p.view(rows, length, g.heads, -1).transpose(1, 2) for p in parts)
            # Written out: on CPU its backward pass takes half the time of the fused attention's.
            future = torch.full((length, length), float("-inf"), dtype=x.dtype).triu(1)
            mixed = (q_ @ k_.transpose(2, 3) + future).softmax(3) @ v_
            out.append(mixed.transpose(1, 2).reshape(rows * length, g.hidden))
        return F.linear(torch.cat(out), self._weight(at + "o_proj"))

    def _rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        heads = x.view(x.shape[0], self.geometry.heads, -1)
        turned = torch.cat(heads.chunk(2, dim=2)[::-1], dim=2)
        return torch.addcmul(heads * cos[:, None], turned, sin[:, None]).view_as(x)

    def save(self, folder: Path, quantized: bool = False) -> None:
        """Write config.json and model.safetensors, bfloat16, in transformers' names.

        quantized: write the weights rounded to NF4's values instead (for measuring).
        """
        folder.mkdir(parents=True, exist_ok=True)
        tensors: dict[str, Tensor] = {}
        for flat, value in self.weights.items():
            value = value.detach()
            if quantized and flat in self.quantized_names():
                value = value.bfloat16().float()
                value = value + nf4_error(value)
            value = value.bfloat16()
            name = "model." + flat.replace("/", ".")
            if name.endswith("experts.gate_up_proj"):
                stem = name.removesuffix("gate_up_proj")
                for expert, (gate, up) in enumerate(w.chunk(2) for w in value):
                    tensors[f"{stem}{expert}.gate_proj.weight"] = gate.contiguous()
                    tensors[f"{stem}{expert}.up_proj.weight"] = up.contiguous()
            elif name.endswith("experts.down_proj"):
                stem = name.removesuffix("down_proj")
                for expert, down in enumerate(value):
                    tensors[f"{stem}{expert}.down_proj.weight"] = down.contiguous()
            else:
                tensors[name + ".weight"] = value.contiguous()
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        config = json.dumps(self.geometry.config(), indent=2)
        (folder / "config.json").write_text(config + "\n", encoding="utf-8")


def load(folder: Path) -> Student:
    """The student of a directory that `save` wrote."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    student = Student(
        Geometry(
            vocabulary=config["vocab_size"],
            hidden=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            experts=config["num_experts"],
            width=config["intermediate_size"],
            top_k=config["num_experts_per_tok"],
        )
    )
    tensors = load_file(folder / "model.safetensors")

    def read(name: str) -> Tensor:
        return tensors[f"model.{name}.weight"].float()

    with torch.no_grad():
        for flat, value in student.weights.items():
            name = flat.replace("/", ".")
            stem, _, last = name.rpartition(".")
            experts = range(student.geometry.experts)
            if last == "gate_up_proj":
                each = [
                    torch.cat([read(f"{stem}.{e}.gate_proj"), read(f"{stem}.{e}.up_proj")])
                    for e in experts
                ]
                value.copy_(torch.stack(each))
            elif last == "down_proj":
                value.copy_(torch.stack([read(f"{stem}.{e}.down_proj") for e in experts]))
            else:
                value.copy_(read(name))
    return student


def _start(name: str, size: tuple[int, ...]) -> Tensor:
    if name.endswith("norm"):
        return torch.ones(size)
    deviation = size[-1] ** -0.5
    if name.endswith(("o_proj", "down_proj")):
        deviation *= 0.3
    return torch.randn(size) * deviation
