"""Special tokens of templates: a template may hold some (`<eos>`), and a text that spells one is
plain text all the same.

The tokenizer takes all special tokens for plain text. Those of a template are put in under names
that no text has, as tokens of a copy of it, and get their numbers back afterwards: so all else of
the input is split exactly as with the tokens themselves.
"""

from __future__ import annotations

import copy
import secrets
from typing import Any

# Characters of a private plane, which no vocabulary has: names are drawn from them, so that no
# text can be written to hold one.
_FIRST, _COUNT = 0xF0000, 0xFFFD


class TemplateTokens:
    """A tokenizer for inputs whose template holds special tokens.

    tokenizer: knows them under other names. names: special token -> its name there. numbers: of
    the names -> of the tokens.
    """

    def __init__(self, tokenizer: Any, tokens: list[str]) -> None:
        from tokenizers import AddedToken

        self.tokenizer = copy.deepcopy(tokenizer)
        self.names: dict[str, str] = {}
        self.numbers: dict[int, int] = {}
        known = {str(token): (row, token) for row, token in tokenizer.added_tokens_decoder.items()}
        for token in tokens:
            row, added = known[token]
            name = "".join(chr(_FIRST + secrets.randbelow(_COUNT)) for _ in token)
            self.tokenizer.backend_tokenizer.add_tokens(
                [
                    AddedToken(
                        name,
                        single_word=added.single_word,
                        lstrip=added.lstrip,
                        rstrip=added.rstrip,
                        normalized=False,
                        special=False,
                    )
                ]
            )
            self.names[token] = name
            self.numbers[self.tokenizer.backend_tokenizer.token_to_id(name)] = row

    def renamed(self, part: str) -> str:
        """A part of a template with its special tokens under their names; of the same length."""
        for token, name in self.names.items():
            part = part.replace(token, name)
        return part


def special_tokens_in(tokenizer: Any, *parts: str) -> list[str]:
    """The special tokens that the parts of a template hold, the longest first."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(
        (token for token in special if token and any(token in part for part in parts)),
        key=lambda token: (-len(token), token),
    )
