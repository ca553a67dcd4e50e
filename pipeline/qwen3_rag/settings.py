"""What a store is created with and keeps: how documents are cut into passages."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from qwen3_rag.arguments import at_least
from qwen3_rag.errors import InvalidArgumentError, UnknownNameError

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """Settings of a store, checked when made.

    Attributes:
        chunk_tokens: Most tokens of a passage, counted by the embedder's tokenizer, the title not included.
        chunk_overlap: Tokens at most that a passage repeats of the one before it, in whole sentences.
    """

    chunk_tokens: int = 400
    chunk_overlap: int = 50

    def __post_init__(self) -> None:
        at_least(self.chunk_tokens, 8, "chunk_tokens")
        at_least(self.chunk_overlap, 0, "chunk_overlap")
        if self.chunk_overlap > self.chunk_tokens // 2:
            raise InvalidArgumentError(
                f"chunk_overlap is {self.chunk_overlap}; expected at most half of chunk_tokens={self.chunk_tokens}"
            )

    @classmethod
    def of(cls, options: dict[str, Any]) -> "Settings":
        """Settings from keyword arguments.

        Raises:
            UnknownNameError: An argument that is no setting.
        """
        known = [setting.name for setting in fields(cls)]
        for name in options:
            if name not in known:
                raise UnknownNameError("setting", name, known)
        return cls(**options)

    def describe(self) -> dict[str, Any]:
        """As JSON, for the store."""
        return asdict(self)
