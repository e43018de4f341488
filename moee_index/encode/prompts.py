"""Templates around a text, the authors' clean-up, and truncation that spares the template.

Strings and a tokenizer's encode function are all that is needed. Paper: Table 2 and section 4; the
strings are those of the authors' code (with quotation marks), its clean-up included.
"""

from __future__ import annotations

from dataclasses import dataclass

from moee_index.errors import MisuseError
from moee_index.text import check_text

TEMPLATES = {
    "none": '"{text}"',
    "prompteol": 'This sentence : "{text}" means in one word:"',
    "style": 'In one word, describe the style of the following sentence - "{text}" :"',
    "sentiment": (
        "In one word, describe the sentiment of the following sentence "
        '(positive, neutral, or negative) - "{text}" :'
    ),
    "tone": (
        'In one word, describe the tone of the following sentence - "{text}" '
        "(e.g., formal, informal, humorous, serious):"
    ),
    "intent": (
        "In one word, describe the intent behind the following sentence "
        '(e.g., request, suggestion, command) - "{text}" :'
    ),
    "complexity": (
        "In one word, rate the complexity of the following sentence "
        '(simple, moderate, complex) - "{text}" :'
    ),
    "subjectivity": (
        "In one word, describe whether the following sentence is subjective or objective - "
        '"{text}" :'
    ),
    "language-style": (
        "In one word, describe the language style of the following sentence "
        '(e.g., academic, conversational, literary) - "{text}" :'
    ),
    "grammar-structure": (
        "In one word, describe the grammatical structure of the following sentence "
        '(simple, compound, complex) - "{text}" :'
    ),
}

_NO_FULL_STOP_AFTER = (".", "?", "!", '"', "'")
_HOLE = "{text}"


@dataclass(frozen=True)
class Prompt:
    """A template split at its hole. `named` prompts clean the text as the authors do."""

    name: str
    before: str
    after: str
    named: bool

    def apply(self, text: str) -> tuple[str, str, str]:
        """(before, text, after) as they are tokenised; joined they are the whole input."""
        if not self.named:
            return self.before, text, self.after
        before, cleaned, after = self.before, clean(text), self.after
        # The authors trim the whole input; only a bare or text-first template has blanks to lose.
        return before.lstrip(), cleaned, after.rstrip()


def clean(text: str) -> str:
    """The authors' clean-up (moee.py:195-208): a closing full stop where none of . ? ! " ' ends
    the text, double quotes to single ones, underscores to blanks, trimmed.

    An empty text stays empty: the bare template is embedded, as their code does.
    """
    if text and not text.endswith(_NO_FULL_STOP_AFTER):
        text += "."
    return text.replace('"', "'").replace("_", " ")


def parse_prompt(prompt: str) -> Prompt:
    """A named prompt (underscores accepted) or a template that holds `{text}` once.

    Raises MisuseError for an unknown name, a template without the hole, or what is not text.
    """
    check_text(prompt, "--prompt")
    name = prompt.replace("_", "-")
    template = TEMPLATES.get(name)
    if template is None:
        if _HOLE not in prompt:
            raise MisuseError(
                f"--prompt {prompt!r} is neither a known prompt ({', '.join(TEMPLATES)}) nor a "
                "template holding {text}"
            )
        before, _, after = prompt.partition(_HOLE)
        return Prompt(prompt, before, after, named=False)
    before, _, after = template.partition(_HOLE)
    return Prompt(name, before, after, named=True)
