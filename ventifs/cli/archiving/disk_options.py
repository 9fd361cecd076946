"""The options of `ventifs archive` that only disks have."""

import msgspec


class DiskOptions(msgspec.Struct, frozen=True):
    """The options that only disks have."""

    drop_free: bool = False
    dirty_bitmap: bool = False
    in_use: bool = False
    follow_backing: tuple[str, ...] = ()
    follow_device: tuple[str, ...] = ()
    follow_nothing: bool = False
    dry_run: bool = False  # the only one here that all sources have

    @property
    def any(self) -> bool:
        """Whether an option that only disks have is given."""
        return self != DiskOptions(dry_run=self.dry_run)
