"""E-mail: a message, or a mailbox with one document per message, streamed; parsed in another process."""

import re
from collections.abc import Iterator

from qwen3_rag.ingest.files import ContentError, File
from qwen3_rag.ingest.parsed import Parsed
from qwen3_rag.ingest.readers.events import parsed_elsewhere

__all__ = ["mailbox", "message"]

QUOTED = re.compile(rb"^>(>*From )", re.MULTILINE)  # how a mailbox writes a line of a message that begins with From
PARSER = "mail:message"
LINE = 1 << 20  # bytes read at once


def message(file: File) -> Iterator[Parsed]:
    """Read an e-mail (.eml); the title is its subject, sender, recipients and date are metadata too."""
    return parsed_elsewhere(file, PARSER, file.bytes)


def mailbox(file: File) -> Iterator[Parsed]:
    """Read a mailbox (.mbox), one document per message."""
    for number, content in enumerate(_messages(file), start=1):
        try:
            yield from parsed_elsewhere(file, PARSER, content)
        except ContentError as error:
            raise ContentError(file.path, f"message {number}: {error.reason}") from error


def _messages(file: File) -> Iterator[bytes]:
    """The messages of a mailbox: each begins after a line "From …" that follows an empty line or the start."""
    lines: list[bytes] = []
    length, blank, started = 0, True, False
    with file.open() as raw:
        while line := raw.readline(LINE):
            if blank and line.startswith(b"From "):
                if started:
                    yield QUOTED.sub(rb"\1", b"".join(lines))
                lines, length, started = [], 0, True
            else:
                lines.append(line)
                length += len(line)
            if length > file.largest:
                raise ContentError(file.path, f"too large: a message of more than {file.largest / 2**20:.0f} MiB")
            blank = not line.strip()
    if started:
        yield QUOTED.sub(rb"\1", b"".join(lines))
