# SPDX-License-Identifier: Apache-2.0
"""One volume in the mapper's hands: its header, its journal, its place in the segment.

What may happen at the same time
--------------------------------
`control` is held by whatever opens, closes, snapshots, resizes, renames or removes the volume: one at
a time. Loads and commits of vlmc do not take it, since a control operation may itself wait for vlmc,
and vlmc for them. `appending` is held while a record is appended or a new journal object is begun;
`writing_header` while the header is replaced; `folding` by the one checkpoint there can be. They are
taken in the order control, folding, appending, writing_header. `locking` is held while the volume's lock on
the store is taken or given back; `writing_header` may be taken under it.

A checkpoint works on a View of closed stretches; records go on being appended to the next object
meanwhile, and vlmc notices nothing. What the new tree has replaced is removed only if no snapshot can
refer to it, by the state at that moment.
"""
import asyncio
import errno
import logging
import os
from contextlib import suppress
from dataclasses import replace
from typing import Any

from peers.mapper.frames import read_header, replace_header
from peers.mapper.handed import Handed
from peers.mapper.header import JOURNALS_MAX, Header, Listed, id_text
from peers.mapper.journal import (
    CHAIN_MAX,
    JOURNAL_CAPACITY,
    STRETCHES_LIMIT,
    STRETCHES_MAX,
    Stretch,
    fresh,
    load_stretches,
    number_of,
)
from peers.mapper.store import HEADER, JOURNAL, MapStore, named, record_header
from peers.mapper.tree import Rebuild, View, own, page_name, view_of
from xseg._native import lib
from xseg.errors import NotFound
from xseg.errors import error as fail
from xseg.request import Object

CLOSE_CHECKPOINT = 256 << 10        # journal bytes worth a checkpoint when a volume closes ...
CLOSE_LEAVES = 256                  # ... if they touch so few leaves: else they are left to the next opening
CLOSE_LOOK_S = 0.1                  # between two looks at how much a checkpoint has to do
PAGES_SKIPPED = 1 << 32             # numbers that attempts of a mapper that died may have used
REBUILD_TRIES = 4                   # of a tree, while blockers die
PACE_FROM = 2                       # journal limits of journal from which on commits wait for the checkpoint ...
PACE_S, PACE_LOOK_S = 1.0, 0.005    # ... so long at most, and between two looks at it
EPOCH_MAX = (1 << 32) - 1
EPOCH_LAST = EPOCH_MAX - 1          # that is ever reached, and that no object has
EPOCHS_LEFT = 1 << 16               # that an opening must find: each snapshot of an open volume takes one
EPOCHS_WARNED = 1 << 28             # from which on people are told how many are left
log = logging.getLogger("mapper")


class Volume:
    """A volume that is open, or that an operation is working on. Belongs to the event loop."""

    def __init__(self, store: MapStore, volume: int) -> None:
        self.store = store
        self.id = volume
        self.users = 0                      # operations that have it in hand
        self.control = asyncio.Lock()
        self.folding = asyncio.Lock()
        self.appending = asyncio.Lock()
        self.writing_header = asyncio.Lock()
        self.locking = asyncio.Lock()       # by who takes or gives back its lock
        self.known_header: Header | None = None     # as last read or written; None: neither yet
        self.stretches: list[Stretch] = []  # closed
        self.current: Stretch | None = None  # appended to; only of one open for writing
        self.epoch = 0                      # by the header and the committed records
        self.epoch_before = 0               # this life
        self.opened_in: list[int] = []      # incarnations of all peers when this life began
        self.writable_since = 0
        self.seq = 0                        # last record appended
        self.checksum: int | None = None    # of it, as far as it was appended or found in this life
        self.handed = Handed(store)         # what vlmc may append to by itself
        self.leaving = False                # what lies behind the end of `current` is not known
        self.left_over: list[Object] = []   # journals behind it, of records that were never acknowledged
        self.pages_used = 0                 # the next page has at least this number
        self.doubtful: bytes | None = None  # a header whose writing failed: it may be there
        self.shared: Any = None             # its struct xvolume while it is open
        self.handle = 0                     # its place there + 1
        self.lock_number = 0
        self.locked_in: list[int] = []      # incarnations of all peers when the lock was taken
        self.unread = False                 # its header and journal are not read yet, though it is open
        self.reading: asyncio.Task[None] | None = None    # by whom they are
        self.holders: dict[tuple[int, int], int] = {}   # (port, incarnation) -> how many times open
        self.marked: View | None = None     # what the last snapshot mark committed
        self.broken: OSError | None = None  # why no commit can be taken any more
        self.abandoned = False              # closed by force though broken: commits are thrown away
        self.not_closed = ""                # why it could not be closed, as far as that was logged
        self.checkpointing: asyncio.Task[None] | None = None
        self.tree: Rebuild | None = None    # that the checkpoint writes
        self.paced: tuple[Stretch | None, int] = None, 0    # a journal, and how many of its leaves commits waited for
        self.dropping: asyncio.Task[None] | None = None   # removes what one that was given up has written

    @property
    def header(self) -> Header:
        """As last read or written, for those who know that it was."""
        assert self.known_header is not None
        return self.known_header

    @header.setter
    def header(self, header: Header) -> None:
        self.known_header = header

    @property
    def lost(self) -> OSError | None:
        """Why nothing that was written to it since its last flush can be made durable any more; None: it can."""
        code = self.shared.lost & lib.XLOST_ERRNO if self.shared is not None else 0
        return fail(code, f"volume '{self.header.name}': what was written since its last flush may be gone, as the "
                          f"store failed ({os.strerror(code)}): mend that, then `vlmc close --force "
                          f"{self.header.name}` gives it up, and the volume can be opened anew") if code else None

    @property
    def epochs_left(self) -> int:
        """How many epochs the volume may use still."""
        return EPOCH_MAX - max(self.epoch, self.header.epoch, self.shared.epoch if self.shared is not None else 0)

    # --- header

    async def read_header(self) -> Header:
        """The header as it is on the store. NotFound; EBADMSG that names the volume."""
        self.header = await read_header(self.store, self.id)
        return self.header

    async def write_header(self, folded: int = 0, current: Stretch | None = None, **changes: Any) -> None:
        """Replaces the header, with what is known of the journal; its oldest `folded` stretches are
        dropped, and `current` (if given) begins, with the header, behind the records of the one there was. The epoch
        is the largest that is known, unless the changes say another. Stale: somebody else changed it."""
        async with self.writing_header:
            closed = [self.current] if current and self.current and self.current.end else []
            current = current or self.current
            epoch = max(current.epoch if current else self.epoch, self.shared.epoch if self.shared else 0)
            new = replace(self.header, generation=self.header.generation + 1, **changes)
            new.epoch = changes.get("epoch", max(new.epoch, epoch))
            new.writable_since = max(new.writable_since, self.writable_since)
            new.settled = current is None and not new.readonly
            new.journals = [stretch.listed() for stretch in self.stretches[folded:] + closed]
            if current is not None:
                new.journals.append(current.listed(is_open=True))
                new.seq = current.first_seq - 1
                new.next_journal = current.number + 1
            if len(new.journals) > JOURNALS_MAX:
                raise fail(errno.ENOSPC, f"volume '{new.name}': too many journals wait for a checkpoint that fails")
            await self.put_header(new)
            self.stretches = self.stretches[folded:] + closed
            if current is not self.current and current is not None:
                self.current, self.epoch, self.leaving = current, current.epoch, False

    async def leave_objects(self) -> None:
        """When one whose data may be gone is closed: the next life writes into no object that there is now."""
        await self.write_header(in_place_since=min(EPOCH_MAX, max(self.epoch, self.shared.epoch) + 1))

    async def rename(self, name: str, token: int, renaming: str = "") -> None:
        """Replaces the header by one that differs in its names, and the token, only. Stale."""
        await self.note(name=name, token=token, renaming=renaming)

    async def note(self, **changes: Any) -> None:
        """Replaces the header by one that differs in these members only, none of them of its map. Stale."""
        async with self.writing_header:
            await self.put_header(replace(self.header, generation=self.header.generation + 1, **changes))

    async def put_header(self, new: Header) -> None:
        """Puts a header in the present one's place. After a failure the store may have it all the same: then the next
        attempt finds it there, and goes on from it. Stale: somebody else changed it."""
        before, doubtful = self.header.generation, self.doubtful
        if doubtful is not None and (await self.store.read_frame(named(HEADER, self.id)))[:len(doubtful)] == doubtful:
            before, new.generation = before + 1, before + 2
            self.header.generation = before
        self.doubtful = new.pack()
        await replace_header(self.store, new, before)
        self.header, self.doubtful = new, None

    async def load(self) -> None:
        """Header and journal from the store, for one that is not open. EBADMSG, NotFound."""
        await self.load_as_it_is()
        if not self.header.settled and not self.header.readonly:
            self.pass_over()

    async def load_as_it_is(self) -> None:
        """The same for one whose life goes on."""
        header = await self.read_header()
        self.adopt(header, await load_stretches(self.store, header))

    def pass_over(self) -> None:
        """Passes over the epochs that a life which was cut short may have used, whatever of it became durable."""
        self.epoch = min(EPOCH_LAST, self.epoch + lib.MAP_EPOCH_STRIDE - 1)

    def adopt(self, header: Header, stretches: list[Stretch]) -> None:
        """Takes over what the store says, with all stretches closed."""
        mine = [stretch for stretch in stretches if stretch.volume == self.id]
        marks = [stretch.marked for stretch in mine]
        self.header, self.stretches, self.current = header, stretches, None
        self.epoch = max([header.epoch, header.in_place_since, *marks,
                          *(max(stretch.epoch, stretch.epoch_max) for stretch in mine)])
        self.writable_since = max([header.writable_since, *marks])
        header.next_journal = max([header.next_journal, *(stretch.number + 1 for stretch in mine)])
        self.seq = header.seq

    # --- map

    def view(self) -> View:
        """The committed map at this instant."""
        stretches = list(self.stretches)
        if self.current is not None and self.current.end:
            now = self.current
            stretches.append(Stretch(now.volume, now.epoch, now.number, now.data, now.end,
                                     now.first_seq, now.last_seq, leaves=now.leaves))
        return view_of(self.header, stretches)

    def next_stretch(self, epoch: int = 0, seq: int = 0) -> Stretch:
        """An empty one for the records after the current one's, or after record `seq`, which begins that epoch."""
        now = self.current
        assert now is not None
        number = now.number + 1 if now.end or epoch or self.leaving else now.number
        made = fresh(self.id, epoch or now.marked or now.epoch, number)
        made.first_seq = (seq or self.seq) + 1
        return made

    def begin_stretch(self, following: Stretch | None = None) -> None:
        """Closes the current journal object and goes on in the next. Under `appending`."""
        assert self.current is not None
        following = following or self.next_stretch()
        if self.current.end:
            self.stretches.append(self.current)
        self.current = following

    async def leave(self) -> None:
        """After an append that failed: has the header say where the current object ends, and goes on in the next.
        Under `appending`."""
        if not self.leaving:
            return
        assert self.current is not None
        names = self.left_over if self.current.end else [*self.left_over, self.current.name]
        await self.write_header(current=self.next_stretch())
        self.left_over = []
        await self.delete_quietly(names)

    async def close_journal(self) -> None:
        """Has the header say where a journal ends that the last life left open, for one that is not open here.

        Of its last record nobody knows whether it is durable: it may never have been acknowledged, and the error have
        been told to a process that is gone. So it is written again, into another object, before a header counts on it.
        """
        await self.keep_up()
        if not self.header.open_ended or not self.stretches \
                or not self.of_this_life(self.stretches[-1], self.header.listed[-1]):
            return
        epoch = min(EPOCH_LAST, self.epoch + 1)
        last, number = self.stretches[-1], await self.free_journal(epoch)
        moved = last.last_record(epoch, number)
        try:
            await self.store.write(moved.name, 0, moved.data, durable=True)
        except BaseException:
            await self.delete_quietly([moved.name])
            raise
        emptied = [last.name] if last.first_seq == last.last_seq and not last.marked else []
        last.cut(last.last_seq - 1)
        self.stretches[-1:] = [last, moved] if last.end else [moved]
        self.epoch = epoch
        await self.write_header(seq=0, next_journal=number + 1)
        await self.delete_quietly(emptied)

    async def free_journal(self, epoch: int) -> int:
        """The number of a journal that no attempt has begun."""
        number = self.header.next_journal
        with suppress(NotFound):
            while True:
                await self.store.info(named(JOURNAL, self.id, epoch, number))
                number += 1
        return number

    async def delete_quietly(self, names: list[Object]) -> None:
        """Removes objects that nothing refers to, as far as the store can."""
        with suppress(OSError):
            await self.store.delete_all(names)

    def start_life(self) -> None:
        """The volume begins to take records: a new journal, numbers from 1, and an epoch that vlmc has
        not reached in any life. EOVERFLOW: there is none left."""
        self.need_epochs(EPOCHS_LEFT)
        if self.epochs_left < EPOCHS_WARNED:
            log.warning("volume '%s' has %d of %d epochs left, of which each opening that changes it takes one: make a "
                        "clone of it (`vlmc clone`) and use that", self.header.name, self.epochs_left, EPOCH_MAX)
        self.epoch_before, self.opened_in = self.epoch, self.store.lives()
        self.epoch += 1
        self.seq, self.checksum, self.leaving = 0, None, False
        self.current = fresh(self.id, self.epoch, self.header.next_journal)
        self.current.first_seq = 1

    def need_epochs(self, count: int) -> None:
        """EOVERFLOW: the volume has not so many epochs left."""
        if self.epochs_left < count:
            raise fail(errno.EOVERFLOW, f"volume '{self.header.name}' has used up its {EPOCH_MAX} epochs: make a "
                                        "clone of it (`vlmc clone`) and use that")

    async def resume(self, shared: Any) -> None:
        """Takes up the life of a volume that is open in the segment, after a restart. EBADMSG."""
        doubtful = await self.handed.back(shared)
        await self.load_as_it_is()
        if (self.header.block_shift, self.header.readonly) != (shared.block_shift, bool(shared.readonly)):
            raise fail(errno.EBADMSG, f"volume '{self.header.name}' is open, but its header is that of another kind")
        shared.size = self.header.size
        shared.name = self.header.name.encode()
        if self.header.readonly:
            return
        if not self.header.open_ended:
            raise fail(errno.EBADMSG, f"volume '{self.header.name}' is open, but its header says it is closed")
        self.go_on(self.header.listed[-1], max(shared.commit_seq, self.header.seq))
        self.leaving |= doubtful
        assert self.current is not None
        shared.commit_seq, shared.journal_offset = self.seq, self.current.end
        shared.epoch = max(shared.epoch, self.epoch)

    def go_on(self, listed: Listed, seq: int) -> None:
        """Goes on behind the last record that was acknowledged. Of one behind it nobody knows whether it is durable:
        it comes again, and into another object. EBADMSG: that record is not there."""
        found = [stretch for stretch in self.stretches if self.of_this_life(stretch, listed)]
        before = self.stretches[:len(self.stretches) - len(found)]
        life = [stretch for stretch in found if stretch.first_seq <= seq]
        if life:
            life[-1].cut(seq)
        self.seq = life[-1].last_seq if life else self.header.seq
        if self.seq != seq:
            raise fail(errno.EBADMSG, f"volume '{self.header.name}': its journal ends with record {self.seq}, and "
                                      f"{seq} was acknowledged")
        self.checksum = life[-1].last_checksum() if life else None
        self.pages_used = self.header.next_page + PAGES_SKIPPED
        last = life[-1] if life else Stretch(self.id, listed.epoch, listed.number)
        self.left_over = [stretch.name for stretch in found[len(life):]]
        self.leaving = not life or len(found) > len(life) or last.stored > last.end
        if self.leaving or last.marked:
            self.stretches = before + life
            self.current = fresh(self.id, last.marked or last.epoch, max(s.number for s in [last, *found]) + 1)
            self.current.first_seq = self.seq + 1
            return
        self.stretches = before + life[:-1]
        self.current = fresh(self.id, last.epoch, last.number)
        self.current.data[:last.end] = last.data[:last.end]
        self.current.end, self.current.first_seq, self.current.last_seq = last.end, last.first_seq, self.seq

    def of_this_life(self, stretch: Stretch, listed: Listed) -> bool:
        """True if the stretch was found behind the header's open end, so that it may be appended to."""
        return stretch.volume == self.id and stretch.epoch >= listed.epoch and stretch.number >= listed.number

    async def learn(self) -> None:
        """What vlmc has appended by itself is known here when this returns: to be called before anybody looks at the
        map."""
        await self.handed.learn()
        self.note_learned()

    def note_learned(self) -> None:
        """The same for the numbers."""
        if self.current is not None and self.current.last_seq > self.seq:
            self.seq, self.checksum = self.current.last_seq, None   # it comes again to nobody

    async def take_back(self) -> None:
        """vlmc appends nothing by itself from now on, and what it has is known here. Under `appending`."""
        if self.shared is not None and await self.handed.back(self.shared):
            self.leaving = True
        self.note_learned()

    def hand_out(self, port: int | None) -> None:
        """Lets vlmc send its next records to that port by itself, up to where the journal is to be folded. Under
        `appending`, when a record has been appended."""
        if port is not None and self.shared is not None and self.current is not None and self.current.end:
            self.handed.out(self.shared, self.current, port, sum(self.locked_in),
                            self.store.journal_limit - self.unfolded())

    async def append(self, record: bytes, port: int | None = None) -> int:
        """Appends a journal record and makes it durable. Returns the journal's offset after it. `port`: of the
        blocker to which vlmc may send the next ones by itself.

        The last one, if it comes again, is acknowledged and skipped. EINVAL: its number is not the next. What can
        fail comes before anything is noted.
        """
        async with self.appending:
            if self.abandoned:
                return 0
            if self.broken:
                raise self.broken
            await self.take_back()
            seq = number_of(record, self.header)
            if self.current is None:
                raise fail(errno.EROFS, f"volume {id_text(self.id)} is not open for writing")
            if seq == self.seq and record_header(record).checksum == self.checksum:
                return self.current.end
            if seq != self.seq + 1 or len(record) % lib.RECORD_ALIGN:
                if self.shared is not None:
                    self.shared.commit_seq = self.seq       # from which vlmc numbers the next
                raise fail(errno.EINVAL, f"volume '{self.header.name}': record {seq} does not follow record {self.seq}")
            await self.leave()
            if self.current.end + len(record) > JOURNAL_CAPACITY:
                self.next_object()
            following = self.after_mark(record, seq)
            try:
                await self.store.write(self.current.name, self.current.end, record, durable=True)
            except BaseException:
                self.leaving = True
                raise
            offset = self.appended(record, seq, following)
            self.hand_out(port)
            return offset

    def after_mark(self, record: bytes, seq: int) -> Stretch | None:
        """The stretch that a record with the snapshot mark begins; None: it has no mark."""
        info = record_header(record)
        return self.next_stretch(info.epoch + 1, seq) if info.flags & lib.RECORD_MARK else None

    def next_object(self) -> None:
        """Begins another journal object for want of room. ENOSPC: too many wait to be folded."""
        if len(self.stretches) >= CHAIN_MAX - 1:
            raise fail(errno.ENOSPC, f"volume '{self.header.name}': {len(self.stretches)} journals wait for a "
                                     "checkpoint that fails; the log says why")
        self.begin_stretch()

    def appended(self, record: bytes, seq: int, following: Stretch | None) -> int:
        """Notes a record that has become durable, and goes on in the stretch that it begins, if it does."""
        assert self.current is not None
        current, size = self.current, len(record)
        current.data[current.end:current.end + size] = record
        current.end += size
        current.last_seq = self.seq = seq
        self.checksum = record_header(record).checksum
        offset = current.end
        if following is not None:
            current.marked = self.epoch = self.writable_since = following.epoch
            self.begin_stretch(following)
            self.marked = self.view()
        if self.shared is not None:
            self.shared.commit_seq, self.shared.journal_offset = seq, self.current.end
        self.checkpoint_soon()
        return offset

    # --- checkpoints

    def unfolded(self) -> int:
        """Bytes of journal."""
        return sum(stretch.end for stretch in self.stretches) + (self.current.end if self.current else 0)

    def checkpoint_due(self) -> bool:
        """True if there is so much journal that it should be folded into pages."""
        return self.unfolded() > self.store.journal_limit or len(self.stretches) > STRETCHES_LIMIT

    async def keep_pace(self) -> None:
        """While a checkpoint lags behind, a commit is answered when as many leaves were written as it has added to
        those that wait, or after PACE_S: so journals do not grow faster than they are folded."""
        tree, current = self.tree, self.current
        if tree is None or current is None or self.unfolded() <= PACE_FROM * self.store.journal_limit:
            return
        count = current.leaf_count()
        added = count - self.paced[1] if self.paced[0] is current else count
        self.paced = current, count
        loop = asyncio.get_running_loop()
        goal, end = max(0, tree.left - added), loop.time() + PACE_S
        while self.tree is tree and tree.left > goal and loop.time() < end:
            await asyncio.sleep(PACE_LOOK_S)

    async def keep_up(self) -> None:
        """Waits for a checkpoint when so many stretches have gathered that no more may. What it fails with."""
        if len(self.stretches) >= STRETCHES_MAX:
            await self.checkpoint()

    def checkpoint_soon(self) -> None:
        """Starts a checkpoint in the background if one is due and none is under way."""
        if self.checkpoint_due() and (self.checkpointing is None or self.checkpointing.done()):
            self.checkpointing = asyncio.create_task(self.checkpoint_quietly())

    async def checkpoint_quietly(self) -> None:
        """A checkpoint whose failure goes to the log: the journal holds everything, and the next append
        tries again."""
        try:
            await self.checkpoint()
        except OSError as failure:
            log.error("checkpoint of volume '%s' failed: %s", self.header.name, failure)
        except Exception:
            log.exception("checkpoint of volume '%s' failed", self.header.name)

    async def checkpoint(self) -> None:
        """Folds the journal into new pages and removes what they replace. EBADMSG, what the store says."""
        folded = await self.fold()
        if folded:
            await self.drop_folded(*folded)

    async def fold(self, cut_to: int | None = None) -> tuple[Rebuild, View] | None:
        """A checkpoint that removes nothing yet: the new tree and the view it was made from.

        With cut_to (bytes), for a volume that is frozen: it gets that size and a new epoch, too, and
        loses what lies beyond. None: there was nothing to fold.
        """
        async with self.folding:
            async with self.appending:
                await self.take_back()
                await self.leave()
                if self.current is not None and self.current.end:
                    self.begin_stretch()
                view = view_of(self.header, self.stretches)
            if cut_to is None and not view.stretches:
                return None
            target = view if cut_to is None else replace(view, blocks=-(-cut_to >> view.block_shift))
            tree = await self.rebuild(target, cut_to is not None)
            await self.switch_to(tree, len(view.stretches), cut_to)
            return tree, view

    async def rebuild(self, view: View, cut: bool) -> Rebuild:
        """Writes the tree of a view, durably. No page gets a name that a failed attempt has used: what is written over
        that may seem durable and not be. And it begins again when a blocker's life has ended meanwhile, which may
        have met an error that its successor does not hear of."""
        for _ in range(REBUILD_TRIES):
            lives = self.store.lives()
            tree = Rebuild(self.store, view, self.id, self.epoch, max(self.header.next_page, self.pages_used), cut)
            self.tree = tree
            try:
                await tree.run()
                if tree.made:
                    await self.store.sync(self.id)
            except asyncio.CancelledError:      # who closes the volume does not wait for that
                self.dropping = asyncio.create_task(self.delete_quietly(tree.made))
                raise
            except BaseException:
                await self.delete_quietly(tree.made)
                raise
            finally:
                self.pages_used, self.tree = tree.next_page, None
            if lives == self.store.lives():
                return tree
            await self.delete_quietly(tree.made)
        raise fail(errno.EAGAIN, f"volume '{self.header.name}': the blocker of its map dies too often")

    async def switch_to(self, tree: Rebuild, folded: int, cut_to: int | None) -> None:
        """Makes the header name the new tree: the commit point of a checkpoint."""
        async with self.appending:
            changes: dict[str, Any] = {}
            if cut_to is not None:
                changes["size"] = cut_to
                if self.current is not None:
                    assert self.current.end == 0
                    epoch = max(self.epoch, self.shared.epoch) + 1
                    changes["current"] = fresh(self.id, epoch, self.current.number)
                    changes["current"].first_seq = self.seq + 1
            await self.write_header(folded, root=list(tree.root) if tree.root else None, level=tree.level,
                                    next_page=tree.next_page, **changes)

    async def drop_folded(self, tree: Rebuild, view: View) -> None:
        """Removes pages and journals that the new tree replaced and no snapshot can refer to."""
        names = [page_name(ref) for ref in tree.replaced if own(ref, self.id, self.writable_since)]
        names += [stretch.name for stretch in view.stretches
                  if own((stretch.volume, stretch.epoch, 0), self.id, self.writable_since)]
        await self.store.delete_all(names)

    async def end_checkpoint(self) -> None:
        """Waits for the checkpoint under way, or gives it up if it has much to do still."""
        while self.checkpointing is not None and not self.checkpointing.done():
            if self.tree is not None and self.tree.left > CLOSE_LEAVES:
                self.checkpointing.cancel()
            await asyncio.wait([self.checkpointing], timeout=CLOSE_LOOK_S)

    def worth_folding(self) -> bool:
        """True if there is enough in the closed stretches, and it is done soon."""
        enough = sum(stretch.end for stretch in self.stretches) > min(CLOSE_CHECKPOINT, self.store.journal_limit) \
            or len(self.stretches) > STRETCHES_LIMIT
        return enough and sum(stretch.leaf_count() for stretch in self.stretches) <= CLOSE_LEAVES

    async def settle(self) -> None:
        """When a volume closes: folds the journal if that is worth it, and closes its end in the header."""
        await self.end_checkpoint()
        if self.current is None:
            return
        async with self.appending:
            await self.take_back()
            epoch: dict[str, Any] = {"epoch": self.epoch_before} if self.unused() else {}
            after = self.current.number + 1
            if self.current.end:
                self.stretches.append(self.current)
            self.current, self.leaving = None, False
        if self.worth_folding():
            await self.checkpoint_quietly()
        await self.write_header(seq=0, next_journal=max(self.header.next_journal, after),
                                next_page=max(self.header.next_page, self.pages_used), **epoch)

    def unused(self) -> bool:
        """True if nothing in this life can have its epoch: the next may take it again."""
        shared = self.shared
        assert self.current is not None
        return self.seq == 0 and not self.leaving and not self.pages_used and shared.epoch == self.current.epoch \
            and not shared.writes and not shared.first_writes and not shared.lost \
            and self.store.lives() == self.opened_in        # a vlmc that died may have begun to write

    def opens(self) -> int:
        """How many times ports have it open."""
        return sum(self.holders.values())
