"""Gets a newer Debian kernel for emulated guests: its 9P client is built on netfs.

    tools/suites --fetch-kernel [--work DIRECTORY]

Takes the newest signed amd64 kernel of bookworm-backports from where this machine's apt takes its
packages, and unpacks it below the work directory; nothing is installed.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

from tools.suite.main import WORK
from tools.suite.setting import Failed, host

_NAME = re.compile(r"^(linux-image-(\d+\.\d+)\.\d+\+deb\d+-amd64) ", re.MULTILINE)
_SUITE = "bookworm-backports"


def mirror() -> str:
    """The address of Debian's archive that this machine's apt uses."""
    words = ["apt-get", "indextargets", "Created-By: Packages", "Origin: Debian"]
    told = subprocess.run(
        [*words, "--format", "$(REPO_URI)"], check=True, stdout=subprocess.PIPE, text=True
    )
    found = [line for line in told.stdout.splitlines() if "security" not in line]
    if not found:
        raise Failed("apt knows no archive of Debian's; run apt-get update")
    return found[0]


def fetch(work: Path) -> Path:
    """Unpack the newest kernel below `work/kernels`; return where."""
    directory = work / "kernels"
    scratch = directory / "apt"
    (scratch / "lists").mkdir(parents=True, exist_ok=True)
    sources = scratch / "sources.list"
    sources.write_text(f"deb {mirror()} {_SUITE} main\n")
    options = [
        f"-oDir::Etc::sourcelist={sources}",
        "-oDir::Etc::sourceparts=/dev/null",
        f"-oDir::State::lists={scratch}/lists",
        f"-oDir::Cache::pkgcache={scratch}/pkgcache.bin",
        f"-oDir::Cache::srcpkgcache={scratch}/srcpkgcache.bin",
        "-oAPT::Sandbox::User=root",
    ]
    host("apt-get", *options, "-q", "update")
    names = host("apt-cache", *options, "search", "--names-only", "^linux-image-")
    found: list[tuple[str, str]] = _NAME.findall(names)
    if not found:
        raise Failed(f"{_SUITE} has no signed amd64 kernel")
    package, release = max(found, key=_numbers)
    host("apt-get", *options, "-q", "download", package, cwd=scratch)
    base: Path = directory / release
    host("rm", "-rf", base)
    for deb in scratch.glob(f"{package}_*.deb"):
        host("dpkg-deb", "-x", deb, base)
        deb.unlink()
    host("rm", "-rf", scratch)
    for modules in base.glob("lib/modules/*"):
        host("depmod", "-b", base, modules.name)
    return base


def _numbers(found: tuple[str, str]) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", found[0])]


def main() -> None:
    parser = argparse.ArgumentParser(prog="tools/suites --fetch-kernel")
    parser.add_argument("--work", type=Path, default=WORK)
    told = parser.parse_args()
    told.work.mkdir(parents=True, exist_ok=True)
    told.work.chmod(0o700)
    try:
        print(fetch(told.work))
    except Failed as error:
        print(f"tools/suites: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
