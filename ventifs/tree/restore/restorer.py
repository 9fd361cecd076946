"""Restores a version into a directory.

This process walks the tree and makes the directories. A `Pool` makes everything else, in batches of
entries that stand together in the archive. A directory gets its metadata when everything in it is
done. Nothing in an archive can write outside the destination (see `destination`). An entry that is
damaged, or cannot be made, is reported and left out, never left half made. What the user may not
restore (owners, devices, some attributes) is reported. Everything else is restored bit for bit.

Time and memory, beside those of tar and borg: see docs/performance.md.
"""

import errno
import os
import stat
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec

from ventifs.errors import Corrupt, NoSpace, NotStored, VentifsError
from ventifs.store import Store
from ventifs.store.files import explained
from ventifs.text import printable
from ventifs.tree.archive.file_reader import allow_many_descriptors
from ventifs.tree.objects.records import Directory, Entry, RegularFile, encode
from ventifs.tree.process_pool import InlinePool, Pool
from ventifs.tree.restore.alias_paths import Alias, Aliases
from ventifs.tree.restore.batch import FileBatch
from ventifs.tree.restore.destination import LARGE, Places, UnfinishedDirectory, opened_top, real
from ventifs.tree.restore.directory_symlinks import Symlinks
from ventifs.tree.restore.file_maker import (
    Consequence,
    Maker,
    RestoreTrouble,
    decode_answer,
    trouble_of,
)
from ventifs.tree.restore.hardlinks import LinkedFile, Links
from ventifs.tree.restore.large_file import FileFailed, make_large
from ventifs.tree.restore.metadata import NOT_ALLOWED, because, dress, xattrs_of
from ventifs.tree.restore.restored import Restored, RestoreProgress
from ventifs.tree.restore.selection import Selection, walk
from ventifs.tree.restore.unchanged import is_there

_ENTER = stat.S_IRUSR | stat.S_IXUSR
_EVERYTHING = Selection()


class Restorer:
    """One restore. Not to be used twice."""

    def __init__(
        self,
        store: Store,
        *,
        pool: Pool | None = None,
        overwrite: bool = False,
        symlinks: Symlinks = Symlinks.TRUSTED,
        selection: Selection = _EVERYTHING,
        progress: RestoreProgress | None = None,
    ) -> None:
        """Restore from `store`.

        Args:
            store: where the tree is.
            pool: of processes whose task is `file_maker.making`; None makes everything in this one.
            overwrite: replace what is there by what is archived.
            symlinks: which links to directories are kept, with `overwrite`.
            selection: what to restore.
            progress: called now and then with what is done and the current path.
        """
        self.done = Restored()
        self._store = store
        self._pool = pool or InlinePool(Maker(store, overwrite=overwrite).handle)
        self._overwrite = overwrite
        self._symlinks = symlinks
        self._selection = selection
        self._progress = progress
        self._at: UnfinishedDirectory | None = None
        self._batch = FileBatch()
        self._flying: set[FileBatch] = set()
        # To be made as files of their own.
        self._again: list[tuple[UnfinishedDirectory, Entry]] = []
        # Get their metadata last, for hard links out of them.
        self._closing: list[UnfinishedDirectory] = []

    def run(self, entry: Entry, target: Path) -> Restored:
        """Restore an entry: a directory into `target`, anything else as `target`.

        Raises:
            VentifsError: the target exists (without `overwrite`), or cannot be written.
            NoSpace: the disk is full, or a quota is; what was restored stays.
        """
        allow_many_descriptors()
        try:
            if isinstance(entry.detail, Directory):
                top = self._opened_directory(target)
            else:
                top = self._opened_parent(target)
            self._places = Places(top, overwrite=self._overwrite, symlinks=self._symlinks)
            self._places.on_link = self._settle_all
            self._places.on_replaced = self.done.add_replaced
            self._aliases = Aliases(self._store, entry, self._selection)
            self._links = Links(self._places)
        except OSError as error:
            raise explained(error, target) from None
        try:
            if isinstance(entry.detail, Directory):
                walk(self._store, entry, self._selection, self)
            else:
                self._run_single(entry, target)
            self._finish()
        except BaseException:
            self._pool.kill()
            self._remove_unfinished()
            raise
        finally:
            self._places.close()
        return self.done

    def _opened_directory(self, target: Path) -> int:
        top, before = opened_top(target)
        with os.scandir(top) as there:
            occupied = next(there, None) is not None
        if occupied and not self._overwrite:
            with suppress(OSError):
                os.fchmod(top, stat.S_IMODE(before.st_mode))
            os.close(top)
            raise VentifsError(
                f"{printable(target)}: not empty; restore into a new or empty directory, or "
                "use --overwrite"
            )
        return top

    def _opened_parent(self, target: Path) -> int:
        if target.name in ("", ".."):
            raise VentifsError(f"{printable(target)}: is a directory; name a path for the file")
        if not self._overwrite and os.path.lexists(target):
            raise VentifsError(
                f"{printable(target)}: is there already; name a path that is not, or use "
                "--overwrite"
            )
        return os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _run_single(self, entry: Entry, target: Path) -> None:
        try:
            self._at = self._places.around(entry)
        except OSError as error:
            raise explained(error, target) from None
        named = msgspec.structs.replace(entry, name=os.fsencode(target.name), link=b"")
        self.leaf(named, encode(named))

    # --- the walk, see `selection.Visitor` ----------------------------------------------------

    def enter(self, entry: Entry) -> bool:
        """Make a directory, and make it the current one."""
        above = self._at
        if above is not None and self._is_rivalled(above, entry):
            return False
        try:
            if above is None:
                self._at = self._places.top(entry)
            else:
                self._at = self._places.make(entry, above)
                self._at.alias = self._alias(self._at, above)
                above.pending += 1
        except OSError as error:
            path = above.path(entry.name) if above is not None else b""
            self._trouble(path, trouble_of(error), _below(entry))
            return False
        return True

    def leaf(self, entry: Entry, data: bytes) -> None:
        """Make anything but a directory, or a further name of a file that is made already."""
        place = self._at
        assert place is not None
        if self._is_rivalled(place, entry):
            return
        group = None
        if entry.link:
            group = self._links.group(entry, place)
            if group.made:
                self._link(group, place, entry)
                return
            if group.first is not entry:
                group.waiting.append((place, entry))
                place.pending += 1
                return
        self._add(place, entry, data, group)

    def damaged(self, error: VentifsError) -> None:
        """Report what cannot be made of a directory whose node is damaged."""
        assert self._at is not None
        trouble = RestoreTrouble(0, Consequence.FAILED, str(error))
        self._trouble(self._at.path(), trouble, _below(self._at.entry))

    def leave(self) -> None:
        """End the walk of a directory; it is finished when everything in it is."""
        place = self._at
        assert place is not None
        if place.names is not None:
            self._settle_all()  # its directory may be entered again under another name
        self._at = place.above
        self._release(place)

    # --- links that are kept, see `alias_paths` -----------------------------------------------

    def _alias(self, place: UnfinishedDirectory, above: UnfinishedDirectory) -> Alias | None:
        """The other names of a directory, if a link that is kept is on the way to it."""
        if place.names is not None:
            names = tuple(place.path().split(b"/"))
            return self._aliases.linked(place.names, names, place.entry)
        return self._aliases.below(above.alias, lambda: real(place), place.entry.name)

    def _is_rivalled(self, place: UnfinishedDirectory, entry: Entry) -> bool:
        """Whether an earlier name of the same directory provides an entry instead; record it if so.

        A kept link can give a directory of the destination several names in the version. If an
        earlier name has the same entry, this one is only counted. If an earlier name has a
        different entry, this one is reported as not restored.
        """
        if place.alias is None:  # hot: the common case
            return False
        reason = self._aliases.verdict(place.alias, entry)
        if reason is None:
            return False
        if reason:
            more = _below(entry) if entry.is_directory else ""
            self._trouble(
                place.path(entry.name), RestoreTrouble(0, Consequence.FAILED, reason), more
            )
        else:
            self.done.entries += 1
        return True

    # --- batches ------------------------------------------------------------------------------

    def _add(
        self, place: UnfinishedDirectory, entry: Entry, data: bytes, group: LinkedFile | None
    ) -> None:
        if entry.size >= LARGE:
            self._make_large(place, entry, group)
            return
        try:
            self._batch.add(self._places, place, entry, data, group)
        except OSError as error:  # another process has removed the directory
            self._trouble(place.path(entry.name), trouble_of(error))
            if group is not None:
                self._settle(group, made=False)
            return
        if self._batch.full:
            self._hand_over()

    def _make_large(
        self, place: UnfinishedDirectory, entry: Entry, group: LinkedFile | None
    ) -> None:
        """Make a large file while nothing else is made, and report progress."""
        assert isinstance(entry.detail, RegularFile)
        self._hand_over()
        self._pool.drain()
        path, before = place.path(entry.name), self.done.size

        def report(size: int) -> None:
            self.done.size += size
            if self._progress is not None:
                self._progress(self.done, path)

        made = False
        try:
            directory = self._places.fd(place)
            if (
                self._overwrite
                and not entry.link
                and is_there(self._store, entry, entry.detail.content, directory)
            ):
                self.done.kept += 1
                report(entry.size)
                less = []
            else:
                less = make_large(
                    self._store,
                    self._pool,
                    entry,
                    directory,
                    place.staging,
                    overwrite=self._overwrite,
                    report=report,
                )
            made = True
        except FileFailed as error:
            self._trouble(path, error.trouble)
        except (Corrupt, NotStored) as error:
            self._trouble(path, RestoreTrouble(0, Consequence.FAILED, str(error)))
        except OSError as error:
            self._trouble(path, trouble_of(error))
        else:
            self.done.entries += 1
            for what in less:
                self._trouble(path, RestoreTrouble(0, Consequence.LESS, what))
        if not made:
            self.done.size = before
        if group is not None:
            self._settle(group, made=made)

    def _hand_over(self) -> None:
        if not self._batch.members:
            return
        batch, self._batch = self._batch, FileBatch()
        self._flying.add(batch)
        try:
            done = partial(self._answered, batch)
            self._pool.submit(batch.request(), batch.descriptors, done)
        finally:
            batch.close()
        if self._progress is not None and self._at is not None:
            self._progress(self.done, self._at.path())

    def _answered(self, batch: FileBatch, reply: bytes) -> None:
        """Record the result of a batch, and continue what waited for it."""
        self._flying.discard(batch)
        answer = decode_answer(reply)
        missing = set()
        for trouble in answer.troubles:
            place, entry = batch.members[trouble.number]
            self._trouble(place.path(entry.name), trouble)
            if trouble.kind != Consequence.LESS:
                missing.add(trouble.number)
        self.done.entries += len(batch.members) - len(missing)
        self.done.size += batch.size - sum(batch.members[n][1].size for n in missing)
        self.done.kept += answer.kept
        for number, group in batch.groups:
            self._settle(group, made=number not in missing)
        for place in batch.places:
            self._release(place)

    def _settle(self, group: LinkedFile, *, made: bool) -> None:
        """Record whether a file's first name was made, and handle the names that waited for it."""
        group.made, group.failed = made, not made
        waiting, group.waiting = group.waiting, []
        for place, entry in waiting:
            if made:
                self._link(group, place, entry)
                self._release(place)
            else:
                self._again.append((place, entry))

    def _finish(self) -> None:
        """Wait for all work, and give the last directories their metadata."""
        self._settle_all()
        for place in self._closing:  # a directory comes before the one above it
            self._dress(place)

    def _settle_all(self) -> None:
        """Wait for all work in flight; make names that cannot be links as files of their own."""
        while self._batch.members or self._flying or self._again:
            again, self._again = self._again, []
            for place, entry in again:
                self._add(place, entry, encode(entry), None)
                self._release(place)
            self._hand_over()
            self._pool.drain()

    def _link(self, group: LinkedFile, place: UnfinishedDirectory, entry: Entry) -> None:
        """Make a further name of a file, or a file of its own where a link cannot be made."""
        try:
            self._links.make(group, place, entry)
        except OSError as error:
            trouble = trouble_of(error)
            if trouble.kind != Consequence.STOPPED:
                trouble = RestoreTrouble(
                    0, Consequence.LESS, because("hard link, restored by itself", error)
                )
            self._trouble(place.path(entry.name), trouble)
            place.pending += 1
            self._again.append((place, entry))
        else:
            self.done.entries += 1

    # --- endings ------------------------------------------------------------------------------

    def _release(self, place: UnfinishedDirectory | None) -> None:
        """Count one task in a directory as done; the last one completes the directory."""
        while place is not None:
            place.pending -= 1
            if place.pending:
                return
            self._complete(place)
            place = place.above

    def _complete(self, place: UnfinishedDirectory) -> None:
        """Give a directory its metadata; at the end, if links out of it need it to stay open."""
        self._places.tidy(place)
        if place.alias is not None and place.alias.earlier and place.before is not None:
            self._leave_as_before(place, place.before)
        elif place.linked and place.entry.mode & _ENTER != _ENTER:
            self._closing.append(place)
        else:
            self._dress(place)

    def _leave_as_before(self, place: UnfinishedDirectory, before: os.stat_result) -> None:
        """Reset a directory that has its metadata from an earlier name, see `alias_paths`."""
        try:
            fd = self._places.fd(place)
            os.fchmod(fd, stat.S_IMODE(before.st_mode))
            os.utime(fd, ns=(before.st_mtime_ns, before.st_mtime_ns))
        except OSError as error:
            if error.errno not in NOT_ALLOWED:
                self._trouble(place.path(), trouble_of(error))
        self.done.entries += 1
        self._places.forget(place)

    def _dress(self, place: UnfinishedDirectory) -> None:
        try:
            xattrs = xattrs_of(self._store, place.entry)
        except (Corrupt, NotStored) as error:
            xattrs = ()
            self._trouble(
                place.path(), RestoreTrouble(0, Consequence.FAILED, f"its attributes: {error}")
            )
        try:
            for less in dress(place.entry, xattrs, self._places.fd(place)):
                self._trouble(place.path(), RestoreTrouble(0, Consequence.LESS, less))
            self.done.entries += 1
        except OSError as error:
            self._trouble(place.path(), trouble_of(error))
        self._places.forget(place)

    def _trouble(self, path: bytes, trouble: RestoreTrouble, more: str = "") -> None:
        """List a trouble, or end the restore if nothing more can be made.

        Raises:
            NoSpace, VentifsError: nothing more can be made; the text names the path.
        """
        if trouble.kind == Consequence.STOPPED:
            stays = "what was restored stays; run again with --overwrite to finish"
            text = f"{printable(path) or '/'}: {trouble.reason}; {stays}"
            full = trouble.errno in (errno.ENOSPC, errno.EDQUOT)
            raise NoSpace(f"{text}, when there is room") if full else VentifsError(text)
        self.done.add_trouble(path, trouble, more)

    def _remove_unfinished(self) -> None:
        """Remove what killed workers left unfinished: its mtime, which is set last, differs."""
        if self._overwrite:
            return  # it is in a staging directory
        for batch in self._flying:
            for place, entry in batch.members:
                with suppress(OSError):
                    directory = self._places.fd(place)
                    there = os.stat(entry.name, dir_fd=directory, follow_symlinks=False)
                    if there.st_mtime_ns != entry.mtime_ns:
                        os.unlink(entry.name, dir_fd=directory)


def _below(entry: Entry) -> str:
    """A text that says how many paths may be missing along with a directory."""
    assert isinstance(entry.detail, Directory)
    return f"; of {entry.detail.paths:,} paths below it, none or not all are restored"
