"""What only the embedded store promises: one file, one process, nothing acknowledged is lost."""

from __future__ import annotations

import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from css.errors import Compacted, ConfigError, Unavailable
from css.model import Batch, Key, Record, Write
from css.store import Retention
from css.store.embedded import FORMAT, open_embedded
from tests.store.test_contract import key, listed, put, write


async def test_a_second_daemon_is_refused(tmp_path: Path) -> None:
    """One file belongs to one process; the error says what to use instead."""
    async with open_embedded(tmp_path / "css.db", Retention()):
        script = f"""
import trio; from pathlib import Path; from css.store import Retention; from css.store.embedded import open_embedded
async def main():
    async with open_embedded(Path({str(tmp_path / "css.db")!r}), Retention()): pass
trio.run(main)"""
        other = await trio.run_process([sys.executable, "-c", script], capture_stderr=True, check=False)
    assert other.returncode
    assert b"ConfigError" in other.stderr
    assert b"in use by another process; two daemons cannot share an embedded store (use etcd" in other.stderr


async def test_files_that_are_not_ours_are_refused_and_left_alone(tmp_path: Path) -> None:
    """Another program's database, a newer format, no database at all, a folder: `ConfigError`, nothing written."""
    foreign, newer, text = tmp_path / "foreign.db", tmp_path / "newer.db", tmp_path / "notes.txt"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    async with open_embedded(newer, Retention()):
        pass
    with sqlite3.connect(newer) as connection:
        connection.execute(f"PRAGMA user_version = {FORMAT + 1}")
    connection.close()
    text.write_text("no database\n" * 100)
    for path, why in (
        (foreign, "not a store of css"),
        (newer, "written by a newer css"),
        (text, "not a SQLite database"),
        (tmp_path, "cannot open the store"),
    ):
        with pytest.raises(ConfigError, match=why):
            async with open_embedded(path, Retention()):
                pass
    assert text.read_text() == "no database\n" * 100
    with sqlite3.connect(foreign) as connection:
        assert connection.execute("SELECT name FROM sqlite_schema").fetchall() == [("theirs",)]
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    connection.close()


_COMMITS = """
import sys, trio
from pathlib import Path
from css.model import Write
from css.store import Retention
from css.store.embedded import open_embedded
from tests.store.test_contract import put
async def main():
    async with open_embedded(Path(sys.argv[1]), Retention()) as store:
        number = int(sys.argv[2])
        while True:
            receipt = await store.commit([Write(put(number + i, 1), 0) for i in range(3)])
            assert not receipt.lost
            number += 3
            print(number, receipt.revision, flush=True)
trio.run(main)
"""


async def _state(path: Path) -> tuple[int, dict[Key, Record]]:
    async with open_embedded(path, Retention()) as store:
        return await listed(store)


def test_what_was_committed_survives_sigkill(tmp_path: Path) -> None:
    """After SIGKILL at random moments all that was acknowledged is there, whole commits only, revisions as told."""
    rng = random.Random(1)
    count = 0
    for _ in range(4):
        command = [sys.executable, "-c", _COMMITS, str(tmp_path / "css.db"), str(count)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            for _ in range(rng.randint(1, 200)):
                count, told = map(int, child.stdout.readline().split())
            child.kill()
        revision, records = trio.run(_state, tmp_path / "css.db")
        assert revision >= told
        assert {key(number) for number in range(count)} <= set(records)
        assert len(records) % 3 == 0
        assert max(record.revision for record in records.values()) == revision
        count = len(records)  # the last commits may be in without having been acknowledged


async def test_a_full_disk_is_unavailable_and_passes(tmp_path: Path) -> None:
    """A commit that finds no room changes nothing and is `Unavailable`; with room, the same commit goes through."""
    async with open_embedded(tmp_path / "css.db", Retention()) as store:
        before = await write(store, put(1, 1))
        full = [Write(put(number, 1, size=10_000), 0) for number in range(2, 60)]
        store._connection.execute("PRAGMA max_page_count = 20").fetchall()
        with pytest.raises(Unavailable, match="full"):
            await store.commit(full)
        revision, records = await listed(store)
        assert (revision, set(records)) == (before, {key(1)})
        store._connection.execute("PRAGMA max_page_count = 1000000").fetchall()
        assert not (await store.commit(full)).lost


async def test_a_watch_that_falls_too_far_behind_is_told(tmp_path: Path) -> None:
    """What is held for watches is bounded; one that lags more must list again."""
    async with open_embedded(tmp_path / "css.db", Retention()) as store, store.watch(0) as watch:
        for start in range(0, 6000, 1000):
            await store.commit([Write(put(number, 1), 0) for number in range(start, start + 1000)])
        with pytest.raises(Compacted):
            await watch.receive()


async def test_a_cancelled_commit_is_whole_and_the_store_goes_on(tmp_path: Path) -> None:
    """Cancelled while it runs, a commit is applied and told to watches, or it is not: never half, never in silence."""
    async with open_embedded(tmp_path / "css.db", Retention()) as store:
        for number in range(20):
            with trio.move_on_after(0.0002 * number):
                await store.commit([Write(put(2 * number, 1), 0), Write(put(2 * number + 1, 1), 0)])
        last = await write(store, put(1000, 1))
        _, records = await listed(store)
        told: list[Batch] = []
        async with store.watch(0) as watch:
            while not told or told[-1].revision < last:
                told += await watch.receive()
        assert {r.key: r for batch in told for r in batch.records} == records
        assert all(len(batch.records) == 2 for batch in told[:-1])
