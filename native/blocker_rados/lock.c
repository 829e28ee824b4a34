/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_rados/lock.c - ACQUIRE, RELEASE, and DELETE of a lock. What a lock's object says and how
 * an old holder is fenced is told in blocker_rados/parts.h.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "blocker_rados/parts.h"
#include "segment/barrier.h"

#define KIND "lock"
#define HOST_MAX 64
#define POLL_NS 20000000ull         /* between looks whether all blockers have registered */
#define SECOND 1000000000ull

struct lock {
    uint64_t generation;            /* 0: there is no such object */
    uint64_t number, token, lease_s;
    uint64_t epoch;                 /* osdmap that the last fencing it was involved in needs; 0: none was */
    bool leased_by_node;            /* its lease is its node's; false: an older version's, which we cannot judge */
    char locker[32], address[BR_ADDRESS_MAX];
    char instance[BR_INSTANCE_MAX];
    struct br_registry registries[BR_REGISTRIES_MAX];
    uint32_t registry_count;
    char owner[BR_OWNER_MAX];
    uint32_t owner_size;
};

/* --- the object -------------------------------------------------------------------------- */

static int parse_line(struct lock *lock, const char *line)
{
    struct br_registry *registry = &lock->registries[lock->registry_count];

    if (sscanf(line, "epoch %" SCNu64, &lock->epoch) == 1) {
        lock->leased_by_node = true;
        return 0;
    }
    if (sscanf(line, "number %" SCNu64, &lock->number) == 1
        || sscanf(line, "token %" SCNx64, &lock->token) == 1
        || sscanf(line, "lease %" SCNu64, &lock->lease_s) == 1
        || sscanf(line, "locker %31s %255s", lock->locker, lock->address) == 2
        || sscanf(line, "instance %255[^\n]", lock->instance) == 1)
        return 0;
    if (lock->registry_count == BR_REGISTRIES_MAX
        || sscanf(line, "registry %" SCNd64 " %" SCNx64 "%*1[ ]%128[^\n]", &registry->pool, &registry->node,
                  registry->namespace) < 2)
        return -EBADMSG;
    lock->registry_count++;
    return 0;
}

/* What a text of `length` bytes says behind its first line. */
static int lock_parse(const char *text, int length, struct lock *lock)
{
    const char *line = strchr(text, '\n') + 1, *next;
    int rc = 0;

    for (; rc == 0 && *line != '\n'; line = next) {
        next = strchr(line, '\n');
        if (!next)
            return -EBADMSG;
        rc = parse_line(lock, line);
        next++;
    }
    if (rc || text + length - (line + 1) > BR_OWNER_MAX
        || (lock->token && (!lock->locker[0] || !lock->instance[0])))
        return -EBADMSG;
    lock->owner_size = (uint32_t)(text + length - (line + 1));
    memcpy(lock->owner, line + 1, lock->owner_size);
    return 0;
}

/* 0 with generation 0 if there is none. */
static int lock_read(struct br *br, const char *name, struct lock *lock)
{
    char text[BR_TEXT_MAX];
    uint64_t generation;
    int n = br_text_read(br->io[XOBJ_LOCK], name, KIND, text, &generation);

    *lock = (struct lock){ .generation = generation };
    if (n < 0)
        return n == -ENOENT ? 0 : n;
    return lock_parse(text, n, lock);
}

/* The text of the next generation, without the owner's; its length, or EMSGSIZE. */
static int lock_print(const struct lock *lock, char text[BR_TEXT_MAX])
{
    int rc;

    br_text_begin(KIND, lock->generation + 1, text);
    rc = br_text_add(text, "number %" PRIu64 "\nepoch %" PRIu64 "\ntoken %016" PRIx64 "\nlease %" PRIu64 "\n",
                     lock->number, lock->epoch, lock->token, lock->lease_s);
    if (rc == 0 && lock->token)
        rc = br_text_add(text, "locker %s %s\ninstance %s\n", lock->locker, lock->address, lock->instance);
    for (uint32_t i = 0; rc == 0 && i < lock->registry_count; i++)
        rc = br_text_add(text, "registry %" PRId64 " %016" PRIx64 " %s\n", lock->registries[i].pool,
                         lock->registries[i].node, lock->registries[i].namespace);
    if (rc == 0)
        rc = br_text_add(text, "\n");
    if (rc || strlen(text) + lock->owner_size >= BR_TEXT_MAX)
        return -EMSGSIZE;
    return (int)strlen(text);
}

/* Held by this instance, be it by an earlier life of this peer. */
static bool is_mine(const struct br *br, const struct lock *lock)
{
    for (uint32_t i = 0; i < lock->registry_count; i++)
        if (lock->registries[i].node == br->node)
            return true;
    return false;
}

/* --- changing it --------------------------------------------------------------------------------------- */

/* Makes the object say what `lock` says, if it is of that generation still. EAGAIN: it is not. */
static int lock_write(struct br *br, const char *name, const struct lock *lock)
{
    rados_write_op_t op = br_text_swap(KIND, lock->generation);
    char text[BR_TEXT_MAX];
    int length = lock_print(lock, text);

    if (length < 0) {
        rados.release_write_op(op);
        return length;
    }
    memcpy(text + length, lock->owner, lock->owner_size);
    rados.write_op_write_full(op, text, (size_t)length + lock->owner_size);
    return br_text_operate(op, br->io[XOBJ_LOCK], name);
}

/* EAGAIN: it is of another generation by now, so what was found out about its holder may be wrong. */
static int check_unchanged(struct br *br, const char *name, const struct lock *lock)
{
    struct lock now;
    int rc = lock_read(br, name, &now);

    return rc ? rc : now.generation == lock->generation ? 0 : -EAGAIN;
}

/* Nobody who held this lock, or shares an instance with who did, can do anything from now on. Raises *epoch to
 * that of the osdmap that says so. */
static int fence(struct br *br, const struct lock *lock, uint64_t *epoch)
{
    char why[BR_ADDRESS_MAX], host[HOST_MAX] = "";

    gethostname(host, sizeof(host) - 1);
    snprintf(why, sizeof(why), "%s on %s took its lock number %" PRIu64 " away", br->client, host, lock->number);
    br_log(br, "WARNING", "fencing the holder of lock number %" PRIu64 ", %s (%.*s)", lock->number, lock->locker,
           (int)lock->owner_size, lock->owner);
    return br_fence_nodes(br, lock->registries, lock->registry_count, why, epoch);
}

/* --- ACQUIRE ------------------------------------------------------------------------------------------- */

static void tell_requester(struct br *br, struct xreq *req, const char *text, size_t size)
{
    req->done = 0;
    if (size && xreq_data_ok(br->peer->seg, req, 1)) {
        req->done = size < req->data_size ? size : req->data_size;
        memcpy(xreq_data(br->peer->seg, req), text, req->done);
    }
}

static int busy(struct br *br, struct xreq *req, const struct lock *lock)
{
    tell_requester(br, req, lock->owner, lock->owner_size);
    return -EBUSY;
}

/* Fills in who we are, once every blocker of the segment has registered: a lock that leaves one out does not
 * say whom to fence. Waits for connect_timeout_s at most. ENOTCONN: the requester is told which has not. */
static int name_ourselves(struct br *br, struct xreq *req, struct lock *ours)
{
    uint64_t end = clock_ns() + br->connect_timeout_s * SECOND;
    char missing[XSEG_ROLE_MAX], text[128];
    int rc;

    while ((rc = br_node_registries(br, ours->registries, &ours->registry_count, missing)) == -EAGAIN
           && clock_ns() < end && !load_relaxed(&br->draining))
        br_sleep_until(clock_ns() + POLL_NS);
    if (rc == -EAGAIN) {
        int n = snprintf(text, sizeof(text), "%s has not registered in its pool yet: see its log", missing);
        br_log(br, "ERROR", "no lock is taken: %s", text);
        tell_requester(br, req, text, (size_t)n);
        return -ENOTCONN;
    }
    snprintf(ours->locker, sizeof(ours->locker), "%s", br->client);
    snprintf(ours->address, sizeof(ours->address), "%s", br->address);
    snprintf(ours->instance, sizeof(ours->instance), "%s", br->instance);
    return rc;
}

/* The lock says who we are now. */
static bool is_true_of(const struct lock *lock, const struct lock *ours)
{
    bool same = lock->registry_count == ours->registry_count && strcmp(lock->locker, ours->locker) == 0;

    for (uint32_t i = 0; same && i < ours->registry_count; i++)
        same = br_registry_same(&lock->registries[i], &ours->registries[i]);
    return same;
}

/* 1: the lock may be taken from its holder, once that is fenced. */
static int may_be_taken(struct br *br, const struct lock *lock)
{
    bool lives = false;
    int rc = 0;

    if (is_mine(br, lock))
        return 0;
    for (uint32_t i = 0; rc == 0 && !lives && i < lock->registry_count; i++)
        rc = br_node_lives(br, &lock->registries[i], &lives);
    if (rc || !lives)
        return rc ? rc : 1;
    if (lock->lease_s && lock->leased_by_node)
        rc = br_lease_is_over(br, &lock->registries[0]);
    return rc ? rc : br_past_was_us(br, lock->instance, lock->registries, lock->registry_count);
}

/* Takes what another holds, as far as fencing goes; EBUSY: it is not to be had. */
static int rob(struct br *br, struct xreq *req, const char *name, const struct lock *old, uint64_t *epoch)
{
    int rc = may_be_taken(br, old);

    if (rc == 0)
        return busy(br, req, old);
    if (rc > 0)
        rc = check_unchanged(br, name, old);
    return rc ? rc : fence(br, old, epoch);
}

/* One round: EAGAIN asks for another. `ours`: who we are. */
static int acquire_once(struct br *br, struct xreq *req, const char *name, const struct lock *ours)
{
    struct lock old, lock = *ours;
    int rc = lock_read(br, name, &old);
    bool held = old.token == req->arg && is_mine(br, &old);

    if (rc == 0 && old.token && !held)
        rc = rob(br, req, name, &old, &old.epoch);
    if (rc == 0)
        rc = br_fence_know(br, old.epoch);
    if (rc)
        return rc;
    lock.generation = old.generation;
    lock.number = held ? old.number : old.number + 1;
    lock.epoch = old.epoch;
    rc = held && is_true_of(&old, ours) ? 0 : lock_write(br, name, &lock);
    if (rc == 0)
        req->done = lock.number;
    return rc;
}

int br_lock_acquire(struct br *br, struct br_op *op)
{
    struct xreq *req = op->req;
    struct lock ours = { .token = req->arg, .lease_s = br->lease_s, .owner_size = (uint32_t)req->size };
    char name[OBJECT_NAME_MAX];
    int rc;

    memcpy(ours.owner, xreq_data(br->peer->seg, req), req->size);
    object_name_print(&req->object, name);
    rc = name_ourselves(br, req, &ours);
    if (rc == 0)
        rc = br_lease_take(br);
    if (rc)
        return rc;
    rc = -EAGAIN;
    for (int i = 0; rc == -EAGAIN && i < BR_TRIES; i++)
        rc = acquire_once(br, req, name, &ours);
    return rc == -EAGAIN ? -EBUSY : rc;         /* many others want it */
}

/* --- RELEASE, DELETE ------------------------------------------------------------------------------------- */

/* Our own is not given back while we may yet change something. */
static int give_back(struct br *br, const struct xreq *req)
{
    int rc = br_doubt_wait(br);

    if (rc)
        br_log(br, "ERROR", "the lock of volume %016" PRIx64 " is not given back: changes that timed out may yet be "
               "done", req->object.volume);
    return rc;
}

static int release_once(struct br *br, struct xreq *req, const char *name)
{
    struct lock old, lock;
    int rc = lock_read(br, name, &old);

    if (rc)
        return rc;
    if (old.token == 0)
        return -ENOENT;
    if (old.token != req->arg && !(req->flags & XREQ_FORCE))
        return -EPERM;
    lock = (struct lock){ .generation = old.generation, .number = old.number, .epoch = old.epoch };
    if (is_mine(br, &old)) {
        lock.epoch = load_acquire(&br->peer->seg->header->fence_epoch);     /* not older: it was known at ACQUIRE */
        rc = give_back(br, req);
    } else {
        rc = fence(br, &old, &lock.epoch);
        lock.number++;
    }
    return rc ? rc : lock_write(br, name, &lock);
}

int br_lock_release(struct br *br, struct br_op *op)
{
    char name[OBJECT_NAME_MAX];
    int rc = -EAGAIN;

    object_name_print(&op->req->object, name);
    for (int i = 0; rc == -EAGAIN && i < BR_TRIES; i++)
        rc = release_once(br, op->req, name);
    return rc;
}

int br_lock_delete(struct br *br, struct br_op *op)
{
    char name[OBJECT_NAME_MAX];
    int rc = -EAGAIN;

    object_name_print(&op->req->object, name);
    for (int i = 0; rc == -EAGAIN && i < BR_TRIES; i++) {
        struct lock lock;
        rados_write_op_t write;
        rc = lock_read(br, name, &lock);
        if (rc == 0 && lock.generation == 0)
            rc = -ENOENT;
        if (rc == 0 && lock.token && !is_mine(br, &lock))
            rc = -EBUSY;
        if (rc)
            return rc;
        write = br_text_swap(KIND, lock.generation);
        rados.write_op_remove(write);
        rc = br_text_operate(write, br->io[XOBJ_LOCK], name);
    }
    return rc;
}
