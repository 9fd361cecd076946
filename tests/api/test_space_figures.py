"""What takes space, from Python: of versions and names, live and dead."""

from pathlib import Path

import pytest

import ventifs
from ventifs import Archive


def test_what_goes_with_a_version(store: Path, source: Path) -> None:
    (source / "etc" / "deep" / "file").write_bytes(b"x" * 70_000)
    with ventifs.open(store, "write") as archive:
        archive.add(source, "u", time_ns=9)
        alone = archive.held_alone()
        assert [version for version, _ in alone.versions] == archive.versions()
        assert list(alone.names) == ["t", "u"]
        for name in ("t", "u"):
            of_name = archive.held_alone(name)
            assert of_name.versions == [each for each in alone.versions if each[0].name == name]
            assert of_name.names == {name: alone.names[name]}
            singly = [space.raw_bytes for _, space in of_name.versions]
            assert sum(singly) <= alone.names[name].raw_bytes
        freed = dict(alone.versions)[archive["u"]]
        archive.forget("u@latest", force=True)
        assert archive.measured_dead().forgotten == freed


def test_progress_is_reported(archive: Archive) -> None:
    for measure in (archive.held_alone, archive.measured_dead):
        reported: list[int] = []
        measure(progress=reported.append)
        assert reported == sorted(reported)
        assert reported


def test_what_is_not_there(archive: Archive) -> None:
    with pytest.raises(ventifs.NoSuchVersion):
        archive.held_alone("x")
    with pytest.raises(ventifs.VentifsError, match="cannot name"):
        archive.held_alone("t@latest")
    archive.close()
    for method in (archive.held_alone, archive.measured_dead, archive.estimated_dead):
        with pytest.raises(ventifs.VentifsError, match="closed"):
            method()
