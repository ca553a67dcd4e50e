"""Headers and footers that are printed on the pages of a document, which belong to no passage."""

import re
from collections import Counter
from collections.abc import Sequence

__all__ = ["without_running_heads"]

FEWEST_PAGES = 4  # with text; of fewer pages nothing is taken to be repeated
SHARE = 0.5  # of the pages on which a line must be repeated
LINES = 3  # at the top and at the bottom, looked at one after the other
LONGEST = 200  # characters
DIGITS = re.compile(r"\d+")


def without_running_heads(pages: Sequence[str]) -> list[str]:
    """The pages without first and last lines that most of them share, but for digits such as a page's number."""
    lines = [page.split("\n") for page in pages]
    if sum(bool(page.strip()) for page in pages) < FEWEST_PAGES:
        return list(pages)
    for place in (0, -1):
        for _ in range(LINES):
            if not _drop(lines, place):
                break
    return ["\n".join(page).strip() for page in lines]


def _drop(pages: list[list[str]], place: int) -> bool:
    """Remove the line at one end of each page if most pages share it; whether there was one."""
    masks = [_masked(page[place]) if len(page) > 1 else "" for page in pages]  # the only line is the page's text
    counts = Counter(mask for mask in masks if mask)
    most = SHARE * max(counts.total(), FEWEST_PAGES)
    repeated = {mask for mask, count in counts.items() if count > most}
    for page, mask in zip(pages, masks, strict=True):
        if mask in repeated:
            del page[place]
            while page and not page[place].strip():
                del page[place]
    return bool(repeated)


def _masked(line: str) -> str:
    line = line.strip()
    return DIGITS.sub("0", line) if len(line) <= LONGEST else ""
