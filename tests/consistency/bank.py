# SPDX-License-Identifier: Apache-2.0
"""A bank in SQLite whose money stays: transfers for ever, or a look at whether the books are right.

    python bank.py work PATH      prints the number of each transfer when it is durable, until it is killed
    python bank.py audit PATH     prints the number of the last transfer; exit status 1 and why if books are wrong

WAL with synchronous=FULL: a transfer is durable when COMMIT returns. Transfers are numbered without gaps, and
each is in the ledger and in two balances or in none.
"""
import random
import sqlite3
import sys

ACCOUNTS = 200
OPENING = 1000                      # of each balance
CHECKPOINT_PAGES = 50               # of the WAL, so that checkpoints are frequent


def connect(path: str) -> sqlite3.Connection:
    bank = sqlite3.connect(path, isolation_level=None)
    bank.execute("PRAGMA journal_mode=WAL")
    bank.execute("PRAGMA synchronous=FULL")
    bank.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
    return bank


def found(path: str) -> sqlite3.Connection:
    """A new bank."""
    bank = connect(path)
    bank.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, balance INTEGER NOT NULL)")
    bank.execute("CREATE TABLE ledger (n INTEGER PRIMARY KEY, source INTEGER, target INTEGER, amount INTEGER, "
                 "why TEXT)")
    bank.executemany("INSERT INTO account VALUES (?, ?)", [(number, OPENING) for number in range(ACCOUNTS)])
    return bank


def work(path: str) -> None:
    bank, dice = found(path), random.Random(1)
    for number in range(1, 1 << 40):
        source, target, amount = dice.randrange(ACCOUNTS), dice.randrange(ACCOUNTS), dice.randrange(1, 50)
        bank.execute("BEGIN IMMEDIATE")
        bank.execute("UPDATE account SET balance = balance - ? WHERE id = ?", (amount, source))
        bank.execute("INSERT INTO ledger VALUES (?, ?, ?, ?, ?)",
                     (number, source, target, amount, "x" * dice.randrange(900)))
        bank.execute("UPDATE account SET balance = balance + ? WHERE id = ?", (amount, target))
        bank.execute("COMMIT")
        print(number, flush=True)


def audit(path: str) -> int:
    """The last transfer's number. AssertionError: the books are wrong."""
    bank = connect(path)
    assert bank.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    balances = dict(bank.execute("SELECT id, balance FROM account"))
    ledger = bank.execute("SELECT n, source, target, amount FROM ledger ORDER BY n").fetchall()
    assert sum(balances.values()) == ACCOUNTS * OPENING, "money was made or lost"
    assert [row[0] for row in ledger] == list(range(1, len(ledger) + 1)), "transfers are missing"
    wanted = dict.fromkeys(range(ACCOUNTS), OPENING)
    for _number, source, target, amount in ledger:
        wanted[source] -= amount
        wanted[target] += amount
    assert balances == wanted, "balances are not what the ledger says"
    return len(ledger)


if __name__ == "__main__":
    if sys.argv[1] == "work":
        work(sys.argv[2])
    else:
        print(audit(sys.argv[2]))
