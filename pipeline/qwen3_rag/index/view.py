"""One commit ready for search, made from the view of an earlier commit by applying what has changed since."""

from collections.abc import Set
from dataclasses import dataclass

from qwen3_rag.errors import IndexCorruptedError
from qwen3_rag.index import bitmap
from qwen3_rag.index.bitmap import Bitmap
from qwen3_rag.index.checksums import DerivedFileError
from qwen3_rag.index.commit import Commit
from qwen3_rag.index.dense import DenseIndex
from qwen3_rag.index.gpu import Gpus
from qwen3_rag.index.lexical import Bm25, Tail
from qwen3_rag.index.lists import Lists
from qwen3_rag.index.protocols import TextIndex
from qwen3_rag.index.segments import Segment
from qwen3_rag.index.store import Store
from qwen3_rag.index.vectors import Rows

__all__ = ["View", "view_of"]


@dataclass(frozen=True)
class View:
    """One commit ready for search; immutable, shared between threads, replaced as a whole."""

    commit: Commit
    live: Bitmap | None
    dense: DenseIndex
    words: tuple[Segment, ...]
    tail: Tail

    @property
    def text(self) -> TextIndex:
        """The lexical index, which needs an up-to-date tail."""
        return Bm25([*self.words, self.tail], self.commit.rows, self.commit.live)

    def check_lengths(self) -> None:
        """Check the lengths of the mapped files, because reading a truncated one kills the process.

        Raises:
            IndexCorruptedError: The vector file was truncated.
            DerivedFileError: A derived file was truncated.
        """
        if self.dense.rows.map is not None:
            self.dense.rows.map.check_length()
        derived = [segment.map for segment in self.words] + ([self.dense.lists.map] if self.dense.lists else [])
        for file_map in derived:
            try:
                file_map.check_length()
            except IndexCorruptedError as error:
                raise DerivedFileError(file_map.path, "was truncated") from error


def view_of(store: Store, commit: Commit, rows: Rows, before: View | None, damaged: Set[str], gpus: Gpus) -> View:
    """Make the view of the snapshot's commit.

    Args:
        store: The store.
        commit: The commit.
        rows: Its rows.
        before: A view of an earlier commit of the same generation.
        damaged: Names of derived files to do without.
        gpus: What the process keeps on its GPUs.

    Raises:
        DerivedFileError: A derived file is missing or damaged.
    """
    words = _segments(store, commit, before, damaged)
    covered = words[-1].name.stop if words else 0
    tail = before.tail if before is not None and before.tail.first == covered else Tail(covered)
    lists = _lists(store, commit, before, damaged)
    dense = DenseIndex(rows, commit.generation, lists, gpus, commit.policy.kind == "ivf")
    return View(commit, _live(store, commit, before), dense, words, tail)


def _segments(store: Store, commit: Commit, before: View | None, damaged: Set[str]) -> tuple[Segment, ...]:
    """The commit's segments up to the first damaged one; the tail covers the rest."""
    opened = {segment.name: segment for segment in (before.words if before is not None else ())}
    segments: list[Segment] = []
    for name in commit.words:
        if name.file in damaged:
            break
        segments.append(opened.get(name) or Segment(store.files, name))
    return tuple(segments)


def _lists(store: Store, commit: Commit, before: View | None, damaged: Set[str]) -> Lists | None:
    if commit.dense is None or commit.dense.file in damaged:
        return None
    if before is not None and before.dense.lists is not None and before.dense.lists.checkpoint == commit.dense:
        return before.dense.lists
    return Lists(store.files, commit.dense)


def _live(store: Store, commit: Commit, before: View | None) -> Bitmap | None:
    if before is None or not commit.removed:
        return store.live(commit)
    removed = store.removed(before.commit.last_removal)
    if before.live is None:
        live = bitmap.full(commit.rows)
    else:
        added = bitmap.full(commit.rows) & ~bitmap.resized(bitmap.full(before.commit.rows), commit.rows)
        live = bitmap.resized(before.live, commit.rows) | added
    return live & ~bitmap.from_rows(removed, commit.rows)
