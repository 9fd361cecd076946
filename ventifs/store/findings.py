"""What an audit finds: findings, figures, and a report of both."""

from dataclasses import dataclass, field

from ventifs.store.journal import CommitCounters, Record


@dataclass(slots=True, frozen=True)
class Finding:
    """One thing that is wrong.

    Attributes:
        what: "block", "header", "directory", "trailer", "arena", "commit", "catalog", "gap" or
            "index".
        reason: what is wrong with it.
        score, arena, offset: where, as far as that applies; score and arena are hexadecimal.
        harmless: True for damage that nothing in the index leads to any more.
    """

    what: str
    reason: str
    score: str | None = None
    arena: str | None = None
    offset: int | None = None
    harmless: bool = False


@dataclass(slots=True)
class Summary:
    """How much was audited."""

    arenas: int = 0
    clumps: int = 0
    blocks: int = 0
    bytes: int = 0


@dataclass(slots=True)
class Report:
    """The result of auditing a store, or one arena of it.

    Attributes:
        rescued: records that the index has and the arenas have lost.
        forgotten: records that the index knows to be deleted and the arenas do not.
        confirmed: index entries that lead to the block they name.
        drops: arenas from which nothing is taken, by the journals.
        lost_drops: those that only the index still knows.
        index_read: whether the index could be read from end to end, whatever is wrong in it.
    """

    findings: list[Finding] = field(default_factory=list)
    summary: Summary = field(default_factory=Summary)
    rescued: list[Record] = field(default_factory=list)
    forgotten: list[Record] = field(default_factory=list)
    confirmed: int = 0
    index_read: bool = True
    drops: dict[bytes, CommitCounters] = field(default_factory=dict)
    lost_drops: dict[bytes, CommitCounters] = field(default_factory=dict)
    puts: dict[bytes, Record] = field(default_factory=dict)
    deletes: set[bytes] = field(default_factory=set)
    relies_on: dict[bytes, int] = field(default_factory=dict)

    def join(self, other: "Report") -> None:
        """Add the result of auditing another arena."""
        self.findings += other.findings
        self.confirmed += other.confirmed
        self.puts.update(other.puts)
        self.deletes |= other.deletes
        self.drops |= other.drops
        for arena, length in other.relies_on.items():
            self.relies_on[arena] = max(length, self.relies_on.get(arena, 0))
        self.summary.arenas += other.summary.arenas
        self.summary.clumps += other.summary.clumps
        self.summary.blocks += other.summary.blocks
        self.summary.bytes += other.summary.bytes
