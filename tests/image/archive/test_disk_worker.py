"""Requests about disks have tags of their own, beside those of the trees."""

import msgspec
import pytest

from tests.support.memorydisk import MemoryDisk
from ventifs.image.archive.disk_worker import Before, BuildTree, ReadBlocks, TakeIn, disk_handlers
from ventifs.store import Store
from ventifs.tree.archive.change_scan import Compare
from ventifs.tree.archive.read_batches import ReadLeaves
from ventifs.tree.archive.worker import REQUESTS, HandOver

OF_DISKS: list[type[msgspec.Struct]] = [TakeIn, ReadBlocks, BuildTree, Before]


def no_store() -> Store:
    raise AssertionError("the store was opened")


def test_no_two_requests_share_a_tag() -> None:
    requests: list[type[msgspec.Struct]] = [HandOver, ReadLeaves, Compare, *OF_DISKS]
    assert all(request in REQUESTS for request in requests)
    tags = [request.__struct_config__.tag for request in requests]
    assert len(set(tags)) == len(tags)
    assert set(disk_handlers(MemoryDisk(0, {}), no_store)) == set(OF_DISKS)


@pytest.mark.parametrize("taken", OF_DISKS)
def test_a_taken_tag_is_refused(taken: type[msgspec.Struct]) -> None:
    other = msgspec.defstruct("Other", [], array_like=True, tag=taken.__struct_config__.tag)
    with pytest.raises(ValueError, match="same tag"):
        REQUESTS.register(other)
