/* SPDX-License-Identifier: Apache-2.0
 *
 * objects/blocker.h - the contract of peers that store objects (file, rados, memory), and of
 * filters that stand before them (cache, delay, error). It declares nothing: it says
 * what the fields of a request mean there.
 *
 * A blocker completes out of order and never blocks its loop. All requests name an
 * object (req->volume == 0; req->object). An error is a negative errno.
 *
 *   op            in                                   out
 *   PING          -                                    answered when other requests would be served
 *   READ          offset, size, data                   done = size. Past the end or in a hole:
 *                                                      zeros. ENOENT: no such object
 *   WRITE         offset, size, data                   creates the object if need be. done = size
 *                 FUA: durable with its folder entry   ENOSPC, EDQUOT, EIO
 *                 CREATE: most likely it is not there;
 *                 arg = bytes it may grow to, a hint
 *   WRITE_ZEROES  offset, size                         as WRITE of zeros; punches a hole unless
 *                 NO_HOLE: space is allocated          NO_HOLE. Creates the object
 *   DISCARD       offset, size                         those bytes read as zeros and hold no space
 *                                                      afterwards. No such object: 0
 *   DELETE        arg = expected first 8 bytes of      ENOENT: there is none. ESTALE: the first 8 bytes
 *                 the present content, as a u64        were not arg. A look and a removal in one atomic
 *                 (0: whatever they are)               step, for objects that only REPLACE writes
 *                 CONTENT: arg = a moment (0: none)    EBUSY: claimed then or later. As atomic
 *   COPY          data: struct xobj of the source;     object becomes a copy of the source's first
 *                 size                                 size bytes (zeros past its end; without the
 *                                                      all-zero parts). ENOENT: no source
 *   SYNC          object.volume = id; object.kind:     all that was acknowledged before, on objects
 *                 DATA, or NONE for every kind         of that volume (0: of all), is durable.
 *                 FORCE, with DATA: of a volume        ... or lost: what is read from now on is what
 *                 that nobody writes to                the store has, and not what only memory has
 *   INFO          -                                    done = size in bytes (zeroes without NO_HOLE
 *                                                      need not grow it; a hint may), arg = bytes of
 *                                                      space it takes; the size, where the store
 *                 ZEROS: it is asked whether all       cannot tell. ENOENT. ZEROS: all of it reads as
 *                 of it reads as zeros                 zeros; without, nobody knows
 *   LIST          object.kind = namespace;             data: done objects (struct xobj each), arg =
 *                 arg = cursor, 0 first                cursor to go on, 0 = that was all. Objects
 *                 data_size >= 4096                    made or removed meanwhile may be missed or
 *                 size: objects wanted at most,        listed; others appear exactly once
 *                 0: as many as there is room for
 *                 VERSIONS, with HEADER                index = a number of what the object holds: as long
 *                                                      as it is the same, and not 0, that is the same
 *   REPLACE       size (64 KiB at most), data;         the object's whole content becomes data, in
 *                 CREATE: must not exist               one atomic, durable step. EEXIST (CREATE).
 *                 else arg = expected first 8 bytes    ESTALE: the first 8 bytes were not arg
 *                 of the present content, as a u64     ENOENT: there is none
 *                 (0: whatever they are)
 *   ACQUIRE       object.kind = LOCK; data: owner      takes the lock for `arg` (a nonzero token) or
 *                 text (size bytes); arg = token       finds it taken by it: done = its number, which
 *                                                      grows with each taking. EBUSY: data = owner's
 *                                                      text, done = its length. ENOTCONN: another
 *                                                      blocker is not ready; EMFILE: so many locks
 *                                                      can be had: data = which, in words
 *   RELEASE       object.kind = LOCK; arg = token      ENOENT: not locked. EPERM: not by this token.
 *                 FORCE: whoever has it                EBUSY: FORCE, but its holder lives here
 *   HASH          size                                 SHA-256 of the first size bytes without
 *                 FROZEN: the object is never          trailing zeros; stores that content as a
 *                 written again, so the store may      CONTENT object (unless empty), and claims it;
 *                 share or copy what it has            data: 32 bytes
 *   PUT           object: CONTENT; size, data          stores the data without trailing zeros as that
 *                                                      object (unless empty), and claims it. done =
 *                                                      size. EBADMSG: its name is not their digest
 *   CLAIM         object: CONTENT                      claims it. ENOENT: there is none
 *
 * Writes to different byte ranges of one object may run at the same time; two that overlap
 * land in either order.
 *
 * A lock passes from one instance to the next in only two ways: its holder gives it back, after all that it had
 * under way on that volume; or the next one first makes certain that nothing which the holder's instance has
 * sent, or will send, changes that volume any more. "All" are the blockers of the instance's configuration, and
 * not the one that took the lock, nor those that have been started. Files: every blocker's life has a flock that
 * the kernel lets go when nothing of it is under way; all are taken, and a note is left for lives to come ("Two
 * instances" in blocker_file/parts.h). RADOS: every client is put on the blocklist, and whoever writes next knows the
 * map that says so ("Nobody writes who may not" in blocker_rados/parts.h). A process that stands still, or a host that
 * sleeps, holds its flocks, and is on the blocklist whenever it wakes. Where neither can be made certain, the
 * answer is EBUSY and says why.
 *
 * A CONTENT object can be wanted at any moment by somebody who knows its name, so removing one has a condition.
 * A claim is the time of the node's clock (ns since 1970, to the store's precision) when somebody last said that he is
 * about to refer to it: PUT, HASH and CLAIM set it, durably, and DELETE of what was claimed since its moment
 * changes nothing. Of a claim and a DELETE at the same time one comes first: the claim is found by the DELETE, or CLAIM
 * finds nothing. The object is there whole, or not at all, at any time. PUT does the same work whether it is
 * there or not, so that the time it takes tells nobody what others have, and it replaces a damaged one.
 *
 * DELETE, REPLACE, ACQUIRE, RELEASE, HASH, PUT, CLAIM are durable when the reply comes; DATA writes, zeroes and
 * discards are after a SYNC or with FUA. Repeating any request that was cut short by a death
 * must do no harm: object names are never used again for something else.
 *
 * Any of them may fail with what the store says (EIO, ENOSPC, EDQUOT, EACCES, ENODEV when its pool or disk
 * is gone), with ETIMEDOUT where a deadline is configured, and with ESTALE once this node was fenced.
 */
#ifndef ARCHIPELAGO_BLOCKER_H
#define ARCHIPELAGO_BLOCKER_H

#define BLOCKER_REPLACE_MAX 65536   /* bytes of an object under REPLACE */

#endif
