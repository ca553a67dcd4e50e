"""Readers by kind of file.

One of your own takes five lines::

    from qwen3_rag.ingest.readers import reader

    @reader(".srt")
    def subtitles(file):
        yield Document(file.text, title=file.stem)
"""

from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from pathlib import Path

from qwen3_rag.errors import IngestError, InvalidArgumentError, MissingDependencyError
from qwen3_rag.ingest.files import LARGEST, File
from qwen3_rag.ingest.parsed import Parsed
from qwen3_rag.records import Document

__all__ = ["Reader", "has_reader", "known", "read", "reader", "reader_of"]

Reader = Callable[[File], Iterable[Document | Parsed]]
HERE = "qwen3_rag.ingest.readers"

# Which module reads what: loaded when the first such file comes.
BUILT_IN = {
    **dict.fromkeys((".txt", ".text", ".rst", ".log", ".org", ".adoc", ".tex"), ("plain", "text")),
    **dict.fromkeys((".md", ".markdown", ".mdx"), ("markdown", "markdown")),
    **dict.fromkeys((".html", ".htm", ".xhtml"), ("html", "html")),
    ".pdf": ("pdf", "pdf"),
    ".docx": ("archives", "word"),
    ".epub": ("archives", "epub"),
    ".csv": ("tables", "csv"),
    ".tsv": ("tables", "csv"),
    ".parquet": ("tables", "parquet"),
    ".jsonl": ("lines", "json_lines"),
    ".ndjson": ("lines", "json_lines"),
}
CODE_SUFFIXES = (
    ".py .pyi .js .mjs .cjs .jsx .ts .tsx .java .go .rs .c .h .cc .cpp .cxx .hpp .cs .rb .php .sh .bash "
    ".kt .swift .scala .lua .pl .r .jl .sql .hs .ml .ex .exs .clj .dart .zig .m .vue .proto .el .vim"
)
CODE = CODE_SUFFIXES.split()
BUILT_IN |= dict.fromkeys(CODE, ("code", "code"))
# Text that nobody asks questions of, unless a reader is registered for it.
_NO_PROSE = ".xml .xsl .xsd .dtd .svg .css .scss .map .lock .po .pot .sum .snap .ipynb .bib .min.js .ps .eps .xpm"
NO_PROSE = tuple(_NO_PROSE.split())
_registered: dict[str, Reader] = {}


def reader(*suffixes: str) -> Callable[[Reader], Reader]:
    """Register a function as the reader of files with certain suffixes, in place of any other.

    It takes a `File` (`path`, `text`, `bytes`, `stem`, `open()`) and gives documents, or `Parsed` ones with sections.
    An id that is left to its default becomes the file's path, and a source that is None too.
    """
    for suffix in suffixes:
        if not isinstance(suffix, str) or not suffix.startswith(".") or suffix != suffix.lower():
            raise InvalidArgumentError(f'suffix is {suffix!r}; expected one in lower case with its dot, as ".srt"')
    if not suffixes:
        raise InvalidArgumentError('reader() has no suffixes; expected at least one, as reader(".srt")')

    def register(function: Reader) -> Reader:
        _registered.update(dict.fromkeys(suffixes, function))
        return function

    return register


def known() -> list[str]:
    """Suffixes for which there is a reader."""
    return sorted(BUILT_IN | _registered)


def has_reader(path: Path) -> bool:
    """Whether a file's name says that it is of a kind that is read."""
    return path.suffix.lower() in BUILT_IN or path.suffix.lower() in _registered


def reader_of(file: File) -> Reader | None:
    """The reader for a file, by its content where that tells, else by its suffix; None if it is nothing to read."""
    suffix = file.suffix
    if suffix in _registered:
        return _registered[suffix]
    shown = file.kind
    if shown is None and not file.binary:
        if suffix in BUILT_IN and BUILT_IN[suffix][0] not in ("pdf", "archives") and suffix != ".parquet":
            shown = suffix
        elif not file.name.lower().endswith(NO_PROSE):
            shown = ".txt"
    if shown == ".html" and suffix in CODE:  # a template in a program
        shown = suffix
    if shown is None:
        return None
    module, name = BUILT_IN[shown]
    reader: Reader = getattr(import_module(f"{HERE}.{module}"), name)
    return reader


def read(path: Path, largest: int = LARGEST) -> Iterator[Parsed]:
    """The documents in one file, with ids and sources.

    Raises:
        IngestError: It cannot be read, or is not what it seems to be; the message names it.
    """
    try:
        file = File(path, largest)
        read_with = reader_of(file)
        if read_with is None:
            claimed = f"{file.suffix} by its name, but " if file.suffix in BUILT_IN else ""
            raise IngestError(f"{path}: {claimed}no kind of file that can be read; known: {' '.join(known())}")
        for number, document in enumerate(read_with(file)):
            parsed = document if isinstance(document, Parsed) else Parsed(document)
            document = parsed.document
            own_id = document.id != Document(document.text).id
            name = document.id if own_id else str(path) if number == 0 else f"{path}#{number}"
            yield parsed.named(id=name, source=document.source or str(path))
    except OSError as error:
        raise IngestError(f"{path}: cannot be read: {error.strerror or error}") from error
    except IngestError:
        raise
    except (InvalidArgumentError, MissingDependencyError) as error:
        raise IngestError(f"{path}: {error}") from error
    except Exception as error:  # whatever a reader or its library stumbles over in a file
        raise IngestError(f"{path}: cannot be read: {type(error).__name__}: {error}") from error
