"""The languages whose words can be stemmed."""

from __future__ import annotations

from moee_index.errors import MisuseError
from moee_index.text import shown

NO_LANGUAGE = "none"
# ISO 639-1 code → its Snowball algorithm.
LANGUAGES = {
    "ar": "arabic", "ca": "catalan", "cs": "czech", "da": "danish", "de": "german", "el": "greek",
    "en": "english", "eo": "esperanto", "es": "spanish", "et": "estonian", "eu": "basque",
    "fa": "persian", "fi": "finnish", "fr": "french", "ga": "irish", "hi": "hindi",
    "hu": "hungarian", "hy": "armenian", "id": "indonesian", "it": "italian", "lt": "lithuanian",
    "ne": "nepali", "nl": "dutch", "no": "norwegian", "pl": "polish", "pt": "portuguese",
    "ro": "romanian", "ru": "russian", "sr": "serbian", "st": "sesotho", "sv": "swedish",
    "ta": "tamil", "tr": "turkish", "yi": "yiddish",
}  # fmt: skip


def check_language(language: object) -> None:
    """Raises MisuseError unless words of this language can be stemmed, or it is `none`."""
    if not isinstance(language, str) or (language != NO_LANGUAGE and language not in LANGUAGES):
        raise MisuseError(
            f"language is {shown(repr(language))}; it is {NO_LANGUAGE} (words as they are) or one "
            f"of {', '.join(LANGUAGES)}"
        )
