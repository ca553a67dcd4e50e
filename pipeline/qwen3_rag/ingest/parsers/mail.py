"""E-mail: the subject, who wrote to whom and when, the text, and the names of what is attached."""

import email
import re
from collections.abc import Iterator
from email.header import decode_header
from email.message import Message
from email.policy import compat32
from email.utils import parsedate_to_datetime

from qwen3_rag.errors import IngestError
from qwen3_rag.ingest.messages import Event
from qwen3_rag.ingest.parsers.html import Parts, read_html

__all__ = ["message"]

LONGEST = 4000  # characters of a header; Python's decoders take time that grows with the square
LARGEST_HTML = 10 << 20  # bytes
HEADERS = ("From", "To", "Cc", "Date")
FILES = 100  # attachments named
SPACE = re.compile(r"\s+")
Mail = Message  # with texts as headers, as the policy compat32 has them


def message(content: bytes) -> Iterator[list[Event]]:
    """Parse an e-mail."""
    try:
        mail = email.message_from_bytes(content, policy=compat32)
    except RecursionError:
        raise IngestError("damaged e-mail: parts nested too deeply") from None
    if not mail.keys():
        raise IngestError("damaged e-mail: it has no headers")
    parts = Parts()
    parts.title(header(mail, "Subject"))
    values = {name: header(mail, name) for name in HEADERS}
    values["Date"] = _date(values["Date"])
    parts.events += [("metadata", name.lower(), value) for name, value in values.items() if value]
    parts.block("\n".join(f"{name}: {value}" for name, value in values.items() if value))
    bodies, attachments = _leaves(mail)
    for body in bodies:
        _add_body(parts, body)
    names = [name for name in attachments[:FILES] if name]
    parts.block(f"Attachments: {', '.join(names)}" if names else "")
    yield parts.events


def header(mail: Mail, name: str) -> str:
    """A header on one line, decoded; of one longer than `LONGEST` its beginning."""
    values = (value for key, value in mail.raw_items() if key.lower() == name.lower())
    # Some programs write UTF-8 as it is, which Python keeps as surrogates.
    value = str(next(values, ""))[:LONGEST].encode(errors="surrogateescape").decode(errors="replace")
    try:
        parts = [_text(part, charset) for part, charset in decode_header(value)]
    except ValueError:  # wrong base64
        parts = [value]
    return SPACE.sub(" ", "".join(parts)).strip()


def _text(content: bytes | str, charset: str | None) -> str:
    if isinstance(content, str):
        return content
    try:
        return content.decode(charset or "ascii", errors="replace")
    except (LookupError, ValueError):
        return content.decode("utf-8", errors="replace")


def _date(value: str) -> str:
    """A date in ISO format, or as it is written if it is no date."""
    try:
        return parsedate_to_datetime(value[:100]).isoformat()
    except (ValueError, TypeError, IndexError, OverflowError):
        return value[:100]


def _leaves(mail: Mail) -> tuple[list[Mail], list[str]]:
    """The parts of a message that are its text, and the names of the others."""
    bodies: list[Mail] = []
    attachments: list[str] = []
    stack = [mail]
    while stack:
        part = stack.pop()
        _shorten(part)
        kind = part.get_content_type()
        attached = part.get_content_disposition() == "attachment" or bool(part.get_filename())
        if part.is_multipart() and part.get_content_maintype() == "multipart":
            inside = [each for each in part.get_payload() if isinstance(each, Message)]
            stack += _best(inside) if kind == "multipart/alternative" else reversed(inside)
        elif kind in ("text/plain", "text/html") and not attached:
            bodies.append(part)
        else:
            attachments.append(_file_name(part))
    return bodies, attachments


def _best(parts: list[Mail]) -> list[Mail]:
    """Of parts that say the same, plain text; else the last, which is the richest."""
    plain = [part for part in parts if part.get_content_type() == "text/plain" and str(part.get_payload()).strip()]
    return plain[:1] or parts[-1:]


def _shorten(part: Mail) -> None:
    """Remove headers too long to be meant, which take long to take apart."""
    for name in ("Content-Type", "Content-Disposition"):
        if len(str(part.get(name, ""))) > LONGEST:
            del part[name]


def _file_name(part: Mail) -> str:
    inside = part.get_payload()
    if part.get_content_type() == "message/rfc822" and isinstance(inside, list) and isinstance(inside[0], Message):
        return header(inside[0], "Subject")
    name = str(part.get_filename(""))[:LONGEST]
    return SPACE.sub(" ", "".join(_text(text, charset) for text, charset in decode_header(name))).strip()


def _add_body(parts: Parts, part: Mail) -> None:
    content = part.get_payload(decode=True)
    if not isinstance(content, bytes):
        return
    text = _text(content, part.get_content_charset("utf-8")).replace("\r\n", "\n")
    if part.get_content_type() != "text/html":
        parts.block(text)
    elif len(content) > LARGEST_HTML:
        raise IngestError(f"too large: more than {LARGEST_HTML >> 20} MiB, the maximum for HTML")
    else:
        read_html(text, parts, chapter=True)
