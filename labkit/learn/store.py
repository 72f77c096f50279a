"""The learner's record: every check and every hint opened, in ``progress.db`` in ``labkit.home.records()``.

Several notebooks may write at once (SQLite's write-ahead log), and a home that cannot be written is no reason
to stop anyone from learning: the record is then left out, and the caller is told.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from labkit.home import records

SCHEMA = """
CREATE TABLE IF NOT EXISTS checks (
    at TEXT NOT NULL,        -- UTC, ISO 8601
    module TEXT NOT NULL,
    lang TEXT NOT NULL,
    exercise TEXT NOT NULL,
    outcome TEXT NOT NULL,   -- correct, wrong, raised, not_attempted
    hint TEXT                -- the misconception shown, for wrong
);
CREATE TABLE IF NOT EXISTS steps (
    module TEXT NOT NULL,
    exercise TEXT NOT NULL,
    shown INTEGER NOT NULL,  -- progressive hints opened
    PRIMARY KEY (module, exercise)
);
PRAGMA user_version = 1;
"""


@dataclass(frozen=True)
class Record:
    """What one learner has done on one exercise."""

    checks: int = 0  # that found an attempt
    solved: bool = False  # at least once
    last: str | None = None  # outcome of the last check
    same: int = 0  # how many checks in a row ended with this outcome and hint
    steps: int = 0  # progressive hints opened


class Store:
    """The record in one file.

    Args:
        path: of the database; None for ``progress.db`` in the folder ``labkit.home.records`` names.
    """

    def __init__(self, path: Path | None = None):
        self.path = path or records() / "progress.db"

    def add_check(self, module: str, lang: str, exercise: str, outcome: str, hint: str | None = None) -> bool:
        """Record a check; False when nothing can be written there."""
        row = (datetime.now(UTC).isoformat(timespec="seconds"), module, lang, exercise, outcome, hint)
        return self._write("INSERT INTO checks VALUES (?, ?, ?, ?, ?, ?)", row)

    def set_steps(self, module: str, exercise: str, shown: int) -> bool:
        """Record how many progressive hints have been opened; False when nothing can be written there."""
        statement = (
            "INSERT INTO steps VALUES (?, ?, ?) ON CONFLICT (module, exercise) "
            "DO UPDATE SET shown = max(shown, excluded.shown)"
        )
        return self._write(statement, (module, exercise, shown))

    def record(self, module: str, exercise: str) -> Record:
        """Everything known of one exercise; an empty record when nothing is."""
        with self._reading() as database:
            if database is None:
                return Record()
            rows = database.execute(
                "SELECT outcome, hint FROM checks WHERE module = ? AND exercise = ? ORDER BY rowid DESC",
                (module, exercise),
            ).fetchall()
            step = database.execute(
                "SELECT shown FROM steps WHERE module = ? AND exercise = ?", (module, exercise)
            ).fetchone()
        attempts = [row for row in rows if row[0] != "not_attempted"]
        return Record(
            checks=len(attempts),
            solved=any(outcome == "correct" for outcome, _ in rows),
            last=rows[0][0] if rows else None,
            same=next((n for n, row in enumerate(rows) if row != rows[0]), len(rows)),
            steps=step[0] if step else 0,
        )

    def last_lang(self) -> str | None:
        """The language of the last check, None before the first."""
        with self._reading() as database:
            row = (
                database
                and database.execute("SELECT lang FROM checks ORDER BY rowid DESC LIMIT 1").fetchone()
            )
        return row[0] if row else None

    def _write(self, statement: str, values: tuple) -> bool:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self.path, timeout=5)) as database:
                database.execute("PRAGMA journal_mode = WAL")
                database.execute("PRAGMA synchronous = NORMAL")
                if database.execute("PRAGMA user_version").fetchone()[0] == 0:
                    database.executescript(SCHEMA)
                with database:
                    database.execute(statement, values)
            return True
        except (sqlite3.Error, OSError):
            return False

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """A connection, or None when there is no record; a read-only folder is read all the same."""
        database = None
        for options in (
            "mode=ro",
            "mode=ro&immutable=1",
        ):  # a write-ahead log needs its folder; a copy does not
            try:
                database = sqlite3.connect(f"{self.path.resolve().as_uri()}?{options}", uri=True, timeout=5)
                database.execute("SELECT 1 FROM checks LIMIT 1")
                break
            except (sqlite3.Error, OSError):
                if database is not None:
                    database.close()
                database = None
        try:
            yield database
        finally:
            if database is not None:
                database.close()
