"""SQLite files: durable, all or nothing, and never opened by an older version."""

import sqlite3
from pathlib import Path

import pytest

from neurons.base.database import Database
from polarise.errors import ConfigError

SCHEMA = "CREATE TABLE item (name TEXT PRIMARY KEY)"


def test_file_of_the_same_version_is_opened_again_with_its_rows(tmp_path: Path) -> None:
    for count in range(2):
        with Database(tmp_path / "x.sqlite", SCHEMA, version=3) as database:
            with database.transaction() as connection:
                connection.execute("INSERT INTO item VALUES (?)", (str(count),))
            assert len(database.query("SELECT * FROM item")) == count + 1


def test_file_of_a_version_newer_by_one_is_refused(tmp_path: Path) -> None:
    with Database(tmp_path / "x.sqlite", SCHEMA, version=3):
        pass
    with pytest.raises(ConfigError, match=r"x\.sqlite: written by a newer version \(format 3, this one knows 2\)"):
        Database(tmp_path / "x.sqlite", SCHEMA, version=2)


def test_older_file_takes_every_step_up_and_a_new_one_takes_none(tmp_path: Path) -> None:
    upgrades = {2: "ALTER TABLE item ADD COLUMN size INTEGER", 3: "UPDATE item SET size = 7"}
    newest = "CREATE TABLE item (name TEXT PRIMARY KEY, size INTEGER)"
    with Database(tmp_path / "old.sqlite", SCHEMA, version=1) as database, database.transaction() as connection:
        connection.execute("INSERT INTO item VALUES ('a')")
    for _ in range(2):
        with Database(tmp_path / "old.sqlite", newest, version=3, upgrades=upgrades) as database:
            assert [tuple(row) for row in database.query("SELECT * FROM item")] == [("a", 7)]
            assert database.query("PRAGMA user_version")[0][0] == 3
    with Database(tmp_path / "new.sqlite", newest, version=3, upgrades=upgrades) as database:
        assert database.query("SELECT * FROM item") == []


def test_failed_transaction_leaves_nothing(tmp_path: Path) -> None:
    with Database(tmp_path / "x.sqlite", SCHEMA, version=1) as database:

        def insert_twice() -> None:
            with database.transaction() as connection:
                for _ in range(2):
                    connection.execute("INSERT INTO item VALUES ('a')")

        with pytest.raises(sqlite3.IntegrityError):
            insert_twice()
        assert database.query("SELECT * FROM item") == []


def test_writes_are_durable_before_they_return(tmp_path: Path) -> None:
    with Database(tmp_path / "x.sqlite", SCHEMA, version=1) as database:
        assert database.query("PRAGMA journal_mode")[0][0] == "wal"
        assert database.query("PRAGMA synchronous")[0][0] == 2
