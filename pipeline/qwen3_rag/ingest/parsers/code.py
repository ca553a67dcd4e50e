"""Where definitions start in source code, found with tree-sitter, whose grammars may hang on hostile files."""

import re
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

from qwen3_rag.errors import IngestError
from qwen3_rag.ingest.messages import Event
from qwen3_rag.ingest.parsed import DEEPEST, heading

__all__ = ["definitions"]

READ = 1 << 16  # bytes given to tree-sitter at once
SHARE = 0.8  # of the time allowed that tree-sitter may take
DEFINITION = re.compile(
    r"(function|class|method|struct|enum|interface|trait|impl|module|namespace|constructor|type_alias|union|object"
    r"|protocol|init|macro)(_\w+)?_(definition|declaration|item|specifier|statement)$"
    r"|^(class|module|method|singleton_method)$"
)
# Nodes that wrap a definition and are part of it.
WRAPPERS = frozenset(("decorated_definition", "export_statement", "template_declaration", "declaration_list"))
FIELDS = ("name", "declarator", "type")  # of a node, any of which may be its name
UNNAMED = ("signature", "type_head")  # children with the name, in grammars without such fields
WORD = re.compile(r"[\w.!?]+")


def definitions(content: bytes) -> Iterator[list[Event]]:
    """Yield a mark for each place where a definition starts, and where the code after it does.

    Args:
        content: The grammar's module, its function and the seconds allowed, on one line; then the code in UTF-8.

    Raises:
        IngestError: Parsing took longer.
    """
    head, _, raw = content.partition(b"\n")
    module, function, seconds = head.decode().split()
    root = _tree(module, function, raw, time.monotonic() + SHARE * float(seconds)).root_node
    marks = sorted(set(_definitions(root, raw)))
    places = _characters(raw, [place for place, _ in marks])
    yield [("mark", place, "\n".join(path)) for place, (_, path) in zip(places, marks, strict=True)]


def _tree(module: str, function: str, raw: bytes, deadline: float) -> Any:
    import tree_sitter

    language = tree_sitter.Language(getattr(import_module(module), function)())
    try:
        # A callback can be given only to a parser that reads the code piece by piece.
        return tree_sitter.Parser(language).parse(
            lambda place, _: raw[place : place + READ], progress_callback=lambda *_: time.monotonic() > deadline
        )
    except ValueError as error:
        raise IngestError("parsing took too long") from error


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
    fields = (node.child_by_field_name(field) for field in FIELDS)
    label = next((field for field in fields if field is not None), None)
    while label is not None and (inner := label.child_by_field_name("declarator")) is not None:
        label = inner
    if label is not None:
        return raw[label.start_byte : label.end_byte].decode()
    unnamed = next((child for child in node.named_children if child.type in UNNAMED), None)
    word = WORD.match(raw[unnamed.start_byte : unnamed.end_byte].decode()) if unnamed is not None else None
    return word[0] if word else str(node.type).replace("_", " ")


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


def _characters(raw: bytes, places: list[int]) -> list[int]:
    """Convert ascending byte offsets to character offsets."""
    offsets, at, characters = [], 0, 0
    for place in places:
        characters += len(raw[at:place].decode())
        at = place
        offsets.append(characters)
    return offsets
