/* SPDX-License-Identifier: Apache-2.0
 *
 * segment/layout.h - everything that lies in the shared-memory segment, declared once.
 *
 * The cffi declarations of xseg/ are generated from this file, so it holds only
 * what both a C compiler and cffi's parser read: enums, structs, fixed arrays.
 * What depends on a size or offset is asserted in segment/segment.c. A hash of this text without its comments
 * (XSEG_LAYOUT, made by xseg/_build.py) stands in the segment's header: processes of another build do not join.
 *
 * The segment
 * -----------
 * One file in /dev/shm per instance, for its owner alone: who can write to it can have the pipeline do anything. Its
 * name cannot be guessed, and only its owner's processes join it, if it is his (segment/ours.h, xseg/segment.py).
 * All its memory is taken when it is made (xseg_format): a page that cannot be had when it is first touched is a SIGBUS
 * for whoever touches it, and for his successor. In order:
 *
 *     xheader            magic, version, bounds, offsets of everything below
 *     xbell[]            doorbells, one per sleeping thread ("Doorbells" in segment/xseg.h)
 *     xport[]            ports: inbox, identity, counters
 *     xroute[]           edges of the pipeline: "who sends what to whom"
 *     xslot[]            request slots
 *     buffer owners      one word per data buffer: who holds it
 *     xvolume[]          open volumes
 *     locks              one word per lock of the mapper: the volume's id
 *     map frames         leaf pages of open volumes, and the stacks and digests they point to
 *     data buffers       4 KiB aligned, three classes
 *
 * Links are slot numbers, never pointers. Nothing here is ever locked: each word has
 * one writer, or changes by one atomic operation.
 *
 * Who can hurt whom
 * -----------------
 * A process that may write to the segment may read and change the data of all volumes in it, and
 * no check in here could prevent that: so it is only open to its owner, or to those he lets in. But
 * a member that is out of its mind, and writes what it likes where it likes, does not
 * crash the others or make them loop, and what it hits is all that it costs:
 *
 *   - Bounds and places (how many slots, buffers, frames; where they are; which slots are a port's) are checked
 *     when a process joins and kept in its struct xseg. The words for them here are for who looks.
 *   - A port has a copy of each request in its hands (struct xreq), made in one read when it comes and checked
 *     then. All that a peer does with it, its scratch, its queues and its children, lies there. What was sent
 *     is known from the copy that its sender has kept, of which an answer changes `error`, `flags`, `offset`,
 *     `done` and `arg`. Data are bytes among the data buffers or none.
 *   - A list is followed as far as its slots are the port's own to take in, and so many steps as there are
 *     slots. A request that fell out of one, as some word of it or of its neighbour was
 *     overwritten, is put back by its sender: whoever has had one away for a second looks whether it is where
 *     it says. One that says something impossible is sent anew.
 *   - A slot that says another port sent it than its own is answered with EINVAL; an answer nobody
 *     waits for is not one. `bad` of a port counts what made no sense, and the log is told once a minute.
 *
 *   - vlmc knows privately what its frames and stacks are ("Scribbled maps" in vlmc/parts.h). What they, and the
 *     slots of volumes, hold is believed: a word of a volume's map or of its slot may damage that volume, or end
 *     what is done with it.
 *
 * So a slot that is overwritten costs a second, or the request in it: it fails, is served as what it now says, or,
 * if it says falsely that it is being served, is served when the process it was sent to is restarted. Two
 * requests at the same data buffer, by a word of its owner, spoil each other's bytes. A port's `tag` or
 * `incarnation` tells others that its process died, and they do what follows from that. A route
 * that leads nowhere fails what is sent over it, and one to a port that nobody serves lets it wait.
 *
 * Ownership of a request
 * ----------------------
 * A slot belongs to the range of the port that created it (`src`), which alone
 * takes it from its free list and puts it back. Between, it is at one place only:
 *
 *     FREE --get--> HELD by src --send--> QUEUED at dst --receive--> HELD by dst
 *       ^                                                               |
 *       +--put-- HELD by src <--receive-- REPLIED at src <----reply-----+
 *
 * `owner` names the port that holds (HELD) or will drain (QUEUED, REPLIED) it. A
 * peer that needs something from another peer to serve a request makes a child in
 * its own range (`parent` names the one it serves), and never passes the parent on.
 * So a reply always goes to `src`, and what a dead peer held is found by a scan:
 *
 *   1. children it had made: wait until each comes back, then free it;
 *   2. requests it was serving: only then take them in again, before what is in its inbox.
 *
 * The order matters: a child write still under way must not land after its replay
 * has been acknowledged. Only what goes against the pipeline's direction is not waited
 * for (XREQ_ASIDE: the mapper to vlmc), as both sides would wait for ever.
 *
 * So any request may be served twice, and what the first server did to the slot must not mislead the
 * second. The next cursor of LIST and NAMES is written over theirs: a LIST or NAMES that is taken in
 * again has the `arg` it was `asked` with. Elsewhere `arg` stays: the mapper notes there how far
 * it has come with a CONTROL, an OPEN, a CLOSE.
 *
 * Between lives
 * -------------
 * A client whose connection has ended, or whose process was killed, does not know which of its writes were done. What
 * it asks or writes next is a request of another life: of another connection, incarnation or port. No such
 * request is served while a write of the dead one may yet take effect, on any path and whoever dies:
 *
 *   - Nobody answers before its children have come back, and a blocker's new life begins when the kernel or the
 *     cluster does no more for the old one (blocker_file/parts.h, blocker_rados/parts.h). So a write is over for
 *     good once it was answered, and until then its slot says so: it is QUEUED or HELD somewhere, and is taken in
 *     again if its holder dies. Which processes die, and whether at once, makes no difference to that.
 *   - The endpoint's successor begins no command on a volume before all that the dead life had sent for it was
 *     answered. Nothing of that needs the successor, so this ends; negotiation goes on meanwhile, and so do commands
 *     on other volumes.
 *   - An endpoint that lives begins no command on a volume while what an earlier connection to it, which has ended,
 *     left there is away ("Order" in nbd/parts.h).
 *   - Other ports that have the volume open are held back by vlmc, where all meet: it begins nothing on a volume while
 *     writes of a dead life are with it ("The dead" in vlmc/parts.h). Its inbox keeps the order in which requests
 *     were sent, and its successor takes those of the dead in before all others. So whoever learned of a death, and
 *     then sent something, comes after what the dead one had sent.
 *   - A volume is closed, and its lock given back, when vlmc has nothing under way on it, of the living or the dead:
 *     VOL_CLOSE waits for that, and what comes later is refused (ESTALE). A vlmc that was restarted serves it, as
 *     all else, when its own children are home. So another node that opens the volume comes after all of it.
 *
 * Two that use a volume at the same time, and both live, are not ordered by this: that is theirs to do.
 */
#ifndef ARCHIPELAGO_LAYOUT_H
#define ARCHIPELAGO_LAYOUT_H

enum xlimit {
    XSEG_MAGIC = 0x47455358,        /* "XSEG" */
    XSEG_VERSION = 1,
    XSEG_STATIC_PORTS = 32,         /* ports of roles; the rest is for clients */
    XSEG_PORTS = 512,               /* at most: how many clients there are is told when the segment is made */
    XSEG_BELLS = XSEG_PORTS + XSEG_STATIC_PORTS,    /* at most: one a port, and some for who only looks */
    XSEG_ROUTES = 64,
    XSEG_VOLUMES = 65536,           /* open at one time, at most: how many is told when the segment is made */
    XSEG_VERB_LOCKS = 1024,         /* places for locks of verbs under way, beside those of open volumes */
    XSEG_CLASSES = 3,               /* buffer sizes: 4 KiB, 64 KiB, 1 MiB */
    XSEG_IO_MAX = 1048576,          /* bytes of one request's data at most */
    XSEG_ROLE_MAX = 32,             /* bytes, with the final NUL */
    XSEG_EDGE_MAX = 64,             /* bytes of "from>to", with the final NUL */
    XSEG_NAME_MAX = 255,            /* bytes of a volume's name, without NUL */
    XSEG_PATH_MAX = 192,            /* bytes of the doorbell folder, with NUL */
    XSEG_WHY_MAX = 256,             /* bytes of a sentence, with the final NUL */
    XSEG_TIMED = 3,                 /* kinds of requests whose latency is told: READ, WRITE, others */
    XSEG_LATENCY_BUCKETS = 24,      /* bucket i counts [2^i, 2^(i+1)) microseconds */
    XSEG_NONE = 0,                  /* "no request/buffer": numbers are stored + 1 */
    XSEG_FENCED = 1,                /* of trusted_until_ns: what is in memory is no longer true */

    XMAP_LAYERS = 32,               /* objects one block's bytes may lie in, at most */
    XMAP_BITMAPS = 6,               /* of a stack: see struct xstack */
    XMAP_CHUNK = 4096,              /* bytes one bit of a bitmap stands for */
    XMAP_LEAF = 1024,               /* entries of a leaf page */
    XMAP_WAYS = 8,                  /* frames a leaf may be found in */
    XMAP_STACK_CLASSES = 3,         /* bitmaps of 8, 128, 512 bytes a layer */
    XMAP_BLOCK_MIN_SHIFT = 16,      /* 64 KiB */
    XMAP_BLOCK_MAX_SHIFT = 24       /* 16 MiB */
};

enum xop {
    XOP_PING = 0,
    /* The same four on a volume (volume != 0) and on an object (volume == 0). */
    XOP_READ = 1, XOP_WRITE = 2, XOP_WRITE_ZEROES = 3, XOP_DISCARD = 4,
    /* On a volume, at vlmc. */
    XOP_FLUSH = 5, XOP_BLOCK_STATUS = 6, XOP_CACHE = 7,
    /* On a volume, mapper to vlmc. */
    XOP_VOL_SNAPSHOT = 8, XOP_VOL_CLOSE = 9, XOP_VOL_FREEZE = 10, XOP_VOL_THAW = 11,
    /* On a volume, at the mapper. CONTROL's answer, and the sentence of an OPEN that failed (done bytes), lie at
     * `offset` of its data, behind the `size` bytes that were sent. */
    XOP_OPEN = 12, XOP_CLOSE = 13, XOP_NAMES = 14, XOP_CONTROL = 15,
    XOP_MAP_LOAD = 16, XOP_MAP_COMMIT = 17,
    /* On an object, at a blocker. See objects/blocker.h for the contract. INFO at the mapper: data = a volume's name,
     * answered by a struct xinfo in its place; nothing is opened. */
    XOP_SYNC = 18, XOP_INFO = 19, XOP_LIST = 20, XOP_COPY = 21, XOP_DELETE = 22,
    XOP_REPLACE = 23, XOP_ACQUIRE = 24, XOP_RELEASE = 25, XOP_HASH = 26,
    XOP_PUT = 27, XOP_CLAIM = 28,
    /* At the mapper: what of [offset, offset + size) of an open volume differs from the one whose id is `arg`. Answered
     * as BLOCK_STATUS is, by runs of enum xextent_diff, and, as that, maybe not up to the end. */
    XOP_DIFF = 29,
    /* On a volume, at vlmc: what [offset, offset + size) holds comes to lie in the volume's own objects alone, whole
     * chunks at either end. The bytes stay, and whoever writes some meanwhile has them written. */
    XOP_OWN = 30,
    XOP_COUNT = 31
};

enum xflag {
    XREQ_FUA = 1,                   /* durable when the reply comes */
    XREQ_NO_HOLE = 2,               /* WRITE_ZEROES: allocate, do not punch */
    XREQ_FORCE = 4,                 /* RELEASE, CLOSE, SYNC: see objects/blocker.h, map/map.h */
    XREQ_READONLY = 8,              /* OPEN: no writes will come */
    XREQ_SNAPSHOT_MARK = 16,        /* MAP_COMMIT: this record ends a snapshot */
    XREQ_MORE = 32,                 /* in a reply: ask again for the rest */
    XREQ_CREATE = 64,               /* REPLACE: the object must not exist yet. WRITE: it hardly will */
    XREQ_ASIDE = 128,               /* to a peer that serves it only with the sender's help: a
                                     * restarted sender must not wait for it to come back */
    XREQ_FROZEN = 256,              /* HASH: the object is never written again */
    XREQ_VERSIONS = 512,            /* LIST of headers: see objects/blocker.h */
    XREQ_ZEROS = 1024               /* INFO: whether all of it reads as zeros is asked, and in a reply, that it does */
};

enum xstate { XREQ_FREE = 0, XREQ_HELD = 1, XREQ_QUEUED = 2, XREQ_REPLIED = 3 };

/* What an object holds; also the namespace that LIST walks. */
enum xkind {
    XOBJ_NONE = 0,
    XOBJ_DATA = 1,                  /* (volume, epoch, block number) */
    XOBJ_CONTENT = 2,               /* SHA-256 of the bytes without trailing zeros */
    XOBJ_HEADER = 3,                /* (volume) */
    XOBJ_NAME = 4,                  /* SHA-256 of the volume's name */
    XOBJ_PAGE = 5,                  /* (volume, epoch, page number) */
    XOBJ_JOURNAL = 6,               /* (volume, epoch, journal number) */
    XOBJ_LOCK = 7,                  /* (volume) */
    XOBJ_KINDS = 8
};

/* An object's whole name: fixed size, no strings on the I/O path. Unused members
 * are zero, so two names are equal when their 40 bytes are. */
struct xobj {
    uint32_t kind;                  /* enum xkind */
    uint32_t epoch;
    union {
        struct { uint64_t volume; uint64_t index; uint64_t zero[2]; };
        uint8_t digest[32];
    };
};

/* A request slot as it lies in the segment: what travels. What a port knows of a request in its hands, it
 * knows from a copy of its own (struct xreq in segment/xseg.h); see "Who can hurt whom" above. */
struct xslot {
    /* who has it */
    uint32_t next;                  /* atomic; link of an inbox: slot number + 1 */
    uint32_t state;                 /* atomic; enum xstate */
    uint32_t index;                 /* its own slot number, for who looks */
    uint32_t incarnation;           /* of src when it took the slot */
    uint16_t src;                   /* port that created it and gets the reply */
    uint16_t dst;                   /* port it was last sent to */
    uint16_t owner;                 /* port that holds it or will drain it */
    uint16_t orphan;                /* src died meanwhile and frees it on its return; for who looks */
    uint64_t flow;                  /* the endpoint's request this one serves, for tracing */
    uint64_t sent_ns;               /* CLOCK_MONOTONIC */
    uint32_t parent;                /* request it serves, slot number + 1 */
    uint32_t reserved1;
    uint64_t received_ns;           /* when dst took it in hand */
    uint64_t asked;                 /* `arg` as it was sent: its server may have changed that and died */
    /* what is asked, and the answer: as in struct xreq */
    uint16_t op;                    /* enum xop */
    uint16_t flags;                 /* enum xflag */
    int32_t error;                  /* in a reply: 0 or a negative errno */
    uint32_t volume;                /* slot in xvolume[] + 1; 0: an object is meant */
    uint32_t buffer;                /* buffer that goes with it + 1; 0: none, or borrowed */
    uint64_t offset;                /* bytes, in the volume or the object */
    uint64_t size;                  /* bytes asked for */
    uint64_t data;                  /* bytes from the segment's start to the data; 0: none */
    uint32_t data_size;             /* bytes there are at data */
    uint32_t generation;            /* of the volume's place, when its sender opened it; 0: it does not say */
    uint64_t done;                  /* in a reply: bytes served, or as the op says */
    uint64_t arg;                   /* as the op says */
    struct xobj object;
    uint64_t pad[3];
};

struct xport {
    uint32_t head;                  /* atomic; inbox: slot number + 1 of the newest, 0 = empty */
    uint32_t draining;              /* top of the list being taken out of the inbox */
    uint64_t tag;                   /* atomic; the process that serves it (segment/process.h); 0: none */
    uint32_t incarnation;           /* grows with each bind */
    uint32_t bell;
    int32_t pid;
    uint32_t first;                 /* its slots are [first, first + count) */
    uint32_t count;
    uint32_t ready;                 /* the peer's start has finished */
    char role[XSEG_ROLE_MAX];       /* empty: a free dynamic port */
    char type[XSEG_ROLE_MAX];
    char process[XSEG_ROLE_MAX];    /* the process the configuration puts it in */
    uint64_t bound_ns;              /* CLOCK_REALTIME of the bind */
    uint64_t buffers_held[XSEG_CLASSES];  /* buffers of each class this port holds */
    uint64_t buffers_max[XSEG_CLASSES];  /* its quota */
    uint64_t sending;               /* slot number + 1 being put into another's inbox; 0: none */
    /* counters; the owner alone writes them */
    uint64_t received;              /* requests that came in */
    uint64_t served;                /* replies sent */
    uint64_t errors;                /* of these, with an error */
    uint64_t sent;                  /* requests sent on */
    uint64_t bytes_read;            /* data bytes of READs served */
    uint64_t bytes_written;
    uint64_t rings;                 /* doorbells rung */
    uint64_t wakes;                 /* times its loop slept and was woken */
    uint64_t no_request;            /* times its slots had run out */
    uint64_t no_buffer;             /* times no buffer could be had */
    uint64_t recovered;             /* requests put back into its inbox after a death */
    uint64_t dropped;               /* replies to an earlier incarnation */
    uint64_t bad;                   /* slots and links it met that made no sense */
    uint64_t in_doubt;              /* atomic; of a blocker: changes that timed out, and may yet be done */
    uint64_t refused;               /* of an endpoint: connections that it did not take, or that lost their place */
    uint64_t latency_us[XSEG_TIMED][XSEG_LATENCY_BUCKETS];  /* time until a sent request came back */
};

struct xbell {
    uint32_t sleeping;              /* atomic; the owner sleeps or is about to */
    uint32_t pad0;
    uint64_t tag;                   /* atomic; the process it wakes (segment/process.h); 0: none */
    uint64_t pad[6];
};

/* An edge: where `from` sends what is meant for the role `to`. */
struct xroute {
    uint32_t port;                  /* atomic */
    uint32_t used;                  /* atomic */
    char edge[XSEG_EDGE_MAX];       /* "from>to" */
    uint64_t pad[7];
};

enum xvolume_kept { XVOL_BY_OPEN = 1, XVOL_BY_LOCK = 2 };

/* Whose turn it is to append to a volume's journal: see "Appending" in map/map.h. */
enum xappend {
    XAPPEND_MAPPER = 0,             /* the mapper's alone */
    XAPPEND_HANDED = 1,             /* vlmc may append, and does not at the moment */
    XAPPEND_WRITING = 2,            /* vlmc has a record on its way */
    XAPPEND_DOUBT = 3               /* the mapper's; vlmc does not know what became of a record that it has sent */
};

enum xvolume_state { XVOL_FREE = 0, XVOL_OPENING = 1, XVOL_OPEN = 2, XVOL_CLOSING = 3 };

/* Data that a SYNC has yet to make durable: written since the last was sent; waiting for that one's answer. */
enum xdirty { XDIRTY_WRITTEN = 1, XDIRTY_SYNCING = 2 };

/* Of a volume's `lost`: the errno of the sync that failed, and whether a FLUSH has been answered with it. */
enum xlost { XLOST_ERRNO = 0xffff, XLOST_TOLD = 0x10000 };

/* An open volume. The mapper writes it while OPENING and, of an open one, only
 * while vlmc has it frozen; vlmc writes the second part; everyone reads. */
/* What a guest may have of a volume a second: requests, bytes; of all, of reads, of writes. As KINDS in
 * xseg/throttle.py. */
enum xquota {
    XQUOTA_IOPS, XQUOTA_READ_IOPS, XQUOTA_WRITE_IOPS, XQUOTA_BPS, XQUOTA_READ_BPS, XQUOTA_WRITE_BPS,
    XQUOTAS
};

struct xvolume {
    uint32_t state;                 /* atomic; enum xvolume_state */
    uint32_t generation;            /* grows with each use of this slot */
    uint64_t id;                    /* never reused */
    uint64_t size;                  /* bytes */
    uint32_t block_shift;           /* block size is 1 << block_shift bytes */
    uint32_t readonly;
    uint64_t opened_ns;             /* CLOCK_REALTIME */
    uint64_t lock_number;           /* of the lock the mapper holds; 0: none needed */
    uint64_t parent;                /* id of the snapshot it was cloned from, or 0 */
    uint32_t administrative;        /* kept open by `vlmc open`, `vlmc lock`: enum xvolume_kept */
    uint32_t closing;               /* the mapper has asked vlmc to close it */
    char name[XSEG_NAME_MAX + 1];
    uint16_t opens[XSEG_PORTS];     /* how many times each port has it open ... */
    uint32_t opened_by[XSEG_PORTS]; /* ... in this incarnation of it */
    /* whose turn it is to append: they change when a record has become durable, before its reply, the offset first */
    uint64_t commit_seq;            /* number of the last journal record appended */
    uint64_t journal_offset;        /* where the next record goes */
    /* what was handed out; written by the mapper while it is its turn */
    uint32_t append;                /* atomic; enum xappend */
    uint32_t append_port;           /* port of the blocker that has the journal */
    uint32_t append_epoch;          /* the journal's name, with the volume's id */
    uint32_t pad0;
    uint64_t append_number;
    uint64_t append_end;            /* bytes of the journal that vlmc may fill */
    uint64_t append_lives;          /* xseg_lives() when the volume's lock was known to be held */
    /* vlmc's while open */
    uint32_t epoch;                 /* new objects carry it */
    uint32_t writable_since;        /* own objects of this epoch or later may be written */
    uint32_t dirty;                 /* bits of enum xdirty */
    uint32_t frozen;
    uint32_t epoch_durable;         /* in the last record known to be durable, or when opened */
    uint32_t lost;                  /* atomic; enum xlost: what was written since the last SYNC may be gone */
    uint64_t writes_in_flight;
    uint64_t reads;                 /* counters */
    uint64_t writes;
    uint64_t bytes_read;
    uint64_t bytes_written;
    uint64_t first_writes;          /* writes that made a block the volume's own */
    uint64_t merges;                /* stacks merged to keep the bound */
    uint64_t flushes;
    uint64_t commits;
    uint64_t appends;               /* records that vlmc has appended past the mapper */
    uint64_t snapshots;
    uint64_t snapshots_held_ns;     /* so long in all they kept new writes waiting */
    uint64_t quota[XQUOTAS];        /* the mapper's; 0: none */
    uint64_t burst_ms;              /* the mapper's: what was not used in so long may come at once */
    uint64_t throttled;             /* a throttle's counters: requests that it held back */
    uint64_t throttled_ns;          /* so long in all */
};

/* What INFO answers at the mapper. */
struct xinfo {
    uint64_t id;
    uint64_t size;                  /* bytes */
    uint32_t block_shift;
    uint32_t readonly;
    char name[256];                 /* the present one, ended by NUL */
};

/* Where a block's bytes are. volume == 0: nowhere, the block is zeros. volume == XENTRY_CONTENT (map/map.h): in the content
 * whose digest is number `stack` - 1 of the segment's contents; epoch is 0 then. Published by
 * one 16-byte store, so that a death leaves the old or the new. */
struct xentry {
    uint64_t volume;                /* of the topmost object */
    uint32_t epoch;
    uint32_t stack;                 /* 0: that one object holds all; else stack number + 1 */
};

/* One leaf page of an open volume. All of it is vlmc's, which reads what stands before `dirty` when it starts. */
struct xframe {
    uint64_t volume_id;             /* 0: free */
    uint64_t leaf;                  /* block number / XMAP_LEAF */
    uint32_t valid;                 /* entries may be used */
    uint32_t slot;                  /* volume slot */
    uint64_t pad0;
    uint32_t stack_class;           /* of its volume's stacks */
    uint32_t pad[7];
    uint32_t dirty[XMAP_LEAF / 32]; /* bit per entry: changed, in no record yet */
    uint32_t committing[XMAP_LEAF / 32];  /* bit per entry: in a record on its way */
    struct xentry entry[XMAP_LEAF];
};

/* A stack of layers, topmost first. What follows in the record's memory are XMAP_BITMAPS bitmaps with a bit a chunk.
 * The first says which chunks lie in the top layer. The others have the number of the layer that each of the rest lies
 * in, counted from the last, which is 0: the second has the number's lowest bit, and so on. So a chunk comes to lie in
 * the top layer by the change of one bit, and what the others say of it does not matter any more. */
struct xlayer {
    uint64_t volume;
    uint32_t epoch;
    uint32_t kind;                  /* XOBJ_DATA; the last layer may be XOBJ_CONTENT */
};

struct xstack {
    uint32_t layers;                /* 1..XMAP_LAYERS */
    uint32_t bitmap_size;           /* bytes of one bitmap, a multiple of 8 */
    struct xlayer layer[XMAP_LAYERS];
    uint8_t digest[32];             /* of the last layer, if it is XOBJ_CONTENT */
};

/* The digest of a block that is one content: many more have that than have a stack, so it takes no more. */
struct xcontent { uint8_t digest[32]; };

enum xextent_flag {
    XEXTENT_HOLE = 1,               /* takes no place on the store */
    XEXTENT_ZERO = 2                /* reads as zeros */
};

enum xextent_diff { XEXTENT_DIFFERS = 1 };

/* What BLOCK_STATUS answers: a run of bytes that are alike; flags of enum xextent_flag. */
struct xextent { uint32_t length; uint32_t flags; };

/* trusted_until_ns: until when (CLOCK_BOOTTIME, which goes on while the machine sleeps) requests on writable
 * volumes may be answered out of memory, because no other node can have changed anything before. 0: for
 * ever, where no other node can. Set by a blocker whose store is shared; vlmc and that blocker hold requests
 * back when it has passed.
 *
 * fence_epoch: the newest fencing of another node that a volume open here depends on, as an epoch of the
 * store's own. A blocker that cannot tell that its store knows of it yet serves nothing. It only grows, and
 * does so before the lock is this segment's.
 *
 * ending: no process of this segment is to be started again, so a blocker that stops now leaves for good.
 *
 * closing: set by who ends the instance (tools/instance/ending.py) until the segment is removed, or the end is given
 * up. Endpoints finish what their clients have under way, end their connections and accept no other; the mapper
 * opens nothing. So what is closed then stays closed, and the segment is removed when no volume in it holds
 * anything. */
struct xheader {
    uint32_t magic;
    uint32_t version;
    uint64_t size;                  /* bytes of the whole segment */
    uint64_t layout;                /* XSEG_LAYOUT: another build's segment is refused */
    uint64_t created_ns;            /* CLOCK_REALTIME */
    uint32_t slots;                 /* request slots in all */
    uint32_t static_slots;          /* per static port */
    uint32_t dynamic_slots;         /* per dynamic port */
    uint32_t ports;                 /* XSEG_STATIC_PORTS, and one a client */
    uint32_t bells;
    uint32_t volumes;               /* that may be open */
    uint32_t locks;                 /* that the mapper may have */
    uint32_t frames;                /* a multiple of XMAP_WAYS */
    uint32_t buffers[XSEG_CLASSES]; /* of each class */
    uint32_t stacks[XMAP_STACK_CLASSES];  /* of each class */
    uint32_t contents;              /* digests that entries of leaf pages name */
    uint32_t reserved;
    uint64_t bells_offset;
    uint64_t ports_offset;
    uint64_t routes_offset;
    uint64_t reqs_offset;
    uint64_t owners_offset[XSEG_CLASSES];
    uint64_t volumes_offset;
    uint64_t locks_offset;
    uint64_t frames_offset;
    uint64_t stacks_offset[XMAP_STACK_CLASSES];
    uint64_t contents_offset;
    uint64_t buffers_offset[XSEG_CLASSES];
    uint64_t flow;                  /* atomic; last flow id given out */
    uint64_t trusted_until_ns;      /* atomic; see XSEG_FENCED */
    uint64_t fence_epoch;           /* atomic */
    uint32_t ending;                /* atomic */
    uint32_t closing;               /* atomic */
    uint64_t stores[XSEG_STATIC_PORTS]; /* by port: folder and mount of a file store, as
                                     * tools/instance/stores.py tells; 0: none */
    char fenced_why[XSEG_WHY_MAX];  /* by whom and for what, written once by who sets XSEG_FENCED; or empty */
    char run[XSEG_PATH_MAX];        /* folder of the doorbells */
};

#endif
