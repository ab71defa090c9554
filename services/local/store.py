"""The control plane's own SQLite file: documents by kind and key, nothing else.

One connection, one writer, write-ahead log. Each call blocks the whole process for the time of one small statement, so
there is no call that reads or writes much; everything is read once, at start. The file holds no credentials.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from common.errors import Permanent

SCHEMA = 1


class Store:
    """Documents (bytes) under (kind, key). Close it with close()."""

    def __init__(self, path: Path) -> None:
        """Open or create `path` (0600, its directory 0700). Raises Permanent naming the path when that fails."""
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.parent.chmod(0o700)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            path.chmod(0o600)
            self._db = sqlite3.connect(path, isolation_level=None, timeout=5)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._migrate()
        except (OSError, sqlite3.Error) as error:
            raise Permanent(
                f"cannot use the control plane's state file {path}: {error}. "
                "Check the directory's owner and free space, or move the file away to start afresh."
            ) from error

    def _migrate(self) -> None:
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA:
            raise sqlite3.DatabaseError(f"a newer version wrote it (schema {version}, this one knows {SCHEMA})")
        self._db.execute(
            "CREATE TABLE IF NOT EXISTS documents (kind TEXT NOT NULL, key TEXT NOT NULL, "
            "body BLOB NOT NULL, PRIMARY KEY (kind, key)) WITHOUT ROWID"
        )
        self._db.execute(f"PRAGMA user_version={SCHEMA}")

    def load(self, kind: str) -> list[tuple[str, bytes]]:
        """Every (key, document) of a kind."""
        return list(self._db.execute("SELECT key, body FROM documents WHERE kind = ?", (kind,)))

    def write(self, puts: Iterable[tuple[str, str, bytes]], deletes: Iterable[tuple[str, str]] = ()) -> None:
        """Put and delete documents in one transaction: all of it is there afterwards, or none."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            self._db.executemany("INSERT OR REPLACE INTO documents (kind, key, body) VALUES (?, ?, ?)", puts)
            self._db.executemany("DELETE FROM documents WHERE kind = ? AND key = ?", deletes)
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # SQLite ends some failed ones itself
                self._db.execute("ROLLBACK")
            raise

    def close(self) -> None:
        """Close the file."""
        self._db.close()
