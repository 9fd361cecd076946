"""Debian's own programs that load and verify file systems, run to their ends in a guest."""

import re
from hashlib import sha256

from tools.suite.setting import Setting, check

# These stress other parts of a kernel, need devices or ioctls that 9P has not, or notify of what
# other clients do.
_NOT_OURS = "bind-mount,binderfs,chattr,eventfd,fanotify,fiemap,inode-flags,ioprio,procfs,verity"
# Debian's dbench says everywhere that it has no semaphore.
_WRONG = re.compile("failed(?! to create barrier semaphore)|ERROR|mismatch")
_DBENCH_LOAD = "/usr/share/dbench/client.txt"


def fio(setting: Setting) -> None:
    """Random and sequential writes by several jobs, each verified by checksums."""
    size = setting.many(48)
    jobs = ["--rw=randrw --bs=4k", "--rw=write --bs=1m", "--rw=randwrite --bsrange=1k-130k"]
    common = "--directory=. --verify=crc32c --verify_fatal=1 --do_verify=1 --group_reporting"
    common += f" --numjobs=2 --size={size}m --ioengine=psync --fallocate=none --end_fsync=1"
    with setting.ready() as path:
        script = f"cd {path}\n"
        for number, job in enumerate(jobs):
            script += f"fio --name=job{number} {common} {job} >out 2>&1 || {{ cat out; exit 1; }}\n"
            script += "! grep -E 'verify: bad|err= *[1-9]' out\nrm -f job* out\n"
        if setting.maps:
            script += f"fio --name=mapped {common} --ioengine=mmap --rw=randrw --bs=4k >out 2>&1"
            script += " || { cat out; exit 1; }\n"
        setting.run(script)


def stress(setting: Setting) -> None:
    """Every one of stress-ng's file system stressors, one after the other, with verification."""
    seconds = setting.many(3)
    with setting.ready() as path:
        said = setting.run(
            f"mkdir {path}/stress\n"
            f"stress-ng --class filesystem --sequential 1 --verify --timeout {seconds}s"
            f" --exclude {_NOT_OURS} --temp-path {path}/stress --metrics-brief"
            " >out 2>&1 || { grep -E 'fail|error|unsuccess' out | head -40; exit 1; }\n"
            f"cat out; rm -rf {path}/stress\n"
        )
    check("successful run completed" in said, said[-3000:])


def dbench(setting: Setting) -> None:
    """The load of a file server, by one client and by four."""
    seconds = setting.many(20, 3)
    with setting.ready() as path:
        for clients in (1, 4):
            said = setting.run(
                f"dbench -c {_DBENCH_LOAD} -t {seconds} -D {path} {clients} 2>&1; rm -rf {path}/*"
            )
            bad = [line for line in said.splitlines() if _WRONG.search(line)]
            check(not bad, "\n".join(bad[:20]))
            check("Throughput" in said, said[-2000:])


def bonnie(setting: Setting) -> None:
    """Large files, then small ones created, looked up and removed in and out of order."""
    size, files = setting.many(128, 8), setting.many(4, 1)
    with setting.ready() as path:
        said = setting.run(
            f"bonnie++ -d {path} -u root -s {size}M -r {max(size // 2, 4)} -n {files}:4096:1:4"
            " -x 1 -q 2>err || { cat err; exit 1; }; cat err"
        )
    check(len(said.splitlines()[-1].split(",")) > 30, said)


def postmark(setting: Setting) -> None:
    """A mail server's small files, with reads that are compared with what was written."""
    files, transactions = setting.many(1000, 50), setting.many(4000, 200)
    with setting.ready() as path:
        said = setting.run(
            f"cat >commands <<END\nset location {path}\nset number {files}\n"
            f"set transactions {transactions}\nset subdirectories 10\nset seed 7\nrun\nquit\nEND\n"
            f"postmark commands; ls -A {path}"
        )
    check(re.search(r"transactions \(\d+ per second\)", said), said)
    check(not re.search("[Ee]rror|[Cc]annot", said), said)


def fsmark(setting: Setting) -> None:
    """Files by threads, with every way to sync them."""
    count = setting.many(300, 20)
    with setting.ready() as path:
        for sync in range(7):
            said = setting.run(
                f"mkdir {path}/marks\n"
                f"fs_mark -d {path}/marks -n {count} -s 5000 -t 2 -D 8 -N 16 -S {sync} -k 2>&1\n"
                f"find {path}/marks -type f -size 5000c | wc -l; rm -rf {path}/marks"
            )
            check(int(said.splitlines()[-1]) == 2 * count, f"-S {sync}: {said[-2000:]}")


_XFS_IO = """
xfs_io -f -c 'pwrite -q -S 0x61 0 64k' -c 'pwrite -q -S 0x62 1000 3000' -c fsync a
xfs_io -c 'truncate 10000' -c 'truncate 40000' -c fdatasync a
xfs_io -c 'pwrite -q -S 0x63 -b 1000 39999 100000' -c 'pwrite -q -S 0x64 -V 2 20000 49152' a
xfs_io -f -t -c 'pwrite -q -S 0x65 0 100' b
xfs_io -a -c 'pwrite -q -S 0x66 0 50' b
xfs_io -r -c 'pread -q -v 0 8192' a >/dev/null
xfs_io -f -c 'pwrite -q -S 0x67 1t 4096' -c 'pread -q 1t 4096' big
"""
_MAPPED = "xfs_io -c 'mmap -rw 0 64k' -c 'mwrite -S 0x68 5000 3000' -c 'msync -s' a\n"
_SUMS = """
xfs_io -f -c 'sendfile -q -i a 0 139999' copy
sha256sum a copy b | cut -d' ' -f1
stat -c %s big
tail -c 4096 big | sha256sum | cut -d' ' -f1
"""


def xfs_io(setting: Setting) -> None:
    """Writes at odd places by xfs_io, compared byte by byte."""
    wanted = bytearray(b"a" * 65536)
    wanted[1000:4000] = b"b" * 3000
    wanted[10000:] = bytes(29999)
    wanted += b"c" * 100000
    wanted[20000:69152] = b"d" * 49152
    script = _XFS_IO
    if setting.maps:
        script += _MAPPED
        wanted[5000:8000] = b"h" * 3000
    with setting.ready() as path:
        said = setting.run(f"cd {path}\n{script}{_SUMS}").split()
    sums = [sha256(data).hexdigest() for data in (wanted, wanted, b"e" * 100 + b"f" * 50)]
    wanted_lines = [*sums, str(2**40 + 4096), sha256(b"g" * 4096).hexdigest()]
    check(said == wanted_lines, f"{said}, not {wanted_lines}")
