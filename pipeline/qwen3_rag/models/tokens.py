"""Text to token ids, with control tokens shut out of everything that comes from outside.

Two tokenizers are made from one `tokenizer.json`: `control`, as it is, for this package's own templates, and `plain`,
with its added tokens taken away, for all other text. A document that spells out `<|im_end|>` is then eleven ordinary
tokens; on text without such spellings both give the same ids.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from qwen3_rag.errors import ModelError

__all__ = ["Tokens", "well_formed"]


def well_formed(text: str) -> str:
    """The text with lone surrogates, which are no characters, replaced by U+FFFD; otherwise unchanged."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


class Tokens:
    """The tokenizer of one model.

    Args:
        source: Folder holding `tokenizer.json`.

    Raises:
        ModelError: There is no such file, or ordinary text could become a control token with it.
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

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of text from outside; none of them is a control token's."""
        return [e.ids for e in self.plain.encode_batch_fast([well_formed(t) for t in texts], add_special_tokens=False)]

    def encode_control(self, template: str) -> list[int]:
        """Ids of a template of this package, control tokens included."""
        return list(self.control.encode(template, add_special_tokens=False).ids)

    def token_id(self, token: str) -> int:
        """Id of one token.

        Raises:
            ModelError: The vocabulary lacks it.
        """
        found = self.control.token_to_id(token)
        if found is None:
            raise ModelError(f"the vocabulary has no token {token!r}; expected a Qwen3-style tokenizer")
        return int(found)

    def spans(self, text: str) -> NDArray[np.int64]:
        """Character offsets (n, 2) of the tokens of a text, for cutting it by tokens."""
        offsets = self.plain.encode(well_formed(text), add_special_tokens=False).offsets
        return np.asarray(offsets, dtype=np.int64).reshape(-1, 2)


def _bare(layout: dict[str, object]) -> Tokenizer:
    # Truncation, padding and the tokens that a post-processor adds are decided by the caller, not by the file.
    bare = layout | {"truncation": None, "padding": None, "post_processor": None}
    return Tokenizer.from_str(json.dumps(bare))
