"""Two processes that write one SQLite database: run in guests.

    python3 wal.py DATABASE JOURNAL [--transactions N]

JOURNAL is `wal` or `delete`. Each process adds rows and increments one counter in transactions;
afterwards the counter, the rows and the integrity check must agree. Prints `refused: REASON` and
exits with 3 if the file system cannot have that journal.
"""

import argparse
import os
import sqlite3
import sys


def opened(path: str, journal: str) -> sqlite3.Connection:
    """A connection that waits for locks."""
    database = sqlite3.connect(path, timeout=120, isolation_level=None)
    told = database.execute(f"pragma journal_mode={journal}").fetchone()[0]
    if told != journal:
        raise sqlite3.OperationalError(f"the journal is {told}")
    return database


def work(path: str, journal: str, which: int, transactions: int) -> None:
    """What each process does."""
    database = opened(path, journal)
    for number in range(transactions):
        database.execute("begin immediate")
        database.execute("update counter set value = value + 1")
        database.execute("insert into rows values (?, ?, ?)", (which, number, os.urandom(300)))
        database.execute("commit")
    database.close()


def main(words: list[str]) -> int:
    """Run two processes; return the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("database")
    parser.add_argument("journal")
    parser.add_argument("--transactions", type=int, default=200)
    told = parser.parse_args(words)
    try:
        database = opened(told.database, told.journal)
        database.execute("create table if not exists counter (value integer)")
        database.execute("create table if not exists rows (which, number, data)")
        database.execute("insert into counter values (0)")
        database.close()
    except sqlite3.OperationalError as error:
        print(f"refused: {error}")
        return 3
    children = []
    for which in range(2):
        child = os.fork()
        if not child:
            status = 1
            try:
                work(told.database, told.journal, which, told.transactions)
                status = 0
            except BaseException as error:
                print(f"process {which}: {error!r}", flush=True)
            finally:
                os._exit(status)
        children.append(child)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    database = opened(told.database, told.journal)
    found = (
        database.execute("select value from counter").fetchone()[0],
        database.execute("select count(*) from rows").fetchone()[0],
        database.execute("select count(distinct which * 1000000 + number) from rows").fetchone()[0],
        database.execute("pragma integrity_check").fetchone()[0],
    )
    database.close()
    print(f"statuses {statuses}, counter, rows, distinct rows and integrity {found}")
    wanted = 2 * told.transactions
    return 0 if not any(statuses) and found == (wanted, wanted, wanted, "ok") else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
