"""What mteb is told about a model: `ModelMeta`, with everything that was set as an experiment.

Nothing is guessed: what is not known is None.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from moee_index.bench import mteb_internals as installed
from moee_index.bench.adapter.vectors import Setting
from moee_index.bench.vector_cache.encoder import StoredEncoder
from moee_index.encode.prompts import parse_prompt
from moee_index.model.checkpoint.find import BUNDLED

if TYPE_CHECKING:
    from mteb.models.model_meta import ModelMeta

# name → what its publisher says of it.
_KNOWN: dict[str, dict[str, Any]] = {
    # Distilled from a teacher that was trained on data sets of MTEB (model/tiny/README.md); mteb
    # adds what `adapted_from` was trained on.
    f"moee-index/{BUNDLED}": {
        "license": "apache-2.0",
        "languages": ["eng-Latn"],
        "training_datasets": set(),
        "adapted_from": "sentence-transformers/all-MiniLM-L6-v2",
    },
    "allenai/OLMoE-1B-7B-0924": {"license": "apache-2.0", "languages": ["eng-Latn"]},
}


def model_name(name: str) -> str:
    """A model's name as mteb wants it, `organisation/model`: the bundled one is the project's, a
    directory is `local`."""
    if name == BUNDLED:
        return f"moee-index/{name}"
    return name if "/" in name else f"local/{name}"


def experiment(stored: StoredEncoder, setting: Setting, fit: str) -> dict[str, Any]:
    """Everything that decides a score beside the model: mteb keeps results of different ones in
    different folders. alpha: for `sum` alone. fit: the one in use."""
    identity = stored.identity
    found: dict[str, Any] = {
        "method": setting.method,
        "standardize": setting.standardize,
        "fit": fit,
        **identity.options("prompt", "query_prompt", "rw", "pooling"),
    }
    if setting.alpha is not None:
        found["alpha"] = setting.alpha
    if setting.lexical:
        found["lexical"] = setting.lexical
    if identity.dequantised:
        found["dequantised"] = True
    for name in ("prompt", "query_prompt"):
        template = parse_prompt(found[name])
        # mteb replaces what no folder name may hold, which would make different templates one.
        if not template.named and found[name] != "{text}":
            found[f"{name}_id"] = hashlib.sha256(found[name].encode()).hexdigest()[:8]
    if stored.instruction:
        digest = hashlib.blake2b(stored.instruction.encode(), digest_size=12)
        found["instruction"] = digest.hexdigest()[:8]
    return found


def name_and_experiment(stored: StoredEncoder, setting: Setting, fit: str) -> dict[str, Any]:
    """What mteb finds a model's results by; nothing is loaded for it."""
    identity = stored.identity
    return {
        "name": model_name(identity.model),
        "revision": identity.revision or identity.fingerprint,
        "experiment_kwargs": experiment(stored, setting, fit),
    }


def model_meta(stored: StoredEncoder, setting: Setting, fit: str) -> ModelMeta:
    """The model under one setting. Weights are those of the base model: the language-model head is
    never read. Loads the model where its dimensions are not stored yet."""
    identity, facts, spec = stored.identity, stored.facts, stored.spec
    name = model_name(identity.model)
    template = parse_prompt(identity.prompt)
    memory = facts.get("memory_bytes")
    fields: dict[str, Any] = {
        **name_and_experiment(stored, setting, fit),
        "n_parameters": facts.get("parameters"),
        "n_embedding_parameters": facts.get("embedding_parameters"),
        "n_active_parameters_override": facts.get("active_parameters"),
        "memory_usage_mb": None if memory is None else memory / 2**20,
        "max_tokens": identity.max_tokens,
        "embed_dim": setting.dimensions(spec.hs_dim, spec.rw_dim),
        "open_weights": True,
        "framework": ["PyTorch", "Transformers", "safetensors"],
        "reference": f"https://huggingface.co/{name}" if identity.revision else None,
        "similarity_fn_name": "cosine",
        "use_instructions": bool(template.before or template.after),
        "modalities": ["text"],
        "model_type": ["dense"],
    }
    return installed.model_meta(fields | _KNOWN.get(name, {}))
