"""Breaks up spelled-out control tokens, with a space, in text that a server tokenizes."""

import re
from collections.abc import Iterable

from qwen3_rag.models.tokens import well_formed

__all__ = ["neutral_text", "spelling"]

# Everything of the form <|…|>, and Qwen3's added tokens of other forms.
QWEN3 = r"<\|[^|<>\s]{1,64}\|>|</?(?:think|tool_call|tool_response)>"


def spelling(extra: Iterable[str] = ()) -> re.Pattern[str]:
    """A pattern that matches Qwen3's control tokens and the `extra` ones."""
    return re.compile("|".join([QWEN3, *(re.escape(token) for token in extra if len(token) > 1)]))


def neutral_text(text: str, control: re.Pattern[str]) -> str:
    """The text with a space after the first character of each control token that it spells out.

    The model then sees one extra space. Runtimes that send token ids do not need this.
    """
    text = well_formed(text)
    while control.search(text):
        text = control.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
    return text
