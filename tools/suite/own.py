"""Suites of our own: what POSIX says, call by call, and random operations on one file."""

from tools.suite.setting import Setting


def posix(setting: Setting) -> None:
    """What POSIX and Linux say of each call: inside/posix.py."""
    with setting.ready() as path:
        words = [] if setting.server == "local" else ["--whole-seconds"]
        setting.run(f"chmod 755 {path}\n{setting.inside('posix.py', path, *words)}")


def fsx(setting: Setting) -> None:
    """Random operations on one file, of several seeds: inside/fsx.py."""
    # With cache=none a mapping may be older than the file: Linux 6.12's are, on any server.
    mapped = ["--map"] if setting.maps else []
    operations = setting.many(3000, 300)
    with setting.ready() as path:
        for seed in range(1, 5):
            for length in (20_000, 2_000_000):
                words = [f"{path}/file", "--seed", seed, "--operations", operations]
                setting.run(setting.inside("fsx.py", *words, "--length", length, *mapped))
