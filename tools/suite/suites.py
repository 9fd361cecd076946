"""All suites by name."""

from tools.suite import data, faults, own, sharing, standard, trees
from tools.suite.setting import UML, Suite

_ALL = (UML, "6.1", "6.12")
_EVERY = ("shared", "exclusive", "loose")

SUITES = [
    Suite("posix", "each call as POSIX and Linux have it", own.posix, _EVERY, _ALL),
    Suite("fsx", "random operations on one file", own.fsx, _EVERY, _ALL),
    Suite("git", "clone, commit, merge, gc, fsck", data.git, _EVERY, (UML, "6.12"), ("git",)),
    Suite(
        "packages",
        "30 packages by dpkg into a root on the mount",
        data.packages,
        programs=("mmdebstrap", "dpkg"),
        local=False,
    ),
    Suite("sqlite", "two processes, rollback journal and WAL", data.sqlite, _EVERY, _ALL),
    Suite("postgres", "initdb, pgbench, crash, checksums", data.postgres, ("exclusive", "loose")),
    Suite("removal", "rm -rf of 100,000 files", trees.removal, _EVERY, (UML, "6.12"), local=False),
    Suite(
        "copies",
        "a Debian root by cp, rsync and tar, compared",
        trees.copies,
        ("shared", "exclusive"),
        programs=("rsync", "tar"),
        local=False,
    ),
    Suite("find", "1,000,000 names, a server of 1,024 files", trees.find, _EVERY, local=False),
    Suite(
        "two-guests",
        "one shared export in two guests",
        sharing.two_guests,
        ("shared",),
        (UML, "6.12"),
        local=False,
    ),
    Suite("fio", "fio with verification", standard.fio, _EVERY, _ALL, ("fio",)),
    Suite(
        "stress-ng",
        "its file system class, verified",
        standard.stress,
        programs=("stress-ng",),
    ),
    Suite("dbench", "a file server's load", standard.dbench, programs=("dbench",)),
    Suite("bonnie", "bonnie++", standard.bonnie, programs=("bonnie++",)),
    Suite("postmark", "a mail server's load", standard.postmark, programs=("postmark",)),
    Suite("fsmark", "files with every way to sync", standard.fsmark, programs=("fs_mark",)),
    Suite("xfs_io", "writes at odd places", standard.xfs_io, _EVERY, _ALL, ("xfs_io",)),
    Suite("frozen", "a frozen disk harms its users alone", faults.frozen, local=False),
    Suite("killed", "kill -9 at 200 moments", faults.killed, ("shared",), local=False),
    Suite(
        "long-tests",
        "the tests of live trees in full",
        faults.long_tests,
        ("shared",),
        local=False,
        servers=("ventifs",),
    ),
]
