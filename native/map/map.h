/* SPDX-License-Identifier: Apache-2.0
 *
 * map/map.h - what a volume is made of: entries, stacks, leaf pages, journal records.
 *
 * The map of a volume says for every block where its bytes lie: nowhere (zeros), in one
 * object, or in a stack of up to XMAP_LAYERS objects with validity bitmaps. On the store it
 * is a persistent tree of immutable pages plus a journal of changes since the tree's root
 * was written; the header (written by the mapper, see peers/mapper/) names the root and
 * the stretches of journal. A snapshot or clone is a header with the same root and the same
 * stretches: nothing else is copied, whatever the size.
 *
 * Who owns what. A data object, page or journal is named (volume id, epoch, number). A
 * volume may write an object in place only if it carries its own id and an epoch of
 * `writable_since` or later: a snapshot raises both `epoch` and `writable_since`, and with
 * that every older object is shared and read-only, without touching any entry. Opening for
 * writing raises `epoch` alone, by one, and by MAP_EPOCH_STRIDE after a life that was cut short: an
 * object that a lost life created but never committed is never met again, as its name is never used
 * again. A life that has changed nothing gives its epoch back when it ends in order.
 *
 * Records
 * -------
 * Leaf pages, inner pages and journal records have one shape, all little-endian:
 *
 *   offset size
 *        0    4  magic "ARCR"
 *        4    2  version: 1, or 2 when an entry is of form 1
 *        6    2  kind: 1 journal record, 2 leaf page, 3 inner page
 *        8    8  id of the volume that wrote it
 *       16    4  epoch it was written in
 *       20    4  flags: 1 snapshot mark: from the next record on writable_since = epoch + 1
 *       24    8  sequence number (journal: grows by 1 a record) or page number
 *       32    8  first block it covers (pages)
 *       40    4  entries in the payload
 *       44    4  bytes of payload
 *       48    4  level (pages: 0 leaf, 1.. inner)
 *       52    4  block shift
 *       56    8  checksum: XXH3-64 of the whole record with these 8 bytes zero
 *       64    .  payload
 *
 * A journal record is padded with zeros to a multiple of RECORD_ALIGN, so that appending
 * never rewrites a sector that is already durable.
 *
 * Payload of a leaf or journal record: for each block that is not zeros (leaf) or has
 * changed (journal), in ascending order of blocks:
 *
 *        0    8  block number
 *        8    1  layers, 0 (zeros) .. XMAP_LAYERS
 *        9    1  form of the bitmaps, 0 or 1
 *       10    2  bytes of one bitmap (0 when layers < 2)
 *       12    4  reserved, 0
 *       16    .  layers, topmost first: kind u32, epoch u32, then for DATA the volume id
 *                (8 bytes; the index is the block number), for CONTENT, which only the last may be,
 *                the digest (32 bytes)
 *        .    .  bitmaps. Form 0: layers - 1 of them, RECORD_OLD_LAYERS - 1 at most; bit c of bitmap l: chunk c
 *                lies in layer l unless a layer above has it. Form 1, of 3 layers and more: those of struct xstack,
 *                as many as the numbers need. Entries of 2 layers are the same in both and are written as form 0.
 *
 * Payload of an inner page of level n: for each child that exists, ascending:
 *
 *        0    8  child's first block >> (10 * n)
 *        8    8  page: volume id
 *       16    4  page: epoch
 *       20    4  reserved, 0
 *       24    8  page: number
 *
 * A child covers XMAP_LEAF^n blocks. Everything is checked on decoding: bounds, order,
 * reserved fields, checksum; these decoders are fuzz targets.
 *
 * Durability. vlmc keeps a dirty bit per entry. A commit encodes the dirty entries as they
 * are, asks the data blocker for a SYNC, and only then has the record appended: so a bit is
 * never durable before the data it vouches for. Commits of a volume never overlap.
 *
 * When the data blocker has found that data may be gone it says so in the volume's `lost`, and
 * from then on every commit fails, until the volume has been closed and opened anew: a disk tells
 * an error once, so that a second SYNC would succeed, and its record would vouch for data that are
 * not there. What is closed so has the map of its last commit.
 *
 * Appending
 * ---------
 * A record is appended by the mapper (MAP_COMMIT), or by vlmc itself, in one request to the blocker, where the mapper
 * has handed out a place for it: a journal, and bytes of it (append_* in struct xvolume). The mapper learns of such
 * records later, by reading them. `append` says whose turn it is, and changes so:
 *
 *     MAPPER, DOUBT --hand out--> HANDED     by the mapper, after it has appended a record of vlmc's
 *     HANDED --take back--> MAPPER           by the mapper; or by vlmc, which finds that it may not use it
 *     HANDED --append--> WRITING             by vlmc, by compare and swap
 *     WRITING --durable--> HANDED            by vlmc, when it has published journal_offset, then commit_seq
 *     WRITING --failed--> DOUBT              by vlmc, or by its next life when all that the last had sent is back
 *
 *   - One writes at a time. The mapper appends, and changes which journal is the current one, after it has taken
 *     back: so before a checkpoint, a resize, a commit of its own, a close. It waits while the turn is WRITING, for as
 *     long as the store takes, or vlmc's next life. vlmc never waits: where it is not HANDED, or a record does not fit
 *     (full), bears a snapshot mark, or is not intact, the mapper gets it by MAP_COMMIT as ever, and hands out anew.
 *   - Learned: the mapper takes over, from the journal, the records up to commit_seq: before it shows a map to anybody
 *     (MAP_LOAD, check, du), and when it takes back. Nobody waits for that but those. What lies behind commit_seq is
 *     nobody's: it was never acknowledged.
 *   - Order is that of any commit: SYNC of the data, then the record with FUA, then the reply. Records are numbered
 *     from commit_seq, and each is durable before the next is sent, whoever appends it: what is on the store looks the
 *     same, and so opening after a power cut, with vlmc and mapper gone, is the same.
 *   - A failed append (ENOSPC, EIO, part of it written, or an answer that never came) fails the commit. In DOUBT, or
 *     where it was left so by a dead life, nothing is written behind the last acknowledged record any more: the mapper
 *     has the header say where the journal ends, and goes on in the next, as after a failed append of its own.
 *   - vlmc dies: in HANDED, what it appended is published. In WRITING, its successor commits nothing before the request
 *     has come back, and then says DOUBT. Between publishing the two words, only commit_seq counts. It finds dirty
 *     entries in the segment and commits them anew, a superset, under the number that follows commit_seq.
 *   - The mapper dies: vlmc may finish the append that is under way. Its successor takes back before it reads the
 *     journal, up to commit_seq.
 *   - Another node: what was handed out is good while append_lives is the sum of the lives of this instance's roles.
 *     When any of them was started anew the lock may have been lost, so the next record goes by the mapper, which
 *     takes the lock again first. A lock is broken only when nothing of this instance, whoever sent it, can change the
 *     volume any more (objects/blocker.h); and who opens a volume has its header end the journals of the lives before,
 *     and begins one of its own epoch. So a late append of an old vlmc is refused, or lies where nobody reads.
 *   - A filter between the mapper and its blocker that vlmc's edge does not have: append_port tells, and vlmc leaves
 *     the record to the mapper.
 *
 * Between vlmc and mapper
 * -----------------------
 *   MAP_LOAD    volume; offset = first block, size = number of blocks (never across a leaf's
 *               end); data: room for a record. Reply: data holds a leaf record with the
 *               present, committed entries, done = its bytes. MORE: the record ends early,
 *               arg = first block to ask for next. FORCE: an object that the last answer named is
 *               missing, so the map of a snapshot, which may have got other names for the same
 *               bytes on another node, is read anew.
 *   MAP_COMMIT  volume; data, size: a complete journal record. Its sequence number is
 *               commit_seq + 1 of the volume; the last one appended, if it comes again
 *               with the same bytes, is acknowledged and skipped. Reply when durable: done = journal
 *               offset after it. SNAPSHOT_MARK as in the record. Afterwards vlmc may have the turn to append.
 *   VOL_SNAPSHOT mapper to vlmc, on an open volume. vlmc holds back new writes until those
 *               under way are done, encodes the dirty entries into a record with the mark,
 *               raises epoch and writable_since, lets writes go on, then syncs and commits
 *               that record. Reply: done = journal offset after it, arg = its sequence number.
 *   VOL_FREEZE  mapper to vlmc: hold back all new requests, finish those under way, commit
 *               everything. Reply when nothing is dirty. The volume stays frozen.
 *   VOL_THAW    forget the volume's leaf pages (size, root and so on may have changed in
 *               xvolume), go on. Without a preceding freeze: 0.
 *   VOL_CLOSE   as VOL_FREEZE, then forget the leaf pages; the slot may be reused after it.
 *               FORCE: of a volume whose data may be gone, what was not committed is given up.
 */
#ifndef ARCHIPELAGO_MAP_H
#define ARCHIPELAGO_MAP_H

#include <stdbool.h>

#include "map/layout.h"

#define XENTRY_CONTENT UINT64_MAX   /* the volume of an entry that is one content */

/* Starts a record in buf. The payload grows by record_add*(). */
void record_begin(struct record *rec, void *buf, uint64_t capacity,
                  const struct record_info *info);
/* Appends an entry. ENOSPC: it does not fit; the record is as before. */
int record_add(struct record *rec, uint64_t block, const struct xentry *entry,
               const struct xstack *stack);
/* The object that a layer of a block's stack is. */
struct xobj map_stack_object(const struct xstack *stack, uint32_t layer, uint64_t block);
/* Appends entries of one CONTENT layer each for `count` blocks from `first` on, of which digests has 32 bytes each; none
 * for that of nothing, which is zeros. ENOSPC. */
int record_add_contents(struct record *rec, uint64_t first, const uint8_t *digests, uint64_t count);
/* Copies an encoded entry of `length` bytes. ENOSPC. */
int record_add_encoded(struct record *rec, const void *entry, uint64_t length);
/* Appends a child of an inner page. ENOSPC. */
int record_add_child(struct record *rec, uint64_t child, const struct page_ref *page);
/* Fills in the header and pads with zeros to `align` (1: not). Bytes in all. */
uint64_t record_end(struct record *rec, uint32_t align);

/* What a record's header says, unchecked: of one that was checked before, or to learn how long it is. buf holds
 * RECORD_HEADER bytes at least. */
void record_header(const void *buf, struct record_info *info);
/* Reads and checks a record's header and checksum. EBADMSG: damaged (info->reason says how).
 * ENODATA: no record begins here (zeros, or too short for a header). */
int record_check(const void *buf, uint64_t available, struct record_info *info);

/* Walks the entries of a checked leaf or journal record. Start with *at = 0. 1: *item is
 * filled, 0: the end, EBADMSG: damaged. `item->encoded` points into buf. */
int record_next(const void *buf, uint64_t *at, struct map_item *item);
/* The same for the children of an inner page. */
int record_next_child(const void *buf, uint64_t *at, uint64_t *child, struct page_ref *page);
/* Decodes the one entry at `at`, of which `left` bytes may be read. Its bytes, or 0 if it is damaged. */
uint64_t map_entry(const void *at, uint64_t left, struct map_item *item);
/* Bytes that a journal record takes, with those it is padded with. */
uint64_t record_span(const struct record_info *info);

/* Whether the payload of a checked record can be walked and has as many entries as its header says, in
 * a page only such as lie where its level and first block put it. */
bool record_intact(const void *record);

/* Puts an item into entry and, where it has one, stack (room for its bitmaps). */
void item_to_entry(const struct map_item *item, struct xentry *entry, struct xstack *stack);

/* Follows a journal from its start. The stretch ends at `length`, at the first byte that is
 * no intact record, or where a sequence number, volume or block size does not go on. Reports where it
 * ended and what it saw; scan->reason tells why it ended before `length`. */
void journal_scan(const void *journal, uint64_t length, uint64_t volume, struct journal_scan *scan);
/* Whether there is an intact record of the volume with a number above seq in [start, length) of a journal, or so many
 * that only look like one that checking them all would take more than JOURNAL_LOOKS times the journal's length. */
bool journal_lost(const void *journal, uint64_t start, uint64_t length, uint64_t volume, uint64_t seq);

/* Bytes of one bitmap for a block size; the stack class that holds it. */
static inline uint32_t map_bitmap_size(uint32_t block_shift)
{
    uint32_t chunks = 1u << (block_shift - 12);
    return chunks < 64 ? 8 : chunks / 8;
}
static inline uint32_t map_stack_class(uint32_t block_shift)
{
    return block_shift <= 18 ? 0 : block_shift <= 22 ? 1 : 2;
}
/* How many bitmaps a stack of so many layers needs: see struct xstack. */
static inline uint32_t map_bitmap_count(uint32_t layers)
{
    return layers < 2 ? 0 : layers == 2 ? 1 : 33 - (uint32_t)__builtin_clz(layers - 2);
}
static inline uint8_t *stack_bitmap(struct xstack *stack, uint32_t layer)
{
    return (uint8_t *)(stack + 1) + layer * stack->bitmap_size;
}

#endif
