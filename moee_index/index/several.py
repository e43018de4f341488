"""Several indexes of one model, opened and searched as one list.

Where scores mean the same in all of them, the list is that of one index holding all documents:
words are counted over all, and equal scores stand in the order of the indexes, then of their
documents. Else ranks are merged. What one index answers is left to `index`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property
from itertools import chain, combinations, permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, Unpack, get_args, overload

import numpy as np

from moee_index.errors import CorpusError, MisuseError
from moee_index.index.alike import check_alike, check_distinct, equal, shared_names
from moee_index.index.answering import Answering
from moee_index.index.filters import Filter
from moee_index.index.hits import Hits, merged_hits, word_scores
from moee_index.index.index import Index, LoadEncoder
from moee_index.index.lexical.syntax import Condition, ParsedQuery, parse_query, plain_query
from moee_index.index.listing import Facet, count_values
from moee_index.index.search.request import RequestOptions, SearchRequest, check_flag, query_texts
from moee_index.index.snapshot import Snapshot, joined_fields
from moee_index.index.store.document_reader import StoredDocument
from moee_index.index.store.token_weights import with_weights_of
from moee_index.index.write.resume import check_encoder
from moee_index.text import check_text, shown
from moee_index.types import Embeddings, EncoderSpec, Hit, TextEncoder

if TYPE_CHECKING:  # without words a search imports nothing of them
    from moee_index.index.lexical.scores import WordScores
    from moee_index.index.lexical.statistics import Statistics
    from moee_index.index.snippets import Snippets
    from moee_index.token_weights import TokenWeights

Merge = Literal["auto", "scores", "ranks"]
SnippetsOf = Callable[[Hit], "Snippets"]
# Cormack, Clarke & Büttcher (SIGIR 2009): a hit's weight is 1 / (60 + rank).
RRF_K = 60


class Indexes(Answering):
    """One or more finished indexes of one model, opened for reading. A context manager, used from
    any number of threads, as `Index`. With one index it answers as that does.

    indexes: them, in the order in which equal ones among their hits stand.
    """

    def __init__(self, indexes: Sequence[Index], merge: Merge = "auto") -> None:
        """Raises MisuseError where there is none, or one twice, or for another `merge`;
        FingerprintMismatchError naming what differs."""
        if merge not in get_args(Merge):
            raise MisuseError(f"merge is {merge!r}; it is one of {', '.join(get_args(Merge))}")
        if not indexes:
            raise MisuseError("there is no index to search; name at least one")
        self.indexes = tuple(indexes)
        self._merge = merge
        check_distinct(self.indexes)
        for other in self.indexes[1:]:
            check_alike(self.indexes[0], other)

    @classmethod
    def open(
        cls,
        directories: Iterable[str | Path],
        encoder: TextEncoder | LoadEncoder | None = None,
        *,
        merge: Merge = "auto",
    ) -> Self:
        """Open indexes; encoder: as for `Index.open`, which tells what is raised besides.

        merge: "scores", "ranks", or "auto": by score where scores mean the same in all indexes.
        """
        with ExitStack() as opened:
            indexes = [opened.enter_context(Index.open(each)) for each in directories]
            found = cls(indexes, merge)
            if encoder is not None:
                indexes[0].use_encoder(encoder)
            opened.pop_all()
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """As `Index.close`, of all."""
        for index in self.indexes:
            index.close()

    # What they hold

    def __len__(self) -> int:
        return sum(map(len, self.indexes))

    @property
    def spec(self) -> EncoderSpec:
        """The encoder that all were built with."""
        return self.indexes[0].spec

    def located_spec(self) -> EncoderSpec:
        """As `Index.located_spec`, of the first index beside which the model is found."""
        specs = [index.located_spec() for index in self.indexes]
        return next((spec for spec in specs if Path(spec.path).is_dir()), specs[0])

    @cached_property
    def statistics(self) -> Statistics:
        """Of the words of the rows that count in all. Raises MisuseError for an index without
        postings."""
        from moee_index.index.lexical.statistics import Statistics
        from moee_index.index.lexical.words import Words

        each = [snapshot.statistics.segments for snapshot in self._snapshots]
        language = self.indexes[0].manifest.language
        assert language is not None
        return Statistics(list(chain.from_iterable(each)), Words(language))

    @property
    def _snapshots(self) -> list[Snapshot]:
        return [index.snapshot for index in self.indexes]

    @property
    def token_weights(self) -> TokenWeights | None:
        """As `Index.token_weights`, which all share."""
        return self.indexes[0].token_weights

    def document(self, hit: Hit) -> StoredDocument:
        """The whole document of a hit. Raises MisuseError where it is of no index that is open."""
        index = self._index_of(hit)
        name = _document_of(index, hit)
        return index.documents([name])[name]

    def _index_of(self, hit: Hit) -> Index:
        for index in self.indexes:
            if hit.index in (None, str(index.directory)):
                return index
        raise MisuseError(f"the index {hit.index} of the hit is not one of these")

    def count_values(
        self,
        fields: Sequence[str],
        condition: str | Filter | None = None,
        conditions: Sequence[Condition] = (),
    ) -> list[Facet]:
        """As `listing.count_values`, over all."""
        with self._held():
            return count_values(self._snapshots, fields, self._checked(condition), conditions)

    def snippets(self, query: str) -> SnippetsOf:
        """What shows the best part of a hit's text, by the words of its index."""
        made: dict[str | None, Snippets] = {}

        def of(hit: Hit) -> Snippets:
            from moee_index.index.snippets import Snippets

            if hit.index not in made:
                made[hit.index] = Snippets.of(self._index_of(hit).snapshot, query)
            return made[hit.index]

        return of

    # What a request must fit

    def check(self, request: SearchRequest) -> None:
        """Raises FilterError for a filter that fits the documents of no index, MisuseError where
        words are to count and an index has no postings, or scores are to be merged that mean
        different things."""
        condition = self._checked(request.filter)
        for index in self.indexes:
            index.check_filter(condition)
            index.check_lexical(request.lexical)
        self.merged_by(request)

    def embeds(self, request: SearchRequest) -> bool:
        """Whether the text of a query must be embedded: words alone do not count in all."""
        return any(request.words(index.lexical) < 1 for index in self.indexes)

    def check_conditions(self, queries: Sequence[ParsedQuery]) -> None:
        """As `Index.check_conditions`, of all."""
        for index in self.indexes:
            index.check_conditions(queries)

    def merged_by(self, request: SearchRequest) -> tuple[Literal["scores", "ranks"], str]:
        """How the hits for a request are merged, and why not by score, unless that was asked for.

        Raises MisuseError where scores are asked for and mean different things.
        """
        reason = self._incomparable(request)
        if self._merge == "ranks":
            return "ranks", ""
        if not reason:
            return "scores", ""
        if self._merge == "scores":
            raise MisuseError(
                f"hits cannot be merged by score, for {reason}; merge them by rank (--merge ranks)"
            )
        return "ranks", f"scores cannot be compared, for {reason}"

    def _incomparable(self, request: SearchRequest) -> str:
        """Why scores of the indexes cannot be compared; empty where they can."""
        first = self.indexes[0]
        for other in self.indexes[1:]:
            both = f"{first.directory} and {other.directory}"
            if request.words(first.lexical) != request.words(other.lexical):
                return (
                    f"{both} have different default weights of words ({first.lexical:g} and "
                    f"{other.lexical:g}; --lexical sets one for all)"
                )
            one, two = first.manifest.language, other.manifest.language
            if request.words(first.lexical) and one != two:
                return f"words of {both} are stemmed differently (language {one} and {two})"
            if request.words(first.lexical) == 1:
                continue
            if not equal(first.standardizer, other.standardizer):
                return f"{both} have different standardizers"
            if request.weight(first.alpha) != request.weight(other.alpha):
                return (
                    f"{both} have different default α ({first.alpha:g} and {other.alpha:g}; "
                    "--alpha sets one for all)"
                )
        return ""

    def _checked(self, condition: str | Filter | None) -> Filter | None:
        """A filter that was checked against the documents of all: a field that those of one index
        lack is no slip. Raises FilterError."""
        parsed = SearchRequest.checked(filter=condition).filter
        if parsed is None or len(self.indexes) == 1:
            return parsed
        known = joined_fields(snapshot.fields for snapshot in self._snapshots)
        # Indexes that have become empty know no fields, and every filter finds nothing.
        if known is not None and any(snapshot.segments for snapshot in self._snapshots):
            parsed.check(known)
        return replace(parsed, checked=True)

    def check_run_ids(self, request: SearchRequest) -> None:
        """Raises CorpusError where a hit may have an id that a TREC run cannot hold, or that a hit
        of another index has too. One look through the ids of each index."""
        request = self._request(request)
        for index in self.indexes:
            index.snapshot.check_run_ids(request.filter)
        # The name of a passage may be the id of a document elsewhere, which one look finds.
        pairs = permutations if request.passages else combinations
        for index, other in pairs(self.indexes, 2):
            for name in shared_names(index.snapshot, other.snapshot, request):
                raise CorpusError(
                    f"a hit {shown(name)!r} may be of {index.directory} or of {other.directory}, "
                    "which a TREC run cannot tell apart; use --json, or search them one by one"
                )

    # Search

    @overload
    def search(  # type: ignore[overload-overlap]
        self,
        query: str,
        k: int = ...,
        *,
        encoder: TextEncoder | None = ...,
        syntax: bool = ...,
        **options: Unpack[RequestOptions],
    ) -> Hits: ...

    @overload
    def search(
        self,
        query: Sequence[str],
        k: int = ...,
        *,
        encoder: TextEncoder | None = ...,
        syntax: bool = ...,
        **options: Unpack[RequestOptions],
    ) -> list[Hits]: ...

    def search(
        self,
        query: str | Sequence[str],
        k: int = 10,
        *,
        encoder: TextEncoder | None = None,
        syntax: bool = False,
        **options: Unpack[RequestOptions],
    ) -> Hits | list[Hits]:
        """As `Index.search`, over all indexes: the k best of all. Each hit says its index; ids need
        not differ between them.

        Merged by rank, a hit keeps its own score, and `rrf` is what hits are ordered by; min_score
        leaves out hits by their own scores, and each index has its own default weights.
        """
        check_flag("syntax", syntax)
        request = SearchRequest.checked(k, **options)
        texts, several = query_texts(query)
        parsed = [parse_query(text) if syntax else plain_query(text) for text in texts]
        self.check(request)
        self.check_conditions(parsed)
        if encoder is not None:
            first = self.indexes[0]
            encoder = with_weights_of(first.directory, first.manifest, check_encoder(encoder))
            first.check_encoder(encoder.spec)
        embeddings = None
        if texts and self.embeds(request):
            chosen = encoder or self.indexes[0].encoder()
            embeddings = chosen.encode([query.text for query in parsed], query=True)
        answers = self.answer_parsed(request, embeddings, parsed)
        return answers if several else answers[0]

    def answer(
        self,
        request: SearchRequest,
        embeddings: Embeddings | None,
        texts: Sequence[str] | None = None,
        conditions: Sequence[Condition] = (),
    ) -> list[Hits]:
        """As `Index.answer`: a query is embedded once, whatever the number of indexes."""
        with self._held():
            request = self._request(request)
            if texts is None:
                request = replace(request, lexical=request.words(0.0))
            words = self._words(request, embeddings, texts)
            answers = [
                index.answer(request, embeddings, texts, conditions, each)
                for index, each in zip(self.indexes, words, strict=True)
            ]
            return [self._merged(request, of_a_query) for of_a_query in zip(*answers, strict=True)]

    def _words(
        self,
        request: SearchRequest,
        embeddings: Embeddings | None,
        texts: Sequence[str] | None,
    ) -> list[WordScores | None]:
        """For each index the queries' scores by words over all; None where it has its own."""
        own: list[WordScores | None] = [None] * len(self.indexes)
        if len(self.indexes) == 1 or self.merged_by(request)[0] == "ranks":
            return own
        request = replace(request, lexical=request.words(self.indexes[0].lexical))
        words = word_scores(self, request, embeddings, texts)
        if words is None:
            return own
        begins = np.cumsum([0, *(len(snapshot.segments) for snapshot in self._snapshots)])
        return [words.beginning(int(begin)) for begin in begins[:-1]]

    def like(self, identifier: str, k: int = 10, **options: Unpack[RequestOptions]) -> Hits:
        """As `Index.like`: the documents of all indexes most like one of one of them. Raises
        MisuseError for an id that none or more than one of them has."""
        request = SearchRequest.checked(k, **options)
        request = replace(request, lexical=request.words(0.0))
        self.check(request)
        return self.answer_like(request, identifier)

    def answer_like(self, request: SearchRequest, document: str | Hit) -> Hits:
        """As `like`, for a request that is checked already, and a document by its id or a hit."""
        request = replace(request, lexical=request.words(0.0))
        with self._held():
            if isinstance(document, Hit):
                owner = self._index_of(document)
                name = _document_of(owner, document)
            else:
                name = check_text(document, "the id")
                owner = self._owner(name)
            request = self._request(request)
            return self._merged(
                request, [self._like(request, index, owner, name) for index in self.indexes]
            )

    def _like(self, request: SearchRequest, index: Index, owner: Index, name: str) -> Hits:
        """What is most like a document of one index in this or another."""
        if index is owner:
            return index.answer_like(request, name)
        rows = [passage.row for passage in owner.passages([name])[name]]
        return index.answer_like_rows(request, owner.vectors_at(rows))

    def _owner(self, name: str) -> Index:
        """The one index that has a document."""
        if len(self.indexes) == 1:
            return self.indexes[0]
        owners = [index for index in self.indexes if index.documents([name])]
        if len(owners) == 1:
            return owners[0]
        named = " and ".join(str(index.directory) for index in owners or self.indexes)
        if owners:
            raise MisuseError(f"document {shown(name)!r} is in {named}; name one of them alone")
        raise MisuseError(f"there is no document {shown(name)!r} in {named}")

    def _request(self, request: SearchRequest) -> SearchRequest:
        return replace(request, filter=self._checked(request.filter))

    def _merged(self, request: SearchRequest, answers: Sequence[Hits]) -> Hits:
        """The answers of the indexes to one query as one."""
        if len(answers) == 1:
            return answers[0]
        by_rank = self.merged_by(request)[0] == "ranks"
        named = []
        for index, answer in zip(self.indexes, answers, strict=True):
            weights = (1 / (RRF_K + hit.rank) if by_rank else None for hit in answer)
            hits = [
                replace(hit, index=str(index.directory), rrf=rrf)
                for hit, rrf in zip(answer, weights, strict=True)
            ]
            named.append(Hits(hits, answer.exact, answer.recall))
        return merged_hits(named, request.k)

    def _held(self) -> ExitStack:
        """Keeps the files of all open until a block ends."""
        with ExitStack() as held:
            for index in self.indexes:
                held.enter_context(index.held())
            return held.pop_all()

    def details(self, request: SearchRequest) -> dict[str, Any]:
        """What an answer in JSON says of the search: index, method, alpha, and where they are not
        what they always are, lexical and merge."""
        directories = [str(index.directory) for index in self.indexes]
        alphas = _distinct(request.weight(index.alpha) for index in self.indexes)
        weights = _distinct(request.words(index.lexical) for index in self.indexes)
        details: dict[str, Any] = {
            "index": directories[0] if len(directories) == 1 else directories,
            "method": request.method,
            "alpha": alphas[0] if len(alphas) == 1 else alphas,
        }
        if weights != [0.0]:
            # Only where words count: scripts rely on the fields above.
            details["lexical"] = weights[0] if len(weights) == 1 else weights
        if len(directories) > 1:
            details["merge"] = self.merged_by(request)[0]
        return details


def _distinct(weights: Iterable[float | None]) -> list[float | None]:
    """The weight of all; where indexes have different ones, of each."""
    every = list(weights)
    return every[:1] if len(set(every)) == 1 else every


def run_score(hit: Hit) -> float:
    """The score of a hit in a TREC run. By rank the hits of two indexes are equal in pairs, and
    evaluations order equal ones by their ids: there it is the weight of the hit's place in all."""
    return hit.score if hit.rrf is None else 1 / (RRF_K + hit.rank)


def _document_of(index: Index, hit: Hit) -> str:
    """The id of the document that a hit, which may be a passage, is of."""
    return hit.id if index.documents([hit.id]) else hit.id.rpartition("#")[0]
