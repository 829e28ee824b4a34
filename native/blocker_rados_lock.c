/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_rados_lock.c - ACQUIRE, RELEASE, and DELETE of a lock. What a lock's object says and how
 * an old holder is fenced is told in blocker_rados.h.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "blocker_rados.h"

#define KIND "lock"
#define CLASS "lock"                /* Ceph's object class */
#define CLASS_LOCK "archipelago"    /* name of its lock on the object */
#define CLASS_EXCLUSIVE 1
#define CLASS_MAY_RENEW 1
#define CLASS_ENTITY_CLIENT 8
#define CLASS_TEXT_MAX 128          /* bytes of an encoded call */
#define CLASS_LIST_MAX 1024         /* bytes of a list of lockers */
#define HOST_MAX 64
#define SECOND 1000000000ull

struct lock {
    uint64_t generation;            /* 0: there is no such object */
    uint64_t number, token, lease_s;
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
    if (rc || text + length - (line + 1) > BR_OWNER_MAX)
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
    rc = br_text_add(text, "number %" PRIu64 "\ntoken %016" PRIx64 "\nlease %" PRIu64 "\n", lock->number,
                     lock->token, lock->lease_s);
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

/* --- calls of the object class, encoded as Ceph does --------------------------------------------- */

struct encoding { uint8_t data[CLASS_TEXT_MAX]; uint32_t used; };

static void put(struct encoding *e, uint64_t value, uint32_t bytes)
{
    assert(e->used + bytes <= sizeof(e->data));
    for (uint32_t i = 0; i < bytes; i++, value >>= 8)
        e->data[e->used++] = (uint8_t)value;
}

static void put_text(struct encoding *e, const char *text)
{
    put(e, strlen(text), 4);
    while (*text)
        put(e, (uint8_t)*text++, 1);
}

/* Version 1, readable by version 1, and how many bytes follow. */
static void finish(struct encoding *e, const struct encoding *body)
{
    put(e, 1, 1);
    put(e, 1, 1);
    put(e, body->used, 4);
    for (uint32_t i = 0; i < body->used; i++)
        put(e, body->data[i], 1);
}

static void cookie_of(uint64_t token, char cookie[20]) { snprintf(cookie, 20, "%016" PRIx64, token); }

static void add_class_lock(rados_write_op_t op, uint64_t token, uint64_t lease_s)
{
    struct encoding body = { .used = 0 }, all = { .used = 0 };
    char cookie[20];

    cookie_of(token, cookie);
    put_text(&body, CLASS_LOCK);
    put(&body, CLASS_EXCLUSIVE, 1);
    put_text(&body, cookie);
    put_text(&body, "");            /* tag */
    put_text(&body, "");            /* description */
    put(&body, lease_s, 4);
    put(&body, 0, 4);               /* nanoseconds */
    put(&body, CLASS_MAY_RENEW, 1);
    finish(&all, &body);
    rados.write_op_exec(op, CLASS, "lock", (const char *)all.data, all.used, NULL);
}

static void add_class_break(rados_write_op_t op, const struct lock *lock)
{
    struct encoding body = { .used = 0 }, all = { .used = 0 };
    char cookie[20];
    uint64_t number = 0;

    sscanf(lock->locker, "client.%" SCNu64, &number);
    cookie_of(lock->token, cookie);
    put_text(&body, CLASS_LOCK);
    put(&body, CLASS_ENTITY_CLIENT, 1);
    put(&body, number, 8);
    put_text(&body, cookie);
    finish(&all, &body);
    rados.write_op_exec(op, CLASS, "break_lock", (const char *)all.data, all.used, NULL);
}

/* 1: the holder let its lease run out. */
static int lease_is_over(struct br *br, const char *name, const struct lock *lock)
{
    char tag[CLASS_LIST_MAX], clients[CLASS_LIST_MAX], cookies[CLASS_LIST_MAX], addresses[CLASS_LIST_MAX];
    size_t sizes[4] = { CLASS_LIST_MAX, CLASS_LIST_MAX, CLASS_LIST_MAX, CLASS_LIST_MAX };
    int exclusive;
    ssize_t n;

    if (lock->lease_s == 0)
        return 0;
    n = rados.list_lockers(br->io[XOBJ_LOCK], name, CLASS_LOCK, &exclusive, tag, &sizes[0], clients, &sizes[1],
                           cookies, &sizes[2], addresses, &sizes[3]);
    return n < 0 ? (int)n : n == 0;
}

/* --- leases ---------------------------------------------------------------------------------------- */

static struct br_held **find_held(struct br *br, const struct xobj *name)
{
    struct br_held **link = &br->held;

    while (*link && memcmp(&(*link)->name, name, sizeof(*name)) != 0)
        link = &(*link)->next;
    return link;
}

static void forget(struct br *br, const struct xobj *name)
{
    pthread_mutex_lock(&br->held_mutex);
    struct br_held **link = find_held(br, name), *held = *link;
    if (held) {
        *link = held->next;
        free(held);
    }
    pthread_mutex_unlock(&br->held_mutex);
}

static int remember(struct br *br, const struct xobj *name, uint64_t token, uint64_t generation)
{
    struct br_held *held;

    if (br->lease_s == 0)
        return 0;
    forget(br, name);
    held = malloc(sizeof(*held));
    if (!held)
        return -ENOMEM;
    *held = (struct br_held){ .name = *name, .token = token, .generation = generation };
    pthread_mutex_lock(&br->held_mutex);
    held->next = br->held;
    br->held = held;
    pthread_mutex_unlock(&br->held_mutex);
    return 0;
}

static void renew_done(struct br *br, struct br_op *op)
{
    bool lost = op->result <= -RADOS_COMPARE_BASE || op->result == -ENOENT || op->result == -EBUSY;

    if (lost) {
        br_log(br, "ERROR", "the lock of volume %016" PRIx64 " was taken by another", op->lock.volume);
        forget(br, &op->lock);
    } else if (op->result < 0) {
        br_errno(br, op->result);
    }
    pthread_mutex_lock(&br->held_mutex);
    struct br_held *held = *find_held(br, &op->lock);
    if (held)
        held->renewing = false;
    pthread_mutex_unlock(&br->held_mutex);
    br_op_put(br, op);
}

static void renew(struct br *br, struct br_held *held, struct br_op *op)
{
    rados_write_op_t write = br_text_swap(KIND, held->generation);
    char name[OBJECT_NAME_MAX];

    held->renewing = true;
    op->done = renew_done;
    op->lock = held->name;
    object_name_print(&held->name, name);
    add_class_lock(write, held->token, br->lease_s);
    br_prepare(br, op, XOBJ_LOCK);
    br_submitted(br, op, rados.aio_write_op_operate(write, op->io, op->completion, name, NULL, RADOS_FULL_TRY));
    rados.release_write_op(write);
}

void br_locks_renew(struct br *br)
{
    uint64_t now = loop_now(br->peer->loop);

    if (br->lease_s == 0 || br->draining || now < br->renew_ns)
        return;
    br->renew_ns = now + br->lease_s * SECOND / 3;
    pthread_mutex_lock(&br->held_mutex);
    for (struct br_held *held = br->held; held; held = held->next) {
        struct br_op *op = held->renewing ? NULL : br_op_get(br, NULL);
        if (op)
            renew(br, held, op);
    }
    pthread_mutex_unlock(&br->held_mutex);
}

uint64_t br_locks_deadline(const struct br *br) { return br->lease_s ? br->renew_ns : UINT64_MAX; }

void br_locks_stop(struct br *br)
{
    while (br->held) {
        struct br_held *held = br->held;
        br->held = held->next;
        free(held);
    }
}

/* --- changing it --------------------------------------------------------------------------------------- */

/* Makes the object say what `lock` says; `old` is what it says now. Takes the class's lock, or
 * breaks it if somebody may have it. One operation cannot do both: the class does not see what it
 * did before in the same one. EAGAIN: the object was changed meanwhile, or nobody had the class's
 * lock (then *broken is set). */
static int lock_write(struct br *br, const char *name, const struct lock *old, const struct lock *lock,
                      bool take, bool *broken)
{
    bool breaks = !take && old->token && !*broken;
    rados_write_op_t op = br_text_swap(KIND, old->generation);
    char text[BR_TEXT_MAX];
    int length = lock_print(lock, text), rc;

    if (length < 0) {
        rados.release_write_op(op);
        return length;
    }
    memcpy(text + length, lock->owner, lock->owner_size);
    if (breaks)
        add_class_break(op, old);
    if (take)
        add_class_lock(op, lock->token, lock->lease_s);
    rados.write_op_write_full(op, text, (size_t)length + lock->owner_size);
    rc = br_text_operate(op, br->io[XOBJ_LOCK], name);
    if (rc == -ENOENT && breaks) {
        *broken = true;             /* its lease was over */
        return -EAGAIN;
    }
    return rc;
}

/* What a request has achieved in earlier rounds. */
struct attempt {
    bool broken;                    /* nobody has the class's lock any more */
    uint64_t fenced;                /* generation of the lock whose holder can do nothing any more */
};

/* The class's lock is nobody's afterwards, and the object says what it said. EAGAIN if all went well. */
static int break_class_lock(struct br *br, const char *name, const struct lock *old, struct attempt *attempt)
{
    int rc = lock_write(br, name, old, old, false, &attempt->broken);

    if (rc)
        return rc;
    attempt->broken = true;
    attempt->fenced = old->generation + 1;
    return -EAGAIN;
}

static void sleep_until(uint64_t ns)
{
    struct timespec when = { (time_t)(ns / SECOND), (long)(ns % SECOND) };

    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &when, NULL) == EINTR)
        continue;
}

/* Nobody who held this lock, or shares an instance with who did, can do anything from now on. */
static int fence(struct br *br, const struct lock *lock)
{
    char why[BR_ADDRESS_MAX], host[HOST_MAX] = "";
    bool found = false;
    uint64_t marked_ns;
    int rc;

    gethostname(host, sizeof(host) - 1);
    snprintf(why, sizeof(why), "%s on %s took its lock number %" PRIu64 " away", br->client, host, lock->number);
    br_log(br, "WARNING", "fencing the holder of lock number %" PRIu64 ", %s (%.*s)", lock->number, lock->locker,
           (int)lock->owner_size, lock->owner);
    for (uint32_t i = 0; i < lock->registry_count; i++) {
        rc = br_node_fence(br, &lock->registries[i], why, &found);
        if (rc)
            return rc;
    }
    if (!found)
        return 0;                   /* all its clients are gone, or were fenced by us before */
    marked_ns = clock_ns();
    rc = br_fence_address(br, lock->address);
    if (rc == 0)
        rc = br_fence_wait(br);
    if (rc == 0)
        sleep_until(marked_ns + BR_TRUST_NS + BR_TRUST_MARGIN_NS);
    for (uint32_t i = 0; rc == 0 && i < lock->registry_count; i++)
        br_node_fenced(br, lock->registries[i].node);
    return rc;
}

static int busy(struct br *br, struct xreq *req, const struct lock *lock)
{
    req->done = 0;
    if (lock->owner_size && xreq_data_ok(br->peer->seg, req, 1)) {
        req->done = lock->owner_size < req->data_size ? lock->owner_size : req->data_size;
        memcpy(xreq_data(br->peer->seg, req), lock->owner, req->done);
    }
    return -EBUSY;
}

/* The lock as it will be when this request has it. */
static void mine_from(struct br *br, const struct xreq *req, const struct lock *old, struct lock *lock)
{
    *lock = (struct lock){ .generation = old->generation, .token = req->arg, .lease_s = br->lease_s,
                           .number = old->token == req->arg ? old->number : old->number + 1,
                           .owner_size = (uint32_t)req->size };
    snprintf(lock->locker, sizeof(lock->locker), "%s", br->client);
    snprintf(lock->address, sizeof(lock->address), "%s", br->address);
    snprintf(lock->instance, sizeof(lock->instance), "%s", br->instance);
    lock->registry_count = br_node_registries(br, lock->registries);
    memcpy(lock->owner, xreq_data(br->peer->seg, req), req->size);
}

/* 1: the lock may be taken from its holder, once that is fenced. */
static int may_be_taken(struct br *br, const char *name, const struct lock *lock)
{
    bool left = false;
    int rc = lease_is_over(br, name, lock);

    if (rc || is_mine(br, lock))
        return rc;
    if (strcmp(lock->instance, br->instance) == 0)
        return 1;                   /* an earlier segment of this instance: there is one at a time */
    for (uint32_t i = 0; rc == 0 && !left && i < lock->registry_count; i++)
        rc = br_node_has_clients(br, &lock->registries[i], &left);
    return rc ? rc : !left;
}

/* One round: EAGAIN asks for another. */
static int acquire_once(struct br *br, struct xreq *req, const char *name, struct attempt *attempt)
{
    struct lock old, lock;
    int rc = lock_read(br, name, &old);

    if (rc)
        return rc;
    if (old.token == req->arg && strcmp(old.locker, br->client) == 0) {
        req->done = old.number;
        return 0;
    }
    if (old.token && old.token != req->arg && old.generation != attempt->fenced) {
        rc = may_be_taken(br, name, &old);
        if (rc == 0)
            return busy(br, req, &old);
        rc = rc < 0 ? rc : fence(br, &old);
        if (rc)
            return rc;
        attempt->fenced = old.generation;
    }
    if (old.token && !attempt->broken)
        return break_class_lock(br, name, &old, attempt);
    mine_from(br, req, &old, &lock);
    rc = lock_write(br, name, &old, &lock, true, &attempt->broken);
    if (rc == -EBUSY)
        return busy(br, req, &old);
    if (rc == 0) {
        req->done = lock.number;
        rc = remember(br, &req->object, req->arg, lock.generation + 1);
    }
    return rc;
}

int br_lock_acquire(struct br *br, struct br_op *op)
{
    struct attempt attempt = { 0 };
    char name[OBJECT_NAME_MAX];
    int rc = -EAGAIN;

    object_name_print(&op->req->object, name);
    for (int i = 0; rc == -EAGAIN && i < BR_TRIES; i++)
        rc = acquire_once(br, op->req, name, &attempt);
    return rc;
}

static int release_once(struct br *br, struct xreq *req, const char *name, bool *broken)
{
    struct lock old, lock;
    int rc = lock_read(br, name, &old);

    if (rc)
        return rc;
    if (old.token == 0)
        return -ENOENT;
    if (old.token != req->arg && !(req->flags & XREQ_FORCE))
        return -EPERM;
    lock = (struct lock){ .generation = old.generation, .number = old.number };
    if (old.token != req->arg && !is_mine(br, &old)) {
        rc = fence(br, &old);
        if (rc)
            return rc;
        lock.number++;
    }
    return lock_write(br, name, &old, &lock, false, broken);
}

int br_lock_release(struct br *br, struct br_op *op)
{
    char name[OBJECT_NAME_MAX];
    bool broken = false;
    int rc = -EAGAIN;

    object_name_print(&op->req->object, name);
    for (int i = 0; rc == -EAGAIN && i < BR_TRIES; i++)
        rc = release_once(br, op->req, name, &broken);
    if (rc == 0)
        forget(br, &op->req->object);
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
    if (rc == 0)
        forget(br, &op->req->object);
    return rc;
}
