"""HTML to text: what a reader of the page reads, without its navigation, scripts and footers."""

import re
from collections.abc import Iterator
from typing import Any

from qwen3_rag.ingest.files import File, imported
from qwen3_rag.ingest.parsed import Builder, Parsed, heading

__all__ = ["html", "read_html"]

_LEFT_OUT = "script style noscript template svg nav button select iframe object canvas head dialog menu"
_ROLES = "navigation banner contentinfo search complementary menu menubar"
_BLOCKS = (
    "p div section article main header footer aside form li ul ol dl dt dd blockquote figure figcaption address "
    "details summary hr center fieldset caption body html"
)
# Names of classes and ids by which common generators mark what stands on every page.
_BOILERPLATE = (
    "sidebar sphinxsidebar nav navbar nav-bar navigation breadcrumb breadcrumbs toc toctree toctree-wrapper page-toc "
    "table-of-contents navheader navfooter docnav footer site-header site-footer cookie cookies cookie-banner "
    "skip-link skiplink headerlink related pagination"
)
LEFT_OUT, ROLES, BLOCKS, BOILERPLATE = (
    frozenset(names.split()) for names in (_LEFT_OUT, _ROLES, _BLOCKS, _BOILERPLATE)
)
CONTENT = frozenset(("main", "article", "section"))
OF_THE_PAGE = frozenset(("header", "footer", "aside"))  # unless they lie in an article or in the page's main part
CHARSET = re.compile(rb"""(?i)<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w-]+)""")
LONGEST_CELL = 1000  # characters; a table with longer ones is there for its looks
SPACE = re.compile(r"[ \t\r\n\f]+")


def html(file: File) -> Iterator[Parsed]:
    """An HTML page; its title is that of its head, else the first heading, else its name."""
    builder = Builder()
    read_html(_decoded(file), builder)
    parsed = builder.parsed(file.stem)
    if parsed.document.text:
        yield parsed


def _decoded(file: File) -> str:
    declared = CHARSET.search(file.head[:2048])
    if declared and file.encoding not in ("utf-8", "utf-8-sig", "utf-16"):
        try:
            return file.bytes.decode(declared.group(1).decode())
        except (LookupError, UnicodeDecodeError):
            pass
    return file.text


def read_html(text: str, builder: Builder, chapter: bool = False) -> None:
    """Add a page to a document; the title of a chapter is not the document's."""
    parser = imported(lambda: __import__("selectolax.lexbor").lexbor, "selectolax", "HTML")
    tree = parser.LexborHTMLParser(text)
    title = tree.css_first("title")
    if title is not None and not chapter and title.text(strip=True):
        builder.title = heading(title.text())
    body: list[Any] = next(
        (nodes for name in ("main", "[role=main]", "article", "body") if len(nodes := tree.css(name)) == 1), []
    )
    for part in body or tree.css("body"):
        _Walk(builder, part).read()


class _Walk:
    """Goes through a tree without recursion: pages may be nested as deep as they like."""

    def __init__(self, builder: Builder, root: Any) -> None:
        self.builder, self.root = builder, root
        self.line: list[str] = []
        self.longest = len(root.text()) // 2  # characters that boilerplate may have

    def read(self) -> None:
        # With each node, whether it lies in the page's content: to climb to it from each would take too long.
        stack: list[tuple[Any, bool, bool]] = [(self.root, False, _in_content(self.root))]
        while stack:
            node, leaving, content = stack.pop()
            tag = node.tag
            if leaving:
                self.flush()
            elif tag == "-text":
                self.line.append(node.text_content or "")
            elif tag in LEFT_OUT or tag.startswith("-") or self.boilerplate(node, content):
                continue
            elif tag == "math":
                self.line.append(_formula(node))
            elif tag == "br":
                self.line.append("\n")
            elif re.fullmatch("h[1-6]", tag):
                self.flush()
                self.builder.heading(int(tag[1]), _plain(node))
            elif tag == "pre":
                self.flush()
                self.builder.block(node.text(), "code")
            elif tag == "table" and (rows := _rows(node)):
                self.flush()
                self.builder.block("\n".join(rows), "table")
            else:
                if tag in BLOCKS:
                    self.flush()
                    stack.append((node, True, content))
                if tag in ("td", "th"):
                    self.line.append(" ")
                if tag == "tr":
                    self.flush()
                children = list(node.iter(include_text=True))
                within = content or tag in CONTENT
                stack += [(child, False, within) for child in reversed(children)]
        self.flush()

    def flush(self) -> None:
        """End a paragraph."""
        lines = "".join(self.line).split("\n") if "\n" in "".join(self.line) else ["".join(self.line)]
        self.line = []
        self.builder.block(SPACE.sub(" ", " ".join(lines)))

    def boilerplate(self, node: Any, content: bool) -> bool:
        """Whether a part of the page is not of its content."""
        if node is self.root:
            return False
        if node.tag in OF_THE_PAGE and not content and self.root.tag not in ("main", "article"):
            return True
        attributes = node.attributes
        if not attributes:
            return False
        role = attributes.get("role")
        # A tab that is not on top is content all the same.
        if role in ROLES or ("hidden" in attributes and role != "tabpanel") or attributes.get("aria-hidden") == "true":
            return True
        names = f"{attributes.get('class') or ''} {attributes.get('id') or ''}".lower().split()
        # What is most of the page is the page, whatever it is called.
        return not BOILERPLATE.isdisjoint(names) and len(node.text()) <= self.longest


def _in_content(node: Any) -> bool:
    while (node := node.parent) is not None:
        if node.tag in CONTENT:
            return True
    return False


def _formula(node: Any) -> str:
    """MathML as TeX, if an annotation holds it; otherwise its text."""
    tex = node.css_first("annotation[encoding='application/x-tex']")
    formula = tex.text() if tex is not None else node.attributes.get("alttext")
    return f" {formula or node.text()} "


def _plain(node: Any) -> str:
    """Text of a heading, without the signs that link to it."""
    return SPACE.sub(" ", node.text()).strip().rstrip("¶#").strip()


def _rows(table: Any) -> list[str]:
    """Rows of a table of data, a line each; none if it is there for its looks."""
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
