"""HTML to text: the main content of a page, without navigation, scripts and footers."""

import re
from collections.abc import Iterator
from typing import Any

from qwen3_rag.ingest.files import imported
from qwen3_rag.ingest.messages import Event

__all__ = ["Parts", "html", "read_html"]

_LEFT_OUT = "script style noscript template svg nav button select iframe object canvas head dialog menu"
_ROLES = "navigation banner contentinfo search complementary menu menubar"
_BLOCKS = (
    "p div section article main header footer aside form li ul ol dl dt dd blockquote figure figcaption address "
    "details summary hr center fieldset caption body html"
)
# Classes and ids that common site generators use for parts repeated on every page.
_BOILERPLATE = (
    "sidebar sphinxsidebar nav navbar nav-bar navigation breadcrumb breadcrumbs toc toctree toctree-wrapper page-toc "
    "table-of-contents navheader navfooter docnav footer site-header site-footer cookie cookies cookie-banner "
    "skip-link skiplink headerlink related pagination"
)
LEFT_OUT, ROLES, BLOCKS, BOILERPLATE = (
    frozenset(names.split()) for names in (_LEFT_OUT, _ROLES, _BLOCKS, _BOILERPLATE)
)
CONTENT = frozenset(("main", "article", "section"))
LISTS = frozenset(("ul", "ol"))
OF_THE_PAGE = frozenset(("header", "footer", "aside"))  # unless inside an article or the main content
LONGEST_TITLE = 1000  # characters of a title or heading
LONGEST_CELL = 1000  # characters; a table with longer cells is used for layout
DEEPEST_LIST = 8  # further levels are not indented
SPACE = re.compile(r"[ \t\r\n\f]+")


def html(content: bytes) -> Iterator[list[Event]]:
    """Parse an HTML page in UTF-8."""
    parts = Parts()
    read_html(content.decode(), parts)
    yield parts.events


class Parts:
    """Collects the parts of a document as events."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def title(self, text: str) -> None:
        """Add a title, unless it is empty."""
        if line := " ".join(text.split())[:LONGEST_TITLE]:
            self.events.append(("title", line))

    def heading(self, level: int, text: str) -> None:
        """Add a heading."""
        self.events.append(("heading", level, text[:LONGEST_TITLE]))

    def block(self, text: str, kind: str = "prose") -> None:
        """Add a paragraph, a code block or a table, unless it is empty."""
        if text and not text.isspace():
            self.events.append(("block", kind, text))


def read_html(text: str, parts: Parts, chapter: bool = False) -> None:
    """Parse a page; with `chapter`, its <title> is left out."""
    parser = imported(lambda: __import__("selectolax.lexbor").lexbor, "selectolax", "HTML")
    tree = parser.LexborHTMLParser(text)
    title = tree.css_first("title")
    if title is not None and not chapter:
        parts.title(title.text())
    body: list[Any] = next(
        (nodes for name in ("main", "[role=main]", "article", "body") if len(nodes := tree.css(name)) == 1), []
    )
    for part in body or tree.css("body"):
        _Walk(parts, part).read()


class _Walk:
    """Walks a tree without recursion, so that nesting depth is unlimited."""

    def __init__(self, parts: Parts, root: Any) -> None:
        self.parts, self.root = parts, root
        self.line: list[str] = []
        self.lists = _Lists()
        self.longest = len(root.text()) // 2  # characters; a longer element is not boilerplate

    def read(self) -> None:
        # Each entry: node, leaving it, inside content. Looking up the ancestors of every node would be slow.
        stack: list[tuple[Any, bool, bool]] = [(self.root, False, _in_content(self.root))]
        while stack:
            node, leaving, content = stack.pop()
            tag = node.tag
            if leaving:
                self.flush()
                self.leave(tag)
            elif tag == "-text":
                self.line.append(node.text_content or "")
            elif tag in LEFT_OUT or tag.startswith("-") or self.boilerplate(node, content):
                continue
            elif tag == "math":
                self.line.append(_formula(node))
            elif tag == "br":
                self.line.append("\n")
            elif re.fullmatch("h[1-6]", tag):
                self.flush(interrupt=True)
                self.parts.heading(int(tag[1]), _plain(node))
            elif tag == "pre":
                self.flush(interrupt=True)
                self.parts.block(node.text(), "code")
            elif tag == "table" and (rows := _rows(node)):
                self.flush(interrupt=True)
                self.parts.block("\n".join(rows), "table")
            else:
                if tag in BLOCKS:
                    self.flush()
                    self.lists.enter(tag, node)
                    stack.append((node, True, content))
                if tag in ("td", "th"):
                    self.line.append(" ")
                if tag == "tr":
                    self.flush()
                children = list(node.iter(include_text=True))
                in_content = content or tag in CONTENT
                stack += [(child, False, in_content) for child in reversed(children)]
        self.flush()

    def flush(self, interrupt: bool = False) -> None:
        """Finish the current paragraph; with `interrupt`, also the list so far, which something else follows."""
        text = SPACE.sub(" ", "".join(self.line))
        self.line = []
        if not self.lists.open:
            self.parts.block(text)
            return
        self.lists.add(text.strip())
        if interrupt:
            self.parts.block(self.lists.text(), "list")

    def leave(self, tag: str) -> None:
        """Leave an element; the outermost list is finished."""
        if tag in LISTS:
            self.lists.open.pop()
            if not self.lists.open:
                self.parts.block(self.lists.text(), "list")

    def boilerplate(self, node: Any, content: bool) -> bool:
        """Whether an element is outside the page's content."""
        if node is self.root:
            return False
        if node.tag in OF_THE_PAGE and not content and self.root.tag not in ("main", "article"):
            return True
        attributes = node.attributes
        if not attributes:
            return False
        role = attributes.get("role")
        # An inactive tab is hidden but still content.
        if role in ROLES or ("hidden" in attributes and role != "tabpanel") or attributes.get("aria-hidden") == "true":
            return True
        names = f"{attributes.get('class') or ''} {attributes.get('id') or ''}".lower().split()
        # An element with most of the page's text is content, whatever its class.
        return not BOILERPLATE.isdisjoint(names) and len(node.text()) <= self.longest


class _Lists:
    """The lists around the current node, and the lines of the outermost one."""

    def __init__(self) -> None:
        self.open: list[int | None] = []  # of each, the number of its last item; None without numbers
        self.lines: list[str] = []
        self.marker = ""  # of an item without text so far

    def enter(self, tag: str, node: Any) -> None:
        """Enter a block element."""
        if tag in LISTS:
            self.open.append(_first_number(node) - 1 if tag == "ol" else None)
        elif tag == "li" and self.open:
            number = self.open[-1]
            self.open[-1] = number if number is None else number + 1
            self.marker = "-" if number is None else f"{number + 1}."

    def add(self, text: str) -> None:
        """Add a paragraph to the current item."""
        if text:
            indent = "  " * min(len(self.open) - 1, DEEPEST_LIST)
            self.lines.append(f"{indent}{self.marker or ' '} {text}")
            self.marker = ""

    def text(self) -> str:
        """The lines so far, which are forgotten."""
        text = "\n".join(self.lines)
        self.lines = []
        return text


def _first_number(node: Any) -> int:
    start = str(node.attributes.get("start") or "")
    return int(start) if start.isascii() and start.isdigit() and len(start) < 9 else 1


def _in_content(node: Any) -> bool:
    while (node := node.parent) is not None:
        if node.tag in CONTENT:
            return True
    return False


def _formula(node: Any) -> str:
    """MathML as TeX from its annotation or alttext, else as its text."""
    tex = node.css_first("annotation[encoding='application/x-tex']")
    formula = tex.text() if tex is not None else node.attributes.get("alttext")
    return f" {formula or node.text()} "


def _plain(node: Any) -> str:
    """Text of a heading, without permalink signs."""
    return SPACE.sub(" ", node.text()).strip().rstrip("¶#").strip()


def _rows(table: Any) -> list[str]:
    """Rows of a data table, one line each; empty for a layout table."""
    if table.css_first("table table, pre, h1, h2, h3, ul, ol") is not None:
        return []
    rows = []
    for row in table.css("tr"):
        cells = [SPACE.sub(" ", cell.text()).strip() for cell in row.css("td, th")]
        if any(len(cell) > LONGEST_CELL for cell in cells):
            return []
        if any(cells):
            rows.append(" | ".join(cells))
    return rows
