"""mteb's EncoderProtocol over the product's encoder: stored vectors in, one array a method out.

For retrieval and reranking see search.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from moee_index.bench.adapter.meta import model_meta
from moee_index.bench.adapter.standardizers import Fits, TaskKey
from moee_index.bench.adapter.task_inputs import TaskTexts, role_of, texts_in, texts_of
from moee_index.bench.adapter.vectors import Cosine, Setting, method_vectors
from moee_index.bench.vector_cache.encoder import StoredEncoder
from moee_index.fusion import Standardizer
from moee_index.types import Notify, Progress, ignore

if TYPE_CHECKING:
    from mteb.abstasks.abstask import AbsTask
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models.model_meta import ModelMeta

__all__ = ["MoeeEncoder", "Setting"]

Array = npt.NDArray[np.floating[Any]]


class MoeeModel:
    """What both of mteb's protocols share: one model under one setting, and what was prepared."""

    def __init__(
        self,
        stored: StoredEncoder,
        setting: Setting,
        *,
        notify: Notify | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.stored = stored
        self.setting = setting
        self._notify = notify or ignore
        self._progress = progress
        self._fits = Fits(stored)

    def with_setting(self, setting: Setting) -> Self:
        """The same model under another setting; what was prepared, and indexes where they are the
        same, hold for both."""
        other = type(self)(self.stored, setting, notify=self._notify, progress=self._progress)
        other._fits = self._fits
        return other

    @property
    def fit(self) -> str:
        """The fit in use."""
        return self.setting.fit

    @property
    def mteb_model_meta(self) -> ModelMeta:
        """See `model_meta`."""
        return model_meta(self.stored, self.setting, self.fit)

    def prepare(
        self, task: AbsTask, split: str, subset: str, heard: TaskTexts | None = None
    ) -> None:
        """Embed every text of a task's split and subset, in well filled batches.

        The task's data are loaded. Prepare what will be evaluated, splits in the task's order.
        heard: what `texts_of` gave, where it was asked already.
        Raises MisuseError for a task that is none for text.
        """
        self._fits.add(heard or texts_of(task, split, subset), self._progress)


class MoeeEncoder(MoeeModel, Cosine):
    """A model under one setting, as mteb evaluates it. Fulfils `EncoderProtocol`.

    Before a task is evaluated, `prepare` embeds its texts in full batches and notes what the
    standardizer of fit `corpus` is fitted on. An encoder that nothing was prepared for (as in
    `mteb.mock_run`) cannot know a task's texts before they come in pieces: asked for fit `corpus`
    it standardises by the reference texts, tells so once, and its `mteb_model_meta` says
    `calibrated`.
    """

    # Of the split whose own texts were encoded last (`Fits.owner`).
    _last: TaskKey | None = None
    _told = False

    @property
    def fit(self) -> str:
        """The fit in use: the setting's, or `calibrated` in place of `corpus` while nothing is
        prepared."""
        return "calibrated" if self._unprepared else self.setting.fit

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: Any = None,
        **_: Any,
    ) -> Array:
        """One vector a text (`method_vectors`), float32 [n, d]; float64 under fit `batch`.

        Raises MisuseError for a task that was not prepared while others were.
        """
        texts = texts_in(inputs)
        fitted = self._standardizer(TaskKey(task_metadata.name, hf_split, hf_subset))
        return self._vectors(texts, role_of(prompt_type) == "query", fitted)

    @property
    def _unprepared(self) -> bool:
        return self.setting.fit == "corpus" and not len(self._fits)

    def _standardizer(self, call: TaskKey) -> Standardizer | None:
        if self.setting.standardize == "none" or self.fit == "batch":
            return None
        if self._unprepared and not self._told:
            self._told = True
            self._notify(
                "no task was prepared, so vectors are standardised by the reference texts "
                "(calibrated), not by the corpus"
            )
        if self.fit == "calibrated":
            return self._fits.calibrated
        owner = self._fits.owner(call, self._last)
        if owner.split == call.split:
            self._last = owner
        return self._fits.of(owner)

    def _vectors(self, texts: Sequence[str], query: bool, fitted: Standardizer | None) -> Array:
        if not texts:
            spec = self.stored.spec
            width = self.setting.dimensions(spec.hs_dim, spec.rw_dim)
            return np.empty((0, width), dtype=np.float32)
        rows = self.stored.rows(texts, query=query)
        return method_vectors(rows.blocks(), len(texts), self.setting, fitted)
