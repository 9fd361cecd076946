"""Guests and disk images: one boots from a disk that came back, one mounts the files inside.

The disks are real guests' (tools/images); a loop mount on the host says what their files are.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import looking, qemu, servers
from tests.support.guest_images import ROOT_OF_G, Stored, loop_mounted, stored, ventifs
from tests.support.initramfs import kernels, stock
from tests.support.looking import looks, parse
from tests.support.patience import LONG_PATIENCE_S
from tests.support.segment import HOST, Segment
from tests.support.serving import DIALECTS, EVERYBODY, differences, expected
from tests.support.sharing import base_of
from tests.support.uml import Uml

pytestmark = pytest.mark.slow
PORT = 5642  # the roots' server has the usual one
_IN_GUEST = """
systemctl is-system-running --wait
echo proof: multi-user.target is $(systemctl is-active multi-user.target)
echo proof: failed units $(systemctl list-units --failed --no-legend --plain | wc -l)
echo proof: root is $(findmnt -n -o SOURCE,FSTYPE /)
echo changed in the guest >/etc/changed
systemctl poweroff
"""


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    with stored(base_of(tmp_path_factory)) as made:
        yield made


def test_a_restored_disk_boots(images: Stored, tmp_path: Path) -> None:
    """From its second partition, to multi-user.target, and down again with nothing unclean."""
    if why := qemu.why_not():
        pytest.skip(why)
    kernel = kernels()[-1]
    initrd = stock(tmp_path, kernel, ["virtio_pci", "virtio_blk", "ext4"])
    disk = tmp_path / "restored.img"
    ventifs(images.store, "restore", "G:/disk.img", disk)
    commands = "; ".join(_IN_GUEST.strip().splitlines())
    run = f"/bin/systemd-run --no-block /bin/sh -c '{{ {commands}; }} >/dev/kmsg 2>&1'"
    try:
        console = qemu.boot(
            kernel,
            initrd,
            tmp_path / "console.log",
            disk=disk,
            append=" ".join(
                [
                    "root=/dev/vda2 rw systemd.log_target=kmsg printk.devkmsg=on",
                    qemu.SLOW,
                    "systemd.unit=multi-user.target systemd.wants=kernel-command-line.service",
                    f'systemd.run="{run}" systemd.run_success_action=none',
                ]
            ),
        )
        checked = subprocess.run(
            ["e2fsck", "-f", "-n", f"{disk}?offset={ROOT_OF_G}"],
            check=False,
            capture_output=True,
            text=True,
        )
        assert checked.returncode == 0, checked.stdout
        with loop_mounted(disk, tmp_path / "mnt", offset=ROOT_OF_G) as mounted:
            assert (mounted / "etc/changed").read_text() == "changed in the guest\n"
    finally:
        disk.unlink()
    said = re.findall(r"\[ *[\d.]+\] proof: (.*)", console)
    assert said == ["multi-user.target is active", "failed units 0", "root is /dev/vda2 ext4"], (
        console[-10_000:]
    )
    assert "systemd[1]: Reached target multi-user.target" in console
    assert "systemd[1]: Reached target poweroff.target" in console
    assert "systemd-shutdown[1]: All filesystems unmounted." in console
    assert re.search(r"reboot: Power down\s*$", console)


@pytest.fixture(scope="module")
def server(images: Stored, network: Segment, scratch: Path) -> Iterator[None]:
    log = scratch / "images.log"
    with servers.ventifs(network, log, images.store, *EVERYBODY, port=PORT):
        yield


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize(
    ("name", "volume", "top"),
    [("X", "1", "var"), ("X", "1", "usr/bin"), ("A1", "1", "etc"), ("L", "vm7-data--a", "")],
)
def test_files_inside_are_what_a_loop_mount_shows(
    guest: Uml, images: Stored, tmp_path: Path, name: str, volume: str, top: str
) -> None:
    """Every fact of every path: bytes, modes, owners, times, links and extended attributes."""
    if name == "L":
        disk = tmp_path / "volume.img"
        ventifs(images.store, "restore", f"L:/volumes/{volume}.img", disk)
    else:
        disk = images.images / f"{name}.img"
    with loop_mounted(disk, tmp_path / "mnt") as mounted:
        seen = dict(looks(bytes(mounted / top)))
    assert len(seen) > 100
    aname = f"{name}@latest:/files/{volume}/{top}".rstrip("/")
    options = (
        f"ro,trans=tcp,port={PORT},version={DIALECTS[-1]},aname={aname},uname=root,"
        "msize=131072,cache=loose"
    )
    with guest.mounted("inside", HOST, options):
        said = guest.succeed(
            f"{sys.executable} -I -S {looking.__file__} inside >../looks",
            patience_s=LONG_PATIENCE_S,
        )
    assert said == ""
    told = {path: expected(look, DIALECTS[-1]) for path, look in seen.items()}
    found = differences(told, parse((guest.directory / "looks").read_bytes()))
    assert not found, "\n".join(found)


@pytest.mark.usefixtures("server")
def test_a_disk_inside_a_mount_is_a_disk(guest: Uml, images: Stored) -> None:
    """`disk.img` of a mounted version reads as the disk, holes and all, at any place."""
    options = (
        f"ro,trans=tcp,port={PORT},version={DIALECTS[-1]},aname=G@latest,uname=root,"
        "msize=131072,cache=loose"
    )
    size = (images.images / "G.img").stat().st_size
    parts = [(0, 8), (60, 16), (size // (1 << 20) - 8, 8)]  # in MiB; both ends, and a seam
    with guest.mounted("disk", HOST, options):
        told = guest.succeed(
            "stat -c %s disk/disk.img\nls disk disk/partitions disk/files\n"
            + "".join(
                f"dd if=disk/disk.img bs=1M skip={at} count={count} status=none | md5sum\n"
                for at, count in parts
            )
        )
    sums = [
        subprocess.run(
            f"dd if={images.images}/G.img bs=1M skip={at} count={count} status=none | md5sum",
            shell=True,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout
        for at, count in parts
    ]
    assert told.splitlines()[0] == str(size)
    assert told.endswith("".join(sums))
    assert {"disk.img", "files", "partitions", "1.img", "2.img"} <= set(told.split())
