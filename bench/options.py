"""What a run of the bench was asked for, checked before anything is read or loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from moee_index.bench.adapter import protocol
from moee_index.bench.adapter.vectors import FITS, WORDS, Setting
from moee_index.bench.baselines import check_outside
from moee_index.bench.data import MIN_SAMPLE
from moee_index.bench.tasks import Question
from moee_index.errors import MisuseError
from moee_index.fusion import METHODS, STANDARDIZE, check_alpha
from moee_index.index.search.request import lexical_weight


@dataclass(frozen=True)
class BenchOptions:
    """What to evaluate, and how.

    model: options of `Encoder.load`, prompts aside; `model` among them. prompts: empty is the
    model's own. limit: a sample of so many rows or texts a split, which is no score. vectors:
    where raw vectors are kept. lexical: weights of words in retrieval and reranking; with one above
    0 words alone are evaluated as well. debug: let errors of single tasks through with their
    traceback.
    """

    question: Question
    out: Path
    model: Mapping[str, Any] = field(default_factory=dict)
    methods: Sequence[str] = METHODS
    prompts: Sequence[str] = ()
    alphas: Sequence[float] = (1.0,)
    lexical: Sequence[float] = (0.0,)
    standardize: str = "both"
    fit: str = "corpus"
    limit: int | None = None
    vectors: Path | None = None
    overwrite: bool = False
    outside: Sequence[str] = ()
    paper_protocol: bool = False
    instruction: bool = True
    offline: bool = False
    debug: bool = False

    def check(self) -> None:
        """Raises MisuseError for options that make no sense or contradict each other."""
        if not self.question.tasks and self.question.benchmark is None:
            raise MisuseError("nothing to run: give --tasks or --benchmark")
        if not self.methods:
            raise MisuseError(f"--methods is empty; there are {', '.join(METHODS)}")
        for method in self.methods:
            if method not in METHODS:
                raise MisuseError(
                    f"--methods {method!r} is unknown; there are {', '.join(METHODS)}"
                )
        for alpha in self.alphas:
            check_alpha(alpha)
        if not self.lexical:
            raise MisuseError("--lexical is empty; give weights of words, from 0 to 1")
        words = [weight for weight in self.lexical if lexical_weight(weight)]
        if words and (self.paper_protocol or self.fit == "batch"):
            raise MisuseError(
                "--lexical needs an index, which --fit batch and the authors' way lack"
            )
        if self.standardize not in STANDARDIZE:
            raise MisuseError(f"--standardize {self.standardize!r}: {', '.join(STANDARDIZE)}")
        if self.fit not in FITS:
            raise MisuseError(f"--fit {self.fit!r}: {', '.join(FITS)}")
        if self.limit is not None and self.limit < MIN_SAMPLE:
            raise MisuseError(f"--limit {self.limit}: {MIN_SAMPLE} or more, fewer say nothing")
        check_outside(self.outside)

    def settings(self) -> list[Setting]:
        """Every way of making vectors, and of weighing words beside them, that was asked for, in
        order; words alone come last."""
        found = [
            protocol.setting(method, alpha)
            if self.paper_protocol
            else Setting(method, alpha, self.standardize, self.fit, weight)
            for weight in self.lexical
            if weight < 1
            for method in self.methods
            for alpha in (self.alphas if method == "sum" else (None,))
        ]
        if any(self.lexical):
            found.append(Setting(WORDS, None, self.standardize, self.fit, 1.0))
        return found

    def as_json(self) -> dict[str, Any]:
        """For run.json: what was asked for."""
        asked = {**vars(self.question), **vars(self)}
        asked["instruction"] = self.paper_protocol and self.instruction
        if not any(self.lexical):
            del asked["lexical"]
        return {name: _plain(value) for name, value in asked.items() if name not in _UNSAID}


# Not what is evaluated, or said by another option.
_UNSAID = ("question", "out", "vectors", "offline", "debug", "deprecated_summeval")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items() if not callable(each)}
    return str(value) if isinstance(value, Path) else value
