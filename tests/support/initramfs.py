"""Initramfs images for guests with Debian's stock kernel: busybox scripts, or initramfs-tools' own.

Both hold only the modules that they need, since an emulated processor is slow to unpack them.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

BUSYBOX = Path("/bin/busybox")
SHIPPED = Path(__file__).parents[2] / "tools" / "initramfs"
PACKAGES = "linux-image-amd64 busybox-static cpio kmod initramfs-tools"

# Runs /script once, with its output on the console, and prints its exit status.
_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
dmesg -n 1
while read -r module; do insmod "/modules/$module" || echo "no $module"; done </modules/list
sh /script </dev/null
echo "script ended with $?"
poweroff -f
"""


def kernels() -> list[Path]:
    """The installed kernels with a 9P client (cloud flavours have none), newest last."""
    found = [
        kernel
        for kernel in Path("/boot").glob("vmlinuz-*")
        if any((Path("/lib/modules") / release(kernel)).glob("kernel/fs/9p/9p.ko*"))
    ]
    return sorted(found, key=lambda kernel: kernel.stat().st_mtime)


def release(kernel: Path) -> str:
    """The release of a kernel, which names the directory of its modules."""
    return kernel.name.removeprefix("vmlinuz-")


def scripted(
    directory: Path,
    kernel: Path,
    script: str,
    modules: Iterable[str],
    programs: Iterable[Path] = (),
) -> Path:
    """Make an initramfs that runs a busybox script, in a new directory.

    Args:
        directory: the new directory.
        kernel: the kernel's image.
        script: the script.
        modules: names of the kernel modules to load.
        programs: programs that it needs besides busybox; their shared libraries are added.
    """
    root = directory / "initramfs"
    for name in ("bin", "proc", "sys", "dev", "mnt", "modules"):
        (root / name).mkdir(parents=True)
    shutil.copy(BUSYBOX, root / "bin" / "busybox")
    listed = []
    for module in with_dependencies(release(kernel), modules):
        shutil.copy(module, root / "modules")
        listed.append(module.name)
    (root / "modules" / "list").write_text("".join(f"{name}\n" for name in listed))
    for file in _with_libraries(programs):
        place = root / file.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    (root / "script").write_text(script)
    (root / "init").write_text(_INIT)
    (root / "init").chmod(0o755)
    return packed(root)


def with_dependencies(kernel: str, modules: Iterable[str], base: Path = Path("/")) -> list[Path]:
    """The files of modules, each after those that it depends on.

    Args:
        kernel: the kernel's release.
        modules: names of modules.
        base: the directory that has `lib/modules`.
    """
    files: dict[Path, None] = {}
    for module in modules:
        done = subprocess.run(
            ["/sbin/modprobe", "-d", base, "--set-version", kernel, "--show-depends", module],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        for line in done.stdout.splitlines():
            what, _, file = line.strip().partition(" ")
            if what == "insmod":
                files[Path(file.split()[0])] = None
    return list(files)


def _with_libraries(programs: Iterable[Path]) -> set[Path]:
    """Programs, their loader and shared libraries."""
    files = set(programs)
    for program in programs:
        done = subprocess.run(["ldd", program], check=True, stdout=subprocess.PIPE, text=True)
        words = (word for line in done.stdout.splitlines() for word in line.split())
        files.update(Path(word) for word in words if word.startswith("/"))
    return files


def packed(root: Path) -> Path:
    """A directory as an image, beside it."""
    image = root.with_suffix(".cpio")
    names = sorted(os.fsencode(path.relative_to(root)) for path in root.rglob("*"))
    with image.open("wb") as file:
        subprocess.run(
            ["cpio", "--quiet", "-0", "-o", "-H", "newc"],
            cwd=root,
            input=b"\0".join(names),
            stdout=file,
            check=True,
        )
    return image


def shipped(directory: Path, kernel: Path) -> Path:
    """Make an image by initramfs-tools with the parts that ventifs ships, in a new directory."""
    return _made(directory, kernel, ours=True)


def stock(directory: Path, kernel: Path, modules: Iterable[str]) -> Path:
    """Make an image by initramfs-tools as Debian has it, with some modules, in a new directory."""
    return _made(directory, kernel, modules)


def _made(
    directory: Path, kernel: Path, modules: Iterable[str] = (), *, ours: bool = False
) -> Path:
    configuration = directory / "initramfs-tools"
    shutil.copytree("/etc/initramfs-tools", configuration)
    (configuration / "initramfs.conf").write_text("MODULES=list\nBUSYBOX=y\nCOMPRESS=gzip\n")
    (configuration / "modules").write_text("".join(f"{module}\n" for module in modules))
    for part in ("hooks", "scripts") if ours else ():
        shutil.copytree(SHIPPED / part, configuration / part, dirs_exist_ok=True)
    image = directory / "initrd.img"
    done = subprocess.run(
        ["/usr/sbin/mkinitramfs", "-d", configuration, "-o", image, release(kernel)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"},
    )
    assert done.returncode == 0, done.stderr
    return image
