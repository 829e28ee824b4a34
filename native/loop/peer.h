/* SPDX-License-Identifier: Apache-2.0
 *
 * loop/peer.h - what a native peer is, and the loop that runs it.
 *
 * A peer type is one C file that ends in a `const struct peer_ops`, listed in
 * peers.c, and one Python file in peers/ that configures it. A loop is one thread
 * that runs any number of peers to completion: it takes what came in at each port,
 * hands it to the peer, lets each peer flush what it gathered, and goes round again
 * until nothing moves; only then does it ring bells and, when its own inboxes are
 * empty, sleep. A request between two peers of one loop never leaves the thread, and
 * costs no system call.
 *
 * No callback may block, and all are called on the loop's thread only. Everything a
 * peer needs per request lives in its port's copy of it: in the holder's scratch of a request it
 * serves, in the sender's scratch of a child it made (XREQ_HOLDER, XREQ_SENDER in segment/xseg.h).
 * Nothing is allocated per I/O.
 *
 * The waiting room
 * ----------------
 * A request that cannot be served for want of a slot, a buffer or other memory is parked: peer_park(). The loop
 * hands it to the peer's again() once a turn, while the peer's can_serve() says that trying is of use. Those that
 * are parked have their tries in the order in which they came, and nobody has a second one before all have had
 * theirs. Who comes later may overtake them, unless its peer looks at peer_has_parked() and parks it behind them.
 */
#ifndef ARCHIPELAGO_PEER_H
#define ARCHIPELAGO_PEER_H

#include "loop/tune.h"
#include "segment/xseg.h"

#define PEER_OPTIONS_MAX 32
#define PEER_TARGETS_MAX 4
#define PEER_TRIES_MAX 1024         /* parked requests that have a try in one turn */
#define LOOP_PEERS_MAX 16

struct option { const char *name, *value; };    /* value: NULL: not set */

/* A FIFO of requests the peer holds. One is in at most one queue. */
struct queue { uint32_t head, tail; };     /* slot number + 1 */

struct peer {
    const struct peer_ops *ops;
    struct loop *loop;
    struct xseg *seg;
    struct port *port;
    const char *role;
    struct option options[PEER_OPTIONS_MAX];
    uint32_t option_count;
    uint32_t route[PEER_TARGETS_MAX];   /* edge for each target named at loop_add() */
    uint32_t target_count;
    uint64_t in_flight;             /* requests received and not yet replied to */
    struct queue parked;
    uint32_t parked_count;
    char error[256];                /* start(): why it failed, for the log */
    void *state;                    /* the peer's own: ops->state_size bytes */
};

/* An option of a peer type, and where its value goes. Python passes each one (`options` in peers/NAME.py says its
 * default, bounds and help), so nothing is said about that here, and what is not passed stops the start. */
enum peer_option_kind {
    PEER_U32, PEER_U64,             /* not set: the largest number there is */
    PEER_BOOL,
    PEER_TEXT,                      /* const char *; not set: NULL */
    PEER_FD,                        /* int; not set: -1 */
};
struct peer_option { const char *name; enum peer_option_kind kind; size_t offset; };
/* PEER_OPTION("ms", struct delay, ms): the member of the peer's state says the kind. */
#define PEER_OPTION(name, state, member) { name, _Generic(((state *)0)->member, uint32_t: PEER_U32, \
    uint64_t: PEER_U64, bool: PEER_BOOL, const char *: PEER_TEXT, int: PEER_FD), offsetof(state, member) }

struct peer_ops {
    const char *type;
    size_t state_size;              /* of peer->state, which is there from start() to stop(), zeroed before */
    const struct peer_option *options;      /* ends in { 0 }; NULL: none */
    /* Optional: peer->state has its options. A negative errno and peer->error stop the process; what was begun is
     * undone by then. */
    int (*start)(struct peer *peer);
    /* A request came. It is the peer's until xreq_reply(). */
    void (*request)(struct peer *peer, struct xreq *req);
    /* A child came back. The peer must xreq_put() it. */
    void (*reply)(struct peer *peer, struct xreq *child);
    /* Of a peer that parks requests: one of them has another try, which may end in its being parked again. */
    void (*again)(struct peer *peer, struct xreq *req);
    /* Optional: false while no parked request could be served. */
    bool (*can_serve)(struct peer *peer);
    /* Optional: end of a turn. Submit, send. True: did something. */
    bool (*flush)(struct peer *peer);
    /* Optional: when this peer must run again, CLOCK_MONOTONIC ns; UINT64_MAX: never. */
    uint64_t (*deadline)(struct peer *peer);
    /* Optional, after a turn: how long, in ns, the loop had better sleep before it looks for more, as more
     * will come soon and costs less at once; 0: not at all. It does so as far as that gains (loop/tune.h). */
    uint64_t (*nap)(struct peer *peer);
    /* Optional: stop taking new work. */
    void (*drain)(struct peer *peer);
    /* Optional: true when nothing is under way and stop() may come. */
    bool (*idle)(struct peer *peer);
    /* Optional. */
    void (*stop)(struct peer *peer);
};

extern const struct peer_ops *const native_peers[];     /* ends in NULL; peers.c */
const struct peer_ops *peer_type(const char *type);

/* --- loop ------------------------------------------------------------------ */

struct watch {                      /* a descriptor the loop polls; owned by the peer */
    int fd;
    void (*ready)(struct watch *watch, uint32_t events);
    void *arg;
    bool may_be_alone;              /* a client's, who sends and waits for the answer: see loop/loop.c */
    uint32_t events;                /* the loop's: what of epoll was asked for */
};

#define LOOP_SPIN_AUTO UINT32_MAX

/* A loop with a bell of its own. spin_us: how long it polls before it sleeps (0: not; LOOP_SPIN_AUTO: as far as that
 * gains). */
int loop_new(struct xseg *seg, uint32_t spin_us, struct loop **loop);
/* Has a mechanism on or off for good, instead of finding out what it gains: see tune_force(). */
int loop_force(struct loop *loop, const char *mechanism, bool on);
/* At which level a mechanism is now: see tune_level(). */
uint32_t loop_level(struct loop *loop, enum tune_name name);
/* Adds a peer that serves the static port of `role`. Targets are roles; their edges come
 * from route_find(role, target). On failure *peer still tells why (peer->error). */
int loop_add(struct loop *loop, const char *type, const char *role,
             const char *const *targets, uint32_t target_count,
             const struct option *options, uint32_t option_count, struct peer **peer);
/* Runs until loop_stop(), then drains for drain_ms at most. Releases nothing. */
int loop_run(struct loop *loop, uint32_t drain_ms);
/* One turn over its peers, for who runs a loop step by step instead (a simulation). 1: something moved. */
int loop_turn(struct loop *loop);
/* Serves the descriptors that have something, and waits for none. 1: one had. */
int loop_poll(struct loop *loop);
/* From any thread. */
void loop_stop(struct loop *loop);
void loop_free(struct loop *loop);

int loop_watch(struct loop *loop, struct watch *watch, uint32_t epoll_events);
int loop_rewatch(struct loop *loop, struct watch *watch, uint32_t epoll_events);
void loop_unwatch(struct loop *loop, struct watch *watch);
/* CLOCK_MONOTONIC at the start of this turn. */
uint64_t loop_now(const struct loop *loop);

/* --- helpers for peers ------------------------------------------------------ */

/* The loop's: makes peer->state, with the options in it. Texts live as long as the peer. */
int peer_configure(struct peer *peer);
/* Sets peer->error, returns error. */
int peer_fail(struct peer *peer, int error, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static inline void peer_send(struct peer *peer, struct xreq *req, uint32_t target)
{
    xreq_send(peer->port, req, route_port(peer->seg, peer->route[target]));
}
/* Answers a request taken from request(). */
void peer_reply(struct peer *peer, struct xreq *req, int error);

void queue_push(struct peer *peer, struct queue *queue, struct xreq *req);
struct xreq *queue_pop(struct peer *peer, struct queue *queue);
static inline bool queue_empty(const struct queue *queue) { return queue->head == 0; }

/* Puts a request that lacks something into the waiting room, behind all others. */
void peer_park(struct peer *peer, struct xreq *req);
/* Takes the one that has waited longest out of it, to fail it; NULL: there is none. */
struct xreq *peer_unpark(struct peer *peer);
static inline bool peer_has_parked(const struct peer *peer) { return peer->parked_count != 0; }
/* A can_serve() for peers that lack slots only. */
bool peer_has_slot(struct peer *peer);

#endif
