"""ventifs: a content-addressed archive of guest file systems, served over 9P.

The public API is what `__all__` lists; docs/api.md shows it by task. Its names are imported when
they are first used, because every command and every worker imports this module.
"""

TYPE_CHECKING = False  # type checkers take it for true; `typing` itself is slow to import

if TYPE_CHECKING:
    from ventifs.api import (
        Added,
        Archive,
        ArchivedPath,
        ArchivedVersion,
        Busy,
        Copied,
        CopiedAll,
        Corrupt,
        ForgottenVersion,
        HeldAlone,
        NoSpace,
        NoSuchPath,
        NoSuchVersion,
        NotADirectory,
        NotARegularFile,
        NotCopied,
        NotStored,
        Reclaimed,
        ReclaimObserver,
        ReclaimPlan,
        Thinned,
        VentifsError,
        init,
        open,  # noqa: A004
        reclaim,
    )

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "Added",
    "Archive",
    "ArchivedPath",
    "ArchivedVersion",
    "Busy",
    "Copied",
    "CopiedAll",
    "Corrupt",
    "ForgottenVersion",
    "HeldAlone",
    "NoSpace",
    "NoSuchPath",
    "NoSuchVersion",
    "NotADirectory",
    "NotARegularFile",
    "NotCopied",
    "NotStored",
    "ReclaimObserver",
    "ReclaimPlan",
    "Reclaimed",
    "Thinned",
    "VentifsError",
    "init",
    "open",
    "reclaim",
]


if not TYPE_CHECKING:  # for which it would give every misspelt name a type

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import ventifs.api

        value = globals()[name] = getattr(ventifs.api, name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
