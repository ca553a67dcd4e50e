"""Every error this package raises on purpose.

Qwen3RagError
├── InvalidArgumentError (ValueError)     a wrong value where it enters; shows the value and what was expected
│   ├── UnknownNameError                  a name that is not in a list; shows the list
│   └── FilterError                       a metadata filter that cannot be understood
├── MissingDependencyError (ImportError)  an optional package is needed; shows the pip command
├── ModelError (RuntimeError)             weights or tokenizer that cannot serve, or gave NaN
├── StoppedError (RuntimeError)           a deadline passed, or the call was cancelled, before there was a result
├── IngestError (RuntimeError)            a file that cannot be read
├── JudgementError (RuntimeError)         queries, judgements or a run that cannot be evaluated; names file and line
├── TrainingError (RuntimeError)          training data that cannot be used, or a run that cannot go on
└── StoreError (RuntimeError)
    ├── StoreNotFoundError                no folder, or a folder that is not a store
    ├── StoreMovedError                   the store that was opened is no longer at its path
    ├── StoreReadOnlyError                this process may read the store, not write it
    ├── UntrustedStoreError               the store names a server that the caller did not
    ├── StoreExistsError                  a store is already there
    ├── StoreVersionError                 written by another version of the format
    ├── StoreLockedError                  another writer holds the store
    ├── EmbedderMismatchError (ValueError) the embedder is not the one that computed the vectors
    └── IndexCorruptedError               what was read back is not what was written; names the file
"""

__all__ = [
    "EmbedderMismatchError",
    "FilterError",
    "IndexCorruptedError",
    "IngestError",
    "InvalidArgumentError",
    "JudgementError",
    "MissingDependencyError",
    "ModelError",
    "Qwen3RagError",
    "StoppedError",
    "StoreError",
    "StoreExistsError",
    "StoreLockedError",
    "StoreMovedError",
    "StoreNotFoundError",
    "StoreReadOnlyError",
    "StoreVersionError",
    "TrainingError",
    "UnknownNameError",
    "UntrustedStoreError",
]


class Qwen3RagError(Exception):
    """Root of all errors raised on purpose by this package."""


class InvalidArgumentError(Qwen3RagError, ValueError):
    """An argument is wrong; the message shows its value and what was expected."""


class UnknownNameError(InvalidArgumentError):
    """A name is not among the known ones; the message lists them."""

    def __init__(self, kind: str, value: object, known: list[str], hint: str = "") -> None:
        message = f"unknown {kind} {value!r}; expected one of: {', '.join(known)}"
        super().__init__(f"{message}. {hint}" if hint else message)


class FilterError(InvalidArgumentError):
    """A metadata filter has an unknown operator or a value of the wrong type."""


class MissingDependencyError(Qwen3RagError, ImportError):
    """An optional package is not installed; the message is the pip command that installs it."""

    def __init__(self, package: str, purpose: str, command: str) -> None:
        super().__init__(f"{purpose} needs the package {package!r}, which is not installed: {command}")


class ModelError(Qwen3RagError, RuntimeError):
    """Weights or a tokenizer cannot be used as requested, or produced values that are not numbers."""


class StoppedError(Qwen3RagError, RuntimeError):
    """The deadline passed, or the call was cancelled, before there was a result."""


class IngestError(Qwen3RagError, RuntimeError):
    """A file or folder could not be read; the message names it."""


class JudgementError(Qwen3RagError, RuntimeError):
    """Queries, judgements or a run cannot be evaluated; the message names file and line."""


class TrainingError(Qwen3RagError, RuntimeError):
    """Training data cannot be used, or a run cannot go on; the message names file and line, or the step."""


class StoreError(Qwen3RagError, RuntimeError):
    """Something about a store folder is not as it must be."""


class StoreNotFoundError(StoreError):
    """There is no store at the path."""


class StoreMovedError(StoreError):
    """The store that was opened was moved, or another one has taken its place; nothing of the other was touched."""

    def __init__(self, path: object) -> None:
        super().__init__(
            f"{path} is not the store that was opened: it was moved, rebuilt or swapped for another; open it again"
        )


class StoreReadOnlyError(StoreError):
    """This process has no permission to write the store; the message says to what."""


class UntrustedStoreError(StoreError):
    """A model that the store remembers runs on a server that the caller has not named or trusted."""


class StoreExistsError(StoreError):
    """There is already a store at the path."""


class StoreVersionError(StoreError):
    """The store was written in a format version this package does not read."""


class StoreLockedError(StoreError):
    """Another process or object is writing to the store."""


class EmbedderMismatchError(StoreError, ValueError):
    """The embedder is not the one that computed the store's vectors."""


class IndexCorruptedError(StoreError):
    """Data read back fails its checksum; the message names the file."""
