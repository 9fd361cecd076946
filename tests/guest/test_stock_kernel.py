"""Debian's stock kernel in QEMU: a mount without a network, and a root that is a version."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.support import qemu
from tests.support.initramfs import kernels, scripted, shipped
from tests.support.segment import GUEST, HOST, TAP, Segment
from tests.support.servers import PORT
from tests.support.serving import Exported, command
from tests.support.stores import new_store
from tests.support.trees import archived

pytestmark = pytest.mark.slow
_FORWARDED = "10.0.2.100"  # an address of QEMU's user network that is nobody's


@pytest.fixture(scope="module")
def kernel() -> Path:
    """The newest one installed."""
    if why := qemu.why_not():
        pytest.skip(why)
    return kernels()[-1]


def test_a_guest_without_a_network_mounts_through_stdio(kernel: Path, tmp_path: Path) -> None:
    """QEMU starts a server for each connection that the guest makes to one address."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "greeting").write_text("hello\n")
    subprocess.run(["truncate", "-s", "3M", source / "zeros"], check=True)
    store = new_store(tmp_path / "store")
    archived(store, source, "web01")
    script = f"""
    ip link set eth0 up && ip addr add 10.0.2.15/24 dev eth0
    options=ro,version=9p2000.L,msize=1048576,uname=root,aname=web01@latest
    mount -t 9p -o $options {_FORWARDED} /mnt &&
    cat /mnt/greeting && stat -c '%s %n' /mnt/zeros && md5sum /mnt/zeros
    """
    initrd = scripted(tmp_path, kernel, script, ["virtio_pci", "virtio_net", "9p", "9pnet_fd"])
    serve = tmp_path / "serve"  # QEMU splits what it runs at every space and comma
    words = shlex.join(map(str, command("serve", "--stdio", "--store", store)))
    serve.write_text(f"#!/bin/sh\ncd {shlex.quote(str(Path.cwd()))}\nexec {words}\n")
    serve.chmod(0o755)
    console = qemu.boot(
        kernel,
        initrd,
        tmp_path / "console.log",
        append="quiet",
        network=["user", "id=net", "restrict=on", f"guestfwd=tcp:{_FORWARDED}:564-cmd:{serve}"],
    )
    lines = console.splitlines()
    assert "script ended with 0" in lines, console
    assert "hello" in lines
    assert "3145728 /mnt/zeros" in lines
    assert "d1dd210d6b1312cb342b56d02bd5e651  /mnt/zeros" in lines


# Run by systemd beside all that it starts, and heard of through the kernel's log.
_IN_GUEST = """
systemctl is-system-running --wait
echo proof: multi-user.target is $(systemctl is-active multi-user.target)
echo proof: failed units $(systemctl list-units --failed --no-legend --plain | wc -l)
echo proof: root is $(findmnt -n -o FSTYPE /)
echo proof: below is $(findmnt -n -o FSTYPE,OPTIONS /run/ventifs/version)
touch /etc/changed /run/ventifs/changes/upper/etc/changed
touch /run/ventifs/version/etc/changed || echo proof: the version cannot be changed
systemctl poweroff
"""


@pytest.mark.usefixtures("free_tap")
def test_a_version_boots(
    kernel: Path, network: Segment, exported: Exported, tmp_path: Path
) -> None:
    commands = "; ".join(_IN_GUEST.strip().splitlines())
    run = f"/bin/systemd-run --no-block /bin/sh -c '{{ {commands}; }} >/dev/kmsg 2>&1'"
    console = qemu.boot(
        kernel,
        shipped(tmp_path, kernel),
        tmp_path / "console.log",
        segment=network,
        network=["tap", "id=net", f"ifname={TAP}", "script=no", "downscript=no"],
        append=" ".join(
            [
                f"boot=ventifs ventifs=tcp://{HOST}:{PORT} ventifsname={exported.versions[0]}",
                f"ip={GUEST}:::255.255.255.0::eth0:off net.ifnames=0 systemd.log_target=kmsg "
                "printk.devkmsg=on",
                qemu.SLOW,
                "systemd.unit=multi-user.target systemd.wants=kernel-command-line.service",
                f'systemd.run="{run}" systemd.run_success_action=none',
            ]
        ),
    )
    said = re.findall(r"\[ *[\d.]+\] proof: (.*)", console)
    assert said[0] == "multi-user.target is active", console[-10_000:]
    assert said[1:3] == ["failed units 0", "root is overlay"]
    assert said[3].startswith("below is 9p ro,")
    assert said[4:] == ["the version cannot be changed"]
    assert "systemd[1]: Reached target multi-user.target" in console
    assert "systemd[1]: Reached target poweroff.target" in console
    assert "systemd-shutdown[1]: All filesystems unmounted." in console
    assert re.search(r"reboot: Power down\s*$", console)
