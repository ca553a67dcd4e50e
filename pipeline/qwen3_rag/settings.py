"""Settings that a store is created with: splitting, vector type, indexed fields."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from qwen3_rag.arguments import at_least, one_of, text_list
from qwen3_rag.errors import InvalidArgumentError, UnknownNameError

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """Settings of a store, checked when created.

    Attributes:
        chunk_tokens: Maximum tokens of a passage by the embedder's tokenizer, without the title.
        chunk_overlap: Maximum tokens repeated from the passage before, in whole sentences.
        titles: Whether title and headings precede a passage when it is embedded, reranked and searched for words.
        tables: How tables in files are split: "rows" between rows, repeating the first row,
            "text" as plain text, "drop" leaves them out of the passages.
        vectors: Type in which vectors are stored and compared, "float16" or "float32".
        fields: Names of the metadata fields that are indexed for filters; None is all. Filtering on
            others reads every document.
        index_memory: Maximum MiB for building an index, mapped files not included.
    """

    chunk_tokens: int = 400
    chunk_overlap: int = 50
    titles: bool = True
    tables: str = "rows"
    vectors: str = "float16"
    fields: tuple[str, ...] | None = None
    index_memory: int = 1024

    def __post_init__(self) -> None:
        at_least(self.chunk_tokens, 8, "chunk_tokens")
        at_least(self.chunk_overlap, 0, "chunk_overlap")
        if self.chunk_overlap > self.chunk_tokens // 2:
            raise InvalidArgumentError(
                f"chunk_overlap is {self.chunk_overlap}; expected at most half of chunk_tokens={self.chunk_tokens}"
            )
        at_least(self.index_memory, 512, "index_memory")
        one_of(self.vectors, ("float16", "float32"), "vectors")
        one_of(self.tables, ("rows", "text", "drop"), "tables")
        if not isinstance(self.titles, bool):
            raise InvalidArgumentError(f"titles is {self.titles!r}; expected True or False")
        if self.fields is not None:
            object.__setattr__(self, "fields", tuple(text_list(self.fields, "fields")))

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
