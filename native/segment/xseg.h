/* SPDX-License-Identifier: Apache-2.0
 *
 * segment/xseg.h - joining a segment, ports, requests, buffers, doorbells, routes.
 *
 * Who may call what: a `struct xseg` may be used by all threads of a process. A
 * `struct port` belongs to one thread, which alone receives, gets, sends, replies and
 * puts through it. Functions return 0 or a negative errno unless they say otherwise.
 *
 * A request that a port has in hand is a `struct xreq` in its private memory; its slot in the segment (struct xslot)
 * is written when it is sent and when it is answered, and by xreq_note(). Why: "Who can hurt whom" in segment/layout.h.
 *
 * Inboxes
 * -------
 * A port's inbox is one list head. Senders link their slot and swing the head by one
 * compare-and-swap; the owner takes the whole list with one exchange and links it the other
 * way round in its private memory, which restores the order of each sender. There is no lock
 * and no slot that is claimed but not yet published, so a sender that is killed before the swap
 * has sent nothing and after it has sent everything.
 *
 * Doorbells
 * ---------
 * A thread that serves ports owns one bell: a FIFO in the segment's run folder, and a
 * word that says "I sleep". Before sleeping the owner sets the word, looks at its inboxes
 * once more, and sleeps for XBELL_SLEEP_MS at most. A sender, after publishing a batch,
 * exchanges the word with 0 and writes one byte only if it was set. The limit on sleep
 * covers the sender that dies between the two. FIFOs stay when their owner dies, so a
 * descriptor once opened by a sender rings the restarted owner as well.
 *
 * Death
 * -----
 * port_bind() on a port whose owner died does what segment/layout.h says: children of the dead
 * incarnation become orphans that are freed as they return; when the last is back, the
 * requests the dead peer held are given out first of all (`recovered` counts them). Until
 * then port_receive() gives out nothing but answers to what this incarnation has sent, and lets orphans come home.
 */
#ifndef ARCHIPELAGO_XSEG_H
#define ARCHIPELAGO_XSEG_H

#include <assert.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "segment/barrier.h"
#include "segment/clock.h"
#include "segment/layout.h"

#define XBELL_SLEEP_MS 100
#define XPORT_ANY UINT32_MAX

struct xparams {                    /* of xseg_format(); 0 takes the default */
    uint32_t static_slots;          /* 4096; requests a role may have under way */
    uint32_t dynamic_slots;         /* 256 */
    uint32_t clients;               /* 224; ports for others than roles */
    uint32_t volumes;               /* 4096; that may be open at one time */
    uint32_t buffers[XSEG_CLASSES]; /* 8192, 1024, 192 */
    uint32_t frames;                /* 2048 leaf pages kept */
    uint32_t stacks[XMAP_STACK_CLASSES];  /* 32768, 98304, 8192 */
    uint32_t contents;              /* 524288 digests of blocks that are one content */
    char run[XSEG_PATH_MAX];        /* folder for doorbells; must exist */
};

/* What is private to this process: bounds and places were checked when it joined, and the segment's own
 * words for them are not looked at again. */
struct xseg {
    uint8_t *base;
    uint64_t size;
    uint64_t data_start;            /* bytes from base: the data buffers begin here, and end with the segment */
    uint64_t created_ns;            /* CLOCK_REALTIME; names this segment among those of its home */
    uint32_t slot_count;            /* request slots in all */
    uint32_t static_slots;          /* per static port */
    uint32_t dynamic_slots;         /* per dynamic port */
    uint32_t port_count;
    uint32_t bell_count;
    uint32_t volume_count;          /* that may be open */
    uint32_t lock_count;            /* that the mapper may have */
    uint32_t frame_count;
    uint32_t buffer_count[XSEG_CLASSES];
    uint32_t stack_count[XMAP_STACK_CLASSES];
    uint32_t content_count;
    char run[XSEG_PATH_MAX];        /* folder of the doorbells */
    struct xheader *header;
    struct xbell *bells;
    struct xport *ports;
    struct xroute *routes;
    struct xslot *slots;
    uint32_t *owners[XSEG_CLASSES]; /* port + 1 that holds each buffer */
    struct xvolume *volumes;
    uint64_t *locks;                /* the mapper's: ids of volumes whose lock it has, or is about to take; 0: none.
                                     * A successor gives back those of volumes that are not open */
    struct xframe *frames;
    uint8_t *stacks[XMAP_STACK_CLASSES];
    struct xcontent *contents;
    uint8_t *buffers[XSEG_CLASSES];
    int bell_fd[XSEG_BELLS];        /* opened on first use; -1 */
};

/* Bytes of a buffer of class c, and of a stack record of class c. */
uint64_t xbuffer_size(uint32_t class);
uint64_t xstack_size(uint32_t class);

/* Bytes a segment with these parameters needs. */
uint64_t xseg_size(const struct xparams *params);
/* Lays out a new segment in the object behind fd, which must be empty, and takes all its memory: ENOSPC. EINVAL: more
 * clients or volumes than XSEG_PORTS and XSEG_VOLUMES allow. */
int xseg_format(int fd, const struct xparams *params);
/* Maps the segment behind fd. EPERM: it is not ours (segment/ours.h). EPROTO: not a segment of this version
 * and build (why in *found: the version found, 0 if it is no segment). The fd may be closed afterwards. */
int xseg_attach(int fd, struct xseg **seg, uint32_t *found);
void xseg_detach(struct xseg *seg);

/* The slots of a port are [first, first + count). */
static inline uint32_t xseg_first_slot(const struct xseg *seg, uint32_t port)
{
    return port < XSEG_STATIC_PORTS
        ? port * seg->static_slots
        : XSEG_STATIC_PORTS * seg->static_slots + (port - XSEG_STATIC_PORTS) * seg->dynamic_slots;
}
static inline uint32_t xseg_slots_of(const struct xseg *seg, uint32_t port)
{
    return port < XSEG_STATIC_PORTS ? seg->static_slots : seg->dynamic_slots;
}

/* The port whose slot this is. */
static inline uint32_t xseg_port_of(const struct xseg *seg, uint32_t slot)
{
    uint32_t all_static = XSEG_STATIC_PORTS * seg->static_slots;

    return slot < all_static ? slot / seg->static_slots
                             : XSEG_STATIC_PORTS + (slot - all_static) / seg->dynamic_slots;
}
/* How many buffers of a class a port may hold. */
static inline uint64_t xseg_buffers_max(const struct xseg *seg, uint32_t port, uint32_t class)
{
    return port < XSEG_STATIC_PORTS ? seg->buffer_count[class] * 3ull / 4 : seg->buffer_count[class] / 8;
}

/* --- doorbells ------------------------------------------------------------ */

struct bell {
    struct xseg *seg;
    uint32_t number;
    int fd;                         /* read end: for poll, epoll, asyncio */
};

/* Takes bell `number`, or the first free one (XPORT_ANY). EAGAIN: none left. Takes over
 * from a dead owner; EBUSY if the owner lives. */
int bell_open(struct xseg *seg, uint32_t number, struct bell **bell);
void bell_close(struct bell *bell);
/* Says "I sleep". The caller must look at its inboxes once more before it does. */
void bell_arm(struct bell *bell);
/* Takes the word back and empties the FIFO. */
void bell_disarm(struct bell *bell);
/* Wakes the owner of bell `number` if it sleeps. True if it did. */
bool bell_ring(struct xseg *seg, uint32_t number);

/* --- a request in hand ------------------------------------------------------ */

/* Where a port's request is. */
enum xplace { XREQ_NOT_HERE = 0, XREQ_MINE = 1, XREQ_AWAY = 2, XREQ_SERVED = 3 };

/* A port's own copy of a request: one of its own, or one that it serves. Private memory, so it stays as it is.
 * Made from the slot in one read when the request comes, written to it when it is sent or answered. */
struct xreq {
    uint32_t index;                 /* slot number */
    uint32_t place;                 /* enum xplace */
    uint16_t src;                   /* port that created it and gets the reply */
    uint16_t dst;                   /* port it was last sent to */
    uint32_t incarnation;           /* of src when it took the slot */
    uint64_t flow;
    uint64_t sent_ns;               /* CLOCK_MONOTONIC */
    uint32_t parent;                /* request it serves, slot number + 1; of another's, for who looks */
    uint32_t link;                  /* the next of the list or queue it is in: slot number + 1 */
    uint32_t orphan;                /* an earlier incarnation sent it: freed on its return */
    uint32_t reserved[5];
    /* what is asked, and the answer: see struct xslot */
    uint16_t op;
    uint16_t flags;
    int32_t error;
    uint32_t volume;
    uint32_t buffer;
    uint64_t offset;
    uint64_t size;
    uint64_t data;
    uint32_t data_size;
    uint32_t generation;
    uint64_t done;
    uint64_t arg;
    struct xobj object;
    uint64_t sender[3];             /* src's scratch, zero when it is taken: XREQ_SENDER */
    uint64_t holder[8];             /* scratch of the port that serves it, zero on arrival: XREQ_HOLDER */
};

/* A peer says in two structures what it keeps with a request, and reads it by name:
 *
 *     struct merge { uint64_t block; uint32_t next_chunk; };
 *     XREQ_SENDER(merge_of, struct merge)          merge_of(child)->next_chunk = 0;
 *
 * defines the inline function merge_of(), from a request to its own scratch as sender, or as holder. */
#define XREQ_SCRATCH(part, name, type)                                                  \
    static inline type *name(struct xreq *req)                                           \
    {                                                                                    \
        _Static_assert(sizeof(type) <= sizeof(req->part), #type " fits the scratch");    \
        _Static_assert(_Alignof(type) <= _Alignof(uint64_t), #type " is aligned");       \
        return (type *)(void *)req->part;                                                \
    }
#define XREQ_SENDER(name, type) XREQ_SCRATCH(sender, name, type)
#define XREQ_HOLDER(name, type) XREQ_SCRATCH(holder, name, type)

/* --- ports ---------------------------------------------------------------- */

#define PORT_BUFFER_CACHE 64
#define PORT_RING_WORDS 9           /* of 64 bells each */

struct port {
    struct xseg *seg;
    struct xport *shared;
    struct bell *bell;
    uint32_t number;
    uint32_t incarnation;
    uint32_t first;                 /* its own slots are [first, first + count) */
    uint32_t count;
    struct xreq *reqs;              /* its copies, by slot number: those of the whole segment, touched when used */
    uint32_t *free;                 /* stack of free slot numbers */
    uint32_t free_count;
    uint32_t chain;                 /* received, not yet given out: slot number + 1 */
    uint32_t bounced;               /* sent to nowhere, to be given out as answers: slot number + 1 */
    uint32_t orphans;               /* children of an earlier incarnation still away */
    uint32_t asides;                /* such that were away at the bind, and are not waited for */
    bool recovering;
    bool looped;                    /* its loop sets now_ns each turn; else sends read the clock */
    uint64_t now_ns;                /* CLOCK_MONOTONIC, set by each port_receive */
    uint32_t look;                  /* the own slot at which port_look_after() goes on */
    uint64_t looked_ns;             /* when it last did */
    uint64_t told_ns;               /* when the log was last told of a bad slot */
    uint64_t ring[PORT_RING_WORDS]; /* bells to ring at the next port_ring(): bit set */
    uint64_t ring_words;            /* which of these words have one */
    uint64_t buffers_held[XSEG_CLASSES];  /* of each class, in use or cached */
    uint64_t buffers_max[XSEG_CLASSES];
    uint32_t cached[XSEG_CLASSES][PORT_BUFFER_CACHE];  /* buffers held but not in use */
    uint32_t cached_count[XSEG_CLASSES];
    uint32_t hint[XSEG_CLASSES];    /* where the search for a free buffer goes on */
};

/* Sets aside a static port for a role, before its peer exists; requests may be sent to
 * it at once and wait. Idempotent. ENOSPC: XSEG_STATIC_PORTS roles already. */
int port_declare(struct xseg *seg, const char *role, const char *type,
                 const char *process, uint32_t *number);
/* The static port of a role; ENOENT. */
int port_find(struct xseg *seg, const char *role, uint32_t *number);
/* Binds port `number`, or a free dynamic one (XPORT_ANY; then role names the client).
 * EBUSY: a live process serves it. EAGAIN: no dynamic port is free. */
int port_bind(struct xseg *seg, uint32_t number, const char *role, struct bell *bell,
              struct port **port);
/* Gives the port back. Requests held must have been answered and children put; a static
 * port's inbox stays. */
void port_close(struct port *port);
/* True while the process that bound the port lives. */
bool port_alive(struct xseg *seg, uint32_t number);
/* True from the moment it begins to end. */
bool port_ending(struct xseg *seg, uint32_t number);

/* Next request or reply, or NULL. It is HELD by the caller then. Tell them apart by
 * xreq_is_reply(). */
struct xreq *port_receive(struct port *port);
/* Puts a request held back into the port's own inbox, for a later turn or owner. */
void port_requeue(struct port *port, struct xreq *req);
/* True if something waits: to be asked between bell_arm() and sleeping. */
bool port_pending(struct port *port);
/* True if something that an earlier incarnation sent for a volume is away. */
bool port_awaits(const struct port *port, uint32_t volume);
/* Rings the bells of everyone sent to since the last call. */
void port_ring(struct port *port);
/* For a client without a loop: waits until something is pending or the time is over.
 * ETIMEDOUT. Spins first for spin_us. */
int port_wait(struct port *port, uint32_t timeout_ms, uint32_t spin_us);

/* --- requests ------------------------------------------------------------- */

/* A fresh request: all fields but identity zero. NULL: the port's slots have run out. */
struct xreq *xreq_get(struct port *port);
/* Gives back a request of one's own that is not under way, with its buffer. */
void xreq_put(struct port *port, struct xreq *req);
/* Sends a request of one's own to a port. The bell rings at port_ring(). */
void xreq_send(struct port *port, struct xreq *req, uint32_t dst);
/* Answers a request held, with 0 or a negative errno. */
void xreq_reply(struct port *port, struct xreq *req, int error);
/* A child of `req`: same flow, `parent` set; op, target and data are the caller's to set. */
struct xreq *xreq_child(struct port *port, struct xreq *req);

/* Lets a successor of this process find what was noted in `volume` and `arg` of a request it serves. */
void xreq_note(struct port *port, const struct xreq *req);
/* Reads anew what is asked: for a request that came before the notes of an earlier life were put in order. */
void xreq_again(struct port *port, struct xreq *req);

static inline bool xreq_is_reply(const struct port *port, const struct xreq *req)
{
    return req->src == port->number;
}
static inline void *xreq_data(const struct xseg *seg, const struct xreq *req)
{
    return seg->base + req->data;
}
/* The request that one of the port's own serves, which was made with it as its parent. */
static inline struct xreq *xreq_parent(const struct port *port, const struct xreq *req)
{
    assert(req->parent);
    return &port->reqs[req->parent - 1];
}
static inline struct xvolume *xreq_volume(const struct xseg *seg, const struct xreq *req)
{
    return req->volume && req->volume <= seg->volume_count ? &seg->volumes[req->volume - 1] : NULL;
}
/* How many lives all static ports have had: another number when any of them has begun a new one. */
uint64_t xseg_lives(const struct xseg *seg);
/* Notes that what was written to the open volume of that id since its last SYNC may be gone; id 0: to each that
 * has such data. `error` is a negative errno; the first one stays. Any thread. */
void xseg_volume_lost(struct xseg *seg, uint64_t id, int error);
/* True if the request brings `length` bytes of data: before a peer touches those of a request that another sent.
 * That they lie in the segment's buffers was seen to when it came. */
bool xreq_data_ok(const struct xseg *seg, const struct xreq *req, uint64_t length);
/* Of a LIST: how many objects its answer may have. */
static inline uint64_t xreq_list_limit(const struct xreq *req)
{
    uint64_t room = req->data_size / sizeof(struct xobj);

    return req->size && req->size < room ? req->size : room;
}

/* --- buffers -------------------------------------------------------------- */

/* Gives the request a buffer of at least `size` bytes (XSEG_IO_MAX at most): sets buffer,
 * data, data_size. ENOBUFS: none free within the port's quota; try again when requests
 * have come back. The buffer goes with xreq_put(). */
int xbuf_get(struct port *port, struct xreq *req, uint64_t size);
void xbuf_put(struct port *port, struct xreq *req);

/* --- routes --------------------------------------------------------------- */

/* Number of the edge "from>to", made on first use to lead to the port of the role `to`.
 * ENOENT: no such role. ENOSPC: XSEG_ROUTES edges already. */
int route_find(struct xseg *seg, const char *from, const char *to, uint32_t *route);
/* Where the edge leads now. */
static inline uint32_t route_port(const struct xseg *seg, uint32_t route)
{
    return load_acquire(&seg->routes[route].port);
}
/* Turns an edge to another port; takes effect with the next request sent over it. */
int route_set(struct xseg *seg, const char *edge, uint32_t port);

#endif
