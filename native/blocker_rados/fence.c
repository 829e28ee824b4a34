/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_rados/fence.c - other nodes are kept from doing anything any more, and all blockers of this one
 * learn of it before they serve. The steps and the argument are in blocker_rados/parts.h.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blocker_rados/parts.h"
#include "segment/barrier.h"

#define SECOND 1000000000ull
#define TELL_MS 1000                /* that a fenced node has to hear why; librados takes whole seconds, and 0 for 30 */
#define POLL_NS 50000000ull         /* between looks whether another has finished */
#define EPOCH_COMMAND "{\"prefix\": \"osd stat\", \"format\": \"json\"}"
#define EPOCH_KEY "\"epoch\":"

/* A registry on its way to "over". */
struct fencing {
    rados_ioctx_t io;               /* NULL: its pool is gone, and with it all that could be written */
    char name[BR_NODE_NAME_MAX];
    struct br_node node;            /* as it was marked */
};

/* --- the blocklist and osdmaps ------------------------------------------------------------------- */

int br_fence_address(struct br *br, const char *address, uint64_t seconds)
{
    char copy[BR_ADDRESS_MAX];
    int rc;

    snprintf(copy, sizeof(copy), "%s", address);
    rc = rados.blocklist_add(br->cluster, copy, (uint32_t)seconds);
    br_log(br, rc ? "ERROR" : "WARNING", "client %s %s%s", address,
           rc ? "could not be put on the blocklist: " : "is on the blocklist from now on",
           rc ? strerror(-rc) : "");
    return rc;
}

int br_fence_wait(struct br *br) { return rados.wait_for_latest_osdmap(br->cluster); }

/* The epoch of an osdmap that has everything the monitors have agreed upon until now. */
static int newest_epoch(struct br *br, uint64_t *epoch)
{
    const char *command = EPOCH_COMMAND;
    char *answer = NULL, *status = NULL, text[256] = "", *key;
    size_t size = 0, status_size = 0;
    int rc = rados.mon_command(br->cluster, &command, 1, NULL, 0, &answer, &size, &status, &status_size);

    if (rc == 0)
        snprintf(text, sizeof(text), "%.*s", (int)(size < sizeof(text) ? size : sizeof(text) - 1), answer);
    rados.buffer_free(answer);
    rados.buffer_free(status);
    if (rc)
        return rc;
    key = strstr(text, EPOCH_KEY);
    *epoch = key ? strtoull(key + strlen(EPOCH_KEY), NULL, 10) : 0;
    return *epoch ? 0 : -EBADMSG;
}

static void raise_to(uint64_t *word, uint64_t value)
{
    uint64_t before = load_acquire(word);

    while (before < value && !swap_if(word, before, value))
        before = load_acquire(word);
}

int br_fence_know(struct br *br, uint64_t epoch)
{
    int rc = load_acquire(&br->epoch_known) >= epoch ? 0 : br_fence_wait(br);

    if (rc)
        return rc;
    raise_to(&br->epoch_known, epoch);
    raise_to(&br->peer->seg->header->fence_epoch, epoch);
    return 0;
}

/* In a worker. The number of an operation that asks is what it finds. */
static int learn(struct br *br, struct br_op *op)
{
    uint64_t epoch = load_acquire(&br->peer->seg->header->fence_epoch);
    int rc = op->ordered ? newest_epoch(br, &epoch) : 0;

    op->number = epoch;
    return rc ? rc : br_fence_know(br, epoch);
}

static void learn_done(struct br *br, struct br_op *op)
{
    int result = op->result;

    br->learning = false;
    if (result >= 0 && op->ordered)
        br_order_learned(br, op->number);
    br_op_put(br, op);
    if (result < 0)
        br_fail_waiting(br, br_errno(br, result));
}

bool br_fence_known(struct br *br)
{
    return !br->outnumbered && load_acquire(&br->epoch_known) >= load_acquire(&br->peer->seg->header->fence_epoch);
}

void br_fence_learn(struct br *br)
{
    struct br_op *op = br->learning || br->fenced || br_fence_known(br) ? NULL : br_op_get(br, NULL);

    if (!op)
        return;
    br->learning = true;
    op->ordered = br->outnumbered;
    op->done = learn_done;
    br_to_worker(br, op, learn, POOL_QUICK);
}

/* --- fencing ------------------------------------------------------------------------------- */

static int mark(struct fencing *f, const char *why)
{
    int rc = -EAGAIN;

    for (int i = 0; rc == -EAGAIN && i < BR_TRIES; i++) {
        rc = br_node_read(f->io, f->name, &f->node);
        if (rc || f->node.fenced)
            return rc;
        f->node.fenced = true;
        snprintf(f->node.why, sizeof(f->node.why), "%s", why);
        rc = br_node_write(f->io, f->name, &f->node);
    }
    if (rc == 0 && f->node.count)
        br_past_notify(f->io, f->name, why, TELL_MS);   /* so that it knows; nothing depends on it */
    return rc;
}

/* Notes that a fencing is complete, so that nobody else does it again. */
static int finish(struct fencing *f, uint64_t epoch)
{
    int rc = -EAGAIN;

    for (int i = 0; rc == -EAGAIN && i < BR_TRIES; i++) {
        rc = br_node_read(f->io, f->name, &f->node);
        if (rc || f->node.over)
            return rc;
        f->node.over = epoch;
        rc = br_node_write(f->io, f->name, &f->node);
    }
    return rc;
}

/* Whoever marked it first may be at work: that one finishes within so long, or never. */
static int wait_for_other(struct fencing *f)
{
    uint64_t end = clock_ns() + BR_TRUST_NS + BR_FENCE_NS;
    int rc = 0;

    while (rc == 0 && !f->node.over && clock_ns() < end) {
        br_sleep_until(clock_ns() + POLL_NS);
        rc = br_node_read(f->io, f->name, &f->node);
    }
    return rc;
}

static int begin(struct br *br, const struct br_registry *registry, const char *why, struct fencing *f)
{
    int rc = br_node_open(br, registry, &f->io, f->name);

    if (rc)
        return rc < 0 ? rc : 0;
    rc = mark(f, why);
    if (rc == 0 && !f->node.over && strcmp(f->node.why, why) != 0)
        rc = wait_for_other(f);
    return rc;
}

/* All its clients, on the blocklist for good: a machine that slept may wake up after any time. */
static int blocklist(struct br *br, const struct fencing *f)
{
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && i < f->node.count; i++)
        if (strcmp(f->node.clients[i].address, BR_NO_ADDRESS) != 0)
            rc = br_fence_address(br, f->node.clients[i].address, BR_FOREVER_S);
    return rc;
}

static bool is_left(const struct fencing *f) { return f->io && !f->node.over; }

/* Steps 2 to 4, for those registries that nobody has done it for. All of them are marked by now. */
static int complete(struct br *br, struct fencing *list, uint32_t count)
{
    uint64_t marked_ns = clock_ns(), epoch = 0;
    bool left = false, clients = false;
    int rc = 0;

    for (uint32_t i = 0; rc == 0 && i < count; i++) {
        if (!is_left(&list[i]))
            continue;
        left = true;
        clients |= list[i].node.count > 0;
        rc = blocklist(br, &list[i]);
    }
    if (rc == 0 && left)
        rc = newest_epoch(br, &epoch);
    if (rc == 0 && clients)
        br_sleep_until(marked_ns + BR_TRUST_NS + BR_TRUST_MARGIN_NS);
    for (uint32_t i = 0; rc == 0 && i < count; i++)
        if (is_left(&list[i]))
            rc = finish(&list[i], epoch);
    return rc;
}

int br_fence_nodes(struct br *br, const struct br_registry *registries, uint32_t count, const char *why,
                   uint64_t *epoch)
{
    struct fencing *list = calloc(BR_REGISTRIES_MAX, sizeof(*list));
    int rc = list ? 0 : -ENOMEM;

    for (uint32_t i = 0; rc == 0 && i < count; i++)
        rc = begin(br, &registries[i], why, &list[i]);
    if (rc == 0)
        rc = complete(br, list, count);
    for (uint32_t i = 0; list && i < count; i++) {
        if (list[i].node.over > *epoch)
            *epoch = list[i].node.over;
        if (list[i].io)
            rados.ioctx_destroy(list[i].io);
    }
    free(list);
    return rc;
}
