"""The worker service: its requests, their tags, and when it opens the store."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from ventifs.store import Store
from ventifs.tree.archive.change_scan import Compare
from ventifs.tree.archive.directory_worker import directory_handlers
from ventifs.tree.archive.read_batches import ReadLeaves
from ventifs.tree.archive.scan import Options
from ventifs.tree.archive.worker import (
    REQUESTS,
    Handlers,
    HandOver,
    OpenStore,
    RequestTags,
    WorkerService,
)


class One(msgspec.Struct, array_like=True, tag=1):
    """Some request."""


class Another(msgspec.Struct, array_like=True, tag=1):
    """A request with the same tag."""


class Untagged(msgspec.Struct, array_like=True):
    """No tag."""


class Named(msgspec.Struct, array_like=True, tag="1"):
    """A name as its tag."""


def never() -> Store:
    raise AssertionError("the store was opened")


def encoded(request: msgspec.Struct) -> bytes:
    return msgspec.msgpack.encode(request)


def test_a_second_request_with_a_tag_is_an_error() -> None:
    tags = RequestTags()
    assert tags.register(One) is One
    with pytest.raises(ValueError, match=r"One and Another have the same tag, 1"):
        tags.register(Another)
    assert One in tags
    assert Another not in tags
    with pytest.raises(ValueError, match="One and One"):
        tags.register(One)


@pytest.mark.parametrize("request_type", [Untagged, Named])
def test_a_tag_is_a_number(request_type: type[msgspec.Struct]) -> None:
    with pytest.raises(TypeError, match="has no number as its tag"):
        RequestTags().register(request_type)


@pytest.mark.parametrize("taken", [HandOver, ReadLeaves, Compare])
def test_another_package_cannot_take_a_tag(taken: type[msgspec.Struct]) -> None:
    tag = taken.__struct_config__.tag
    other = msgspec.defstruct("Other", [], array_like=True, tag=tag)
    with pytest.raises(ValueError, match=f"{taken.__name__} and Other have the same tag"):
        REQUESTS.register(other)


@pytest.mark.parametrize(
    ("request_type", "reason"), [(One, "is not registered"), (HandOver, "has a handler already")]
)
def test_a_handler_is_for_a_registered_request_and_the_only_one(
    request_type: type[msgspec.Struct], reason: str
) -> None:
    with pytest.raises(ValueError, match=f"{request_type.__name__} {reason}"):
        WorkerService(never, lambda _: {request_type: lambda *_: b""})


def test_a_request_goes_to_its_handler() -> None:
    def handlers(_: OpenStore) -> Handlers:
        return {ReadLeaves: reply, Compare: reply}

    def reply(request: ReadLeaves | Compare, descriptors: Sequence[int]) -> bytes:
        return f"{type(request).__name__} {descriptors}".encode()

    service = WorkerService(never, handlers)
    assert service.handle(encoded(ReadLeaves([])), [5]) == b"ReadLeaves [5]"
    assert service.handle(encoded(Compare([])), [6, 7]) == b"Compare [6, 7]"
    for unknown in (msgspec.msgpack.encode([99]), b""):
        with pytest.raises(msgspec.DecodeError):
            service.handle(unknown, [])


def test_the_store_is_opened_once_and_only_when_it_is_needed(store: Path) -> None:
    openings: list[Store] = []
    with Store.open(store, "write") as opened:

        def open_store() -> Store:
            openings.append(opened)
            return opened

        service = WorkerService(open_store, lambda store: directory_handlers(Options(), store))
        assert service.handle(encoded(HandOver()), []) == b""
        assert openings == []
        for _ in range(2):
            assert service.handle(encoded(ReadLeaves([])), [])
        assert openings == [opened]
        assert service.handle(encoded(HandOver()), []) == b""  # it is no worker's store
