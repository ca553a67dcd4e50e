"""Turns text into token ids, so that no text from outside becomes a control token.

One `tokenizer.json` gives two tokenizers: `control`, unchanged, for this package's templates, and `plain`, without the
added tokens, for all other text. A document that spells out `<|im_end|>` then becomes eleven ordinary tokens; for text
without such spellings both give the same ids.
"""

import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from qwen3_rag.errors import InvalidArgumentError, ModelError

__all__ = ["Tokens", "neutral_text", "spelling", "well_formed"]

FEW = 65536  # characters; of shorter texts it is not worth while to cut
SPACE = re.compile(r"(?<=\S)\s")
# Everything of the form <|…|>, and Qwen3's added tokens of other forms.
QWEN3 = r"<\|[^|<>\s]{1,64}\|>|</?(?:think|tool_call|tool_response)>"


def well_formed(text: str) -> str:
    """The text with lone surrogates, which are not characters, replaced by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def spelling(extra: Iterable[str] = ()) -> re.Pattern[str]:
    """A pattern that matches Qwen3's control tokens and the `extra` ones."""
    return re.compile("|".join([QWEN3, *(re.escape(token) for token in extra if len(token) > 1)]))


def neutral_text(text: str, control: re.Pattern[str]) -> str:
    """The text with a space after the first character of each control token that it spells out.

    For servers that tokenize text themselves. The model sees one extra space; token ids do not need this.
    """
    text = well_formed(text)
    while control.search(text):
        text = control.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)
    return text


class Tokens:
    """The tokenizer of one model.

    Args:
        source: Folder with `tokenizer.json`.

    Raises:
        ModelError: The file is missing, or ordinary text could become a control token.
    """

    def __init__(self, source: Path) -> None:
        path = source / "tokenizer.json"
        if not path.is_file():
            raise ModelError(f"{source} has no tokenizer.json; expected a fast tokenizer of the tokenizers library")
        layout = json.loads(path.read_text(encoding="utf-8"))
        self.control = _bare(layout)
        added = layout.get("added_tokens") or []
        self.plain = _bare(layout | {"added_tokens": []})
        self.control_ids = frozenset(int(token["id"]) for token in added)
        self._check_added([str(token["content"]) for token in added])

    def _check_added(self, contents: list[str]) -> None:
        for content, ids in zip(contents, self.encode(contents), strict=True):
            if self.control_ids.intersection(ids):
                raise ModelError(f"text spelling {content!r} would become a control token with this tokenizer")

    @cached_property
    def longest_token(self) -> int:
        """Bytes of the vocabulary's longest token, which are at least its characters."""
        return max((len(token) for token in self.plain.get_vocab()), default=1)

    def encode(self, texts: Sequence[str], at_most: int | None = None) -> list[list[int]]:
        """Ids of text from outside; none is a control token.

        Args:
            texts: The texts.
            at_most: Of longer texts at least so many ids are right, and there is at least one more: the rest need not
                be divided into tokens.
        """
        if at_most is None:
            return self._encoded(texts)
        cut = [self._beginning(text, at_most + 1) for text in texts]
        rows = self._encoded(cut)
        for place, (ids, text) in enumerate(zip(rows, cut, strict=True)):
            # Some tokenizers make one token of a long run of the same.
            if len(ids) <= at_most and len(text) < len(texts[place]):
                (rows[place],) = self._encoded([texts[place]])
        return rows

    def _encoded(self, texts: Sequence[str]) -> list[list[int]]:
        return [e.ids for e in self.plain.encode_batch_fast([well_formed(t) for t in texts], add_special_tokens=False)]

    def _beginning(self, text: str, tokens: int) -> str:
        """The beginning of a text, up to white space, in which at least so many tokens end."""
        size = tokens * self.longest_token
        if len(text) <= FEW or len(text) <= size:
            return text
        space = SPACE.search(text, size, 2 * size)
        # Without white space, as in Chinese, only tokens near the cut can differ, far behind those that count.
        return text[: space.start()] if space else text[: 2 * size]

    def encode_control(self, template: str) -> list[int]:
        """Ids of one of this package's templates, control tokens included."""
        return list(self.control.encode(template, add_special_tokens=False).ids)

    def check_plain(self, ids: Sequence[int], name: str) -> None:
        """Check ids from outside.

        Raises:
            InvalidArgumentError: One is a control token, or not in the vocabulary.
        """
        size = self.control.get_vocab_size()
        for token_id in ids:
            if token_id in self.control_ids or not 0 <= token_id < size:
                raise InvalidArgumentError(
                    f"{name} contains the id {token_id}; expected ids of ordinary tokens, from 0 to {size - 1}, "
                    "outside the template"
                )

    def token_id(self, token: str) -> int:
        """Id of one token.

        Raises:
            ModelError: The vocabulary does not contain it.
        """
        token_id = self.control.token_to_id(token)
        if token_id is None:
            raise ModelError(f"the vocabulary has no token {token!r}; expected a Qwen3-style tokenizer")
        return int(token_id)

    def spans(self, text: str) -> NDArray[np.int64]:
        """Character offsets (n, 2) of a text's tokens."""
        offsets = self.plain.encode(well_formed(text), add_special_tokens=False).offsets
        return np.asarray(offsets, dtype=np.int64).reshape(-1, 2)


def _bare(layout: dict[str, object]) -> Tokenizer:
    # The caller decides about truncation, padding and special tokens, not the file.
    bare = layout | {"truncation": None, "padding": None, "post_processor": None}
    return Tokenizer.from_str(json.dumps(bare))
