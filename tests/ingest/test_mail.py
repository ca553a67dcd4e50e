"""E-mail as it is read: a message, and mailboxes of many."""

import time
from email.message import EmailMessage
from pathlib import Path

import pytest

from ingest.test_readers import one
from qwen3_rag.errors import IngestError
from qwen3_rag.ingest.readers import read
from qwen3_rag.records import Document


def mail(text: str = "The valve is open.", **headers: str) -> EmailMessage:
    message = EmailMessage()
    for name, value in {"Subject": "Pump", "From": "a@example.org", **headers}.items():
        message[name] = value
    message.set_content(text)
    return message


def read_mail(tmp_path: Path, content: bytes) -> Document:
    (tmp_path / "a.eml").write_bytes(content)
    return one(tmp_path / "a.eml").document


def test_message_has_subject_headers_text_and_names_of_what_is_attached(tmp_path: Path) -> None:
    message = mail(
        "Entlüftet:\n\n> ja\n",
        Subject="Über die Pumpe, " + "sehr lang " * 9,
        From="Jörg <j@example.org>",
        To="b@example.org",
        Date="Wed, 01 May 2024 10:00:00 +0200",
    )
    message.add_alternative("<p>not read</p>", subtype="html")
    message.add_attachment(b"%PDF", maintype="application", subtype="pdf", filename="Plan größer.pdf")
    message.add_attachment("not read", filename="notes.txt")
    message.add_attachment(mail("not read", Subject="Earlier"))
    document = read_mail(tmp_path, message.as_bytes())
    assert document.title == " ".join(("Über die Pumpe, " + "sehr lang " * 9).split())
    assert document.text == (
        "From: Jörg <j@example.org>\nTo: b@example.org\nDate: 2024-05-01T10:00:00+02:00\n\nEntlüftet:\n\n> ja\n\n"
        "Attachments: Plan größer.pdf, notes.txt, Earlier"
    )
    assert dict(document.metadata) == {
        "from": "Jörg <j@example.org>",
        "to": "b@example.org",
        "date": "2024-05-01T10:00:00+02:00",
    }


def test_message_of_html_alone_is_read_as_a_page_is(tmp_path: Path) -> None:
    message = mail()
    message.set_content("<style>p {}</style><h1>Pump</h1><p>The <b>valve</b><script>x</script></p>", subtype="html")
    assert read_mail(tmp_path, message.as_bytes()).text.split("\n\n")[1:] == ["Pump", "The valve"]


@pytest.mark.parametrize("charset", ["utf-8", "iso-8859-15", "no-such", "zlib"])
def test_message_is_decoded_whatever_its_charset(tmp_path: Path, charset: str) -> None:
    text = "größer" if charset.startswith("iso") else "größer ✓"
    body = text.encode(charset if charset.startswith("iso") else "utf-8")
    head = f"Subject: Überdruck\r\nContent-Type: text/plain; charset={charset}\r\n\r\n".encode()
    document = read_mail(tmp_path, head + body)
    assert (document.title, document.text) == ("Überdruck", text)


def test_message_without_a_known_date_keeps_what_is_written(tmp_path: Path) -> None:
    assert dict(read_mail(tmp_path, b"Date: yesterday\n\ntext").metadata) == {"date": "yesterday"}
    assert read_mail(tmp_path, b"Date: Wed, 99 May 2024 10:00:00\n\ntext").text.endswith("10:00:00\n\ntext")
    with pytest.raises(IngestError, match=r"a\.eml: damaged e-mail: it has no headers"):
        read_mail(tmp_path, b"\njust text")


@pytest.mark.parametrize(
    "subject",
    [
        b"=?utf-8?q?" * 300_000,
        b"=?utf-8?b?" + b"YWFh" * 500_000 + b"?=",
        b"=?utf-8?q?a?=\n " * 200_000,
        b"=?" * 1_000_000,
        b"x" * 3_000_000,
        b"\n " * 1_000_000,
        b'"' * 1_000_000,
        b"(" * 1_000_000,
    ],
    ids=["open-words", "long-word", "words", "marks", "long", "folds", "quotes", "comments"],
)
@pytest.mark.parametrize("header", [b"Subject", b"From", b"Date", b"Content-Type", b"Content-Disposition"])
def test_message_with_a_hostile_header_takes_linear_time(tmp_path: Path, subject: bytes, header: bytes) -> None:
    started = time.monotonic()
    document = read_mail(tmp_path, header + b": " + subject + b"\n\nThe text.")
    assert document.text.endswith("The text.")
    assert len(document.title or "") <= 200
    assert time.monotonic() - started < 3


def test_message_with_hostile_parameters_takes_linear_time(tmp_path: Path) -> None:
    parameters = b"".join(b';name*%d="' % number for number in range(100_000))
    started = time.monotonic()
    document = read_mail(tmp_path, b"Subject: s\nContent-Type: text/plain" + parameters + b"\n\nThe text.")
    assert document.text == "The text."
    assert time.monotonic() - started < 3


def test_message_with_parts_nested_deeply_is_named_with_a_reason(tmp_path: Path) -> None:
    parts = b"".join(
        b'Content-Type: multipart/mixed; boundary="%d"\n\n--%d\n' % (number, number) for number in range(3000)
    )
    with pytest.raises(IngestError, match=r"a\.eml: damaged e-mail: parts nested too deeply"):
        read_mail(tmp_path, b"Subject: s\n" + parts + b"\ntext")


MAILBOX = b"""From a@example.org Wed May  1 10:00:00 2024
Subject: One
From: a@example.org

The first.
From here on it is quoted by nobody.

>From the start.

From b@example.org Wed May  1 11:00:00 2024
Subject: Two

The second.
"""


def test_mailbox_is_a_document_per_message(tmp_path: Path) -> None:
    (tmp_path / "a.mbox").write_bytes(MAILBOX)
    first, second = (parsed.document for parsed in read(tmp_path / "a.mbox"))
    assert (first.title, first.id) == ("One", str(tmp_path / "a.mbox"))
    assert first.text.endswith("The first.\nFrom here on it is quoted by nobody.\n\nFrom the start.")
    assert (second.title, second.id, second.text) == ("Two", f"{tmp_path / 'a.mbox'}#1", "The second.")


def test_mailbox_is_streamed_and_its_broken_message_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.mbox").write_bytes((MAILBOX + b"\n") * 20)
    assert len(list(read(tmp_path / "a.mbox", largest=1000))) == 40
    (tmp_path / "a.mbox").write_bytes(MAILBOX + b"\nFrom c@example.org\n" + b"x" * 10_000_000)
    with pytest.raises(IngestError, match=r"a\.mbox: too large: a message of more than 1 MiB"):
        list(read(tmp_path / "a.mbox", largest=1 << 20))
    (tmp_path / "a.mbox").write_bytes(MAILBOX + b"\nFrom c@example.org\n\nno headers\n")
    with pytest.raises(IngestError, match=r"a\.mbox: message 3: damaged e-mail: it has no headers"):
        list(read(tmp_path / "a.mbox"))
