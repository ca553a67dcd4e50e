"""What a parser process sends, put together as a document."""

from collections.abc import Iterable, Iterator

from qwen3_rag.ingest.child import parse
from qwen3_rag.ingest.files import ContentError, File
from qwen3_rag.ingest.messages import Event
from qwen3_rag.ingest.parsed import Builder, Parsed, heading

__all__ = ["PARSERS", "document_of", "parsed_elsewhere", "whole"]

PARSERS = "qwen3_rag.ingest.parsers"


def whole(events: Iterable[Event]) -> Iterator[Event]:
    """The events, with texts that came in parts put together."""
    begun: list[str] = []
    for event in events:
        if event[0] == "more":
            begun.append(event[1])
        elif begun:
            yield (*event[:-1], "".join([*begun, event[-1]]))
            begun.clear()
        else:
            yield event


def document_of(events: Iterable[Event], name: str, titled: bool = True) -> Iterator[Parsed]:
    """The document that the events describe; none if it has no text.

    Args:
        events: A parser's events, without "more".
        name: Its title if it has no other.
        titled: Whether the first heading is the title of a document without one.

    Raises:
        ContentError: An error of the events, if there is no text before it; else the document is partial.
    """
    builder, partial = Builder(None if titled else heading(name)), None
    metadata: dict[str, str] = {}
    try:
        for kind, *values in events:
            if kind == "title":
                builder.title = heading(values[0])
            elif kind == "heading":
                builder.heading(*values)
            elif kind == "page":
                builder.page()
            elif kind == "block":
                builder.block(values[1], values[0])
            elif kind == "metadata":
                metadata[values[0]] = values[1]
    except ContentError as error:
        partial = error
    parsed = builder.parsed(name, partial.reason if partial else None)
    if parsed.document.text:
        yield parsed.named(metadata=metadata)
    elif partial:
        raise partial


def parsed_elsewhere(file: File, parser: str, content: bytes, titled: bool = True) -> Iterator[Parsed]:
    """A file's document, parsed by a function named "module:name" in another process."""
    return document_of(whole(parse(file, f"{PARSERS}.{parser}", content)), file.stem, titled)
