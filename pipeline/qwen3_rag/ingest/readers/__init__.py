"""Readers for each file type.

To read another type, register a function::

    from qwen3_rag.ingest.readers import reader

    @reader(".srt")
    def subtitles(file):
        yield Document(file.text, title=file.stem)
"""

from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path

from qwen3_rag.errors import IngestError, InvalidArgumentError, MissingDependencyError
from qwen3_rag.ingest.files import LARGEST, SECONDS, ContentError, File, NotInstalledError
from qwen3_rag.ingest.parsed import Parsed
from qwen3_rag.records import Document

__all__ = ["Reader", "has_reader", "known", "read", "reader", "reader_of"]

Reader = Callable[[File], Iterable[Document | Parsed]]
HERE = "qwen3_rag.ingest.readers"

# Suffix to (module, function); a module is imported when its first file is read.
BUILT_IN = {
    **dict.fromkeys((".txt", ".text", ".rst", ".log", ".org", ".adoc", ".tex"), ("plain", "text")),
    **dict.fromkeys((".md", ".markdown", ".mdx"), ("markdown", "markdown")),
    **dict.fromkeys((".html", ".htm", ".xhtml"), ("markup", "html")),
    ".pdf": ("pdf", "pdf"),
    ".docx": ("markup", "word"),
    ".pptx": ("markup", "powerpoint"),
    ".xlsx": ("markup", "excel"),
    ".epub": ("markup", "epub"),
    ".csv": ("tables", "csv"),
    ".tsv": ("tables", "csv"),
    ".parquet": ("tables", "parquet"),
    ".jsonl": ("lines", "json_lines"),
    ".ndjson": ("lines", "json_lines"),
    ".json": ("structured", "json"),
    ".ipynb": ("structured", "notebook"),
    ".eml": ("mail", "message"),
    ".mbox": ("mail", "mailbox"),
}
BINARY = (".pdf", ".docx", ".pptx", ".xlsx", ".epub", ".parquet")  # recognised by content only
CODE_SUFFIXES = (
    ".py .pyi .js .mjs .cjs .jsx .ts .tsx .java .go .rs .c .h .cc .cpp .cxx .hpp .cs .rb .php .sh .bash "
    ".kt .swift .scala .lua .pl .r .jl .sql .hs .ml .ex .exs .clj .dart .zig .m .vue .proto .el .vim"
)
CODE = CODE_SUFFIXES.split()
BUILT_IN |= dict.fromkeys(CODE, ("code", "code"))
# Text formats with nothing to search, skipped unless a reader is registered for them.
_NO_PROSE = ".xml .xsl .xsd .dtd .svg .css .scss .map .lock .po .pot .sum .snap .bib .min.js .ps .eps .xpm"
NO_PROSE = tuple(_NO_PROSE.split())
_registered: dict[str, Reader] = {}


def reader(*suffixes: str) -> Callable[[Reader], Reader]:
    """Register a function as the reader for files with these suffixes, replacing any other.

    The function takes a `File` (`path`, `text`, `bytes`, `stem`, `open()`) and yields `Document`s, or `Parsed`
    documents with sections. If a document has no id or source, the file's path is used.

    Raises:
        InvalidArgumentError: A suffix is not lower case with a leading dot, or there is none.
    """
    for suffix in suffixes:
        if not isinstance(suffix, str) or not suffix.startswith(".") or suffix != suffix.lower():
            raise InvalidArgumentError(f'suffix is {suffix!r}; expected lower case with a leading dot, such as ".srt"')
    if not suffixes:
        raise InvalidArgumentError('reader() has no suffixes; expected at least one, such as reader(".srt")')

    def register(function: Reader) -> Reader:
        _registered.update(dict.fromkeys(suffixes, function))
        return function

    return register


def known() -> list[str]:
    """Sorted suffixes that have a reader."""
    return sorted(BUILT_IN | _registered)


def has_reader(path: Path) -> bool:
    """Whether there is a reader for a path's suffix; the file is not opened."""
    return path.suffix.lower() in BUILT_IN or path.suffix.lower() in _registered


def reader_of(file: File) -> Reader | None:
    """Choose a reader: one registered for the suffix, else by content, else by suffix; None if unsupported."""
    suffix = file.suffix
    if suffix in _registered:
        return _registered[suffix]
    kind = file.kind
    if kind is None and not file.binary:
        if suffix in BUILT_IN and suffix not in BINARY:
            kind = suffix
        elif not file.name.lower().endswith(NO_PROSE):
            kind = ".txt"
    if kind == ".html" and suffix in CODE:  # a source file that starts with HTML, such as a PHP page
        kind = suffix
    if kind is None:
        return None
    module, name = BUILT_IN[kind]
    reader: Reader = getattr(import_module(f"{HERE}.{module}"), name)
    return reader


def read(path: Path, largest: int = LARGEST, seconds: float = SECONDS) -> Iterator[Parsed]:
    """Yield the documents in one file, with ids and sources.

    A document whose file could be read only in part has `partial`, and the reason as metadata of the same name.

    Raises:
        IngestError: The file is unsupported, broken or not accessible; the message starts with its path.
    """
    try:
        file = File(path, largest, seconds)
        read_with = reader_of(file)
        if read_with is None:
            if file.suffix in BUILT_IN:
                raise ContentError(path, f"{file.suffix} by its name, but not by its content")
            raise IngestError(f"{path}: unsupported file type; supported suffixes: {' '.join(known())}")
        for number, document in enumerate(read_with(file)):
            parsed = document if isinstance(document, Parsed) else Parsed(document)
            document = parsed.document
            has_id = document.id != Document(document.text).id
            document_id = document.id if has_id else str(path) if number == 0 else f"{path}#{number}"
            marked = {"partial": parsed.partial} if parsed.partial else {}
            metadata = {**document.metadata, **marked}
            yield parsed.named(id=document_id, source=document.source or str(path), metadata=metadata)
    except OSError as error:
        raise IngestError(f"{path}: cannot be read: {error.strerror or error}") from error
    except IngestError:
        raise
    except MissingDependencyError as error:
        raise NotInstalledError(f"{path}: {error}") from error
    except InvalidArgumentError as error:
        raise ContentError(path, str(error)) from error
    except Exception as error:  # readers and their libraries may raise anything on a broken file
        raise IngestError(f"{path}: cannot be read: {type(error).__name__}: {error}") from error
