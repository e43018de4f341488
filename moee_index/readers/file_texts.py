"""One file's text and title: plain text, Markdown, HTML, and with the extra `files` PDF and Word.

Which files are read is left to folder.py.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moee_index.errors import first_line

if TYPE_CHECKING:
    from bs4 import Tag

_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
# So many bytes of a file are looked at for a zero byte, which no text holds.
_LOOKED_AT = 2**16
# A Word file is an archive: what it unpacks to is bounded.
_MOST_UNPACKED = 2**29
_HEADING = re.compile(r" {0,3}#{1,6}[ \t]+(.+?)[ \t]*#*[ \t]*")
_UNDERLINE = re.compile(r" {0,3}(=+|-+)[ \t]*")
_FENCE = re.compile(r" {0,3}(```|~~~)")
_FRONT_MATTER = re.compile(r"\A---\s*\n.*?\n(---|\.\.\.)\s*(\n|\Z)", re.S)
_NOT_TEXT = (
    *("script", "style", "noscript", "template", "svg", "iframe", "object", "head"),
    *("nav", "header", "footer", "aside", "form", "button", "select"),
)
_BLOCK_NAMES = (
    "address article aside blockquote br dd div dl dt fieldset figcaption figure h1 h2 h3 h4 h5 h6 "
    "hr li main ol p pre section table tbody td th thead tr ul"
)
_BLOCKS = frozenset(_BLOCK_NAMES.split())


class NoTextError(ValueError):
    """A file's text cannot be had; the message follows the file's name."""


@dataclass(frozen=True)
class FileText:
    """title: empty where a file says none."""

    text: str
    title: str = ""


def read_text(path: Path) -> FileText:
    """The text of a file. Raises NoTextError."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise NoTextError(f"cannot be read ({error.strerror or error})") from None
    kind = path.suffix.lower()
    return KINDS.get(kind, _of_text)(content)


def is_binary(path: Path) -> bool:
    """Whether a file begins as no text does; one that cannot be read is not."""
    try:
        with path.open("rb") as file:
            return _looks_binary(file.read(_LOOKED_AT))
    except OSError:
        return False


def _looks_binary(content: bytes) -> bool:
    return b"\0" in content[:_LOOKED_AT] and not content.startswith(_UTF_16)


def _decoded(content: bytes) -> str:
    if _looks_binary(content):
        raise NoTextError("is binary, not text")
    encoding = "utf-16" if content.startswith(_UTF_16) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise NoTextError(
            f"not UTF-8 (byte 0x{content[error.start]:02x} at position {error.start + 1}); convert "
            "it, for instance: iconv -f ISO-8859-1 -t UTF-8"
        ) from None


def _of_text(content: bytes) -> FileText:
    return FileText(_decoded(content))


def _of_markdown(content: bytes) -> FileText:
    """Without front matter; the first heading is the title, and is taken out where it is first."""
    text = _FRONT_MATTER.sub("", _decoded(content).replace("\r\n", "\n"), count=1)
    lines = text.split("\n")
    for number, title, after in _headings(lines):
        if not any(line.strip() for line in lines[:number]):
            lines = lines[after:]
        return FileText("\n".join(lines).strip("\n"), title)
    return FileText(text)


def _headings(lines: list[str]) -> Iterator[tuple[int, str, int]]:
    """(line, title, the line after it) of each heading that is in no block of code."""
    fence = ""
    for number, line in enumerate(lines):
        if found := _FENCE.match(line):
            fence = "" if fence == found[1] else fence or found[1]
        elif fence:
            continue
        elif marked := _HEADING.fullmatch(line):
            yield number, marked[1], number + 1
        elif line[:1].strip() and _UNDERLINE.fullmatch("".join(lines[number + 1 : number + 2])):
            yield number, line.strip(), number + 2


def _of_html(content: bytes) -> FileText:
    """The text of <main> or of the only <article>, else of all but navigation, headers and footers;
    the first heading is the title, else what <title> says."""
    from bs4 import BeautifulSoup

    page = BeautifulSoup(content, "html.parser")
    named = page.title.get_text(" ", strip=True) if page.title else ""
    heading = page.find(["h1", "h2", "h3", "h4", "h5", "h6"])
    title = heading.get_text(" ", strip=True) if heading else named
    for element in page.find_all(_NOT_TEXT):
        # A header inside of an article belongs to what it says.
        if element.name != "header" or element.find_parent(["article", "main"]) is None:
            element.decompose()
    articles = page.find_all("article")
    main = page.find("main") or (articles[0] if len(articles) == 1 else None) or page
    title = " ".join(title.split())
    first, _, rest = _flat(main).partition("\n")
    return FileText(rest if first == title else f"{first}\n{rest}".strip(), title)


def _flat(element: Tag) -> str:
    """Its text, a line for each block."""
    from bs4 import Comment, Tag
    from bs4.element import NavigableString

    parts: list[str] = []
    for inner in element.descendants:
        if isinstance(inner, Tag):
            if inner.name in _BLOCKS:
                parts.append("\n")
        elif isinstance(inner, NavigableString) and not isinstance(inner, Comment):
            # What is in <pre> keeps its lines.
            kept = inner.find_parent("pre") is not None
            parts.append(str(inner) if kept else re.sub(r"\s+", " ", inner))
            if inner.parent is not None and inner.parent.name in _BLOCKS and not inner.next_sibling:
                parts.append("\n")
    lines = (line.strip() for line in "".join(parts).split("\n"))
    return "\n".join(line for line in lines if line)


def _of_pdf(content: bytes) -> FileText:
    from pypdf import PdfReader

    with _reading("PDF"):
        pages = PdfReader(BytesIO(content))
        if pages.is_encrypted and not pages.decrypt(""):
            raise NoTextError("is encrypted; take the password off first")
        title = str(pages.metadata.title or "") if pages.metadata else ""
        text = "\n".join(page.extract_text() for page in pages.pages)
    if not text.strip() and len(pages.pages):
        raise NoTextError("holds no text, only pictures of it; it needs OCR first")
    return FileText(_without_halves(text), _without_halves(title).strip())


def _of_word(content: bytes) -> FileText:
    from docx import Document

    with _reading("Word file"):
        unpacked = sum(info.file_size for info in zipfile.ZipFile(BytesIO(content)).infolist())
        if unpacked > _MOST_UNPACKED:
            raise NoTextError(f"unpacks to more than {_MOST_UNPACKED >> 20} MiB")
        document = Document(BytesIO(content))
        title = document.core_properties.title or ""
        lines = list(_word_lines(document))
    return FileText("\n".join(line for _, line in lines), title or _first_heading(lines))


def _word_lines(document: Any) -> Iterator[tuple[bool, str]]:
    """(whether it is a heading, text) of paragraphs and rows of tables, in their order."""
    for block in document.iter_inner_content():
        if hasattr(block, "rows"):
            for row in block.rows:
                yield False, " | ".join(dict.fromkeys(cell.text.strip() for cell in row.cells))
        else:
            style = block.style.name if block.style is not None else ""
            yield str(style).startswith(("Heading", "Title")), block.text


def _first_heading(lines: list[tuple[bool, str]]) -> str:
    return next((text.strip() for heading, text in lines if heading and text.strip()), "")


def _without_halves(text: str) -> str:
    """PDFs hold halves of surrogate pairs, which are no text."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class _reading:
    """Turns what a library raises over a broken file into one line."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: Any, _: object) -> None:
        # Both libraries raise whatever a broken file makes them stumble over.
        if isinstance(error, Exception) and not isinstance(error, NoTextError | MemoryError):
            raise NoTextError(
                f"cannot be read as a {self._kind} ({first_line(error)}); is it damaged, or "
                "another kind of file?"
            ) from error


KINDS: dict[str, Callable[[bytes], FileText]] = {
    **dict.fromkeys((".txt", ".text", ".rst"), _of_text),
    **dict.fromkeys((".md", ".markdown"), _of_markdown),
    **dict.fromkeys((".html", ".htm", ".xhtml"), _of_html),
    ".pdf": _of_pdf,
    ".docx": _of_word,
}
# Kinds whose files are binary.
ARCHIVES = (".pdf", ".docx")
_LIBRARIES = {".pdf": "pypdf", ".docx": "docx"}


def lacking_library(kind: str) -> str | None:
    """The library that a kind of file needs and that is not installed."""
    library = _LIBRARIES.get(kind)
    return library if library is not None and find_spec(library) is None else None
