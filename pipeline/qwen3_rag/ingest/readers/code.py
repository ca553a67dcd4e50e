"""Source code, split at functions and classes with tree-sitter; one section if there is no grammar."""

import re
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import import_module
from typing import Any

from qwen3_rag.ingest.files import File
from qwen3_rag.ingest.parsed import DEEPEST, Parsed, Section, heading
from qwen3_rag.records import Document

__all__ = ["code"]

# Suffix to grammar module, and its function if not `language`.
GRAMMARS = {
    ".py": "python", ".pyi": "python", ".js": "javascript", ".mjs": "javascript", ".cjs": "javascript",
    ".jsx": "javascript", ".ts": "typescript:language_typescript", ".tsx": "typescript:language_tsx", ".java": "java",
    ".go": "go", ".rs": "rust", ".c": "c", ".h": "cpp", ".cc": "cpp", ".cpp": "cpp", ".cxx": "cpp", ".hpp": "cpp",
    ".cs": "c_sharp", ".rb": "ruby", ".php": "php:language_php", ".sh": "bash", ".bash": "bash",
}  # fmt: skip
DEFINITION = re.compile(
    r"(function|class|method|struct|enum|interface|trait|impl|module|namespace|constructor|type_alias|union)"
    r"(_\w+)?_(definition|declaration|item|specifier|statement)$|^(class|module|method|singleton_method)$"
)
# Nodes that wrap a definition and are part of it.
WRAPPERS = frozenset(("decorated_definition", "export_statement", "template_declaration", "declaration_list"))


@cache
def _parser(grammar: str) -> Any:
    """A parser, or None if the grammar is not installed."""
    module, _, function = grammar.partition(":")
    try:
        import tree_sitter

        language = getattr(import_module(f"tree_sitter_{module}"), function or "language")
    except ImportError:
        return None
    return tree_sitter.Parser(tree_sitter.Language(language()))


def code(file: File) -> Iterator[Parsed]:
    """Read source code; the title is the file name, headings are the names of classes and functions."""
    text = file.text
    if not text.strip():
        return
    parser = _parser(GRAMMARS[file.suffix]) if file.suffix in GRAMMARS else None
    sections = _sections(text, parser) if parser else [Section(0, len(text), (), "code")]
    yield Parsed(Document(text, title=file.path.name), tuple(sections))


def _sections(text: str, parser: Any) -> list[Section]:
    raw = text.encode()
    marks: list[tuple[int, tuple[str, ...]]] = [(0, ())]
    marks += sorted(set(_definitions(parser.parse(raw).root_node, raw)))
    starts = _characters(text, raw, [start for start, _ in marks])
    sections = []
    for (_, path), start, stop in zip(marks, starts, [*starts[1:], len(text)], strict=True):
        if text[start:stop].strip():
            sections.append(Section(start, stop, path, "code"))
    return sections


def _definitions(root: Any, raw: bytes) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Byte offsets where definitions start and where the code after them starts, with enclosing names."""
    stack: list[tuple[Any, tuple[str, ...]]] = [(root, ())]
    while stack:
        node, path = stack.pop()
        # A list: finding a sibling through tree-sitter would visit all children each time.
        children = node.named_children
        for place, child in enumerate(children):
            inner = child
            while inner.type in WRAPPERS and (defined := [n for n in inner.named_children if _defines(n)]):
                inner = defined[0]
            if _defines(inner):
                child_path = (*path, heading(_name(inner, raw)))[:DEEPEST]
                yield _with_comments(children, place, raw), child_path
                if place + 1 < len(children):
                    yield _line_after(child.end_byte, raw), path
                stack.append((inner, child_path))
            elif child.named_child_count and child.type not in ("comment", "string"):
                stack.append((child, path))


def _defines(node: Any) -> bool:
    return bool(DEFINITION.search(node.type)) and node.end_point[0] > node.start_point[0]


def _name(node: Any, raw: bytes) -> str:
    fields = (node.child_by_field_name(field) for field in ("name", "declarator", "type"))
    label = next((field for field in fields if field is not None), None)
    while label is not None and (inner := label.child_by_field_name("declarator")) is not None:
        label = inner
    return raw[label.start_byte : label.end_byte].decode() if label is not None else node.type.replace("_", " ")


def _with_comments(nodes: Sequence[Any], place: int, raw: bytes) -> int:
    """Byte offset of the line where a definition starts, including comments directly above it."""
    while place and "comment" in nodes[place - 1].type:
        if nodes[place - 1].end_point[0] + 1 < nodes[place].start_point[0]:
            break
        place -= 1
    return raw.rfind(b"\n", 0, nodes[place].start_byte) + 1


def _line_after(place: int, raw: bytes) -> int:
    end = raw.find(b"\n", place)
    return len(raw) if end < 0 else end + 1


def _characters(text: str, raw: bytes, places: list[int]) -> list[int]:
    """Convert ascending byte offsets to character offsets."""
    if len(raw) == len(text):
        return places
    offsets, at, characters = [], 0, 0
    for place in places:
        characters += len(raw[at:place].decode())
        at = place
        offsets.append(characters)
    return offsets
