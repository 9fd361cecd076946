"""Children that hold a store open and answer a parent's requests until it hangs up."""

import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path

from tests.support.dropping import copy_from
from tests.support.ledger import Recipe, encoded, made, put_recipes
from tests.support.sharing import shared
from ventifs.errors import VentifsError
from ventifs.store import Mode, Score, Store
from ventifs.store.check import repair
from ventifs.store.files import Files
from ventifs.store.findings import Report
from ventifs.store.header import read_header
from ventifs.store.lock import store_lock
from ventifs.store.rebuild import rebuild_index
from ventifs.store.reclaim.condemned import announce, condemn, empty, withdraw

Answer = Callable[..., object]

NOBODY = 65534


def answer_all(connection: Connection, answers: dict[str, Answer]) -> None:
    """Answer (name, arguments) by a call; errors are answered as (class name, message)."""
    while True:
        try:
            name, *arguments = connection.recv()
        except EOFError:
            return
        try:
            connection.send(answers[name](*arguments))
        except VentifsError as error:
            connection.send((type(error).__name__, str(error)))


def use_store(connection: Connection, root: Path, mode: Mode) -> None:
    """Hold a store open, and use it as requested."""
    with Store.open(root, mode) as store:

        def put(recipes: list[Recipe]) -> None:
            put_recipes(store, recipes)

        def commit(key: bytes, recipes: list[Recipe]) -> None:
            put_recipes(store, recipes)
            store.commit([(key, encoded(recipes))])

        def keys() -> list[bytes]:
            return [record.key for record in store.records()]

        def sound(recipes: list[Recipe]) -> bool:
            return all(store.get(made(recipe)[0]) == made(recipe)[1] for recipe in recipes)

        answer_all(connection, {"put": put, "commit": commit, "keys": keys, "sound": sound})


def hold_alone(connection: Connection, root: Path) -> None:
    """Hold the store's lock alone, as a rebuild does, and rebuild when asked."""
    with store_lock(root, alone=True):

        def rebuild() -> None:
            rebuild_index(root, read_header(root), Files())

        answer_all(connection, {"rebuild": rebuild, "ready": lambda: "ready"})


def reclaim(connection: Connection, root: Path) -> None:
    """Hold a store open as the process that reclaims space does, and take steps as requested."""
    files = Files()
    with Store.open(root, "reclaim") as store:

        def announce_them(arenas: list[bytes]) -> None:
            announce(root, arenas, files)

        def drop(arenas: list[bytes], scores: list[Score]) -> None:
            copy_from(store, arenas, scores)
            store.drop_arenas(arenas)

        def remove(arenas: list[bytes]) -> None:
            condemn(store._arenas, arenas, files)
            empty(store._arenas, arenas, files)
            withdraw(root, files)

        answer_all(connection, {"announce": announce_them, "drop": drop, "remove": remove})


def operate(connection: Connection, root: Path) -> None:
    """Create, recover or rebuild, in a child: a full disk can make LMDB kill the process."""

    def create() -> None:
        Store.create(root, arena_size=4 << 20)

    def recover() -> None:
        Store.open(root, "write").close()

    def rebuild() -> None:
        repair(root, Report())

    answer_all(connection, {"create": create, "recover": recover, "rebuild": rebuild})


def as_nobody(connection: Connection, root: Path) -> None:
    """Use a store as an ordinary user: read everything, or write a record."""
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)

    def read() -> None:
        with Store.open(root) as store:
            for record in store.records():
                for seed, size in json.loads(record.value or b"[]"):
                    score, block = made((seed, size))
                    assert store.get(score) == block
            assert store.stats().records > 0

    def write() -> None:
        with Store.open(root, "write") as store:
            put_recipes(store, [(200, 5_000)])
            store.commit([(b"nobody's", b"")])

    def worker() -> None:
        Store.open(root, "worker").abandon()

    def create() -> None:
        Store.create(root.parent / "new")

    answers: dict[str, Answer] = {"read": read, "write": write, "worker": worker, "create": create}
    answer_all(connection, answers)


def share(connection: Connection, base: Path) -> None:
    """Use a `shared` resource: ("enter",) returns its facts, ("leave",) whether it remains."""
    stack = ExitStack()

    def make(directory: Path) -> str:
        with (directory / "file").open("x") as file:
            file.write("x")
        return "made"

    def enter() -> str:
        return stack.enter_context(shared(base, "thing", make))[1]

    def leave() -> bool:
        stack.close()
        return (base / "thing").exists()

    answer_all(connection, {"enter": enter, "leave": leave})
