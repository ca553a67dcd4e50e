"""Source code, split at functions and classes with tree-sitter; at lines if there is no grammar."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from importlib.util import find_spec
from itertools import pairwise

from qwen3_rag.ingest.child import parse
from qwen3_rag.ingest.files import COMMAND, ContentError, File
from qwen3_rag.ingest.parsed import Parsed, Section
from qwen3_rag.records import Document

__all__ = ["code"]

# Suffix to grammar, and the function of its module if not `language`.
GRAMMARS = {
    ".py": "python", ".pyi": "python", ".js": "javascript", ".mjs": "javascript", ".cjs": "javascript",
    ".jsx": "javascript", ".ts": "typescript:language_typescript", ".tsx": "typescript:language_tsx", ".java": "java",
    ".go": "go", ".rs": "rust", ".c": "c", ".h": "cpp", ".cc": "cpp", ".cpp": "cpp", ".cxx": "cpp", ".hpp": "cpp",
    ".cs": "c_sharp", ".rb": "ruby", ".php": "php:language_php", ".sh": "bash", ".bash": "bash", ".kt": "kotlin",
    ".swift": "swift", ".scala": "scala", ".lua": "lua", ".jl": "julia",
}  # fmt: skip
LARGEST_PARSED = 1 << 20  # bytes; a larger file is mostly data or generated
SECONDS = 10.0  # that finding definitions may take
PARSER = "qwen3_rag.ingest.parsers.code:definitions"
logger = logging.getLogger("qwen3_rag")


def code(file: File) -> Iterator[Parsed]:
    """Read source code; the title is the file name, headings are the names of classes and functions."""
    text = file.text
    if not text.strip():
        return
    marks = [(0, ()), *_marks(file, text), (len(text), ())]
    sections = (Section(start, stop, path, "code") for (start, path), (stop, _) in pairwise(marks))
    named = tuple(section for section in sections if text[section.start : section.stop].strip())
    yield Parsed(Document(text, title=file.path.name), named)


def _marks(file: File, text: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Where definitions, and the code after them, start, with the names around; nothing if they cannot be found."""
    module, _, function = GRAMMARS.get(file.suffix, "").partition(":")
    raw = text.encode()
    if not module or len(raw) > LARGEST_PARSED or not _installed(f"tree_sitter_{module}"):
        return
    seconds = min(file.seconds, SECONDS)
    head = f"tree_sitter_{module} {function or 'language'} {seconds}\n"
    try:
        events = list(parse(replace(file, seconds=seconds), PARSER, head.encode() + raw))
    except ContentError as error:
        logger.info("%s; it is split at lines", error)
        return
    before = 0
    for _, place, path in events:
        if not before <= place <= len(text):  # the parser may lie
            return
        before = place
        yield place, tuple(path.split("\n")) if path else ()


@cache
def _installed(grammar: str) -> bool:
    """Whether a grammar is installed; said once if it is not."""
    missing = next((package for package in ("tree_sitter", grammar) if find_spec(package) is None), None)
    if missing:
        name = missing.replace("_", "-")
        logger.warning(
            "splitting code at its functions needs the package %r, which is not installed: %s", name, COMMAND
        )
    return missing is None
