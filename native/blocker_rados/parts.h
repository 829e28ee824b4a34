/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_rados/parts.h - between the files of the peer type "blocker-rados", and nobody else's.
 *
 * The store
 * ---------
 * One pool of a Ceph cluster; below NAMESPACE (an option, may be empty) a RADOS namespace a kind,
 * so that each is listed by itself. Objects are named as objects/name.h tells:
 *
 *     NAMESPACE/data  .../content  .../header  .../name  .../page  .../journal  .../lock
 *     NAMESPACE/node          the clients of each instance, see below
 *
 * Who runs what
 * -------------
 * The loop's thread owns everything below but where a member says otherwise. Each request becomes
 * one asynchronous RADOS operation. librados calls back on its own threads, which put the operation
 * among the finished (loop/pool.h), where the loop takes it and answers. COPY, HASH and LIST take several
 * operations one after the other: a small pool of threads makes them with synchronous calls, and puts
 * what is done there, too. ACQUIRE, RELEASE and DELETE of a lock, which may wait for other nodes, have a
 * pool of their own: where a placement group hangs, locks on it are in the way of no I/O, and of other
 * locks only from BR_LOCK_WORKERS on.
 *
 * Nothing is allocated here per I/O but what librados itself does. Operations under way are bounded
 * by BR_OPS, requests beyond that are parked. librados' own limit on operations under way
 * would block the caller, so it is off.
 *
 * One I/O is one RADOS operation, whatever it consists of: none asks first whether an object is
 * there. READ that comes back short is filled up with zeros. WRITE_ZEROES is create + zero + one
 * byte at the end, which makes the object long enough. DISCARD is "must exist" + zero.
 * REPLACE is "exclusive create" or "must exist, first 8 bytes equal", and write_full.
 *
 * Many under way come back one by one, and each would wake the loop, then the endpoint's client, which
 * sends its next by itself. So after an answer, while BR_NAP_DEPTH or more are still away, the loop naps for
 * a small share of the time that the answered one took: what comes meanwhile is served together. With one
 * core of client for each busy OSD, that CPU is what the rate depends on.
 *
 * An acknowledged RADOS write is committed on all replicas, so SYNC has nothing to do, and FUA
 * nothing to add.
 *
 * Trouble
 * -------
 * While the cluster is down, or a placement group has no OSD, operations wait in librados and go on by
 * themselves. After op_timeout_s they fail with ETIMEDOUT (blocker_rados/deadline.c). An operation that
 * timed out may still be done later, but never after a later one on the same object by this client: RADOS
 * keeps their order. Until that is certain no lock is given back, as another node would be another client
 * (blocker_rados/doubt.c). A full pool is ENOSPC or EDQUOT at once (FULL_TRY), never a wait, and no error
 * for what leads out of it: locks, and what removing, opening and closing need. A pool that is gone makes
 * every operation fail with ENOENT, which is not what ENOENT means to our clients: then it is ENODEV. A
 * client that was blocklisted gets ESTALE for everything, for ever.
 *
 * Instances and their registries
 * ------------------------------
 * The clients of an instance (one segment) are registered in the store, so that whoever takes a lock away
 * knows whom to fence. Each of its blockers of this type, which may use other pools, has a registry: NODE's
 * object in NAMESPACE/node of its pool, where NODE is made of the segment's creation time and the boot's id.
 * It says, in lines
 *
 *     archipelago node 1 GENERATION
 *     fenced WHY                       only once that has happened ...
 *     over EPOCH                       ... and once it is complete: with which osdmap
 *     client ROLE ADDRESS              ADDRESS is "-" between two lives
 *
 * and a file ROLE.rados in the segment's run folder says "POOL NODE NAMESPACE", and which segments this home
 * had before (blocker_rados/past.c).
 *
 * At its start a blocker fences the client of its role's earlier life, if one is left there, waits
 * until the osdmap says so, registers itself, and only then serves anything. So a write of a killed
 * life cannot land after its replay (the OSD that replays it has that map by then). It refuses to
 * start for an instance that was fenced, and says so to the whole segment: nothing in there is true any
 * more. A clean stop leaves the line without an address, as the instance goes on and may hold locks; only
 * where the segment is ending is the line taken out.
 *
 * Locks
 * -----
 * A lock's object says
 *
 *     archipelago lock 1 GENERATION
 *     number N                         how often it was taken
 *     epoch E                          osdmap of the last fencing that had to do with it; 0: none had
 *     token T                          0: nobody has it
 *     lease S                          seconds, of its node's lease; 0: for ever
 *     locker client.ID ADDRESS         who took it
 *     instance HOST/MACHINE-ID RUN-FOLDER          ... and where
 *     registry POOL NODE NAMESPACE     registries of its instance, the locker's first
 *     (an empty line)
 *     OWNER TEXT
 *
 * Both kinds of object change by compare-and-swap on their first line: a lock goes from one to the next in
 * one operation, and whatever was found out about a holder counts only while the lock is still of the
 * generation that it was found out for.
 *
 * No lock is taken before every blocker of this type that the segment has (its ports say which) has registered:
 * ACQUIRE waits for them, and fails with their name after connect_timeout_s. So the registries of a lock are all
 * there are, and stay so, whoever is restarted: they bear the segment's name, not the client's. An ACQUIRE that
 * finds its own lock and something else in it than is true now writes it anew.
 *
 * A lock may be taken from its holder by force, and without when
 *   - none of its registries has a client that is not fenced, as after a stop with volumes open;
 *   - its node's lease has run out (blocker_rados/lease.c). Only the lease is looked at, which no close of a
 *     volume ends, so a hand-over never looks like a death;
 *   - its instance is an earlier segment of our own, and nothing of that lives (blocker_rados/past.c).
 *
 * Nobody writes who may not
 * -------------------------
 * Before a lock changes hands without its holder:
 *   1. every registry named by it is marked "fenced", so that no client can register any more, and whoever looks
 *      there sends nothing more and says so to its segment;
 *   2. every client registered there goes to the blocklist, for BR_FOREVER_S;
 *   3. the osdmap's epoch is asked for after that;
 *   4. BR_TRUST_NS after the last mark have passed, so the old node does not believe what it has in
 *      memory any more (blocker_rados/trust.c). The registries say "over EPOCH": others that take locks of the
 *      same node find it done;
 *   5. this client waits until it has an osdmap of that epoch, and then writes it into the segment's header; no
 *      blocker of the segment sends anything before it has one as new;
 *   6. only now the lock's object is changed, its number raised, the epoch in it.
 *
 * Why no write of the old holder lands on what the new one has written. A write of the new holder is sent by a
 * client with an osdmap of that epoch, whichever of its blockers sends it (5), and an OSD serves no operation
 * before it has the map that the operation's client had. From then on that OSD refuses what comes from the
 * clients of the old holder, whenever it was sent: before a pause, after it, or by librados' own threads that
 * had it in a queue all the while. Those clients are all that the old segment has or ever will have (every
 * blocker registered before the lock was taken; 1). What such an OSD did before is older than the new holder's
 * write. The next holders know the epoch from the lock's object, where it stays for ever, as an OSD to which
 * nobody has talked since may not know it yet.
 *
 * It does not depend on how long the old holder's pause is: the blocklist has it for BR_FOREVER_S. blocklist_s is
 * only for lives that are known to be dead. Whoever knows that a fenced machine will never go on may take its
 * addresses off by `ceph osd blocklist rm`.
 *
 * If somebody takes them off and the machine does go on, less is promised. It gives librados nothing more, as it
 * looks at its registry first, where the mark stays. But what librados has already, it sends: what a pause caught
 * in its queues, and what it sends anew over a new connection. Nothing of ours is asked before that. So each
 * change of a volume's objects bears a number, by which the OSD refuses it if the next holder has written to that
 * object since (blocker_rados/order.c): what the next holder was told is written stays. On objects that it has
 * not written to, such a change still lands, where it has read something else.
 *
 * A node is fenced as a whole: its other volumes fail, too, until it is stopped and started.
 */
#ifndef ARCHIPELAGO_BLOCKER_RADOS_H
#define ARCHIPELAGO_BLOCKER_RADOS_H

#include <pthread.h>

#include "blocker_rados/api.h"
#include "loop/peer.h"
#include "loop/pool.h"
#include "objects/blocker.h"
#include "objects/name.h"
#include "segment/log.h"

#define BR_OPS 4096                 /* operations under way */
#define BR_LOCK_WORKERS 16          /* threads for ACQUIRE and RELEASE: those that hang are in nobody's way but these */
#define BR_NAMESPACE_MAX 128        /* bytes of the option, without NUL */
#define BR_ADDRESS_MAX 256          /* bytes of a client's address, with NUL */
#define BR_OBJECT_MAX (128ull << 20)    /* bytes of an object: osd_max_object_size */
#define BR_PIECE_MAX (1u << 20)     /* bytes a worker moves at a time */
#define BR_HASH_MAX (64ull << 20)   /* bytes of an object under HASH: they are held in memory */
#define BR_OWNER_MAX 1024           /* bytes of a lock owner's text */
#define BR_TEXT_MAX 8192            /* bytes of a lock's or node's object */
#define BR_INSTANCE_MAX 256         /* bytes of an instance's identity, with NUL */
#define BR_TRIES 16                 /* compare-and-swap rounds on such an object */
#define BR_REGISTRIES_MAX 8         /* blockers of this type in one instance */
#define BR_CLIENTS_MAX 16           /* lines of a node's object */
#define BR_NAP_DEPTH 8              /* operations still under way, from which on the loop naps, for */
#define BR_NAP_SHARE 8              /* ... one part in so many of the time that the last one took, */
#define BR_NAP_NS 300000ull         /* ... at most */
#define BR_STOP_TIMEOUT_S "2"       /* for operations while stopping */
#define BR_FOREVER_S (10u * 365 * 86400)        /* of a client that may be alive */
#define BR_FENCE_NS 3000000000ull   /* that a fencing takes at most, beside its wait for BR_TRUST_NS */
#define BR_TRUST_NS 2000000000ull   /* a node believes its memory for so long after a look at the store */
#define BR_TRUST_MARGIN_NS 200000000ull     /* for clocks that differ in speed */
#define BR_LOOK_NS (BR_TRUST_NS / 4)
#define BR_NODE_NAME_MAX 20         /* bytes of a registry's name, with NUL */
#define BR_NO_ADDRESS "-"           /* of a client between two lives */
#define BR_BEING_TOLD 1
#define BR_TOLD 2
#define BR_REGISTRY_SUFFIX ".rados" /* of the files in the run folder */

struct br;

/* Something under way in librados or in a worker. */
struct br_op {
    struct task task;               /* or, by `next`, free */
    struct br *br;
    struct xreq *req;               /* NULL: the blocker's own */
    /* In a worker: 0 or more, or a negative errno. */
    int (*run)(struct br *br, struct br_op *op);
    /* On the loop. NULL: answers the request with the result, at most 0. */
    void (*done)(struct br *br, struct br_op *op);
    int result;
    /* in librados: */
    rados_ioctx_t io;
    rados_completion_t completion;
    struct br_op *older, *newer;    /* by age, if it is `aging` */
    uint64_t began_ns;
    bool aging;
    bool late;                      /* it was cancelled */
    uint64_t size;                  /* INFO */
    time_t changed;
    struct xobj doubted;            /* a look at an object, see blocker_rados/doubt.c */
    bool ordered;                   /* it bears `number`, see blocker_rados/order.c */
    uint64_t number;
};

struct br {
    struct peer *peer;
    /* options: see peers/blocker_rados.py */
    const char *conf, *user, *keyring, *pool_name, *namespace_name;
    uint64_t object_size;           /* allocation hint; 0: none */
    uint64_t op_timeout_s, connect_timeout_s, lease_s, blocklist_s;
    uint32_t workers;
    /* all else */
    char namespace[BR_NAMESPACE_MAX + 1];
    rados_t cluster;
    rados_ioctx_t io[XOBJ_KINDS];   /* by kind; io[0]: the nodes' */
    bool connected;
    int64_t pool_id;
    uint64_t node;
    char client[32];                /* "client.4711" */
    char address[BR_ADDRESS_MAX];
    char instance[BR_INSTANCE_MAX]; /* this machine and the segment's run folder */
    bool registered;
    uint64_t watch;                 /* of our registry; 0: none */
    bool unwatched;                 /* atomic: the cluster has ended the watch */
    bool watching;                  /* a worker is at it */
    uint32_t told_state;            /* atomic: 0, BR_BEING_TOLD, BR_TOLD: `told` may be read */
    char told[BR_ADDRESS_MAX];      /* by who fences us: why */
    /* operations */
    struct br_op ops[BR_OPS];
    struct task *free;
    uint32_t under_way;
    struct br_op *oldest, *newest;  /* in librados, and not too old */
    struct finished finished;
    uint64_t took_ns;               /* the last one answered in this turn; 0: none */
    struct pool pool, lock_pool;
    pthread_mutex_t callers_mutex;  /* guards what follows, and librados' option rados_osd_op_timeout */
    uint32_t callers;               /* who may be in a synchronous call: workers, the start */
    /* the node's lease; CLOCK_BOOTTIME where nothing else is said */
    uint64_t leased_ns;             /* atomic: when a worker took it last; 0: never */
    uint64_t lease_end_ns;          /* until then it is renewed at least */
    uint64_t renew_ns;              /* when it is looked at next; the loop's time */
    uint32_t acquiring;             /* ACQUIREs under way */
    bool renewing;
    /* fencings of others */
    uint64_t epoch_known;           /* atomic: this client has an osdmap as new as that, or newer */
    bool learning;                  /* a worker waits for one */
    /* numbers of changes, see blocker_rados/order.c */
    uint64_t numbers[XOBJ_KINDS];   /* that io[kind] has now */
    bool outnumbered;               /* a change was refused, and the newest number is not known yet */
    bool unordered;                 /* numbers are of no use with this pool */
    uint64_t refused_number;        /* ... of that change */
    uint64_t refused_ns;            /* CLOCK_BOOTTIME of the last refusal */
    uint64_t looked_ns;             /* ... and of the begin of our last look at our registry that found no mark */
    /* looks at our own registry */
    uint64_t look_ns;               /* when the next is due; the loop's time */
    uint64_t look_began_ns;         /* CLOCK_BOOTTIME */
    uint64_t look_received;         /* requests until then */
    bool looking;
    char look_text[BR_TEXT_MAX];
    bool fenced;                    /* everything is answered with ESTALE */
    bool draining;                  /* atomic: no more looks, no more renewals */
    uint64_t doubts;                /* changes that timed out, and may yet be done */
    /* trouble already told in the log */
    bool pool_gone;
    uint64_t timeouts, timeouts_told_ns;
};

#define br_log(br, level, ...) log_line((br)->peer->role, level, __VA_ARGS__)

/* What follows goes up: a file calls only what is declared above its own part, and work comes back by done(). */

/* --- blocker_rados/connect.c ------------------------------------------------------------ */

/* Connects with the options given and opens the pool. Sets peer->error. */
int br_connect(struct br *br);
void br_disconnect(struct br *br);
/* Sets an option of librados. */
int br_set_number(struct br *br, const char *option, uint64_t value);
/* The RADOS namespace of a kind (0: of the nodes). */
void br_namespace(const struct br *br, uint32_t kind, char name[BR_NAMESPACE_MAX + 16]);

/* --- blocker_rados/text.c: small objects of text, changed by compare-and-swap. Workers, start. ------ */

/* Ends a text of `length` bytes (or a negative errno) by NUL and reads its first line; its length.
 * EBADMSG: too long, or not of that `kind`. */
int br_text_parse(const char *kind, char text[BR_TEXT_MAX], int length, uint64_t *generation);
/* Reads an object and does that. ENOENT. */
int br_text_read(rados_ioctx_t io, const char *name, const char *kind, char text[BR_TEXT_MAX],
                 uint64_t *generation);
/* Starts a text of a generation; returns its length. */
int br_text_begin(const char *kind, uint64_t generation, char text[BR_TEXT_MAX]);
/* Appends. EMSGSIZE: it does not fit. */
int br_text_add(char text[BR_TEXT_MAX], const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Begins an operation that holds only if the object is of that generation (0: is not there). */
rados_write_op_t br_text_swap(const char *kind, uint64_t generation);
/* Does it and releases it. EAGAIN: the object was changed meanwhile. */
int br_text_operate(rados_write_op_t op, rados_ioctx_t io, const char *name);

/* --- blocker_rados/deadline.c. The loop, but br_call_begin(), br_call_end() ------------------ */

void br_deadline_add(struct br *br, struct br_op *op);
void br_deadline_remove(struct br *br, struct br_op *op);
uint64_t br_deadline_next(const struct br *br);
/* Cancels what is too old. */
void br_deadline_look(struct br *br);
/* Cancels what nobody asked for: looks, renewals. */
void br_deadline_cancel_own(struct br *br);
/* Between these, librados ends operations by itself. Any thread. The start is such a time from the first. */
void br_call_begin(struct br *br);
void br_call_end(struct br *br);

/* --- blocker_rados/op.c: operations, away and back. The loop, but br_finish() --------------- */

int br_ops_start(struct br *br);
void br_ops_stop(struct br *br);
/* A free operation for a request, or NULL. */
struct br_op *br_op_get(struct br *br, struct xreq *req);
void br_op_put(struct br *br, struct br_op *op);
/* Fills in `io`, that of a kind, and `completion`, which finishes the operation. */
void br_prepare(struct br *br, struct br_op *op, uint32_t kind);
/* What became of a submission: an error finishes the operation at once. */
void br_submitted(struct br *br, struct br_op *op, int rc);
/* Has a worker run the operation; one of those for locks. */
void br_to_locker(struct br *br, struct br_op *op, int (*run)(struct br *, struct br_op *));
/* Any worker. */
void br_to_worker(struct br *br, struct br_op *op, int (*run)(struct br *, struct br_op *), enum pool_class class);
/* Answers all that are parked with an error of our contract. */
void br_fail_waiting(struct br *br, int error);
/* In a worker or at start: sleeps until then (CLOCK_MONOTONIC). */
void br_sleep_until(uint64_t ns);
/* Puts the operation among the finished. Any thread. */
void br_finish(struct br_op *op, int result);
/* Takes what has finished. True if there was something. Calls doubt(), when the operation is free again, with the
 * object of a change that timed out, as it may yet be done. Hands what was refused as too late to refused(). */
bool br_ops_reap(struct br *br, void (*doubt)(struct br *, const struct xobj *),
                 void (*refused)(struct br *, struct br_op *));
/* For how long the loop had better nap, in ns. */
uint64_t br_ops_nap(struct br *br);
/* Answers its request, after turning what librados says into what our contract says. */
void br_reply(struct br *br, struct br_op *op, int result);
/* This node was fenced. */
void br_distrust(struct br *br, const char *why);
/* The errno of our contract. Tells the log of what is worth it. */
int br_errno(struct br *br, int result);

/* --- blocker_rados/doubt.c: changes that timed out, and may yet be done ------------------------------------ */

/* Looks after one of an object until it is certain. The loop. */
void br_doubt(struct br *br, const struct xobj *object);
/* Those of an earlier life are over: it was fenced. Start. */
void br_doubt_none(struct br *br);
/* Waits a moment until there are none in the whole segment. ETIMEDOUT. Worker. */
int br_doubt_wait(struct br *br);

/* --- blocker_rados/registry.c: who the clients of an instance are. Workers, start, stop. ------------ */

struct br_registry { int64_t pool; uint64_t node; char namespace[BR_NAMESPACE_MAX + 1]; };
struct br_client { char role[XSEG_ROLE_MAX], address[BR_ADDRESS_MAX]; };

struct br_node {
    uint64_t generation;            /* 0: there is no such object */
    bool fenced;
    char why[BR_ADDRESS_MAX];
    uint64_t over;                  /* epoch of an osdmap that keeps all of them out; 0: not known to be */
    struct br_client clients[BR_CLIENTS_MAX];
    uint32_t count;
};

/* Registries of all blockers of this type in the segment, our own first. EAGAIN: `missing` has not registered in
 * this segment. E2BIG: there are too many. */
int br_node_registries(struct br *br, struct br_registry list[BR_REGISTRIES_MAX], uint32_t *count,
                       char missing[XSEG_ROLE_MAX]);
bool br_registry_same(const struct br_registry *a, const struct br_registry *b);
/* What the first line of a file ROLE.rados says. */
bool br_registry_parse(const char *text, struct br_registry *registry);
void br_node_name(uint64_t node, char name[BR_NODE_NAME_MAX]);
/* A registry's object. 1: its pool is gone. The caller destroys *io, unless it is NULL. */
int br_node_open(struct br *br, const struct br_registry *registry, rados_ioctx_t *io, char name[BR_NODE_NAME_MAX]);
/* 0 with generation 0 if there is none. */
int br_node_read(rados_ioctx_t io, const char *name, struct br_node *node);
/* EAGAIN: it was changed meanwhile. One without any content is removed. */
int br_node_write(rados_ioctx_t io, const char *name, const struct br_node *node);
/* Sets *any if a client is registered there, and not fenced. */
int br_node_lives(struct br *br, const struct br_registry *registry, bool *any);
/* Looks for the mark in a registry's text. */
bool br_node_is_fenced(const char *text, char why[BR_ADDRESS_MAX]);

/* --- blocker_rados/past.c: is the holder of a lock an earlier segment of our own? -------------------------- */

/* Name of our registry: the segment, and the boot it was made in. */
uint64_t br_past_node(uint64_t created_ns);
/* Writes ROLE.rados. Start. */
int br_past_tell(struct br *br);
/* Watches our registry. Start, worker. */
int br_past_watch(struct br *br);
/* ETIMEDOUT: the cluster does not answer. Stop, worker. */
int br_past_unwatch(struct br *br);
/* Has those who watch a registry be told something. 1: one has acknowledged it. Worker. */
int br_past_notify(rados_ioctx_t io, const char *name, const char *text, uint64_t timeout_ms);
/* Watches it again if the cluster has ended that. The loop. */
void br_past_watch_on(struct br *br);
/* 1: it is, and nothing of it lives. Worker. */
int br_past_was_us(struct br *br, const char *instance, const struct br_registry *registries, uint32_t count);

/* --- blocker_rados/fence.c ------------------------------------------------------------------------------ */

/* Puts one client on the blocklist. Workers, start. */
int br_fence_address(struct br *br, const char *address, uint64_t seconds);
/* Waits until this client has the newest osdmap. Workers, start. */
int br_fence_wait(struct br *br);
/* Fences the node with these registries: steps 1 to 4. Raises *epoch to that of the osdmap. Workers. */
int br_fence_nodes(struct br *br, const struct br_registry *registries, uint32_t count, const char *why,
                   uint64_t *epoch);
/* Waits until this client has an osdmap of that epoch, and has all other blockers of the segment do so before
 * they serve anything. Workers. */
int br_fence_know(struct br *br, uint64_t epoch);
/* This client has the osdmap that volumes open here depend on. The loop. */
bool br_fence_known(struct br *br);
/* Gets it, if need be. The loop. */
void br_fence_learn(struct br *br);

/* --- blocker_rados/order.c: changes that are too late are refused. The loop, but br_order_open() ---------- */

/* Has the operation, which is about to be submitted, bear the number of now. Returns flags for it. */
int br_order(struct br *br, struct br_op *op, uint32_t kind);
/* The same for one that a worker is about to get. */
void br_order_worker(struct br *br, struct br_op *op, uint32_t kind);
/* The pool for what that worker changes, with RADOS_ORDERSNAP if op->ordered. The caller destroys it. Worker. */
int br_order_open(struct br *br, const struct br_op *op, uint32_t kind, rados_ioctx_t *io);
/* An operation that has come back was refused: has its request wait until it may be sent again. */
void br_order_refused(struct br *br, struct br_op *op);
/* The newest number, asked for after a refusal. */
void br_order_learned(struct br *br, uint64_t newest);

/* --- blocker_rados/trust.c. The loop, start. -------------------------------------------------------------- */

/* Nothing speaks against sending an operation now. */
bool br_trusts(struct br *br);
/* Our registry had no mark at that time (CLOCK_BOOTTIME). */
void br_trust_since(struct br *br, uint64_t ns);
/* Looks at our own registry if it is time to. */
void br_look(struct br *br);
uint64_t br_look_deadline(const struct br *br);
/* A volume is open here for writing. */
bool br_writers(const struct br *br);

/* --- blocker_rados/lease.c ------------------------------------------------------------------------------- */

/* 1: the lease of the node that is registered there has run out. Workers. */
int br_lease_is_over(struct br *br, const struct br_registry *registry);
/* Takes or renews that of this node, unless it has just been. Workers, start. */
int br_lease_take(struct br *br);
/* Renews it if it is time to. The loop. */
void br_lease_renew(struct br *br);
uint64_t br_lease_deadline(const struct br *br);

/* --- blocker_rados/node.c: our own registry. Start, stop. ---------------------------------------------- */

/* Fences the role's earlier life, registers this one. Sets peer->error. */
int br_node_register(struct br *br);
void br_node_unregister(struct br *br);

/* --- blocker_rados/lock.c: ACQUIRE, RELEASE, DELETE of a lock. Workers. ------------------------------ */

int br_lock_acquire(struct br *br, struct br_op *op);
int br_lock_release(struct br *br, struct br_op *op);
int br_lock_delete(struct br *br, struct br_op *op);

/* --- blocker_rados/claim.c: when a content was last claimed. Any thread. ------------------- */

/* Has a write operation claim its object. */
void br_claim_write(rados_write_op_t write);
/* Has it fail with ECANCELED if its object was claimed at `moment` (ns since 1970) or later. */
void br_claim_expect_none(rados_write_op_t write, uint64_t moment);

/* --- blocker_rados/io.c: what is one operation -------------------------------------------- */

void br_io_request(struct br *br, struct xreq *req, struct br_op *op);

/* --- blocker_rados/list.c, blocker_rados/copy.c: whole objects. Workers. --------------------------- */

int br_list_run(struct br *br, struct br_op *op);
int br_copy_run(struct br *br, struct br_op *op);
int br_hash_run(struct br *br, struct br_op *op);
int br_put_run(struct br *br, struct br_op *op);

#endif
