"""The tables of a store, and the upgrade from the format before."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from qwen3_rag.index.commit import Commit, commit_rows
from qwen3_rag.index.connections import APPLICATION_ID

__all__ = ["FORMAT", "PAGES", "Run", "create_tables", "upgrade"]

FORMAT = 3  # of new stores
Run = Callable[..., Any]  # returns a cursor; its row types depend on the statement

# A passage's number is its row in the file of vectors; a document's passages have consecutive numbers.
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE documents (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, title TEXT, source TEXT, text TEXT NOT NULL,
    metadata TEXT NOT NULL, first INTEGER NOT NULL, passages INTEGER NOT NULL) STRICT;
CREATE TABLE passages (
    number INTEGER PRIMARY KEY, document INTEGER NOT NULL, ordinal INTEGER NOT NULL,
    start INTEGER NOT NULL, stop INTEGER NOT NULL, page INTEGER, heading TEXT, digest BLOB NOT NULL) STRICT;
CREATE INDEX passages_by_digest ON passages (digest);
CREATE TABLE field_names (number INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE fields (
    field INTEGER NOT NULL, item INTEGER NOT NULL, kind INTEGER NOT NULL, value ANY NOT NULL,
    first INTEGER NOT NULL, passages INTEGER NOT NULL,
    PRIMARY KEY (field, item, kind, value, first)) STRICT, WITHOUT ROWID;
CREATE TABLE removed (number INTEGER PRIMARY KEY, passage INTEGER NOT NULL) STRICT;
CREATE TABLE blocks (block INTEGER PRIMARY KEY, digest INTEGER NOT NULL) STRICT;
"""
# Changes from format 2 to 3. The table `sources` of format 2 was never written to.
ADDITIONS = """
DROP INDEX IF EXISTS documents_by_source;
DROP TABLE IF EXISTS sources;
ALTER TABLE documents ADD COLUMN origin INTEGER;
CREATE INDEX documents_by_origin ON documents (origin) WHERE origin IS NOT NULL;
CREATE TABLE blocks_of_text (
    document INTEGER NOT NULL, block INTEGER NOT NULL, text TEXT NOT NULL,
    PRIMARY KEY (document, block)) STRICT, WITHOUT ROWID;
CREATE TABLE sources (
    number INTEGER PRIMARY KEY, path TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, changed INTEGER NOT NULL,
    digest BLOB NOT NULL) STRICT;
CREATE TABLE staged (digest BLOB PRIMARY KEY, vector BLOB NOT NULL) STRICT, WITHOUT ROWID;
"""
# Where the pages of documents start. An addition to format 3 that older versions ignore: `digest` is that of the text,
# so that a row left behind by a version that does not know this table is not believed.
PAGES = """
CREATE TABLE IF NOT EXISTS pages (
    id TEXT PRIMARY KEY, digest INTEGER NOT NULL, starts BLOB NOT NULL) STRICT, WITHOUT ROWID;
"""


def create_tables(run: Run, identity: bytes, meta: Mapping[str, Any]) -> None:
    """Create the tables of a new store and its first, empty commit, within a transaction."""
    run(SCHEMA + ADDITIONS + PAGES)
    for row in commit_rows(Commit()):
        run("INSERT INTO meta VALUES (?, ?)", row)
    for key, value in {"identity": identity.hex(), **meta}.items():
        run("INSERT INTO meta VALUES (?, ?)", (key, json.dumps(value)))
    run(f"PRAGMA application_id = {APPLICATION_ID}")
    run(f"PRAGMA user_version = {FORMAT}")


def upgrade(run: Run, identity: bytes) -> None:
    """Bring a store of format 2 to format 3, within a transaction; does nothing to one of format 3."""
    if run("PRAGMA user_version").get == 2:
        run(f"{ADDITIONS} PRAGMA user_version = {FORMAT}")
        run("INSERT OR REPLACE INTO meta VALUES ('identity', ?)", (json.dumps(identity.hex()),))
