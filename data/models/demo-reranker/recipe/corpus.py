"""English texts and code from a Debian machine, as passages with the queries they answer.

Sources are package descriptions, dictionaries, manual pages, documentation in HTML, and Python functions with their
docstrings; nothing is downloaded, and no evaluation collection is used. Sources that are not installed are skipped, and
the log shows zero passages. The card lists the Debian packages.
"""

import ast
import gzip
import random
import re
import subprocess
import sysconfig
import textwrap
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from qwen3_rag.ingest.readers import read

__all__ = ["CHARACTERS", "SOURCES", "Passage", "gather", "shorten"]

CHARACTERS = 900  # about 210 tokens


@dataclass(frozen=True)
class Passage:
    """A text and the queries that it answers.

    Attributes:
        kind: `text`, `question` (its queries are questions) or `code`.
        title: Heading, or "".
        text: At most about 210 tokens.
        queries: Queries from the source; empty if queries can only be made from the text itself.
    """

    kind: str
    title: str
    text: str
    queries: tuple[str, ...] = ()


def gather(seed: int, scale: float = 1.0) -> dict[str, list[Passage]]:
    """Source name to a random sample of its passages, in random order.

    Args:
        seed: Seed of the sample and its order.
        scale: Factor on the number of passages from each source.
    """
    chosen = {}
    for name, (passages_of, count) in SOURCES.items():
        by_text = {p.text: p for p in passages_of() if len(p.text) > 60 and p.text.isascii()}
        passages = [by_text[text] for text in sorted(by_text)]
        random.Random(f"{seed} {name}").shuffle(passages)
        chosen[name] = passages[: int(count * scale)]
    return chosen


def shorten(text: str, characters: int) -> str:
    """The start of a text, up to the end of a sentence if possible."""
    if len(text) <= characters:
        return text
    ends = [match.end() for match in re.finditer(r"[.!?](?= )", text[:characters])]
    return text[: ends[-1]] if ends and ends[-1] > characters // 3 else text[:characters].rsplit(" ", 1)[0]


def _cut(text: str) -> str:
    return shorten(" ".join(text.split()), CHARACTERS)


def _article(word: str) -> str:
    return word if word[:1].isupper() else f"{'an' if word[:1] in 'aeiou' else 'a'} {word}"


def _command(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, errors="replace", check=False).stdout


def _packages() -> Iterator[Passage]:
    lists = sorted(Path("/var/lib/apt/lists").glob("*_main_i18n_Translation-en*"))
    for block in _command("/usr/lib/apt/apt-helper", "cat-file", *map(str, lists)).split("\n\n"):
        fields = re.match(r"Package: (\S+)\n(?:.*\n)*?Description-en: (.*)\n((?: .*\n?)*)", block)
        if not fields or re.search(r"-(dev|dbg|doc|data|common|l10n-.*)$|^(lib|node-|golang-|librust-)", fields[1]):
            continue
        name, short, long = fields.groups()
        text = _cut(long.replace("\n .\n", "\n"))
        plain = short[0].lower() + short[1:] if short[1:2].islower() else short
        queries = (short, f"is there a program for {plain}?", f"which package provides {plain}?", f"what is {name}?")
        yield Passage("text", name, text, queries if len(short) > 20 else queries[3:])


def _wordnet() -> Iterator[Passage]:
    for part in ("noun", "verb"):
        path = Path(f"/usr/share/wordnet/data.{part}")
        for line in path.read_text().splitlines() if path.is_file() else ():
            if not line[:8].isdigit():
                continue
            data, gloss = line.split(" | ", 1)
            words = data.split()
            names = [word.replace("_", " ") for word in words[4 : 4 + 2 * int(words[3], 16) : 2]]
            definition = re.sub(r"^\([^)]*\) ", "", gloss.split('; "')[0].strip())
            if len(definition) <= 45 or len(names[0]) < 4:
                continue
            name = names[0]
            instance = name[0].isupper()
            person = instance and re.search(r"\(\d{3,4}-\d{4}\)|\(born in", gloss)
            what = "who was" if person else "what is" if instance or part == "noun" else "what does it mean to"
            queries = [f"{what} {_article(name) if part == 'noun' else name}?", f"{name} definition"]
            queries += [f"{'who was' if person else 'what is'} {re.sub(r' *[(][^)]*[)]', '', definition)}?"]
            queries += [f"what is another word for {name}?"] if len(names) > 1 else []
            text = f"{', '.join(names)}: {gloss.strip()}"
            yield Passage("question", "", _cut(text), tuple(queries))


def _dictionary(name: str) -> Iterator[tuple[str, str]]:
    path = Path(f"/usr/share/dictd/{name}.dict.dz")
    if not path.is_file():
        return
    with gzip.open(path, "rt", errors="replace") as file:
        entries = re.split(r"\n(?=\S)", file.read())
    for entry in entries:
        head, _, body = entry.partition("\n")
        body = re.sub(r"[{}]|\[1913 Webster\]|\[PJC\]|<[a-z, ]+>|\(\d{4}-[\d-]+\)", "", body)
        yield head.split("\\")[0].strip(), body


def _entries(name: str, shortest: int) -> Iterator[Passage]:
    for head, body in _dictionary(name):
        # The etymology, between brackets after the part of speech, and the first sense's number.
        text = _cut(re.sub(r"^\s*(?:[^\[\n]{0,40}\[[^\]]*\][^\]\n]{0,9}\n)?\s*(?:1\. )?", "", body))
        if 2 < len(head) < 40 and len(text) >= shortest and not re.search(r"[][]", text):
            queries = (f"what is {_article(head)}?", head, f"what does {head} mean?", f"explain {head}")
            yield Passage("question", head, text, queries)


def _computing() -> Iterator[Passage]:
    yield from _entries("foldoc", 90)
    yield from _entries("jargon", 90)


def _general() -> Iterator[Passage]:
    yield from _entries("gcide", 160)


def _manuals() -> Iterator[Passage]:
    for path in sorted(Path("/usr/share/man").glob("man[1-8]/*.gz")):
        if path.is_symlink():
            continue
        with gzip.open(path, "rt", errors="replace") as file:
            page = file.read()
        page = re.sub(r'^[.\'](?:\\"|SH[^\n]*LIBRARY|TH|ie|el|if|de|ds|nr|tr|rm).*\n', "", page, flags=re.M)
        page = page.replace("\\-", "-").replace("\\(aq", "'").replace("\\&", "")
        page = re.sub(r"\\f.|\\s[-+]?\d|\\\(..|\\\*\S", "", page)
        name = re.search(r'\.SH "?NAME"?\n((?:.*\n){1,4}?)(?=\.SH)', page)
        body = re.search(r'\.SH "?DESCRIPTION"?\n((?:(?!\.SH|\.SS).*\n)+)', page)
        if not name or not body or " - " not in (line := " ".join(name[1].split())):
            continue
        prose = re.sub(r"^\.(?:nf|EX)\n(?:.*\n)*?\.(?:fi|EE)\n", "", body[1], flags=re.M)
        prose = re.sub(r"^\.[BIR]{1,2} |^\.\w.*\n|^\.", "", prose, flags=re.M).replace('"', "")
        _, short = re.sub(r" \.[A-Z].*", "", line).split(" - ", 1)
        action = re.match(r"[a-z]+[^s\W] ", short)
        queries = (short, f"how do I {short}?" if action else f"what is {line.split(',')[0].split(' ')[0]}?")
        yield Passage("text", path.name.split(".")[0], _cut(prose), queries)


def _perl() -> Iterator[Passage]:
    for path in sorted(Path("/usr/share/perl").glob("*/pod/*.pod")):
        if path.stem.endswith("delta"):
            continue
        pod = re.sub(r"[A-Z]<+ ?(?:[^|<>]*\|)?([^<>]*?) ?>+", r"\1", path.read_text(errors="replace"))
        for section in re.split(r"^=head[1-3] ", pod, flags=re.M)[1:]:
            head, _, body = section.partition("\n")
            head = head.strip()
            paragraphs = [p for p in body.split("\n\n") if re.match(r"\n*[^=\s]", p)]
            yield Passage("question" if head.endswith("?") else "text", head, _cut(" ".join(paragraphs)), (head,))


def _pages(*patterns: str) -> Callable[[], Iterator[Passage]]:
    """Passages of HTML documentation: neighbouring paragraphs under one heading, as the library reads them."""

    def passages() -> Iterator[Passage]:
        for path in (path for pattern in patterns for path in sorted(Path("/usr/share").glob(pattern))):
            if path.is_symlink() or path.stat().st_size > 1_000_000:
                continue
            for parsed in read(path):
                for section in parsed.sections:
                    if section.kind in ("prose", "list"):
                        text = parsed.document.text[section.start + section.heading_length : section.stop]
                        yield from _paragraphs(text, parsed.document.title or "", section.headings)

    return passages


def _paragraphs(text: str, title: str, headings: tuple[str, ...]) -> Iterator[Passage]:
    heading = re.sub(r"^(?:[A-Z]\.)?[\d.]+\s+", "", headings[-1]) if headings else title
    queries = (heading,) if len(heading.split()) > 2 else ()
    kind = "question" if heading.endswith("?") else "text"
    part = ""
    for paragraph in [*text.split("\n\n"), None]:
        if paragraph is None or len(part) + len(paragraph) > CHARACTERS:
            if len(part) > 120:
                yield Passage(kind, heading, _cut(part), queries)
            part, queries = "", ()
        part = f"{part} {paragraph}"


def _functions() -> Iterator[Passage]:
    paths = sysconfig.get_paths()
    for root, one_in in ((Path(paths["stdlib"]), 1), (Path(paths["purelib"]), 10)):
        for path in sorted(root.glob("**/*.py")):
            inside = path.relative_to(root)
            if {"tests", "test", "site-packages"} & set(inside.parts) or path.stat().st_size > 60_000:
                continue
            if zlib.crc32(str(inside).encode()) % one_in == 0:
                yield from _functions_of(path.read_text(errors="replace"))


def _functions_of(source: str) -> Iterator[Passage]:
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return
    lines = source.splitlines()
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef) or not (docstring := ast.get_docstring(node)):
            continue
        summary = " ".join(docstring.split("\n\n")[0].split()).rstrip(".")
        first = node.body[0]
        code = lines[node.lineno - 1 : first.lineno - 1] + lines[first.end_lineno : node.end_lineno]
        if not 20 < len(summary) < 160 or len(node.body) < 2 or len(code) < 4:
            continue
        # One in four keeps its docstring, because users index code of both kinds.
        if len(summary) % 4 == 0:
            code = lines[node.lineno - 1 : node.end_lineno]
        plain = summary[0].lower() + summary[1:]
        imperative = re.sub(r"^(\w+[^s])s ", r"\1 ", plain)
        queries = (summary, f"python {plain}", f"how to {imperative} in python")
        yield Passage("code", "", textwrap.dedent("\n".join(code))[:CHARACTERS].rstrip(), queries)


SOURCES: dict[str, tuple[Callable[[], Iterator[Passage]], int]] = {
    "package descriptions": (_packages, 2000),
    "WordNet": (_wordnet, 1500),
    "FOLDOC and Jargon File": (_computing, 1200),
    "GCIDE": (_general, 500),
    "manual pages": (_manuals, 1000),
    "Perl documentation": (_perl, 700),
    "Python documentation": (_pages("doc/python3.11/html/[tfhrl]*/*.html"), 1000),
    "Debian's books": (
        _pages(
            "doc/debian-handbook/html/en-US/*.html",
            "doc/debian-policy/policy.html/*.html",
            "developers-reference/*.html",
            "debian-reference/*.en.html",
        ),
        900,
    ),
    "An Anarchist FAQ": (_pages("doc/anarchism/html/*.html"), 2500),
    "PostgreSQL documentation": (_pages("doc/postgresql-doc-15/html/*.html"), 800),
    "Django documentation": (_pages("doc/python-django-doc/html/[irth]*/*.html"), 500),
    "SQLite documentation": (_pages("doc/sqlite3/*.html"), 500),
    "Octave and Maxima manuals": (_pages("doc/octave/octave.html/*.html", "doc/maxima-doc/html/*.html"), 500),
    "Git documentation": (_pages("doc/git-doc/*.html"), 300),
    "Python functions": (_functions, 1500),
}
