/* SPDX-License-Identifier: Apache-2.0
 *
 * vlmc/parts.h - the volume composer: turns requests on volumes into requests on objects.
 *
 * Parts
 * -----
 * Calls go down this list, and never up:
 *
 *   vlmc/vlmc.c     requests in, children back, what is left to do in a turn; the peer's table
 *   vlmc/commit.c   FLUSH, journal records, snapshots, freezing
 *   vlmc/capture.c  dirty entries into the records of a commit
 *   vlmc/append.c   records to the journal, past the mapper
 *   vlmc/steps.c    a request advances, a piece in one block at a time
 *   vlmc/write.c    WRITE, WRITE_ZEROES, DISCARD on blocks that are the volume's own
 *   vlmc/read.c     READ, BLOCK_STATUS
 *   vlmc/own.c      the first write to a block: new layer, filling up a chunk; OWN
 *   vlmc/merge.c    merging a stack that is at its bound
 *   vlmc/ahead.c    ... in the background, before a first write finds it there
 *   vlmc/chunks.c   which layers are merged; the bits of chunks
 *   vlmc/busy.c     the table of busy blocks
 *   vlmc/missed.c   objects that are not there
 *   vlmc/frames.c   leaf pages in the segment: finding, loading, evicting
 *   vlmc/stacks.c   the stack records that entries name
 *   vlmc/io.c       children, the end of a request, waking
 *   vlmc/order.c    what waits for the requests of the dead
 *   vlmc/volume.c   vlmc's own side of a volume slot
 *
 * Who is below wakes who is above by leaving word: a woken request is put on the queue `ready`, and a volume whose
 * commits or holds may go on is marked in `look`. go_on() in vlmc/vlmc.c does both at the end of each callback.
 *
 * A request on a volume
 * ---------------------
 * It advances through its range by steps, from `cursor` on. A step deals with a piece
 * that lies in one block: it makes a child, or is done at once, or finds the request must
 * wait (for a leaf page, for a busy block, for slots or memory); then the request is put
 * on the queue of what it waits for and takes the same step again later. It is answered
 * when the cursor is at the end and no child is outstanding.
 *
 * Order of changes, so that a death or power cut leaves the old bytes or the new:
 *   - an entry of a block that was zeros is published after the first write to its object;
 *   - a new layer on top is published before, with no validity bit set: such a bit, in the first bitmap of a stack,
 *     says that a chunk lies in the top layer;
 *   - a validity bit is set when the write of the chunk has completed;
 *   - an entry's dirty bit is set before the entry or its bitmap changes.
 * So readers never see an object that may not be there, and a restarted vlmc that finds the
 * frames in the segment commits a superset of what changed. It begins no commit before all that
 * its last life had sent has come back: a record of that life may still become durable, and
 * would take the number (commit_seq + 1) of the new one, which the mapper would then skip.
 *
 * Busy blocks
 * -----------
 * Writes that set validity bits share a block (`shared` counts them); filling up a chunk
 * from the layer below, merging a stack and dropping one have it alone (`exclusive`), so a
 * chunk is never filled with bytes older than a write that was already acknowledged.
 * Writes to chunks whose bit is set, and reads, need neither.
 *
 * The dead
 * --------
 * Whose sender has died knows nothing of its writes that are under way here, and may ask or write by any port that
 * has the volume open. So no request of another life is begun while such writes are here, begun or held back; it
 * waits in `behind`. A sender's death is looked for only while its writes are here and something comes from another:
 * with one sender alone, each request costs a comparison. After a death of vlmc's own the port gives out the requests
 * of dead senders first (segment/recover.c), so that they stand before all others again.
 *
 * Freezing
 * --------
 * A snapshot holds back new writes until those under way are done: that is the only time
 * writers wait. The record with all changes is then encoded, the epoch raised, and writes
 * go on; syncing the data and appending the record happen afterwards. FREEZE and CLOSE
 * hold back everything.
 *
 * Scribbled maps
 * --------------
 * Frames, stacks and volume slots lie in the segment for the next life of vlmc, and another member may have written
 * anything there. So which frame is whose leaf, whose each stack record is, what is pinned, dirty or
 * being committed, and a volume's id and block size are known privately; the words for them in the segment are written,
 * and read when vlmc starts, checked. An entry is read at once. The stack or digest that it names must be its own frame's,
 * a stack with a possible number of layers, else the request fails with EIO, as does the commit of such an entry; a record
 * that nobody names any more is free at the next start. A leaf's record is decoded from a copy. What an entry, a
 * bitmap, an epoch or a dirty bit says is believed: it may lose that volume what it has there, and nothing else.
 *
 * Data that may be gone
 * ---------------------
 * `lost` of a volume is set by the data blocker before it answers the SYNC that failed, and is
 * never taken back while the volume is open. A commit looks at it before it begins and once more
 * when its SYNC is answered; so of two SYNCs after a failure, whoever got the error, whichever
 * peer died between, none leads to a record. FLUSH, FUA, snapshots and freezes fail; reads and
 * writes go on as long as there is memory.
 */
#ifndef ARCHIPELAGO_VLMC_H
#define ARCHIPELAGO_VLMC_H

#include <errno.h>

#include "loop/peer.h"
#include "map/map.h"
#include "segment/barrier.h"

#define VLMC_CONTENTS XMAP_STACK_CLASSES    /* the class of digests, after those of stacks */
#define VLMC_CLASSES (XMAP_STACK_CLASSES + 1)
#define VLMC_BLOCKER 0              /* targets, in the order of peers/vlmc.py */
#define VLMC_MAPPER 1
#define VLMC_JOURNAL 2

#define VLMC_BUSY_MAX 8192               /* blocks busy at one time */
#define VLMC_BUSY_BUCKETS 2048
#define VLMC_DIRTY_SOFT 4096             /* dirty entries of a volume that start a commit */
#define VLMC_DIRTY_HARD 8192             /* ... that make writers wait for it */
#define VLMC_DIRTY_SHARE 8               /* a volume may have one frame in so many dirty, before writers wait */
#define VLMC_COMMIT_RECORDS 32           /* records (1 MiB each) one commit may take */
#define VLMC_ZEROES_MAX (1ull << 30)     /* bytes of one WRITE_ZEROES or DISCARD */
#define VLMC_MERGE_CHUNKS 16             /* chunks copied at a time when a stack is merged */
#define VLMC_AHEAD_MAX 8192              /* blocks noted whose stacks are at their bound; others their first writes merge */
#define VLMC_AHEAD_AWAY 4                /* ... of which so many are copied at a time, */
#define VLMC_AHEAD_LOOKS 16              /* and so many looked at in a turn */
#define VLMC_DOUBT_MAX_NS 120000000000ull    /* requests are held back in doubt for so long at most */
#define VLMC_DOUBT_ASK_NS 100000000ull       /* between two questions to the blocker because of that */

/* What a child is for. */
enum vlmc_child_kind {
    VLMC_CHILD_READ = 1,                 /* into the parent's data */
    VLMC_CHILD_STATUS,                   /* whether an object is zeros */
    VLMC_CHILD_DIRECT,                   /* write that changes no entry */
    VLMC_CHILD_NEW,                      /* first write to a block of zeros: publish its object */
    VLMC_CHILD_FIRST,                    /* write of whole chunks: set their bits. Block shared */
    VLMC_CHILD_FILL_READ,                /* chunk to be filled up, on its way in. Exclusive */
    VLMC_CHILD_FILL_WRITE,               /* ... merged, on its way out. Exclusive */
    VLMC_CHILD_DROP,                     /* discard of a whole block with a stack. Exclusive */
    VLMC_CHILD_MERGE_READ,               /* stack being merged: see vlmc/merge.c. Exclusive */
    VLMC_CHILD_MERGE_WRITE,
    VLMC_CHILD_AHEAD_READ,               /* the same in the background, for no request: see vlmc/ahead.c. Exclusive */
    VLMC_CHILD_AHEAD_WRITE,
    VLMC_CHILD_LOAD,                     /* leaf page */
    VLMC_CHILD_SYNC,                     /* of a commit */
    VLMC_CHILD_COMMIT,                   /* one of its records, to the mapper */
    VLMC_CHILD_APPEND,                   /* one, to the journal */
    VLMC_CHILD_ASK                       /* whether what is in memory may be believed */
};

/* What is kept with a child. */
struct vlmc_note {
    uint32_t kind;                  /* enum vlmc_child_kind */
    union {
        uint32_t frame;             /* LOAD: its number */
        uint32_t slot;              /* SYNC, COMMIT, APPEND, AHEAD: the volume's */
        uint32_t stack;             /* MERGE: number of the new one */
        uint32_t cursor;            /* FILL: where in the parent's data its bytes are */
        uint32_t extent;            /* STATUS: number of its block's */
    };
    uint64_t block;                 /* all others: which it is about */
    union {
        struct {
            uint32_t offset;        /* of the parent's bytes, in the chunk */
            uint32_t length;        /* how many; of an OWN: bytes from the child's on that are to be written still */
        } fill;
        struct {
            uint32_t next;          /* the chunk to look at next. Those read or written are before it */
            uint32_t layers;        /* a bit for each layer that is merged */
        } merge;
    };
};
XREQ_SENDER(note_of, struct vlmc_note)

/* Whether an object that is not the volume's own was missing. The map may name others in its place by now, which the
 * mapper is asked for once. */
enum vlmc_missed { VLMC_MISSED_NONE = 0, VLMC_MISSED_NOW, VLMC_MISSED_BEFORE };

/* A volume request's state. */
struct vlmc_io {
    uint32_t outstanding;           /* children, + 1 while it runs */
    int32_t error;
    uint64_t cursor;                /* bytes dealt with */
    uint32_t extents;               /* BLOCK_STATUS: how many so far */
    uint32_t extent_alone;          /* ... and the last is of one block, whose object is asked about */
    uint32_t is_write;
    uint32_t noted;                 /* vlmc_order_note() has counted it */
    uint32_t missed;                /* enum vlmc_missed */
};
XREQ_HOLDER(io_of, struct vlmc_io)

/* What a step is about: a part of a request that lies in one block. */
struct vlmc_piece {
    struct xreq *req;
    struct xframe *frame;           /* has its entry */
    uint64_t block;
    uint64_t offset;                /* bytes, in the block */
    uint64_t length;                /* bytes, at least 1; the step may do fewer */
};

struct vlmc_busy {
    uint32_t next;                  /* in its bucket or the free list: number + 1 */
    uint32_t slot;
    uint64_t block;
    uint32_t shared;
    bool exclusive;
    struct queue waiting;
};

/* Chunks of one layer. */
struct vlmc_run {
    uint64_t first, end;
    uint32_t layer;
};

/* A block whose stack is to be merged in the background. */
struct vlmc_ahead {
    uint64_t id;                    /* of its volume */
    uint64_t block;
    uint32_t slot;
    uint32_t layers;                /* a bit for each that is merged; 0: not chosen yet */
    uint32_t next;                  /* the chunk to look at next */
};

/* A port's requests on a volume that change it and are not answered: all of one life. */
struct vlmc_writer { uint32_t life, changing; };

enum vlmc_commit_state { VLMC_COMMIT_IDLE = 0, VLMC_COMMIT_SYNC, VLMC_COMMIT_APPEND };

/* vlmc's own side of a volume slot; rebuilt from the segment when it starts. */
struct vlmc_volume {
    uint32_t generation;            /* of the xvolume this belongs to; 0: none yet */
    uint32_t block_shift;           /* of it, as they were when it was opened; 0: they made no sense */
    uint64_t id;
    uint32_t last_frame;            /* where the last lookup ended: number + 1 */
    uint64_t in_flight;             /* requests begun and not answered */
    uint64_t writes;                /* of these, writes */
    uint64_t hold_writes_ns;        /* since when a snapshot holds writes back, CLOCK_MONOTONIC; 0: none does */
    bool hold_all;
    bool closed;                    /* VOL_CLOSE was served: its slot is about to be freed */
    uint32_t epoch_captured;        /* in the commit under way */
    struct queue held;
    struct vlmc_writer writer[XSEG_PORTS];
    uint32_t changing;              /* of all ports */
    struct queue behind;            /* waits for a dead port's */
    uint32_t dirty_frames;          /* list through frames' dirty_next: number + 1 */
    uint32_t dirty_entries;
    uint32_t committing_entries;    /* in the commit under way */
    uint32_t dirty_frame_count;     /* in that list and in committing_frames */
    enum vlmc_commit_state commit;
    bool draining;                  /* its SYNC is that of a volume that is given up: see refuse_commits() */
    bool commit_wanted;             /* start one as soon as possible */
    struct queue flushing;          /* answered by the commit under way */
    struct queue flushes;           /* by the next one */
    uint32_t snapshot;              /* VOL_SNAPSHOT in the commit under way: slot + 1 */
    struct queue snapshots;
    struct queue freezes;           /* VOL_FREEZE, VOL_CLOSE waiting for quiet */
    uint32_t record[VLMC_COMMIT_RECORDS];    /* children, unsent: slot + 1 */
    uint32_t record_count, record_sent;
    uint32_t committing_frames;     /* list like dirty_frames */
};

/* vlmc's own side of a frame. */
struct vlmc_frame {
    uint64_t id;                    /* of its volume; 0: free */
    uint64_t leaf;
    uint64_t used;                  /* loop turn of the last use: eviction takes the oldest */
    uint32_t slot;
    uint32_t block_shift;
    uint32_t pins;
    uint32_t contents;              /* digests that it owns */
    bool valid;                     /* entries may be used */
    bool stale;                     /* an object that it names was missing: it is to be loaded anew */
    bool listed;                    /* in its volume's dirty_frames */
    bool committing;                /* in its volume's committing_frames */
    uint32_t dirty_next;
    uint32_t committing_next;
    struct queue waiting;           /* for its load */
};

struct vlmc {
    struct peer *peer;
    struct xseg *seg;
    struct vlmc_volume *volumes;    /* by their places in the segment */
    uint32_t volume_end;            /* beyond the last place that was ever used */
    struct vlmc_frame *frames;
    uint8_t *record;                /* a leaf's record on its way in: a copy, so that it stays as it was checked */
    uint32_t *stack_owner[VLMC_CLASSES];    /* whose each stack or digest is: frame number + 1; 0: free */
    uint32_t *stack_free[VLMC_CLASSES];
    uint32_t stack_free_count[VLMC_CLASSES];
    struct vlmc_busy *busy;
    uint32_t busy_bucket[VLMC_BUSY_BUCKETS];
    uint32_t busy_free;
    struct vlmc_ahead *ahead;       /* a ring */
    uint32_t ahead_first, ahead_count;
    uint32_t ahead_away;            /* portions under way, which are not in the ring */
    uint64_t turn;
    uint32_t layers_max;            /* a stack of so many is merged before it takes another */
    struct queue ready;             /* requests that were woken: to be run in this turn */
    uint64_t look[XSEG_VOLUMES / 64];   /* a bit a volume slot: to be looked at in this turn, whatever for */
    bool looks;                     /* one is set */
    bool commits_wanted;            /* some volume's commit_wanted is set */
    bool order_moved;               /* what a volume's `behind` waits for may be done */
    uint64_t alive_ns[XSEG_PORTS];  /* the port's process was seen alive for what came in then */
    bool doubted;                   /* requests are held back until the header's trusted_until_ns moves */
    uint64_t doubted_ns;            /* since when */
    bool settled;                   /* appends of the last life are in doubt, not under way: vlmc_append_settle() */
    bool asking;                    /* the blocker, to look whether that is true */
    uint64_t asked_ns;              /* when it was asked last */
};

/* Result of a step: bytes dealt with, or the request has been put on a queue. */
#define VLMC_STEP_WAIT 0

static inline struct xvolume *xvolume_of(const struct vlmc *v, const struct xreq *req)
{
    return &v->seg->volumes[req->volume - 1];
}
static inline struct vlmc_volume *volume_of(const struct vlmc *v, const struct xreq *req)
{
    return &v->volumes[req->volume - 1];
}
static inline uint64_t block_size(const struct vlmc_volume *volume) { return 1ull << volume->block_shift; }
static inline uint32_t stack_class(const struct vlmc_volume *volume) { return map_stack_class(volume->block_shift); }
static inline void data_written(struct xvolume *vol)
{
    store_relaxed(&vol->dirty, vol->dirty | XDIRTY_WRITTEN);
}
static inline bool is_content(const struct xentry *entry) { return entry->volume == XENTRY_CONTENT; }
static inline bool is_own(const struct vlmc *v, uint32_t slot, const struct xentry *entry)
{
    return entry->volume == v->volumes[slot].id && entry->epoch >= v->seg->volumes[slot].writable_since;
}
static inline struct xobj own_object(const struct vlmc_volume *volume, uint32_t epoch, uint64_t block)
{
    return (struct xobj){ .kind = XOBJ_DATA, .epoch = epoch, .volume = volume->id, .index = block };
}

/* vlmc/volume.c */
/* The volume is to be looked at in this turn: a commit may begin, or what was held back go on. */
void vlmc_look(struct vlmc *v, uint32_t slot);
/* It shall commit as soon as possible, whoever asks for it. */
void vlmc_commit_want(struct vlmc *v, uint32_t slot);
bool vlmc_volume_is_open(const struct xvolume *vol);
/* A slot that was given to another volume starts anew. False: it says so while requests on it are under way,
 * or what it says of the volume makes no sense. */
bool vlmc_volume_refresh(struct vlmc *v, uint32_t slot);
/* Each volume that is open already goes on as the last life left it. What came of a SYNC that was under way
 * is not known, so it counts for nothing. */
void vlmc_volumes_adopt(struct vlmc *v);
/* False: its epoch is so far ahead of what is durable that the next life of the volume might use one again. */
bool vlmc_epoch_may_rise(const struct vlmc *v, uint32_t slot);
/* After a write to a new object failed: what it may have left there must never come to light,
 * so objects made from now on carry another epoch. */
void vlmc_epoch_leave(struct vlmc *v, uint32_t slot);

/* vlmc/io.c */
/* Those that wait there are run in this turn. */
void vlmc_wake(struct vlmc *v, struct queue *queue);
/* A child for a piece, on an object. It borrows the request's data at the cursor, when there are some.
 * NULL: no slot; the request has been parked. */
struct xreq *vlmc_child(struct vlmc *v, const struct vlmc_piece *piece, enum vlmc_child_kind kind,
                        const struct xobj *object);
void vlmc_send(struct vlmc *v, struct xreq *child);
/* Answers a request that is at its end and has no child out. */
void vlmc_io_finish(struct vlmc *v, struct xreq *req);
/* For a request that waits on no queue any more: it goes no further. */
void vlmc_io_fail(struct vlmc *v, struct xreq *req, int error);
/* Result of a step that met an entry or a stack that makes no sense: the request fails. */
uint64_t vlmc_io_damaged(struct vlmc *v, struct xreq *req);
void vlmc_io_child_done(struct vlmc *v, struct xreq *child, int error);
/* Answers every request of a queue. */
void vlmc_answer_all(struct vlmc *v, struct queue *queue, int error);

/* vlmc/steps.c */
/* Runs a request until it waits or is at its end. */
void vlmc_io_run(struct vlmc *v, struct xreq *req);

/* vlmc/stacks.c */
uint32_t vlmc_frame_number(const struct vlmc *v, const struct xframe *frame);
/* Of the frame's volume. */
uint32_t vlmc_frame_block_shift(const struct vlmc *v, const struct xframe *frame);
uint32_t vlmc_frame_stack_class(const struct vlmc *v, const struct xframe *frame);
/* The stack that an entry of this frame names. NULL: it has none, or one that makes no sense or is another
 * frame's: see "Scribbled maps". */
struct xstack *vlmc_stack_of(const struct vlmc *v, const struct xframe *frame, const struct xentry *entry);
/* Copies it. False: it makes no sense. */
bool vlmc_stack_copy(const struct vlmc *v, const struct xframe *frame, const struct xentry *entry, struct xstack *copy);
/* The digest that an entry names which is one content. False: it makes no sense, or is another frame's. */
bool vlmc_content_of(const struct vlmc *v, const struct xframe *frame, const struct xentry *entry, uint8_t digest[32]);
/* What an entry names, a stack, a digest or nothing more, makes sense. */
bool vlmc_entry_ok(const struct vlmc *v, const struct xframe *frame, const struct xentry *entry);
/* How many records of a class there are. */
uint32_t vlmc_record_count(const struct vlmc *v, uint32_t class);
/* Gives back the stack or digest that an entry names, if it is this frame's. */
void vlmc_record_give(struct vlmc *v, const struct xframe *frame, const struct xentry *entry);
/* The same for a stack. */
void vlmc_stack_give(struct vlmc *v, const struct xframe *frame, uint32_t stack);
struct xstack *vlmc_stack_at(const struct vlmc *v, uint32_t class, uint32_t stack);
/* How many layers, 1..XMAP_LAYERS whatever is written there. */
static inline uint32_t layers_of(const struct xstack *stack)
{
    uint32_t layers = load_relaxed(&stack->layers);

    return layers < 1 ? 1 : layers > XMAP_LAYERS ? XMAP_LAYERS : layers;
}
/* One of its bitmaps, of the size that the volume's block size says and not the record. */
static inline uint8_t *stack_bits(const struct vlmc_volume *volume, struct xstack *stack, uint32_t number)
{
    return (uint8_t *)(stack + 1) + number * map_bitmap_size(volume->block_shift);
}
/* Makes a stack record of our own object, in which no chunk lies yet, on top of the one object that an entry of the frame
 * names; */
void vlmc_stack_on_one(const struct vlmc *v, uint32_t slot, struct xstack *stack, const struct xframe *frame,
                       const struct xentry *below);
/* on top of all `layers` of another stack, fewer than XMAP_LAYERS; */
void vlmc_stack_on(const struct vlmc *v, uint32_t slot, struct xstack *stack, struct xstack *old, uint32_t layers);
/* on top of another's layers without those that `merged` has a bit for, whose chunks are to be copied into ours. */
void vlmc_stack_without(const struct vlmc *v, uint32_t slot, struct xstack *stack, struct xstack *old,
                        uint32_t merged);
/* How many chunks lie in each layer. */
void vlmc_stack_count(const struct vlmc_volume *volume, struct xstack *stack, uint32_t counts[XMAP_LAYERS]);
static inline bool bit_is_set(const uint8_t *bitmap, uint64_t bit)
{
    return bitmap[bit / 8] >> (bit % 8) & 1;
}
bool vlmc_bits_all_set(const uint8_t *bitmap, uint64_t first, uint64_t count);
/* Layer that chunk lies in. */
uint32_t vlmc_layer_of(const struct vlmc_volume *volume, struct xstack *stack, uint64_t chunk);

/* vlmc/frames.c */
int vlmc_frames_start(struct vlmc *v);
void vlmc_frames_stop(struct vlmc *v);
/* The frame that holds the block's entry. NULL: it is being loaded, or cannot be yet; the
 * request waits. */
struct xframe *vlmc_frame_get(struct vlmc *v, struct xreq *req, uint64_t block);
/* An object that the block's entry names is missing. */
void vlmc_frame_stale(struct vlmc *v, uint32_t slot, uint64_t block);
/* The same if it is there, without a wait or a load; else NULL. */
struct xframe *vlmc_frame_here(struct vlmc *v, uint32_t slot, uint64_t block);
/* The frame of a block that is pinned. */
struct xframe *vlmc_frame_pinned(struct vlmc *v, uint32_t slot, uint64_t block);
void vlmc_frame_pin(struct vlmc *v, const struct xframe *frame);
void vlmc_frame_unpin(struct vlmc *v, const struct xframe *frame);
void vlmc_frame_loaded(struct vlmc *v, struct xreq *child);
void vlmc_frames_forget(struct vlmc *v, uint32_t slot);
static inline struct xentry *entry_of(struct xframe *frame, uint64_t block)
{
    return &frame->entry[block % XMAP_LEAF];
}
/* An entry as it is now. */
static inline struct xentry entry_read(const struct xframe *frame, uint64_t block)
{
    struct xentry entry;

    read_once(&entry, &frame->entry[block % XMAP_LEAF], sizeof(entry));
    return entry;
}
/* Number + 1 of a free stack record, or of a free digest, for this frame, or 0: none, commits were asked for. */
uint32_t vlmc_stack_take(struct vlmc *v, const struct xframe *frame);
uint32_t vlmc_content_take(struct vlmc *v, const struct xframe *frame);
/* Counts the frame among the volume's dirty ones: an entry of it changes soon. */
void vlmc_frame_dirty(struct vlmc *v, uint32_t slot, struct xframe *frame);
/* True if the volume must commit before one more entry of this frame changes. */
bool vlmc_frame_too_dirty(struct vlmc *v, uint32_t slot, const struct xframe *frame);
/* Marks an entry changed. To be called before it changes. */
void vlmc_entry_dirty(struct vlmc *v, uint32_t slot, struct xframe *frame, uint64_t block);
void vlmc_entry_publish(struct xentry *entry, uint64_t volume, uint32_t epoch, uint32_t stack);

/* vlmc/missed.c */
/* How a child that has read an object of the map ended. The map says that it is there: that it is not is damage, and no
 * hole, unless the mapper has not been asked once more what there is. */
int vlmc_object_error(struct vlmc *v, struct xreq *child);

/* vlmc/read.c */
uint64_t vlmc_read_step(struct vlmc *v, struct vlmc_piece *piece);
uint64_t vlmc_status_step(struct vlmc *v, struct vlmc_piece *piece);
void vlmc_status_done(struct vlmc *v, struct xreq *child);

/* vlmc/write.c */
uint64_t vlmc_write_step(struct vlmc *v, struct vlmc_piece *piece);
void vlmc_write_done(struct vlmc *v, struct xreq *child);

/* vlmc/busy.c */
int vlmc_busy_start(struct vlmc *v);
/* True: the block is busy, and the request waits until it is not. */
bool vlmc_busy_wait(struct vlmc *v, const struct vlmc_piece *piece);
/* Takes a block for a request, which waits if that cannot be yet. */
bool vlmc_busy_share(struct vlmc *v, const struct vlmc_piece *piece);
bool vlmc_busy_take(struct vlmc *v, const struct vlmc_piece *piece);
/* The same for no request. False: it is busy, or there is no room. */
bool vlmc_busy_try(struct vlmc *v, uint32_t slot, uint64_t block, const struct xframe *frame);
/* Those that waited are woken when nobody has it any more. */
void vlmc_busy_release(struct vlmc *v, uint32_t slot, uint64_t block);

/* vlmc/merge.c */
/* Begins to merge `old`, of so many `layers`, into the record `number`. True: nothing was to be copied, it is done.
 * Else the request waits: on the busy block, which it has taken, or for memory. */
bool vlmc_merge_start(struct vlmc *v, const struct vlmc_piece *piece, uint32_t number, struct xstack *old,
                      uint32_t layers);
void vlmc_merge_done(struct vlmc *v, struct xreq *child);

/* vlmc/ahead.c */
int vlmc_ahead_start(struct vlmc *v);
/* Notes the block if this stack, which it has now, is at its bound. */
void vlmc_ahead_want(struct vlmc *v, uint32_t slot, uint64_t block, const struct xstack *stack);
/* Goes on with what is noted, as far as it may. */
void vlmc_ahead_go_on(struct vlmc *v);
void vlmc_ahead_done(struct vlmc *v, struct xreq *child);

/* vlmc/chunks.c */
/* A bit for each layer from `first` on, of so many there are, that is to be merged: those in which no chunk lies, or
 * else about equal ones. */
uint32_t vlmc_chunks_choose(const struct vlmc_volume *volume, struct xstack *stack, uint32_t first, uint32_t layers);
/* The next chunks, from run->end on, that lie together in one of these layers, VLMC_MERGE_CHUNKS at most. False: none. */
bool vlmc_chunks_run(const struct vlmc_volume *volume, struct xstack *stack, uint32_t layers, struct vlmc_run *run);
/* Notes that chunks are in the volume's own layer. EIO: the entry or its stack makes no sense. */
int vlmc_set_chunks(struct vlmc *v, uint32_t slot, uint64_t block, uint64_t first, uint64_t count);

/* vlmc/own.c */
bool vlmc_own_block(struct vlmc *v, const struct vlmc_piece *piece);
uint64_t vlmc_fill_chunk(struct vlmc *v, const struct vlmc_piece *piece);
uint64_t vlmc_own_step(struct vlmc *v, struct vlmc_piece *piece);
void vlmc_fill_done(struct vlmc *v, struct xreq *child);

/* vlmc/order.c */
/* True: the request waits in `behind` for those of a port that has died. */
bool vlmc_order_wait(struct vlmc *v, struct xreq *req);
/* The request will change the volume. Once counted, it counts until vlmc_order_done(), when it is answered. */
void vlmc_order_note(struct vlmc *v, struct xreq *req);
void vlmc_order_done(struct vlmc *v, struct xreq *req);

/* vlmc/capture.c */
/* Encodes all dirty entries into the records of a commit. On failure everything is dirty as before. */
int vlmc_capture(struct vlmc *v, uint32_t slot, bool mark);
/* A commit has ended: its entries are dirty again, or clean. */
void vlmc_capture_end(struct vlmc *v, uint32_t slot, bool again);
/* Gives back the records from `from` on. */
void vlmc_capture_free(struct vlmc *v, struct vlmc_volume *volume, uint32_t from);

/* vlmc/append.c */
/* Sends a record's child to the journal, if the mapper has handed out a place for it. False: the mapper must have it. */
bool vlmc_append(struct vlmc *v, uint32_t slot, struct xreq *child);
/* Such a child has come back. */
void vlmc_append_done(struct vlmc *v, const struct xreq *child);
/* To be called when all that the last life had sent has come back: nobody knows how its appends ended. */
void vlmc_append_settle(struct vlmc *v);

/* vlmc/commit.c */
void vlmc_flush_request(struct vlmc *v, struct xreq *req);
void vlmc_snapshot_request(struct vlmc *v, struct xreq *req);
void vlmc_freeze_request(struct vlmc *v, struct xreq *req);
void vlmc_thaw_request(struct vlmc *v, struct xreq *req);
/* Starts whatever the volume's queues ask for and its state allows. */
void vlmc_commit_kick(struct vlmc *v, uint32_t slot);
void vlmc_commit_synced(struct vlmc *v, struct xreq *child);
void vlmc_commit_appended(struct vlmc *v, struct xreq *child);

#endif
