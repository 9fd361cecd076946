"""Time zones by name, by offset and of the machine, as tzset(3) has it; and what is none."""

from datetime import UTC, datetime, tzinfo
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ventifs.errors import VentifsError
from ventifs.tree.versions.zones import machine_zone, named_zone, zone_of

WINTER, SUMMER = datetime(2026, 1, 15, 12, tzinfo=UTC), datetime(2026, 7, 15, 12, tzinfo=UTC)
DATABASE = Path("/usr/share/zoneinfo")
needs_database = pytest.mark.skipif(
    not (DATABASE / "Europe/Berlin").exists(), reason="needs Debian's tzdata"
)


def offsets(zone: tzinfo) -> tuple[str, str]:
    return f"{WINTER.astimezone(zone):%z}", f"{SUMMER.astimezone(zone):%z}"


@needs_database
@pytest.mark.parametrize(
    ("text", "called", "expected"),
    [
        ("Europe/Berlin", "Europe/Berlin", ("+0100", "+0200")),
        ("UTC", "UTC", ("+0000", "+0000")),
        ("Z", "UTC", ("+0000", "+0000")),
        ("+02:00", "+02:00", ("+0200", "+0200")),
        ("-0330", "-03:30", ("-0330", "-0330")),
        ("-00:30", "-00:30", ("-0030", "-0030")),
        ("+23:59", "+23:59", ("+2359", "+2359")),
    ],
)
def test_a_zone_is_named(text: str, called: str, expected: tuple[str, str]) -> None:
    zone = named_zone(text)
    assert (str(zone), offsets(zone)) == (called, expected)
    assert zone_of(text) == zone or str(zone_of(text)) == called
    assert zone_of(zone) is zone


@pytest.mark.parametrize(
    "text",
    [
        *("", "Nowhere", "Europe", "+2", "+24:00", "+02:60", "2", "CET-1CEST,M3.5.0,M10.5.0/3"),
        *("/etc/localtime", "../zoneinfo/UTC", "a\0b", "a\udcffb", "x" * 5000, "zone.tab"),
    ],
)
def test_what_is_no_zone_is_refused(text: str) -> None:
    with pytest.raises(
        VentifsError, match="no such time zone; write it like Europe/Berlin"
    ) as told:
        named_zone(text)
    assert len(str(told.value)) < 400


@needs_database
@pytest.mark.parametrize(
    ("text", "called", "expected"),
    [
        ("Europe/Berlin", "Europe/Berlin", ("+0100", "+0200")),
        (":Europe/Berlin", "Europe/Berlin", ("+0100", "+0200")),
        (f"{DATABASE}/Europe/Berlin", "Europe/Berlin", ("+0100", "+0200")),
        (f":{DATABASE}/Asia/Tokyo", "Asia/Tokyo", ("+0900", "+0900")),
        ("", "UTC", ("+0000", "+0000")),
        (":", "UTC", ("+0000", "+0000")),
        ("UTC", "UTC", ("+0000", "+0000")),
        ("UTC0", "UTC0", ("+0000", "+0000")),
        ("TST-3", "TST-3", ("+0300", "+0300")),
        ("<+0330>-3:30", "<+0330>-3:30", ("+0330", "+0330")),
        ("TST-1TDT,M3.5.0,M10.5.0/3", "TST-1TDT,M3.5.0,M10.5.0/3", ("+0100", "+0200")),
        ("TST5TDT,M3.2.0,M11.1.0", "TST5TDT,M3.2.0,M11.1.0", ("-0500", "-0400")),
    ],
)
def test_the_variable_names_the_machines_zone(
    text: str, called: str, expected: tuple[str, str]
) -> None:
    zone = machine_zone({"TZ": text})
    assert (str(zone), offsets(zone)) == (called, expected)


@needs_database
def test_the_machines_file_is_its_zone(tmp_path: Path) -> None:
    linked, copied = tmp_path / "linked", tmp_path / "copied"
    linked.symlink_to(DATABASE / "Europe/Berlin")
    copied.write_bytes((DATABASE / "Europe/Berlin").read_bytes())
    for path, called in ((linked, "Europe/Berlin"), (copied, str(copied))):
        zone = machine_zone({}, path)
        assert (str(zone), offsets(zone)) == (called, ("+0100", "+0200"))
        assert machine_zone({"TZ": "UTC"}, path) is UTC
    assert machine_zone({}, tmp_path / "none") is UTC
    assert zone_of(None).utcoffset(WINTER.replace(tzinfo=None)) is not None


def test_a_file_that_is_no_zone_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "localtime"
    for content in (b"", b"TZif", b"TZif2" + bytes(100), b"Europe/Berlin\n", b"\xff" * 1000):
        path.write_bytes(content)
        with pytest.raises(VentifsError, match=r"localtime holds no time zone .* --timezone"):
            machine_zone({}, path)
    with pytest.raises(VentifsError, match="holds no time zone"):
        machine_zone({}, tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        *("Europe/Berln", "/none", "/etc/hostname", "../UTC", "TST-1TDT", "TST-1TDT,M3.5.0"),
        *("TST-99", "a\udcffb", "x" * 5000),
    ],
)
def test_a_variable_that_is_no_zone_is_not_taken_for_utc(text: str) -> None:
    with pytest.raises(VentifsError, match=r"^TZ=.*no such time zone; .* --timezone$"):
        machine_zone({"TZ": text})


@given(st.text(max_size=30))
def test_no_text_raises_anything_else(text: str) -> None:
    for make in (named_zone, lambda each: machine_zone({"TZ": each})):
        try:
            zone = make(text)
        except VentifsError:
            continue
        assert zone.utcoffset(datetime(2026, 1, 1)) is not None
