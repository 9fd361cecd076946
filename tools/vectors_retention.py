"""Record what restic keeps of a year's snapshots: `python3 -m tools.vectors_retention`.

Makes 331 snapshots of an empty directory in a new repository, asks `restic forget --dry-run` what
each of the policies below keeps, and writes tests/vectors/tree/retention_restic.json. Needs restic;
takes five minutes. The snapshots are of July 2024 to June 2025 in Berlin: one in most nights, none
in two weeks of August, several in some days, and both changes of the clock.
"""

import json
import os
import random
import subprocess
import tempfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

COUNT = 331
ZONE = "Europe/Berlin"
POLICIES = [
    "--keep-last 10",
    "--keep-last 400",
    "--keep-hourly 24",
    "--keep-hourly 1000",
    "--keep-daily 14",
    "--keep-daily 400",
    "--keep-weekly 8",
    "--keep-weekly 60",
    "--keep-monthly 6",
    "--keep-monthly 12",
    "--keep-monthly 13",
    "--keep-yearly 1",
    "--keep-yearly 3",
    "--keep-daily 7 --keep-weekly 5 --keep-monthly 12 --keep-yearly 10",
    "--keep-last 3 --keep-hourly 48 --keep-daily 30",
    "--keep-within 36h",
    "--keep-within 10d",
    "--keep-within 2m3d12h",
    "--keep-within 4m",
    "--keep-within 1y",
    "--keep-tag release",
    "--keep-tag release --keep-tag large --keep-last 1",
    "--keep-within 5d --keep-hourly 12 --keep-weekly 20 --keep-tag release",
]


def snapshots() -> list[tuple[datetime, list[str]]]:
    """Local times, the oldest first, each with its tags."""
    chance = random.Random(13)
    begin = datetime(2024, 7, 1)
    out = {begin + timedelta(days=day) for day in range(31, 45)}  # nobody is there
    changes = [datetime(2024, 10, 27), datetime(2025, 3, 30)]  # of the clock
    busy = {begin + timedelta(days=day) for day in (3, 100, 200, 201, 290, 362, 364)}
    found: list[datetime] = []
    for day in (begin + timedelta(days=number) for number in range(365)):
        if day in changes:
            found += [day + timedelta(hours=hour, minutes=30) for hour in (0, 1, 3, 4, 23)]
        elif day in busy:
            found += [day + timedelta(hours=hour, minutes=hour) for hour in (2, 9, 10, 15, 22)]
            found.append(day + timedelta(hours=15, minutes=40))
        elif day not in out:
            found.append(day + timedelta(minutes=60 + int(chance.random() * 170)))
    first, *others, last = sorted(found)
    while len(others) > COUNT - 2:
        others.pop(int(chance.random() * len(others)))
    return [
        (time, [tag for tag, each in (("release", 23), ("large", 40)) if number % each == 0])
        for number, time in enumerate([first, *others, last])
    ]


def main() -> None:
    """Record."""
    with tempfile.TemporaryDirectory() as made:
        (place := Path(made) / "empty").mkdir()
        environ = {**os.environ, "TZ": ZONE, "RESTIC_PASSWORD": "x"}

        def restic(*words: str) -> bytes:
            command = ["restic", "--repo", f"{made}/repository", "--no-cache", *words]
            return subprocess.run(command, env=environ, check=True, stdout=subprocess.PIPE).stdout

        restic("init")
        for time, tags in snapshots():
            given = [word for tag in tags for word in ("--tag", tag)]
            restic("backup", "--quiet", str(place), "--time", f"{time:%Y-%m-%d %H:%M:%S}", *given)
        listed = json.loads(restic("snapshots", "--json"))
        numbers = {one["id"]: number for number, one in enumerate(listed)}
        times = {one["time"]: number for number, one in enumerate(listed)}
        assert len(numbers) == len(times) == COUNT
        policies = []
        for options in POLICIES:
            [group] = json.loads(restic("forget", "--dry-run", "--json", *options.split()))
            policies.append({"options": options, **_kept(group, numbers, times)})
        version = restic("version").decode().split(" compiled")[0]
    text = {
        "made": f"by tools/vectors_retention.py with {version}, which keeps no oldest snapshots",
        "zone": ZONE,
        "snapshots": [[one["time"], one.get("tags") or []] for one in listed],
        "policies": policies,
    }
    target = Path(__file__).parents[1] / "tests/vectors/tree/retention_restic.json"
    target.write_text(_lines(text))


def _kept(group: Any, numbers: dict[str, int], times: dict[str, int]) -> dict[str, Any]:
    """The numbers of the snapshots that are kept, by reason; and what is left of each count."""
    reasons: dict[str, list[int]] = {}
    left: dict[str, int] = {}
    for reason in group["reasons"] or []:
        for match in reason["matches"]:
            reasons.setdefault(match, []).append(times[reason["snapshot"]["time"]])
        left = reason["counters"]
    kept = sorted({numbers[one["id"]] for one in group["keep"] or []})
    assert kept == sorted({number for each in reasons.values() for number in each})
    return {"left": left, "reasons": {reason: sorted(each) for reason, each in reasons.items()}}


def _lines(text: dict[str, Any]) -> str:
    """As JSON, a snapshot and a policy a line."""
    parts = []
    for key, value in text.items():
        if isinstance(value, list):
            rows = ",\n".join(f"  {json.dumps(row)}" for row in value)
            parts.append(f" {json.dumps(key)}: [\n{rows}\n ]")
        else:
            parts.append(f" {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    main()
