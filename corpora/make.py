"""Make corpora/wikinews.jsonl from a dump of English Wikinews articles in JSON lines.

    python corpora/make.py wikinews.jsonl.gz corpora/wikinews.jsonl

The source holds one article a line: `_id`, `url`, `title`, `text`. The extraction that made it
lost some linked names, so articles that show the traces of it ("said the came off the tracks near
.") are left out. Kept are articles that are short, or whose first paragraphs are; all of the
recent ones, and of the older ones as many, evenly spread, as fit. No chance is involved: the same
source gives the same bytes.
"""

from __future__ import annotations

import argparse
import gzip
import html
import json
import re
from pathlib import Path

DOCUMENTS = 2400
WORDS = (40, 115)  # of a document's text
RECENT = 130_000  # page ids from here on (from July 2009) are taken first

# Traces of lost names: punctuation behind a blank, empty quotation marks or brackets, two small
# words that never meet.
_BEFORE = r"(?:the|an?|its|their|his|of|in|by|from|at|for|with|into|between|against|former|called)"
_AFTER = (
    r"(?:was|is|were|are|has|have|had|said|says|came|will|would|told|also|who|which|and|as|when"
    r"|while|before|after|during|until|since|if|still|on)"
)
_ENDING = r"(?:the|an?|its|their|his|of|by|from|with|and|or)"
BROKEN = re.compile(
    r"\s[,;:!?)]|\s\.(?!\w)|[(\[]\s|\(\)|\"\"|''|\s{2}|[\[\]{}|<>=]|&\w+;|http|,\s*[,.)]|\(,|\$ "
    rf"|\b{_BEFORE} {_AFTER}(?!\w)|\b(?:{_BEFORE}|The) \(|\b{_ENDING}[.,;:!?]"
    r"|\b(?:an?|the) (?:the|an?|of|in|to|for|from|by|with|that|at|it|he|they|reported|it's)\b"
    r"|\b(?:of|by|from|for|with|and|to) (?:of|by|and|to)\b|\b(?:become|became|called|named) as\b"
    r"|(?:'s|several|, [A-Z]\w+) \([A-Z]{2,}\)|(?:^|\s)(?:'s\b|' )|\bto at\b"
    r"|(?:^|, )[Tt]he (?:of|voted|responded|announced|confirmed|released)\b"
    r"|\b(?:recogni[sz]e|recogni[sz]ed) as\b|\bas as\b"
    r"|\ban (?!h)[b-df-gj-np-tv-z]|\ba (?!one|uni|use|eu)[aeiou]\w"
    r"|^\W*[a-z]",
    re.MULTILINE,
)
# No articles, nothing for a demonstration, or long series of much the same.
NO_ARTICLE = re.compile(
    r"wikinews|news brief|shorts|crossword|campaign trail|weekly|in history|photo|comics"
    r"|\b(?:porn|nude|erotic|sex|paralympi|ipc\b|pichilemu|benet academy)",
    re.IGNORECASE,
)
_ENDS = (".", "!", "?", '"', ".)")


def article(record: dict[str, str]) -> dict[str, str] | None:
    """The document made of one article; None when it is too long, too short or broken."""
    title = html.unescape(record["title"]).strip()
    if NO_ARTICLE.search(title) or (not title[0].isalnum() and title[0] not in "'\"“"):
        return None
    taken: list[str] = []
    for paragraph in html.unescape(record["text"]).split("\n"):
        paragraph = paragraph.strip()
        if len(paragraph.split()) < 4:
            continue
        if len(" ".join([*taken, paragraph]).split()) > WORDS[1]:
            break
        taken.append(paragraph)
    while taken and not taken[-1].endswith(_ENDS):
        taken.pop()
    text = "\n".join(taken)
    if len(text.split()) < WORDS[0] or BROKEN.search(text) or NO_ARTICLE.search(text):
        return None
    if text.count('"') % 2 or text.count("(") != text.count(")"):
        return None
    if not all(paragraph.endswith(_ENDS) for paragraph in taken):
        return None
    return {"id": record["_id"], "title": title, "text": text, "url": record["url"]}


def choose(documents: list[dict[str, str]], count: int) -> list[dict[str, str]]:
    """All recent ones, and evenly spread older ones up to `count`, in the order of the source."""
    recent = [d for d in documents if int(d["id"][2:]) >= RECENT][-count:]
    older = [d for d in documents if int(d["id"][2:]) < RECENT]
    wanted = min(count - len(recent), len(older))
    return [older[i * len(older) // wanted] for i in range(wanted)] + recent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("source", type=Path, help="wikinews.jsonl.gz")
    parser.add_argument("target", type=Path, help="the corpus to write")
    parser.add_argument("--tokenizer", type=Path, help="a tokenizer.json, to count tokens with")
    options = parser.parse_args()

    documents: list[dict[str, str]] = []
    seen: set[str] = set()
    with gzip.open(options.source, "rt", encoding="utf-8") as lines:
        for line in lines:
            document = article(json.loads(line))
            if document and seen.isdisjoint({document["title"].lower(), document["text"]}):
                seen |= {document["title"].lower(), document["text"]}
                documents.append(document)
    chosen = choose(documents, DOCUMENTS)
    with options.target.open("w", encoding="utf-8", newline="\n") as target:
        target.writelines(json.dumps(d, ensure_ascii=False) + "\n" for d in chosen)

    contents = [f"{d['title']} {d['text']}" for d in chosen]
    told = f"{len(chosen)} of {len(documents)} usable articles, "
    told += f"{sum(len(c.split()) for c in contents)} words, {options.target.stat().st_size} bytes"
    if options.tokenizer:
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(options.tokenizer))
        tokenizer.no_truncation()
        tokenizer.no_padding()
        counts = [len(e.ids) for e in tokenizer.encode_batch(contents, add_special_tokens=False)]
        told += f", {sum(counts)} tokens (longest {max(counts)})"
    print(told)  # noqa: T201


if __name__ == "__main__":
    main()
