"""Text that a server tokenizes itself: control-token spellings in it are broken by a blank."""

import re
from collections.abc import Iterable

from qwen3_rag.models.tokens import well_formed

__all__ = ["neutral_text", "spelling"]

# Everything of Qwen3's form <|…|>, and its added tokens of other forms.
QWEN3 = r"<\|[^|<>\s]{1,64}\|>|</?(?:think|tool_call|tool_response)>"


def spelling(further: Iterable[str] = ()) -> re.Pattern[str]:
    """A pattern of Qwen3's control tokens, and of those of another tokenizer."""
    return re.compile("|".join([QWEN3, *(re.escape(token) for token in further if len(token) > 1)]))


def neutral_text(text: str, control: re.Pattern[str]) -> str:
    """The text with a blank after the first character of each control token that it spells out.

    This changes what the model reads by one blank. Runtimes that hand over token ids have no need of it.
    """
    text = well_formed(text)
    while control.search(text):
        text = control.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)
    return text
