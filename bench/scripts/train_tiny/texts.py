"""Training texts for `tiny`: groups of eight neighbouring texts cut from one article.

Articles are plain text (title on the first line, `<|endofdoc|>` after the last). The texts of a
group share a subject (a passage, its sentences, its title, queries and questions made from it), so
that a batch of groups holds hard neighbours.
"""

import random
import re
from collections.abc import Iterator
from pathlib import Path

import zstandard

GROUP = 8
"""texts in a group"""

END_OF_DOCUMENT = "<|endofdoc|>"
SENTENCE_END = re.compile(r"(?<=[a-z0-9)\"'%]{2}[.!?])\s+(?=[A-Z\"'(])")
WORD = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*")
STOPWORDS = frozenset(
    [
        "a",
        "about",
        "above",
        "after",
        "again",
        "all",
        "also",
        "although",
        "an",
        "and",
        "any",
        "are",
        "as",
        "at",
        "be",
        "became",
        "because",
        "been",
        "before",
        "being",
        "between",
        "both",
        "but",
        "by",
        "can",
        "could",
        "did",
        "do",
        "does",
        "during",
        "each",
        "few",
        "for",
        "from",
        "further",
        "had",
        "has",
        "have",
        "having",
        "he",
        "her",
        "here",
        "him",
        "his",
        "how",
        "however",
        "i",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "itself",
        "later",
        "like",
        "made",
        "many",
        "may",
        "more",
        "most",
        "much",
        "no",
        "nor",
        "not",
        "now",
        "of",
        "off",
        "on",
        "once",
        "one",
        "only",
        "or",
        "other",
        "our",
        "out",
        "over",
        "own",
        "same",
        "she",
        "should",
        "since",
        "so",
        "some",
        "such",
        "than",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "those",
        "through",
        "to",
        "too",
        "under",
        "until",
        "up",
        "used",
        "very",
        "was",
        "we",
        "were",
        "what",
        "when",
        "where",
        "which",
        "while",
        "who",
        "whom",
        "why",
        "will",
        "with",
        "within",
        "would",
        "you",
        "your",
    ]
)
TEMPLATES = (
    "what is {}",
    "what is {}?",
    "What is {}?",
    "who was {}?",
    "what are {}",
    "how does {} work?",
    "how is {} used",
    "what causes {}?",
    "what is known about {}",
    "where is {}",
    "when did {} happen?",
    "history of {}",
    "why is {} important?",
    "effect of {}",
    "information on {}",
    "definition of {}",
)
PAIR_TEMPLATES = (
    "how is {} related to {}?",
    "what is the effect of {} on {}",
    "{} and {}",
    "difference between {} and {}",
    "does {} cause {}?",
    "what {} did {} have?",
    "{} in {}",
    "papers on {} and {}",
)


def articles(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield (title, paragraphs) of each article of a `.zst` file."""
    with path.open("rb") as raw, zstandard.open(raw, "rt", encoding="utf-8") as file:
        lines: list[str] = []
        for line in file:
            line = line.strip()
            if line != END_OF_DOCUMENT:
                if line:
                    lines.append(line)
                continue
            if len(lines) > 1:
                yield lines[0], lines[1:]
            lines = []


def sentences(paragraph: str) -> list[str]:
    """Split a paragraph into sentences of 25 to 320 characters."""
    return [s for s in SENTENCE_END.split(paragraph) if 25 <= len(s) <= 320]


def content_words(text: str) -> list[str]:
    """The words of a text that are no stop words, in their order, each once."""
    words = [w for w in WORD.findall(text) if w.lower() not in STOPWORDS and len(w) > 1]
    return list(dict.fromkeys(words))


def keywords(rng: random.Random, text: str) -> str:
    """A query as typed into a search box: some content words, mostly in lower case."""
    words = content_words(text)
    count = min(len(words), rng.randint(2, 8))
    chosen = sorted(rng.sample(range(len(words)), count))
    query = " ".join(words[i] for i in chosen)
    return query.lower() if rng.random() < 0.7 else query


def phrase(rng: random.Random, text: str) -> str:
    """One to three neighbouring words of a text, a content word at both ends."""
    words = WORD.findall(text)
    starts = [i for i, w in enumerate(words) if w.lower() not in STOPWORDS]
    if not starts:
        return text
    first = rng.choice(starts)
    last = max(i for i in starts if first <= i <= first + rng.randint(0, 2))
    return " ".join(words[first : last + 1])


def question(rng: random.Random, title: str, sentence: str) -> str:
    """A question, or a request that reads like one, about a title or a sentence."""
    draw = rng.random()
    if draw < 0.35:
        text = rng.choice(TEMPLATES).format(title if rng.random() < 0.6 else phrase(rng, sentence))
    elif draw < 0.7:
        text = rng.choice(PAIR_TEMPLATES).format(phrase(rng, sentence), phrase(rng, sentence))
    else:
        start = rng.choice(("what", "how", "why", "when", "which", "who", "is it true that", "did"))
        body = sentence.rstrip(".")
        text = f"{start} {body[:1].lower()}{body[1:]}{rng.choice(('?', ''))}"
    return text.lower() if rng.random() < 0.3 else text


def altered(rng: random.Random, sentence: str, other: str) -> str:
    """The sentence with words left out, or exchanged for words of another one."""
    words = sentence.split()
    spare = content_words(other)
    if rng.random() < 0.5 or not spare:
        rate = rng.uniform(0.1, 0.4)
        kept = [w for w in words if rng.random() > rate]
        return " ".join(kept or words)
    for _ in range(rng.randint(1, 3)):
        words[rng.randrange(len(words))] = rng.choice(spare)
    return " ".join(words)


def clause(rng: random.Random, sentence: str) -> str:
    """A short piece of a sentence: between its commas, or its first or last words."""
    parts = [p for p in re.split(r"[,;:()]\s*", sentence) if 3 <= len(p.split()) <= 14]
    if parts and rng.random() < 0.6:
        return rng.choice(parts)
    words = sentence.split()
    length = rng.randint(4, 12)
    return " ".join(words[:length] if rng.random() < 0.6 else words[-length:])


def passage(rng: random.Random, title: str, paragraphs: list[str], start: int) -> str:
    """A passage from `start` on, 30 to 400 words long, often led by its title."""
    draw = rng.random()
    low, high = (30, 90) if draw < 0.5 else (90, 240) if draw < 0.9 else (240, 400)
    wanted, words = rng.randint(low, high), []
    for paragraph in paragraphs[start:]:
        words += paragraph.split()
        if len(words) >= wanted:
            break
    text = " ".join(words[:wanted])
    return f"{title} {text}" if rng.random() < 0.6 else text


def group(rng: random.Random, title: str, paragraphs: list[str], lead: bool) -> list[str] | None:
    """Eight texts about one place of an article, or None where it has too few sentences.

    `lead` takes the article's beginning, else a paragraph by chance.
    """
    usable = [i for i, p in enumerate(paragraphs) if len(p) >= 120]
    if not usable:
        return None
    start = usable[0] if lead else rng.choice(usable)
    near = sentences(paragraphs[start])
    far = sentences(paragraphs[rng.choice(usable)])
    if len(near) < 2 or not far:
        return None
    at = rng.randrange(len(near) - 1)
    first, second, third = near[at], near[at + 1], rng.choice(far)
    if not content_words(first) or not content_words(third):
        return None
    heading = next((p for p in paragraphs[start::-1] if len(p) < 60), "").rstrip(".")
    short = f"{title} {heading.lower()}".strip() if heading and rng.random() < 0.5 else title
    return [
        passage(rng, title, paragraphs, start),
        first,
        f"{second} {third}" if rng.random() < 0.1 else second,
        altered(rng, first, third) if rng.random() < 0.5 else third,
        short if rng.random() < 0.6 else clause(rng, third),
        keywords(rng, first if rng.random() < 0.6 else f"{title} {third}"),
        question(rng, title, first if rng.random() < 0.5 else third),
        clause(rng, first if rng.random() < 0.5 else second),
    ]


def prepare(sources: list[Path], groups_an_article: int, seed: int = 0) -> list[list[str]]:
    """Groups of eight texts from all articles, shuffled; the first group of each is its lead."""
    rng = random.Random(seed)  # noqa: S311 - no secret
    found: list[list[str]] = []
    for source in sources:
        for title, paragraphs in articles(source):
            for number in range(groups_an_article):
                texts = group(rng, title, paragraphs, lead=number == 0)
                if texts is not None:
                    found.append([t[:3000] for t in texts])
                if len(paragraphs) < 4:
                    break
    rng.shuffle(found)
    return found


SCIENCE = frozenset(
    WORD.findall(
        "acid acids aerodynamic aircraft algorithm amplifier antenna antibodies antigen "
        "bacteria bacterial blood boundary brain cancer cardiac cell cells cellular chromosome "
        "chronic circuit circuits clinical data diagnosis disease diseases disorder disorders "
        "dna dose drug drugs electron electronic electrons energy engine enzyme enzymes "
        "equation equations experiment experiments flow fluid frequency gene genes genetic "
        "genome glucose heat hormone immune infection infections insulin ion ionosphere kidney "
        "laser liver lung magnetic measurement membrane metabolism mice molecular molecule "
        "molecules muscle mutation mutations nerve neurons noise nucleus optical oxygen "
        "particles patient patients pressure protein proteins quantum radar radiation receptor "
        "receptors risk rna semiconductor shock signal signals species supersonic surgery "
        "symptoms syndrome temperature theory therapy tissue tissues transistor treatment tumor "
        "turbulent vaccine velocity viral virus viruses voltage wave waves wing"
    )
)


def scientific(groups: list[list[str]], count: int) -> list[list[str]]:
    """The `count` groups with the largest share of scientific words, in their old order."""

    def share(group: list[str]) -> float:
        words = WORD.findall(" ".join(group).lower())
        return sum(word in SCIENCE for word in words) / max(len(words), 100)

    best = sorted(range(len(groups)), key=lambda i: -share(groups[i]))[:count]
    return [groups[i] for i in sorted(best)]
