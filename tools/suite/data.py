"""What people keep on file systems: repositories, packages, databases."""

import pwd
import shlex
import sqlite3
from pathlib import Path

from tools.suite.setting import Failed, Setting, check, host

_PACKAGES = ("bc", "file", "less", "python3", "rsync", "sqlite3", "tmux")
_POSTGRES = "/usr/lib/postgresql"


def git(setting: Setting) -> None:
    """Clone, commit, branch, merge, gc and fsck; the tree is the one that the host would have."""
    repository = Path(__file__).resolve().parents[2]
    common = host("git", "rev-parse", "--path-format=absolute", "--git-common-dir", cwd=repository)
    head = host("git", "rev-parse", "HEAD", cwd=repository).strip()
    files = setting.many(300, 20)
    depth = "" if setting.scale >= 1 else "--depth 2"
    with setting.ready() as path:
        said = setting.run(
            f"""
            cd {path}
            export GIT_CONFIG_COUNT=3 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'
            export GIT_CONFIG_KEY_1=user.name GIT_CONFIG_VALUE_1=suite
            export GIT_CONFIG_KEY_2=user.email GIT_CONFIG_VALUE_2=suite@example.org
            git init -q clone
            cd clone
            git fetch -q {depth} file://{shlex.quote(common.strip())} {head}
            git checkout -q -b main FETCH_HEAD
            git archive HEAD | sha256sum
            git status --porcelain
            git checkout -q -b side
            mkdir new
            for n in $(seq {files}); do echo "line $n" >new/$n; done
            git add new; git commit -qm many
            git mv new moved; git commit -qm moved
            git checkout -q main
            echo 1 >README.md; git commit -qam one
            git merge -q -m merged side
            git stash list
            git gc -q --prune=now
            git fsck --full --strict 2>&1
            git status --porcelain
            git log --oneline -4 | wc -l
            ls moved | wc -l
            git checkout -q {head}
            git archive HEAD | sha256sum
            git status --porcelain
            """
        ).splitlines()
        if setting.server != "local":
            host("git", "-c", "safe.directory=*", "fsck", "--full", cwd=setting.export / "clone")
    wanted = host("sh", "-c", f"git archive {head} | sha256sum", cwd=repository).strip()
    check(said == [wanted, "4", str(files), wanted], "\n".join(said))


def _base(work: Path) -> tuple[Path, Path]:
    """A Debian root as a tar, and the packages to install in it; both are made once."""
    tar, debs = work / "base.tar", work / "debs"
    if not (tar.exists() and debs.is_dir()):
        new = work / "base.new"
        host("rm", "-rf", debs, new)
        debs.mkdir()
        install = f"apt-get -qq -y --no-install-recommends -d install {' '.join(_PACKAGES)}"
        host(
            "mmdebstrap",
            "--variant=minbase",
            "--skip=cleanup/apt",
            '--customize-hook=chroot "$1" apt-get -qq update',
            f'--customize-hook=chroot "$1" {install}',
            f"--customize-hook=copy-out /var/cache/apt/archives {debs}",
            "--format=tar",
            "bookworm",
            new,
        )
        new.rename(tar)
    return tar, debs / "archives"


def packages(setting: Setting) -> None:
    """Install at least 30 packages by dpkg into a root on the mount; all files are as packed."""
    tar, debs = _base(setting.work)
    root = setting.export / "root"
    root.mkdir()
    host("tar", "-xpf", tar, "-C", root, "--numeric-owner")
    status = root / "var/lib/dpkg/status"
    there = {line for line in status.read_text().splitlines() if line.startswith("Package: ")}
    found = [
        path
        for path in sorted(debs.glob("*.deb"))
        if f"Package: {path.name.partition('_')[0]}" not in there
    ]
    check(len(found) >= 30, f"{debs}: only {len(found)} packages")
    names = " ".join(shlex.quote(str(path)) for path in found)
    with setting.ready() as path:
        setting.run(
            f"""
            root={path}/root
            mount -t proc proc $root/proc
            mount --bind /dev $root/dev
            trap 'umount $root/proc $root/dev' EXIT
            export DEBIAN_FRONTEND=noninteractive
            dpkg --root=$root --force-unsafe-io -i {names} >out 2>&1 || {{ tail -40 out; exit 1; }}
            dpkg --root=$root --audit
            chroot $root python3 -c 'import sqlite3, ssl; print(sqlite3.sqlite_version)'
            chroot $root tmux -V
            """
        )
    sums = root / "var/lib/dpkg/info"
    for listed in sorted(sums.glob("*.md5sums")):
        host("md5sum", "--quiet", "-c", listed, cwd=root)
    ends = {line for line in status.read_text().splitlines() if line.startswith("Status:")}
    check(ends == {"Status: install ok installed"}, str(ends))


def sqlite(setting: Setting) -> str:
    """Two processes write one SQLite database, with a rollback journal and in WAL mode."""
    transactions = setting.many(200, 20)
    with setting.ready() as path:
        for journal in ("delete", "wal"):
            words = [f"{path}/{journal}.db", journal, "--transactions", transactions]
            done = setting.guest.run(setting.inside("wal.py", *words), patience_s=3600)
            allowed = (0,) if journal == "delete" or setting.maps else (0, 3)
            check(done.status in allowed, f"journal {journal}: {done.status}\n{done.text}")
            said = done.text.strip()
    if setting.server != "local":
        for database in setting.export.glob("*.db"):
            with sqlite3.connect(database) as opened:
                checked = opened.execute("pragma integrity_check").fetchone()
            check(checked == ("ok",), f"{database} on the host: {checked}")
    return f"WAL {said.partition(':')[0]}" if said.startswith("refused") else "WAL allowed"


def postgres(setting: Setting) -> None:
    """PostgreSQL: initdb, pgbench, a crash, recovery, and every page's checksum."""
    programs = sorted(Path(_POSTGRES).glob("*/bin"))
    if not programs:
        raise Failed(f"{_POSTGRES}: nothing there; install the Debian package postgresql")
    user = pwd.getpwnam("postgres")
    as_postgres = f"setpriv --reuid {user.pw_uid} --regid {user.pw_gid} --clear-groups --"
    transactions = setting.many(200, 20)
    scale = setting.many(4)
    with setting.ready() as path:
        setting.run(
            f"""
            export PATH=$PATH:{programs[-1]} LC_ALL=C.UTF-8
            mkdir -m 777 -p /dev/shm/sockets; sockets=/dev/shm/sockets; cd $sockets
            mkdir {path}/base; chown {user.pw_uid}:{user.pw_gid} {path}/base; chmod 700 {path}/base
            mount --bind {path}/base /mnt # where another user than root can go
            trap 'umount /mnt' EXIT
            run() {{ {as_postgres} "$@"; }}
            start() {{
                run pg_ctl -D /mnt/data -l $sockets/log -w -t 600 start >/dev/null \\
                    -o "-c listen_addresses= -k $sockets" || {{ cat $sockets/log; exit 1; }}
            }}
            run initdb -k -D /mnt/data >out 2>&1 || {{ cat out; exit 1; }}
            start
            run createdb -h $sockets bench
            run pgbench -h $sockets -i -q -s {scale} bench 2>&1 | tail -1
            run pgbench -n -h $sockets -c 4 -t {transactions} bench 2>&1 | grep processed
            kill -9 $(head -1 /mnt/data/postmaster.pid)
            while pgrep -u {user.pw_uid} postgres >/dev/null; do sleep 0.2; done
            start
            run pgbench -n -h $sockets -c 2 -t {transactions} bench 2>&1 | grep processed
            run psql -h $sockets -At bench -c "select (select sum(abalance) from pgbench_accounts)
                = (select sum(bbalance) from pgbench_branches), (select count(*)
                from pgbench_history) = {transactions * 6}"  >$sockets/sums
            cat $sockets/sums
            grep -q '^t|t$' $sockets/sums
            run pg_amcheck -h $sockets --all --heapallindexed --install-missing 2>&1 || exit 1
            run pg_ctl -D /mnt/data -m fast -w stop >/dev/null
            run pg_checksums -D /mnt/data --check | grep 'Bad checksums: *0'
            """
        )
