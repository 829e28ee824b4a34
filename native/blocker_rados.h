/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_rados.h - between the files of the peer type "blocker-rados", and nobody else's.
 *
 * The store
 * ---------
 * One pool of a Ceph cluster; below NAMESPACE (an option, may be empty) a RADOS namespace a kind,
 * so that each is listed by itself. Objects are named as object_name.h tells:
 *
 *     NAMESPACE/data  .../content  .../header  .../name  .../page  .../journal  .../lock
 *     NAMESPACE/node          the clients of each instance, see below
 *
 * Who runs what
 * -------------
 * The loop's thread owns everything below but where a member says otherwise. Each request becomes
 * one asynchronous RADOS operation. librados calls back on its own threads, which put the operation
 * among the finished (pool.h), where the loop takes it and answers. COPY, HASH, LIST, ACQUIRE, RELEASE
 * and DELETE of a lock take several operations one after the other: a small pool of threads makes them
 * with synchronous calls (the first three as slow tasks), and puts what is done there, too.
 *
 * Nothing is allocated here per I/O but what librados itself does. Operations under way are bounded
 * by BR_OPS, requests beyond that wait in a queue. librados' own limit on operations under way
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
 * While the cluster is down, or a placement group has no OSD, operations wait in librados and go on
 * by themselves. After op_timeout_s they fail with ETIMEDOUT (blocker_rados_deadline.c). An
 * operation that timed out may still be done later, but never after a later one on the same object
 * by this client: RADOS keeps their order. A full pool is ENOSPC or EDQUOT at once (FULL_TRY), never
 * a wait. A pool that is gone makes every operation fail with ENOENT, which is not what ENOENT means
 * to our clients: then it is ENODEV. A client that was blocklisted gets ESTALE for everything, for
 * ever.
 *
 * Instances, locks and fencing
 * ----------------------------
 * The clients of an instance (one segment) are registered in the store, so that whoever takes a
 * lock away knows whom to fence: NODE's object in NAMESPACE/node of the pool, where NODE is the
 * segment's creation time. It says, in lines
 *
 *     archipelago node 1 GENERATION
 *     fenced WHY                       only once that has happened
 *     client ROLE ADDRESS
 *
 * At its start a blocker fences the client of its role's earlier life, if one is left there, waits
 * until the osdmap says so, registers itself, and only then serves anything. So a write of a killed
 * life cannot land after its replay (the OSD that replays it has that map by then). It refuses to
 * start for an instance that was fenced: nothing in that segment is true any more. A clean stop
 * takes the line out.
 *
 * A lock's object says
 *
 *     archipelago lock 1 GENERATION
 *     number N                         how often it was taken
 *     token T                          0: nobody has it
 *     lease S                          seconds; 0: for ever
 *     locker client.ID ADDRESS         who took it
 *     instance HOST/MACHINE-ID RUN-FOLDER          ... and where
 *     registry POOL NODE NAMESPACE     where its instance's clients are registered; some lines
 *     (an empty line)
 *     OWNER TEXT
 *
 * Both objects change by compare-and-swap on their first line. A lock's change takes or breaks, in
 * the same operation, a lock of Ceph's object class "lock" on that object. That one measures leases
 * by the OSD's clock, and `rados lock info` shows it.
 *
 * A lock may be taken from its holder by force; when its lease has run out; when its instance is an
 * earlier segment of our own (after a power cut, say); and when none of its instance's clients is
 * registered any more, as after a stop with volumes open. In all these cases:
 *   1. every registry named by the lock is marked "fenced", so that no client can register any more;
 *   2. every address found there, and the locker's, goes to the blocklist, for blocklist_s;
 *   3. the osdmap with that is waited for: each OSD we talk to from now on has it, and refuses the
 *      old clients, reads too;
 *   4. BR_TRUST_NS after the last mark have passed, so the old node does not believe what it has in
 *      memory any more (blocker_rados_trust.c);
 *   5. only now the lock is broken, with its number raised.
 * A node is fenced as a whole: its other volumes fail, too, until it is stopped and started.
 *
 * The registries of an instance are those of all its blockers of this type, which may use other
 * pools: each leaves a file ROLE.rados with "POOL NODE NAMESPACE" in the segment's run folder.
 */
#ifndef ARCHIPELAGO_BLOCKER_RADOS_H
#define ARCHIPELAGO_BLOCKER_RADOS_H

#include <pthread.h>

#include "blocker.h"
#include "object_name.h"
#include "peer.h"
#include "pool.h"
#include "rados_api.h"

#define BR_OPS 4096                 /* operations under way */
#define BR_WORKERS 4
#define BR_NAMESPACE_MAX 128        /* bytes of the option, without NUL */
#define BR_ADDRESS_MAX 256          /* bytes of a client's address, with NUL */
#define BR_OBJECT_MAX (128ull << 20)    /* bytes of an object: osd_max_object_size */
#define BR_PIECE_MAX (1u << 20)     /* bytes a worker moves at a time */
#define BR_HASH_MAX (64ull << 20)   /* bytes of an object under HASH: they are held in memory */
#define BR_OWNER_MAX 1024           /* bytes of a lock owner's text */
#define BR_TEXT_MAX 8192            /* bytes of a lock's or node's object */
#define BR_INSTANCE_MAX 256         /* bytes of an instance's identity, with NUL */
#define BR_FENCED_MAX 64            /* nodes this client has fenced and remembers */
#define BR_TRIES 16                 /* compare-and-swap rounds on such an object */
#define BR_REGISTRIES_MAX 8         /* blockers of this type in one instance */
#define BR_CLIENTS_MAX 16           /* lines of a node's object */
#define BR_NAP_DEPTH 8              /* operations still under way, from which on the loop naps, for */
#define BR_NAP_SHARE 8              /* ... one part in so many of the time that the last one took, */
#define BR_NAP_NS 300000ull         /* ... at most */
#define BR_OP_TIMEOUT_S 120
#define BR_CONNECT_TIMEOUT_S 15
#define BR_STOP_TIMEOUT_S "2"       /* for operations while stopping */
#define BR_BLOCKLIST_S 604800
#define BR_TRUST_NS 2000000000ull   /* a node believes its memory for so long after a look at the store */
#define BR_TRUST_MARGIN_NS 200000000ull     /* for clocks that differ in speed */
#define BR_LOOK_NS (BR_TRUST_NS / 4)
#define BR_NODE_NAME_MAX 20         /* bytes of a registry's name, with NUL */

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
    struct xobj lock;               /* a lease's renewal: whose, and of which generation */
    uint64_t generation;
};

/* A lock held with a lease. */
struct br_held {
    struct br_held *next;
    struct xobj name;
    uint64_t token, generation;
    uint64_t renewed_ns;            /* when its last renewal was begun */
    bool renewing;
};

struct br {
    struct peer *peer;
    const char *pool_name, *user;
    char namespace[BR_NAMESPACE_MAX + 1];
    uint64_t object_size;           /* allocation hint; 0: none */
    uint64_t op_timeout_s, connect_timeout_s, lease_s, blocklist_s, workers;
    rados_t cluster;
    rados_ioctx_t io[XOBJ_KINDS];   /* by kind; io[0]: the nodes' */
    bool connected;
    int64_t pool_id;
    uint64_t node;
    char client[32];                /* "client.4711" */
    char address[BR_ADDRESS_MAX];
    char instance[BR_INSTANCE_MAX]; /* this machine and the segment's run folder */
    bool registered;
    pthread_mutex_t fenced_mutex;   /* guards the two that follow */
    uint64_t fenced_nodes[BR_FENCED_MAX];
    uint32_t fenced_count;          /* in all; the oldest is forgotten first */
    /* operations */
    struct br_op ops[BR_OPS];
    struct task *free;
    uint32_t under_way;
    struct br_op *oldest, *newest;  /* in librados, and not too old */
    struct finished finished;
    uint64_t took_ns;               /* the last one answered in this turn; 0: none */
    struct queue waiting;           /* requests that found no free operation */
    struct pool pool;
    pthread_mutex_t callers_mutex;  /* guards what follows, and librados' option rados_osd_op_timeout */
    uint32_t callers;               /* who may be in a synchronous call: workers, the start */
    /* locks with leases */
    pthread_mutex_t held_mutex;     /* guards the list */
    struct br_held *held;
    uint64_t renew_ns;              /* when leases are looked at next */
    /* looks at our own registry */
    uint64_t look_ns;               /* when the next is due */
    uint64_t look_began_ns;
    bool looking;
    char look_text[BR_TEXT_MAX];
    bool fenced;                    /* everything is answered with ESTALE */
    bool draining;                  /* no more looks, no more renewals */
    /* trouble already told in the log */
    bool pool_gone;
    uint64_t timeouts, timeouts_told_ns;
};

/* --- blocker_rados_connect.c ------------------------------------------------------------ */

/* Connects with the options given and opens the pool. Sets peer->error. */
int br_connect(struct br *br);
void br_disconnect(struct br *br);
/* Sets an option of librados. */
int br_set_number(struct br *br, const char *option, uint64_t value);
/* The RADOS namespace of a kind (0: of the nodes). */
void br_namespace(const struct br *br, uint32_t kind, char name[BR_NAMESPACE_MAX + 16]);

/* --- blocker_rados_op.c: operations, away and back. The loop, but br_finish() --------------- */

int br_ops_start(struct br *br);
void br_ops_stop(struct br *br);
/* A free operation for a request, or NULL. */
struct br_op *br_op_get(struct br *br, struct xreq *req);
void br_op_put(struct br *br, struct br_op *op);
/* Fills in `io`, that of a kind, and `completion`, which finishes the operation. */
void br_prepare(struct br *br, struct br_op *op, uint32_t kind);
/* What became of a submission: an error finishes the operation at once. */
void br_submitted(struct br *br, struct br_op *op, int rc);
/* Has a worker run the operation. */
void br_to_worker(struct br *br, struct br_op *op, int (*run)(struct br *, struct br_op *), enum pool_class class);
/* Puts the operation among the finished. Any thread. */
void br_finish(struct br_op *op, int result);
/* Takes what has finished. True if there was something. */
bool br_ops_reap(struct br *br);
/* For how long the loop had better nap, in ns. */
uint64_t br_ops_nap(struct br *br);
/* Answers its request, after turning what librados says into what our contract says. */
void br_reply(struct br *br, struct br_op *op, int result);
/* The errno of our contract. Tells the log of what is worth it. */
int br_errno(struct br *br, int result);
void br_log(struct br *br, const char *level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* --- blocker_rados_deadline.c. The loop, but br_call_begin(), br_call_end() ------------------ */

void br_deadline_add(struct br *br, struct br_op *op);
void br_deadline_remove(struct br *br, struct br_op *op);
uint64_t br_deadline_next(const struct br *br);
/* Cancels what is too old. */
void br_deadline_look(struct br *br);
/* Between these, librados ends operations by itself. Any thread. The start is such a time from the first. */
void br_call_begin(struct br *br);
void br_call_end(struct br *br);

/* --- blocker_rados_io.c: what is one operation -------------------------------------------- */

void br_io_request(struct br *br, struct xreq *req, struct br_op *op);

/* --- blocker_rados_list.c, blocker_rados_copy.c: whole objects. Workers. --------------------------- */

int br_list_run(struct br *br, struct br_op *op);
int br_copy_run(struct br *br, struct br_op *op);
int br_hash_run(struct br *br, struct br_op *op);

/* --- blocker_rados_text.c: small objects of text, changed by compare-and-swap. Workers, start. ------ */

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

/* --- blocker_rados_node.c: who the clients of an instance are. Workers, start, stop. --------------- */

struct br_registry { int64_t pool; uint64_t node; char namespace[BR_NAMESPACE_MAX + 1]; };

/* Fences the role's earlier life, registers this one. Sets peer->error. */
int br_node_register(struct br *br);
void br_node_unregister(struct br *br);
/* Registries of all blockers of this type in the instance. How many. */
uint32_t br_node_registries(struct br *br, struct br_registry list[BR_REGISTRIES_MAX]);
/* Whether any client is registered there. */
int br_node_has_clients(struct br *br, const struct br_registry *registry, bool *any);
/* Remembers a node as fenced by this client, marks, blocklist, waiting and all. */
void br_node_fenced(struct br *br, uint64_t node);
/* Marks a registry as fenced, there or not, and puts its clients on the blocklist. *found: there were
 * any, and it was not fenced by this client before. */
int br_node_fence(struct br *br, const struct br_registry *registry, const char *why, bool *found);
void br_node_name(uint64_t node, char name[BR_NODE_NAME_MAX]);
/* Looks for the mark in a registry's text. */
bool br_node_is_fenced(const char *text, char why[BR_ADDRESS_MAX]);
/* Puts one client on the blocklist. */
int br_fence_address(struct br *br, const char *address);
/* Waits until this client has the newest osdmap. */
int br_fence_wait(struct br *br);

/* --- blocker_rados_trust.c. The loop. ------------------------------------------------------------------- */

/* Looks at our own registry if it is time to. */
void br_look(struct br *br);
/* This node was fenced. */
void br_distrust(struct br *br, const char *why);

/* --- blocker_rados_lock.c: ACQUIRE, RELEASE, DELETE of a lock. Workers. ------------------------------ */

int br_lock_acquire(struct br *br, struct br_op *op);
int br_lock_release(struct br *br, struct br_op *op);
int br_lock_delete(struct br *br, struct br_op *op);
/* Renews leases that are due. The loop. */
void br_locks_renew(struct br *br);
uint64_t br_locks_deadline(const struct br *br);
void br_locks_stop(struct br *br);

#endif
