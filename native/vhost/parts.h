/* SPDX-License-Identifier: Apache-2.0
 *
 * vhost/parts.h - disks for virtual machines by vhost-user-blk: what its files share.
 *
 *   vhost/vhost.c    the peer: its options, turns, what others ask it
 *   vhost/listen.c   the attached volumes, and the sockets they are reached at
 *   vhost/talk.c     messages from and to a front-end, taken in, done and answered
 *   vhost/messages.c what each message does
 *   vhost/again.c    sessions that the last life of this process has left behind
 *   vhost/session.c  what a session does next, from its rings' start to its end
 *   vhost/request.c  from a chain in a ring to pieces sent on to vlmc, and back
 *   vhost/ring.c     taking heads from a ring, giving them back; the inflight region
 *   vhost/chain.c    the parts of one request in guest memory
 *   vhost/memory.c   guest memory: regions, translation, the dirty log, what happens if it is torn away
 *   vhost/disk.c     the volume of a disk: asking of it, opening, closing
 *   vhost/keep.c     what is kept for the next life
 *
 * Calls go down this list. Who is below marks its session dirty, and flush() goes on from there.
 *
 * A disk is an attached volume: a socket that front-ends (QEMU, user-mode Linux) connect to. A session is such a
 * connection. It is told where the guest's memory is, and maps it. Then it serves the rings that lie in there: a
 * request, a chain of descriptors, is taken from the ring, cut into pieces of XSEG_IO_MAX bytes at most, each a request
 * of its own to vlmc, and given back when all pieces are. Data is copied between guest memory and buffers.
 *
 * States
 * ------
 * A ring is IDLE, or WAITS when it has all it needs and is to be started: until an earlier session of its disk has
 * nothing under way any more, nobody else runs the disk (unless it is shared), the volume is open, and what a former
 * life of this process had sent for it is home. Then it RUNS. STOPPING, it takes nothing and waits for what is away.
 * BROKEN, it is not looked at until it is stopped. A session that has lost its socket is GONE: it stays until nothing
 * is away.
 * So a front-end may connect while another still runs the disk, as the target of a migration does.
 *
 * Guests
 * ------
 * A guest, and the front-end, may write anything to its memory at any time. Whatever is decided about is read once,
 * into a copy. A chain is walked when it is taken and again when data is copied into it, each time with all checks, and
 * of the first walk nothing is believed in the second but our own count of bytes. Every address is checked against the
 * regions. A chain that makes no sense is given back unserved, a ring that does breaks, both cost that guest alone. A
 * front-end may even cut off the file behind guest memory: SIGBUS puts zeros in its place, and the session ends.
 *
 * A session has VHOST_BYTES of data under way at most, and its share of the buffers (segment/share.h). What it has not
 * taken stays in its ring.
 *
 * What survives
 * -------------
 * kill -9 of this process is a pause for a guest, and the front-end does not even learn of it: the supervisor has
 * copies of all descriptors of a session (endpoint/park.h), the socket among them, and a file in memory, which it has
 * too, holds a record of the rest (struct vhost_record). The record is written in two halves in turn, so that one is
 * always whole. `busy` is set in it from before a message is read until it is answered: a message that was half done
 * cannot be done again, so such a session is not gone on with, its socket is closed. That is a matter of microseconds
 * while a guest starts or stops.
 *
 * What is under way is in the inflight region of the specification, in a file of its own which the front-end has too
 * if it can keep it, so that a QEMU that lost its connection and makes another is served the same way:
 *
 *     taking head x:       mark[x].counter = next number; mark[x].inflight = 1; only then is anything done for it
 *     giving back many:    data and status are in guest memory; entries of the used ring are written; each x is
 *                          linked: mark[x].next = last_batch_head, last_batch_head = x; used.idx is set, and the guest
 *                          has them; mark[x].inflight = 0 for each; region.used_idx = used.idx
 *     starting again:      used.idx - region.used_idx heads, from last_batch_head on, were given back, if their marks
 *                          are still set. All others with a mark are served again, in order of their counters; then
 *                          the ring goes on behind them
 *
 * So a request may be served twice, which does no harm before it was answered, and is never given back twice. A killed
 * process's stores all land in the order of its program; only the compiler must keep that order.
 */
#ifndef ARCHIPELAGO_VHOST_H
#define ARCHIPELAGO_VHOST_H

#include "endpoint/park.h"
#include "loop/peer.h"
#include "segment/share.h"
#include "vhost/proto.h"

enum vhost_bound {
    VHOST_SESSIONS_MAX = 1024,
    VHOST_DISKS_MAX = 4096,
    VHOST_QUEUES_MAX = 16,
    VHOST_RING_MAX = 1024,          /* descriptors of a ring */
    VHOST_REGIONS_MAX = 32,
    VHOST_DESCRIPTORS_MAX = 32,     /* that come with one message */
    VHOST_PAYLOAD_MAX = 4096,       /* bytes of a message */
    VHOST_PARTS_MAX = 3072,         /* of a chain, each in one region */
    VHOST_STEPS_MAX = VHOST_RING_MAX + 1024,    /* descriptors of a chain that are looked at */
    VHOST_BYTES = 32 << 20,         /* of data of a session under way, from where nothing more is taken */
    VHOST_LENGTH_MAX = 1 << 30,     /* of data of one request */
    VHOST_SPAN_MAX = 1 << 30,       /* of a range to discard or zero */
    VHOST_RANGES_MAX = 16,          /* of one DISCARD or WRITE_ZEROES */
    VHOST_SECTOR = 512,
    VHOST_ID_SIZE = 20,             /* bytes of GET_ID's answer */
    VHOST_TAKES_MAX = 256,          /* from one ring in one turn */
    VHOST_MARKS_ALIGN = 4096
};

#define VHOST_TICK_NS 100000000ull      /* between looks at sizes, at who waits for a volume, for the supervisor */
#define VHOST_RETRY_NS 2000000ull       /* until who lacks slots or buffers tries again by itself */
#define VHOST_TELL_NS 60000000000ull    /* between sentences in the log about failed requests of a disk */

enum vhost_target { VHOST_TO_VLMC = 0, VHOST_TO_MAPPER = 1 };

enum vhost_errand { VHOST_PIECE = 1, VHOST_OPEN, VHOST_CLOSE, VHOST_DESCRIBE };

struct vhost_note {                 /* scratch of a request of ours */
    uint16_t errand;                /* enum vhost_errand */
    uint16_t ring;
    uint32_t place;                 /* of the session, or else of the disk, */
    uint32_t serial;                /* and which one of that place */
    uint16_t head;
    uint16_t life;                  /* of the ring */
    uint32_t at;                    /* the piece's data begins here in that of its request, bytes */
};
XREQ_SENDER(vhost_note_of, struct vhost_note)

/* --- guest memory ------------------------------------------------------------------ */

struct vhost_map {                  /* a mapping that its owner may tear away from under us */
    uint8_t *base;                  /* NULL: none */
    size_t size;
    bool torn;                      /* so it was: there are zeros now */
    struct vhost_map *next;
};

struct vhost_region {
    struct vhost_area area;
    uint32_t number;                /* by which its descriptor is kept */
    int fd;
    uint8_t *at;                    /* area.guest is here */
    struct vhost_map map;
};

struct vhost_part { uint8_t *at; uint64_t guest; uint32_t length; };

struct vhost_chain {                /* what a walk has found: readable parts, then writable ones */
    uint32_t count, readable;
    uint64_t bytes_in, bytes_out;   /* that can be read, that can be written */
    struct vhost_part part[VHOST_PARTS_MAX];
};

/* --- rings ------------------------------------------------------------------------- */

struct vhost_request {              /* of one head; all of it is private */
    uint64_t offset;                /* bytes, on the volume */
    uint32_t length;                /* of data; or how many ranges */
    uint32_t issued;                /* of these, pieces were made for */
    uint32_t away;                  /* pieces that are not back */
    uint32_t written;               /* bytes of data in guest memory */
    uint32_t type;                  /* VIRTIO_BLK_T_... */
    int32_t error;                  /* first negative errno of a piece */
    bool used;
    bool issuing;                   /* not all pieces are made */
};

enum vhost_ring_state { VHOST_IDLE, VHOST_WAITS, VHOST_RUNS, VHOST_STOPPING, VHOST_BROKEN };

struct vhost_ring {
    struct watch kick;              /* fd -1: none */
    struct vhost_session *session;
    int call, err;                  /* -1: none */
    uint32_t index;
    enum vhost_ring_state state;
    bool kickable;                  /* SET_VRING_KICK came */
    bool polled;                    /* and brought no descriptor */
    bool enabled;
    bool fresh;                     /* taken up from a former life: rings once when it starts */
    bool waiting;                   /* its head in hand lacks a slot or buffer */
    uint32_t num;
    uint32_t base;                  /* where it goes on, as the front-end says */
    struct vhost_addresses where;
    const struct vring_desc *desc;
    struct vring_avail *avail;
    struct vring_used *used;
    struct vhost_marks *marks;
    uint64_t counter;               /* of the next mark */
    uint16_t last_avail;
    uint16_t used_idx;
    uint16_t life;                  /* how often it was started: answers to an earlier life are dropped */
    uint32_t taken;                 /* heads that are not given back */
    uint32_t away;                  /* pieces at vlmc, of earlier lives as well */
    uint32_t in_hand;               /* a head whose pieces are not all made, + 1 */
    uint32_t done_count;            /* to be given back at the end of the turn: */
    uint16_t done[VHOST_RING_MAX];
    uint32_t done_bytes[VHOST_RING_MAX];
    uint32_t again_count, again_at; /* heads of a former life, to be served first */
    uint16_t again[VHOST_RING_MAX];
    struct vhost_request requests[VHOST_RING_MAX];
};

/* --- sessions and disks -------------------------------------------------------------- */

struct vhost_record {               /* of a session, for the next life: one half */
    uint64_t sequence;              /* 0: never written */
    uint64_t features, protocol;
    uint64_t log_size, log_offset;
    uint64_t marks_size, marks_offset, marks_stride;
    uint64_t disk;                  /* the volume's id */
    uint64_t told;                  /* size, bytes */
    uint64_t since;                 /* seconds since 1970 */
    uint32_t used;                  /* there is a session */
    uint32_t survived;              /* lives of the process */
    uint32_t wce, status, region_count, region_number;
    int32_t pid;                    /* of the front-end */
    uint32_t stop_ring, stop_flags, pad;
    struct { struct vhost_area area; uint64_t number; } region[VHOST_REGIONS_MAX];
    struct {
        struct vhost_addresses where;
        uint32_t num, base;
        uint16_t started, enabled, kickable, polled;
    } ring[VHOST_QUEUES_MAX];
};

struct vhost_page {                 /* of a session in the file of records */
    uint32_t busy;                  /* a message is in hand */
    uint32_t version;
    uint64_t pad[7];
    struct vhost_record half[2];
};

struct vhost_session {
    struct watch watch;             /* its socket; fd -1: it is GONE */
    struct vhost *vhost;
    struct vhost_disk *disk;
    struct vhost_session *next;     /* of the disk */
    uint32_t place, serial;
    int32_t pid;
    uint64_t since;
    uint32_t survived;
    bool hungry;                    /* lacks slots or buffers */
    uint32_t events;                /* of epoll that are asked for */
    uint64_t features, protocol;
    bool wce;
    uint32_t status;
    uint32_t away;                  /* pieces at vlmc */
    uint64_t bytes;                 /* of data under way */
    struct share share;
    uint32_t region_count, region_number;
    struct vhost_region regions[VHOST_REGIONS_MAX];     /* sorted by guest address */
    uint32_t last_region;
    int log_fd;
    struct vhost_map log;
    uint64_t log_size, log_offset;
    int marks_fd;
    struct vhost_map marks;
    uint64_t marks_size, marks_offset, marks_stride;
    int request_fd;                 /* for messages to the front-end; -1 */
    uint64_t told;                  /* the size that it was told last, bytes; 0: none */
    bool changed;                   /* it is to be told that this is another */
    bool held;                      /* the message that is there is tried again later */
    /* talk */
    uint32_t stop_ring;             /* GET_VRING_BASE waits for this ring, + 1 */
    uint32_t stop_flags;            /* of that message */
    uint64_t stop_ns;               /* when it is answered all the same */
    uint32_t in_size;               /* bytes of the message that are there */
    struct vhost_header header;
    int fds[VHOST_DESCRIPTORS_MAX];
    uint32_t fd_count;
    uint8_t payload[VHOST_PAYLOAD_MAX] __attribute__((aligned(8)));
    struct vhost_ring rings[VHOST_QUEUES_MAX];
};

enum vhost_disk_state { VHOST_DISK_CLOSED, VHOST_DISK_OPENING, VHOST_DISK_OPEN, VHOST_DISK_CLOSING };

struct vhost_disk {
    struct watch watch;             /* its socket, which listens; fd -1: none */
    struct vhost *vhost;
    uint32_t place, serial;
    bool dropped;                   /* detached: it goes when its last session has */
    bool seen;                      /* in the folder, when that was last looked through */
    uint64_t id;                    /* of the volume */
    char name[XSEG_NAME_MAX + 1];   /* it had when it was attached */
    char socket[XSEG_PATH_MAX];
    bool readonly, shared;
    uint32_t queues, block_size;
    bool known;                     /* the next three are */
    bool asking;                    /* the mapper was asked for them */
    uint64_t size;
    bool volume_readonly;
    enum vhost_disk_state state;
    uint32_t volume, generation;    /* its handle; 0: not open */
    bool wanted;                    /* a ring waits for it to be open */
    uint64_t wanted_ns;             /* since when */
    uint64_t retry_ns;              /* when OPEN is tried again */
    uint64_t failures, told_failures, told_ns;
    struct share_group share;
    struct vhost_session *first;
};

struct vhost_set { uint64_t word[VHOST_SESSIONS_MAX / 64]; };

struct vhost {
    struct peer *peer;
    /* options: see peers/vhost.py */
    const char *attached, *park;
    uint32_t sessions_max, queues_max, memory_gib, stop_s, handover_s, group;
    uint64_t poll_ms;
    /* all else */
    struct park parked;
    int records_fd;
    struct vhost_page *pages;       /* by the session's place */
    bool draining;                  /* takes nothing more; sessions stay for the next life */
    bool closing;                   /* the instance is being ended: sessions end */
    uint32_t away;                  /* requests of disks at the mapper */
    uint32_t polled;                /* rings without a kick that run */
    bool retries;                   /* somebody waits for slots, buffers or the last life's requests */
    uint32_t turn;                  /* whose word of `dirty` is first */
    uint32_t serial;
    uint32_t session_count, disk_count, top;
    uint64_t tick_ns;
    uint64_t no_descriptors_ns;     /* nobody is accepted until then */
    struct vhost_set dirty;
    struct vhost_session *sessions[VHOST_SESSIONS_MAX];
    struct vhost_disk *disks[VHOST_DISKS_MAX];
    struct vhost_chain chain;       /* of the walk in hand */
};

static inline void vhost_dirty(struct vhost_session *session)
{
    session->vhost->dirty.word[session->place / 64] |= 1ull << session->place % 64;
}
static inline bool vhost_has(const struct vhost_session *session, uint32_t feature)
{
    return session->features >> feature & 1;
}
static inline bool vhost_speaks(const struct vhost_session *session, uint32_t feature)
{
    return session->protocol >> feature & 1;
}
static inline bool vhost_gone(const struct vhost_session *session) { return session->watch.fd < 0; }
static inline bool vhost_readonly(const struct vhost_disk *disk) { return disk->readonly || disk->volume_readonly; }

/* --- vhost/keep.c: without a supervisor it does nothing ------------------------------- */

/* Makes the file of records, or takes that of the last life (fd; -1: there is none). A negative errno. */
int vhost_keep_open(struct vhost *vhost, int fd);
void vhost_keep_close(struct vhost *vhost);
/* Writes the session's record. */
void vhost_keep_save(const struct vhost_session *session);
/* The last record of a place; NULL: there was no session. */
const struct vhost_record *vhost_keep_last(const struct vhost *vhost, uint32_t place);
static inline void vhost_keep_busy(const struct vhost_session *session, bool busy)
{
    store_release(&session->vhost->pages[session->place].busy, busy ? 1u : 0u);
}
/* Has the supervisor keep a descriptor of a session. EAGAIN: it cannot take it now. */
int vhost_keep_fd(const struct vhost_session *session, const char *kind, uint32_t number, int fd);
/* Nothing of the session is kept any more. */
void vhost_keep_forget(const struct vhost_session *session);
/* The same for a socket that listens. */
void vhost_keep_listener(const struct vhost_disk *disk);
void vhost_keep_forget_listener(const struct vhost_disk *disk);
/* Gives a supervisor that has come back all there is. */
void vhost_keep_all(struct vhost *vhost);

/* --- vhost/disk.c ------------------------------------------------------------------------ */

/* Asks the mapper for size and mode, unless it is being asked. False: no slot. */
bool vhost_disk_describe(struct vhost_disk *disk);
/* Sees to it that the volume is open. True: it is. */
bool vhost_disk_want(struct vhost_disk *disk);
/* Closes the volume, if it is open. False: again later. */
bool vhost_disk_close(struct vhost_disk *disk);
/* The mapper's answer. A negative errno: no session can be served. */
int vhost_disk_answered(struct vhost_disk *disk, struct xreq *req);
/* Bytes. */
uint64_t vhost_disk_size(const struct vhost_disk *disk);
/* Counts a request that failed. The log is told now and then. */
void vhost_disk_failed(struct vhost_disk *disk, int error);

/* --- vhost/memory.c ------------------------------------------------------------------------ */

/* Once a process: SIGBUS in a mapping puts zeros there. */
void vhost_memory_guard(void);
/* Maps [offset, offset + size) of fd. EINVAL: the file is smaller. */
int vhost_map_in(struct vhost_map *map, int fd, uint64_t offset, uint64_t size);
void vhost_map_out(struct vhost_map *map);
/* True if some mapping of the session was torn away. */
bool vhost_memory_torn(const struct vhost_session *session);
/* Adds a region, and takes its descriptor. A negative errno; then the descriptor is the caller's. */
int vhost_memory_add(struct vhost_session *session, const struct vhost_area *area, uint32_t number, int fd);
void vhost_memory_remove(struct vhost_session *session, uint32_t i);
void vhost_memory_clear(struct vhost_session *session);
/* Where guest memory is, and how many of `length` bytes are there in one region; NULL: nowhere. */
uint8_t *vhost_memory_guest(struct vhost_session *session, uint64_t guest, uint64_t *length);
/* The same by the front-end's address, all of `length` or NULL. */
uint8_t *vhost_memory_user(const struct vhost_session *session, uint64_t user, uint64_t length);
/* Marks [guest, guest + length) in the dirty log. */
void vhost_memory_mark(const struct vhost_session *session, uint64_t guest, uint64_t length);

/* --- vhost/chain.c ---------------------------------------------------------------------------- */

/* Walks the chain of a head into vhost->chain. EINVAL: it makes no sense. */
int vhost_chain_walk(struct vhost_session *session, const struct vhost_ring *ring, uint32_t head);
/* Copies `length` bytes from `at` on out of the readable parts. False: they are not there. */
bool vhost_chain_read(const struct vhost_chain *chain, uint64_t at, void *to, uint64_t length);
/* Copies into the writable parts; how many bytes there was room for. */
uint64_t vhost_chain_write(const struct vhost_session *session, uint64_t at, const void *from, uint64_t length);

/* --- vhost/ring.c -------------------------------------------------------------------------------- */

/* Bytes of the inflight region that a ring of so many descriptors takes. */
uint64_t vhost_ring_stride(uint32_t num);
/* Finds the ring in guest memory anew. False: it is not there; it is BROKEN then. */
bool vhost_ring_translate(struct vhost_ring *ring);
/* Starts it: notes or reads what is under way. */
void vhost_ring_start(struct vhost_ring *ring);
/* The next head, which is marked. -EAGAIN: there is none. Another: it is BROKEN now. */
int vhost_ring_next(struct vhost_ring *ring);
/* A head is to be given back, with so many bytes written. */
void vhost_ring_done(struct vhost_ring *ring, uint32_t head, uint32_t bytes);
/* Gives them back, and tells the guest if it wants to know. */
void vhost_ring_publish(struct vhost_ring *ring);
/* Asks to be told of the next head. True: there is one already. */
bool vhost_ring_arm(struct vhost_ring *ring);
/* Tells the guest. */
void vhost_ring_call(const struct vhost_ring *ring);
void vhost_ring_break(struct vhost_ring *ring, const char *why);

/* --- vhost/request.c ------------------------------------------------------------------------------ */

/* Takes from the ring what there is and can be served. True if anything was taken. */
bool vhost_request_take(struct vhost_ring *ring);
/* A piece came back. */
void vhost_request_back(struct vhost_session *session, struct xreq *req);

/* --- vhost/session.c -------------------------------------------------------------------------------- */

/* A session of the disk in the first free place, or at `place`, with this socket. NULL: no room; the socket is not
 * closed. */
struct vhost_session *vhost_session_new(struct vhost_disk *disk, uint32_t place, int fd);
/* The ring is to run, if it has all it needs. */
void vhost_session_want(struct vhost_ring *ring);
/* It takes nothing more. */
void vhost_session_stop(struct vhost_ring *ring);
/* It is as at the beginning. */
void vhost_session_reset(struct vhost_ring *ring);
/* Has a descriptor for kicks from now on; -1: none. */
int vhost_session_kick(struct vhost_ring *ring, int fd);
/* The inflight region is this. A negative errno (EBUSY: a ring runs); then the descriptor is the caller's. */
int vhost_session_marks(struct vhost_session *session, int fd, uint64_t offset, uint64_t size, uint64_t stride);
/* Which events of its socket are waited for. */
void vhost_session_listen(struct vhost_session *session, bool listen);
/* Closes the socket; NULL: nobody need be told why. It is freed when nothing is away. */
void vhost_session_drop(struct vhost_session *session, const char *why);
/* From flush(): starts, takes, gives back; frees one that is over. True: something moved. */
bool vhost_session_turn(struct vhost_session *session);
/* True if its front-end has a ring running. */
bool vhost_session_runs(const struct vhost_session *session);

/* --- vhost/again.c ----------------------------------------------------------------------------------- */

/* Takes up the sessions of the last life out of the descriptors that were parked. */
void vhost_again(struct vhost *vhost);

/* --- vhost/messages.c --------------------------------------------------------------------------------- */

struct vhost_rule {
    int (*function)(struct vhost_session *session);
    uint32_t size;                  /* bytes of payload it must have; UINT32_MAX: it looks itself */
    bool fds;                       /* descriptors may come with it */
    bool answered;                  /* it has an answer of its own */
};
/* What a message is done by; NULL: it is not known. */
const struct vhost_rule *vhost_message_rule(uint32_t request);

/* --- vhost/talk.c -------------------------------------------------------------------------------------- */

/* Reads and does messages. `events` of epoll. */
void vhost_talk_ready(struct watch *watch, uint32_t events);
/* From flush(): answers what waited, tells of changes. */
void vhost_talk_turn(struct vhost_session *session);

/* --- vhost/listen.c ------------------------------------------------------------------------------------- */

/* Looks through the folder of attached volumes: makes what is new. The first negative errno. */
int vhost_listen_scan(struct vhost *vhost);
/* Detaches a disk. EBUSY: it is in use, and `force` is false. ENOENT. */
int vhost_listen_detach(struct vhost *vhost, uint64_t id, bool force);
void vhost_listen_stop(struct vhost *vhost);
/* Frees a disk that is dropped and has no session. */
void vhost_listen_retire(struct vhost_disk *disk);
/* Has all listen again after a lack of descriptors. */
void vhost_listen_go_on(struct vhost *vhost);

#endif
