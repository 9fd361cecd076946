"""The client against a scripted server: what it sends, gives up, and does not accept."""

import errno
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from tests.support.peer import ROOT, Peer, Script, converse, elapse
from ventifs.errors import VentifsError
from ventifs.net.dial import TransportError
from ventifs.ninep.client.checks import RemoteError, Violation
from ventifs.ninep.client.client import Client, names_of
from ventifs.ninep.client.rpc import Disconnected
from ventifs.ninep.protocol.codec import MessageCodec
from ventifs.ninep.protocol.messages import (
    NOFID,
    NONUNAME,
    NOTAG,
    Dialect,
    Dirent,
    Message,
    Rattach,
    Rclunk,
    Rerror,
    Rflush,
    Rgetattr,
    Rlerror,
    Rlopen,
    Ropen,
    Rread,
    Rreaddir,
    Rreadlink,
    Rstat,
    Rstatfs,
    Rversion,
    Rwalk,
    Rwrite,
    Rxattrwalk,
    Stat,
    Tattach,
    Tclunk,
    Tflush,
    Tgetattr,
    Tlopen,
    Topen,
    Tread,
    Treaddir,
    Treadlink,
    Tstat,
    Tstatfs,
    Tversion,
    Twalk,
    Twrite,
    Txattrwalk,
)
from ventifs.ninep.protocol.wire import Qid, WireError

P, U, L = Dialect.PLAIN, Dialect.UNIX, Dialect.LINUX
FILE = Qid(0, 1, 7)
Use = Callable[[Client], Awaitable[Any]]


async def nothing(_: object) -> None:
    """What a script or a client does that does nothing."""


def script(*exchange: tuple[type[Message], Message]) -> Script:
    """A server that expects these requests and gives these answers, in turn."""

    async def run(peer: Peer) -> None:
        for kind, answer in exchange:
            await peer.serve(kind, answer)

    return run


def attributes(mode: int = stat.S_IFREG | 0o644, **changed: Any) -> Rgetattr:
    qid = ROOT if stat.S_ISDIR(mode) else FILE
    facts: dict[str, Any] = dict.fromkeys(Rgetattr.__struct_fields__, 0)
    return Rgetattr(**{**facts, "valid": 0x7FF, "qid": qid, "mode": mode, "nlink": 1, **changed})


# Handshake


@pytest.mark.parametrize("dialect", [P, U, L])
def test_it_agrees_on_a_dialect_and_attaches(dialect: Dialect) -> None:
    async def server(peer: Peer) -> None:
        asked = await peer.serve(Tversion, Rversion(4096, dialect.version))
        assert (peer.tag, asked) == (NOTAG, Tversion(9000, dialect.version))
        attached = await peer.serve(Tattach, Rattach(ROOT))
        uid = NONUNAME if dialect is P else 7
        assert (peer.tag, attached) == (0, Tattach(0, NOFID, b"me", b"web01", uid))
        await peer.silence()

    async def use(client: Client) -> None:
        assert (client.dialect, client.connection.msize) == (dialect, 4096)
        assert client.root.qid == ROOT

    converse(
        use, server, dialect=dialect, begin=False, msize=9000, user=b"me", uid=7, aname=b"web01"
    )


def test_of_several_dialects_it_takes_the_best_that_is_spoken() -> None:
    async def server(peer: Peer) -> None:
        for said in (b"9P2000.L", b"9P2000.u"):
            assert (await peer.serve(Tversion, Rversion(100, b"unknown"))).version == said
        assert (await peer.serve(Tversion, Rversion(8192, b"9P2000"))).version == b"9P2000"
        peer.codec = MessageCodec.of(P)
        await peer.serve(Tattach, Rattach(ROOT))

    async def use(client: Client) -> Dialect:
        return client.dialect

    async def main() -> Dialect:
        ours, theirs = memory_stream_pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server, Peer(theirs, P))
            async with Client.connect(ours, dialect=P | U | L) as client:
                return client.dialect
        raise AssertionError

    assert trio.run(main) is P


@pytest.mark.parametrize(
    ("reply", "kind", "words"),
    [
        (
            Rversion(8192, b"unknown"),
            VentifsError,
            "does not speak 9P2000.L: it answered 'unknown'",
        ),
        (Rversion(8192, b"9P2000"), VentifsError, "does not speak 9P2000.L: it answered '9P2000'"),
        (Rversion(8193, b"9P2000.L"), Violation, "msize 8193, asked for 8192"),
        (Rversion(255, b"9P2000.L"), Violation, "msize 255"),
        (Rlerror(errno.EINVAL), RemoteError, "invalid argument"),
        (Rattach(ROOT), Violation, "answered a Tversion with a Rattach"),
    ],
)
def test_a_handshake_that_goes_wrong(reply: Message, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        converse(nothing, script((Tversion, reply)), begin=False, msize=8192)


def test_a_refused_attach_is_told() -> None:
    refused = script((Tversion, Rversion(8192, L.version)), (Tattach, Rlerror(errno.EACCES)))
    with pytest.raises(RemoteError, match="permission denied") as told:
        converse(nothing, refused, begin=False)
    assert told.value.errno == errno.EACCES


@pytest.mark.parametrize(
    "exchange",
    [
        [],
        [(Tversion, Rversion(8192, L.version))],
    ],
)
def test_a_server_that_never_answers_is_given_up(
    exchange: list[tuple[type[Message], Message]],
) -> None:
    """As one of HTTP does not, which waits for the end of a line."""

    async def server(peer: Peer) -> None:
        await script(*exchange)(peer)
        await peer.take(Tattach if exchange else Tversion)
        with suppress(AssertionError):  # a flush may come before the end
            await peer.take(Tflush)
        await peer.silence()

    with pytest.raises(TransportError, match="no answer in 10 s"):
        converse(nothing, server, begin=False)


def test_what_the_body_raises_comes_out_as_it_is() -> None:
    async def use(_: Client) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        converse(use, nothing)


def test_it_connects_to_a_unix_socket(tmp_path: Any) -> None:
    async def main() -> bytes:
        listener = trio.socket.socket(socket.AF_UNIX)
        with listener:
            await listener.bind(str(tmp_path / "s"))
            listener.listen()

            async def serve() -> None:
                accepted, _ = await listener.accept()
                peer = await Peer(trio.SocketStream(accepted), L).begin()
                await peer.serve(Treadlink, Rreadlink(b"there"))
                await peer.silence()
                await peer.stream.aclose()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                async with Client.connect(f"unix://{tmp_path}/s") as client:
                    return await client.root.readlink()
        raise AssertionError

    assert trio.run(main) == b"there"
    with pytest.raises(VentifsError, match="no such"):
        trio.run(connecting, f"unix://{tmp_path}/none")


async def connecting(address: str) -> None:
    async with Client.connect(address):
        raise AssertionError


# Errors


def test_errors_have_numbers_and_words_in_each_dialect() -> None:
    async def use(client: Client) -> tuple[int | None, bytes, str]:
        with pytest.raises(RemoteError) as told:
            await client.walk(b"no")
        return told.value.errno, told.value.ename, str(told.value)

    words = b"No such file or directory"
    expected = (errno.ENOENT, words, "no such file or directory")
    assert converse(use, script((Twalk, Rlerror(errno.ENOENT)))) == expected
    assert converse(use, script((Twalk, Rerror(words, errno.ENOENT))), dialect=U) == expected
    assert converse(use, script((Twalk, Rerror(words, 0))), dialect=P) == expected
    assert converse(use, script((Twalk, Rerror(b"file not Found", 0))), dialect=P) == (
        None,
        b"file not Found",
        "file not found",
    )


# Walking and fids


def test_long_paths_are_walked_in_parts_and_numbers_are_used_again() -> None:
    names = [b"%d" % number for number in range(20)]

    async def server(peer: Peer) -> None:
        first = await peer.take(Twalk)
        assert (first.fid, first.newfid, len(first.wnames)) == (0, 1, 16)
        await peer.say(Rwalk((ROOT,) * 16))
        second = await peer.serve(Twalk, Rwalk((ROOT, ROOT, ROOT, FILE)))
        assert (second.fid, second.newfid) == (1, 1)
        assert [*first.wnames, *second.wnames] == names
        assert (await peer.serve(Tclunk, Rclunk())).fid == 1
        assert await peer.serve(Twalk, Rwalk(())) == Twalk(0, 1, ())

    async def use(client: Client) -> None:
        async with await client.walk(b"/".join(names) + b"//./") as fid:
            assert fid.qid == FILE
        assert (await client.walk(b"/")).qid == ROOT

    converse(use, server)


def test_names_too_long_for_one_message_are_walked_in_parts() -> None:
    async def server(peer: Peer) -> None:
        await peer.serve(Tversion, Rversion(256, L.version))
        await peer.serve(Tattach, Rattach(ROOT))
        for _ in range(3):
            assert len((await peer.serve(Twalk, Rwalk((ROOT,)))).wnames) == 1

    async def use(client: Client) -> None:
        await client.root.walk(b"a" * 200, b"b" * 200, b"c" * 200)
        with pytest.raises(WireError, match="msize is 256"):
            await client.root.walk(b"d" * 255)
        assert client.connection.fids.in_use == 2

    converse(use, server, begin=False)


def test_a_way_that_ends_early_is_not_there() -> None:
    async def server(peer: Peer) -> None:
        await peer.serve(Twalk, Rwalk((ROOT,)))
        await peer.serve(Twalk, Rwalk((ROOT,) * 16))
        await peer.serve(Twalk, Rlerror(errno.ENOTDIR))
        assert (await peer.serve(Tclunk, Rclunk())).fid == 1
        await peer.silence()

    async def use(client: Client) -> None:
        for path, number in ((b"a/b", errno.ENOENT), (b"a/" * 17, errno.ENOTDIR)):
            with pytest.raises(RemoteError) as told:
                await client.walk(path)
            assert told.value.errno == number
        await wait_all_tasks_blocked()
        assert client.connection.fids.in_use == 1

    converse(use, server)


def test_a_fid_whose_open_fails_is_clunked() -> None:
    async def use(client: Client) -> None:
        with pytest.raises(RemoteError, match="permission"):
            await client.read(b"a")
        await wait_all_tasks_blocked()
        assert client.connection.fids.in_use == 1

    converse(
        use, script((Twalk, Rwalk((FILE,))), (Tlopen, Rlerror(errno.EACCES)), (Tclunk, Rclunk()))
    )


def test_the_numbers_of_fids_and_tags_run_out() -> None:
    async def use(client: Client) -> None:
        for _ in range(NOTAG):
            client.connection.start(Treadlink(0))
        with pytest.raises(VentifsError, match="all 65535 tags"):
            client.connection.start(Treadlink(0))

    converse(use, nothing)


# Concurrency, and giving up


def test_replies_come_in_any_order() -> None:
    async def server(peer: Peer) -> None:
        waiting = []
        for _ in range(3):
            request = await peer.take(Tread)
            waiting.append((peer.tag, request))
        for tag, request in reversed(waiting):
            await peer.say(Rread(b"%d" % request.offset), tag)

    async def use(client: Client) -> None:
        found = {}

        async def read(offset: int) -> None:
            found[offset] = (await client.connection.rpc(Tread(0, offset, 10))).data

        async with trio.open_nursery() as nursery:
            for offset in (1, 2, 3):
                nursery.start_soon(read, offset)
        assert found == {1: b"1", 2: b"2", 3: b"3"}

    converse(use, server)


def test_cancellation_flushes_and_keeps_the_tag_until_the_rflush() -> None:
    async def server(peer: Peer) -> None:
        await peer.take(Tread)
        assert peer.tag == 0
        assert (await peer.take(Tflush)).oldtag == 0
        assert peer.tag == 1
        await peer.take(Treadlink)
        assert peer.tag == 2
        await peer.say(Rflush(), 1)
        await peer.say(Rreadlink(b"a"), 2)
        await peer.serve(Treadlink, Rreadlink(b"b"))
        assert peer.tag in (0, 1)

    async def use(client: Client) -> None:
        with trio.move_on_after(1) as scope:
            await client.root.read(0, 10)
        assert scope.cancelled_caught
        assert await client.root.readlink() == b"a"
        assert await client.root.readlink() == b"b"
        assert client.connection.in_flight == 0

    converse(use, server)


def test_a_reply_before_the_rflush_counts_and_its_fid_is_clunked() -> None:
    async def server(peer: Peer) -> None:
        walk = await peer.take(Twalk)
        tag = peer.tag
        assert (await peer.take(Tflush)).oldtag == tag
        await peer.say(Rwalk((FILE,)), tag)
        await peer.say(Rflush())
        assert (await peer.serve(Tclunk, Rclunk())).fid == walk.newfid

    async def use(client: Client) -> None:
        with trio.move_on_after(1):
            await client.walk(b"a")
        assert client.connection.fids.in_use == 2
        await elapse(1)
        assert client.connection.fids.in_use == 1

    converse(use, server)


def test_a_flushed_walk_gives_its_number_back_when_it_is_known_not_to_be() -> None:
    async def server(peer: Peer) -> None:
        await peer.take(Twalk)
        await peer.take(Tflush)
        await elapse(5)
        await peer.say(Rflush())
        await peer.silence()

    async def use(client: Client) -> None:
        with trio.move_on_after(1):
            await client.walk(b"a")
        await elapse(1)
        assert client.connection.fids.in_use == 2
        await elapse(5)
        assert client.connection.fids.in_use == 1

    converse(use, server)


def test_a_clunk_is_sent_and_not_flushed_when_its_task_is_cancelled() -> None:
    async def server(peer: Peer) -> None:
        await peer.serve(Twalk, Rwalk((FILE,)))
        await peer.serve(Tclunk, Rclunk())
        await peer.serve(Treadlink, Rreadlink(b"a"))

    async def use(client: Client) -> None:
        with trio.CancelScope() as scope:
            async with await client.walk(b"a"):
                scope.cancel()
                await trio.sleep_forever()
        assert await client.root.readlink() == b"a"
        assert client.connection.fids.in_use == 1

    converse(use, server)


# What a server may not do


def raw(dialect: Dialect, message: Message, tag: int) -> bytes:
    return MessageCodec.of(dialect).encode(message, tag)


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (raw(L, Rread(b""), 9), "Rread of tag 9, which nobody waits for"),
        (raw(L, Rread(b""), NOTAG), "which nobody waits for"),
        (raw(L, Rclunk(), 0), "answered a Tread with a Rclunk"),
        (raw(L, Tread(0, 0, 0), 0), "answered a Tread with a Tread"),
        (raw(P, Rerror(b"no", 0), 0), "no message of type 107"),
        (raw(L, Rlerror(0), 0), "errno 0"),
        (raw(L, Rlerror(4096), 0), "errno 4096"),
        (raw(L, Rread(b"four"), 0), "4 bytes, asked for 3"),
        (raw(L, Rread(b"x" * 8182), 0), "a message of 8193 bytes; msize is 8192"),
        (b"\x06\0\0\0\x75\0\0", "a message of 6 bytes"),
        (b"\x0b\0\0\0\x75\0\0\x09\0\0\0", "Rread ends within its fields"),
        (b"\xff\xff\xff\xff\x75\0\0", "a message of 4294967295 bytes"),
    ],
)
def test_what_breaks_the_protocol_ends_the_connection(sent: bytes, words: str) -> None:
    async def server(peer: Peer) -> None:
        await peer.take(Tread)
        await peer.stream.send_all(sent)
        await peer.silence()

    async def use(client: Client) -> None:
        with pytest.raises(Violation, match=words):
            await client.root.read(0, 3)
        with pytest.raises(Violation, match=words):
            await client.root.readlink()

    converse(use, server)


def test_everybody_who_waits_gets_to_know() -> None:
    async def server(peer: Peer) -> None:
        await peer.take(Tread)
        await peer.take(Tread)
        await peer.stream.aclose()

    async def use(client: Client) -> None:
        async def read() -> None:
            with pytest.raises(Disconnected, match=r"closed the connection$"):
                await client.root.read(0, 3)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(read)

    converse(use, server)


def test_a_connection_that_ends_in_the_middle_of_a_message() -> None:
    async def server(peer: Peer) -> None:
        await peer.take(Tread)
        await peer.stream.send_all(raw(L, Rread(b"four"), 0)[:-1])
        await peer.stream.aclose()

    async def use(client: Client) -> None:
        with pytest.raises(Disconnected, match="in the middle of a message"):
            await client.root.read(0, 4)

    converse(use, server)


def test_replies_may_come_byte_by_byte_and_many_at_once() -> None:
    async def server(peer: Peer) -> None:
        await peer.take(Treadlink)
        for byte in raw(L, Rreadlink(b"there"), peer.tag):
            await peer.stream.send_all(bytes([byte]))
        for _ in range(3):
            await peer.take(Treadlink)
        await peer.stream.send_all(b"".join(raw(L, Rreadlink(b"x"), tag) for tag in (0, 1, 2)))

    async def use(client: Client) -> None:
        assert await client.root.readlink() == b"there"
        calls = [client.connection.start(Treadlink(0)) for _ in range(3)]
        assert [(await call.reply()).target for call in calls] == [b"x"] * 3

    converse(use, server)


def test_a_flush_is_never_answered_with_an_error_nor_its_request_after_it() -> None:
    async def server(peer: Peer) -> None:
        await peer.take(Treadlink)
        tag = peer.tag
        await peer.take(Tflush)
        await peer.say(Rflush())
        await peer.say(Rreadlink(b"late"), tag)

    async def use(client: Client) -> None:
        with trio.move_on_after(1):
            await client.root.readlink()
        with pytest.raises(Violation, match="Rreadlink of tag 0"):
            await client.root.readlink()

    converse(use, server)

    async def refusing(peer: Peer) -> None:
        await peer.take(Treadlink)
        await peer.take(Tflush)
        await peer.say(Rlerror(errno.EINVAL))

    async def flushing(client: Client) -> None:
        with trio.move_on_after(1):
            await client.root.readlink()
        with pytest.raises(Violation, match="a Tflush with an error"):
            await client.root.readlink()

    converse(flushing, refusing)


@pytest.mark.parametrize(
    ("use", "exchange", "words"),
    [
        (lambda client: client.walk(b"a"), [(Twalk, Rwalk(()))], "no qids, where an error belongs"),
        (lambda client: client.walk(b"a"), [(Twalk, Rwalk((FILE, FILE)))], "2 qids for 1 names"),
        (lambda client: client.root.write(0, b"a"), [(Twrite, Rwrite(2))], "2 bytes written of 1"),
        (
            lambda client: client.root.readlink(),
            [(Treadlink, Rreadlink(b""))],
            "symbolic link to b''",
        ),
        (lambda client: client.root.readlink(), [(Treadlink, Rreadlink(b"a\0"))], "symbolic link"),
        (lambda client: client.root.status(), [(Tgetattr, attributes(qid=ROOT))], "whose qid.type"),
        (
            lambda client: client.root.status(),
            [(Tgetattr, attributes(0o40755, valid=1))],
            "asked for",
        ),
        (
            lambda client: client.root.status(),
            [(Tgetattr, attributes(0o40755, mtime_nsec=10**9))],
            "a time of more",
        ),
        (
            lambda client: client.root.status(),
            [(Tgetattr, attributes(0o40755, size=1 << 63))],
            "bytes",
        ),
        (
            lambda client: client.root.xattr(b"a"),
            [(Txattrwalk, Rxattrwalk(1 << 20)), (Tclunk, Rclunk())],
            "an attribute of 1048576 bytes",
        ),
        (
            lambda client: client.root.xattr(b"a"),
            [
                (Txattrwalk, Rxattrwalk(4)),
                (Tread, Rread(b"abc")),
                (Tread, Rread(b"")),
                (Tclunk, Rclunk()),
            ],
            "sent 3 of an attribute's 4 bytes",
        ),
        (
            lambda client: client.root.xattr_names(),
            [
                (Txattrwalk, Rxattrwalk(1)),
                (Tread, Rread(b"a")),
                (Tread, Rread(b"")),
                (Tclunk, Rclunk()),
            ],
            "no list",
        ),
    ],
)
def test_answers_that_cannot_be(
    use: Use, exchange: list[tuple[type[Message], Message]], words: str
) -> None:
    with pytest.raises(Violation, match=words):
        converse(use, script(*exchange))


# Directories


def dirents(*names: bytes, first: int = 1) -> Rreaddir:
    codec = MessageCodec.of(L)
    return Rreaddir(
        b"".join(
            codec.encode_record(Dirent(FILE, first + number, 8, name))
            for number, name in enumerate(names)
        )
    )


def listing(*pages: Message) -> Any:
    async def use(client: Client) -> list[bytes]:
        return [entry.name for entry in await client.list(b"/")]

    reads = [(Treaddir, page) for page in pages]
    return converse(
        use, script((Twalk, Rwalk(())), (Tlopen, Rlopen(ROOT, 0)), *reads, (Tclunk, Rclunk()))
    )


def test_a_directory_is_read_to_its_end() -> None:
    assert listing(dirents(b".", b"..", b"b"), dirents(b"a", first=4), dirents()) == [b"b", b"a"]


@pytest.mark.parametrize(
    ("pages", "words"),
    [
        ([dirents(b"a/b")], "a name that cannot be"),
        ([dirents(b"")], "a name that cannot be"),
        ([dirents(b"a\0")], "a name that cannot be"),
        ([dirents(b"n" * 256)], "a name that cannot be"),
        ([dirents(b"a"), dirents(b"a", first=2)], "lists b'a' twice"),
        ([dirents(b"a", first=0)], "does not go on"),
        ([Rreaddir(dirents(b"a").data[:-1])], "no directory"),
        ([Rreaddir(b"x" * 30)], "no directory"),
    ],
)
def test_directories_that_cannot_be(pages: list[Message], words: str) -> None:
    with pytest.raises(Violation, match=words):
        listing(*pages)


def test_a_directory_without_end_is_given_up() -> None:
    async def server(peer: Peer) -> None:
        await peer.serve(Twalk, Rwalk(()))
        await peer.serve(Tlopen, Rlopen(ROOT, 0))
        number = 0
        while True:
            request: Message = await peer.take(Message)
            if isinstance(request, Tclunk):
                await peer.say(Rclunk())
                return
            number += 100
            await peer.say(dirents(*(b"%d" % (number + n) for n in range(100)), first=number))

    async def use(client: Client) -> None:
        with pytest.raises(VentifsError, match="more than 1,000 names"):
            await client.list(b"/", entries_max=1000)

    converse(use, server)


# Files


def test_a_file_is_read_to_its_end() -> None:
    content = bytes(range(256)) * 400

    async def server(peer: Peer) -> None:
        await peer.serve(Twalk, Rwalk((FILE,)))
        await peer.serve(Tlopen, Rlopen(FILE, 0))
        while not isinstance(request := await peer.take(Message), Tclunk):
            if isinstance(request, Tflush):
                await peer.say(Rflush())
                continue
            assert isinstance(request, Tread)
            assert request.count == 8192 - 24
            await peer.say(Rread(content[request.offset : request.offset + request.count]))
        await peer.say(Rclunk())

    async def use(client: Client) -> bytes:
        return await client.read(b"a")

    assert converse(use, server) == content


def test_reads_are_in_flight_together() -> None:
    async def server(peer: Peer) -> None:
        await peer.serve(Tlopen, Rlopen(ROOT, 100))
        await peer.serve(Tread, Rread(bytes(100)))
        offsets = []
        for _ in range(2):
            offsets.append(((await peer.take(Tread)).offset, peer.tag))
        assert [offset for offset, _ in offsets] == [100, 200]
        await peer.say(Rread(b""), offsets[0][1])
        assert (await peer.serve(Tflush, Rflush())).oldtag == offsets[1][1]

    async def use(client: Client) -> None:
        await client.root.open()
        assert await client.root.read_to(lambda _: None) == 100
        await elapse(1)
        assert client.connection.in_flight == 0

    converse(use, server)


def test_a_server_that_gives_less_than_asked_is_asked_for_the_rest() -> None:
    content = b"0123456789abcdef" * 4

    async def server(peer: Peer) -> None:
        await peer.serve(Tlopen, Rlopen(ROOT, 30))
        while True:
            request = await peer.take(Tread)
            data = content[request.offset :][: min(request.count, 7)]
            await peer.say(Rread(data))
            if not data:
                return

    async def use(client: Client) -> bytes:
        pieces: list[bytes] = []
        await client.root.open()
        await client.root.read_to(pieces.append)
        return b"".join(pieces)

    assert converse(use, server) == content


def test_a_file_larger_than_one_will_take_is_given_up() -> None:
    async def use(client: Client) -> None:
        with pytest.raises(VentifsError, match="more than 3 bytes"):
            await client.read(b"a", size_max=3)

    converse(
        use,
        script(
            (Twalk, Rwalk((FILE,))),
            (Tlopen, Rlopen(FILE, 0)),
            (Tread, Rread(b"four")),
            (Tclunk, Rclunk()),
        ),
    )


# What a file is


def old_stat(mode: int, extension: bytes = b"", qid: Qid = FILE, **changed: Any) -> Stat:
    facts = {
        "type": 0,
        "dev": 0,
        "qid": qid,
        "mode": mode,
        "atime": 1,
        "mtime": 2,
        "length": 3,
        "name": b"a",
        "uid": b"7",
        "gid": b"adm",
        "muid": b"",
        "extension": extension,
        "n_uid": NONUNAME,
        "n_gid": NONUNAME,
        "n_muid": NONUNAME,
    }
    return Stat(**{**facts, **changed})


def status_in(dialect: Dialect, told: Stat) -> Any:
    async def use(client: Client) -> Any:
        return await client.root.status()

    return converse(use, script((Tstat, Rstat(told))), dialect=dialect)


@pytest.mark.parametrize(
    ("dialect", "told", "mode", "rdev", "target"),
    [
        (P, old_stat(0o644), 0o100644, 0, None),
        (P, old_stat(0x80000000 | 0o755, qid=ROOT), 0o40755, 0, None),
        (P, old_stat(0x02000000 | 0o777), 0o100777, 0, None),
        (U, old_stat(0x000D0000 | 0o755), 0o107755, 0, None),
        (U, old_stat(0x02000000 | 0o777, b"b"), 0o120777, 0, b"b"),
        (U, old_stat(0x00800000 | 0o666, b"c 1 3"), 0o20666, os.makedev(1, 3), None),
        (U, old_stat(0x00800000 | 0o666, b"b 259 300"), 0o60666, os.makedev(259, 300), None),
        (U, old_stat(0x00200000 | 0o644), 0o10644, 0, None),
        (U, old_stat(0x00100000 | 0o644), 0o140644, 0, None),
    ],
)
def test_old_dialects_say_what_a_file_is_in_their_own_way(
    dialect: Dialect, told: Stat, mode: int, rdev: int, target: bytes | None
) -> None:
    status = status_in(dialect, told)
    assert (status.mode, status.rdev, status.target) == (mode, rdev, target)
    assert (status.uid, status.gid, status.group) == (7, None, b"adm")
    assert (status.atime_ns, status.mtime_ns, status.size) == (10**9, 2 * 10**9, 3)


@pytest.mark.parametrize(
    ("dialect", "told", "words"),
    [
        (P, old_stat(0x80000000), "qid.type"),
        (P, old_stat(0o644, qid=ROOT), "qid.type"),
        (P, old_stat(0o644, length=1 << 63), "bytes"),
        (U, old_stat(0x02200000), "more than one type"),
        (U, old_stat(0x00800000, b"x 1 3"), "device"),
        (U, old_stat(0x00800000, b"c 9999999999 3"), "device"),
    ],
)
def test_old_attributes_that_cannot_be(dialect: Dialect, told: Stat, words: str) -> None:
    with pytest.raises(Violation, match=words):
        status_in(dialect, told)


def test_directories_of_old_dialects_hold_whole_attributes() -> None:
    async def server(peer: Peer) -> None:
        data = b"".join(
            peer.codec.encode_record(old_stat(0o644, name=name)) for name in (b"a", b"b")
        )
        await peer.serve(Twalk, Rwalk(()))
        await peer.serve(Topen, Ropen(ROOT, 0))
        assert (await peer.serve(Tread, Rread(data))).offset == 0
        assert (await peer.serve(Tread, Rread(b""))).offset == len(data)
        await peer.serve(Tclunk, Rclunk())

    async def use(client: Client) -> Any:
        return [(each.name, each.status and each.status.mode) for each in await client.list(b"/")]

    for dialect in (P, U):
        assert converse(use, server, dialect=dialect) == [(b"a", 0o100644), (b"b", 0o100644)]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (lambda codec: codec.encode_record(old_stat(0o644))[:-1], "no directory"),
        (lambda codec: codec.encode_record(old_stat(0o644, name=b"..")), "this dialect does not"),
        (lambda codec: codec.encode_record(old_stat(0o644, name=b"a/b")), "name that cannot be"),
        (lambda codec: codec.encode_record(old_stat(0x80000000)), "qid.type"),
    ],
)
def test_old_directories_that_cannot_be(data: Callable[[MessageCodec], bytes], words: str) -> None:
    async def use(client: Client) -> None:
        await client.list(b"/")

    with pytest.raises(Violation, match=words):
        converse(
            use,
            script(
                (Twalk, Rwalk(())),
                (Topen, Ropen(ROOT, 0)),
                (Tread, Rread(data(MessageCodec.of(P)))),
                (Tclunk, Rclunk()),
            ),
            dialect=P,
        )


def test_what_a_dialect_lacks_is_not_asked_for() -> None:
    async def use(client: Client) -> None:
        for attempt in (client.root.xattr_names, client.root.statfs):
            with pytest.raises(RemoteError) as told:
                await attempt()
            assert told.value.errno == errno.EOPNOTSUPP

    converse(use, nothing, dialect=P)
    converse(use, nothing, dialect=U)


def test_attributes_of_files_and_file_systems() -> None:
    space = Rstatfs(0x01021997, 4096, 1, 2, 3, 4, 5, 6, 255)

    async def use(client: Client) -> None:
        assert await client.root.statfs() == space
        assert await client.xattrs(b"a") == {b"user.a": b"value", b"user.b": b""}
        status = await client.stat(b"a")
        assert (status.mtime_ns, status.uid) == (-1, 5)
        assert client.connection.fids.in_use == 1

    def attribute(value: bytes) -> list[tuple[type[Message], Message]]:
        reads: list[tuple[type[Message], Message]] = [(Tread, Rread(value))] if value else []
        return [
            (Txattrwalk, Rxattrwalk(len(value))),
            *reads,
            (Tread, Rread(b"")),
            (Tclunk, Rclunk()),
        ]

    converse(
        use,
        script(
            (Tstatfs, space),
            (Twalk, Rwalk((FILE,))),
            *attribute(b"user.a\0user.b\0"),
            *attribute(b"value"),
            *attribute(b""),
            (Tclunk, Rclunk()),
            (Twalk, Rwalk((FILE,))),
            (Tgetattr, attributes(uid=5, mtime_sec=(1 << 64) - 1, mtime_nsec=999_999_999)),
            (Tclunk, Rclunk()),
        ),
    )


def test_paths_are_names() -> None:
    assert names_of(b"/usr//lib/./x/") == (b"usr", b"lib", b"x")
    assert names_of(b"a/../b") == (b"a", b"..", b"b")
    assert names_of(b"") == names_of(b"/") == names_of(b".") == ()
