/* SPDX-License-Identifier: Apache-2.0
 *
 * port.c - binding ports, taking what came in, and recovering what a dead owner left.
 */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "barrier.h"
#include "port_private.h"
#include "process.h"

#define WAIT_SLICE_MS XBELL_SLEEP_MS

int port_find(struct xseg *seg, const char *role, uint32_t *number)
{
    for (uint32_t i = 0; i < XSEG_STATIC_PORTS; i++)
        if (seg->ports[i].role[0] && strncmp(seg->ports[i].role, role, XSEG_ROLE_MAX) == 0) {
            *number = i;
            return 0;
        }
    return -ENOENT;
}

int port_declare(struct xseg *seg, const char *role, const char *type,
                 const char *process, uint32_t *number)
{
    struct xport *port;

    if (!role[0] || strlen(role) >= XSEG_ROLE_MAX)
        return -EINVAL;
    if (port_find(seg, role, number) != 0) {
        for (*number = 0; *number < XSEG_STATIC_PORTS; ++*number)
            if (!seg->ports[*number].role[0])
                break;
        if (*number == XSEG_STATIC_PORTS)
            return -ENOSPC;
    }
    port = &seg->ports[*number];
    snprintf(port->type, sizeof(port->type), "%s", type);
    snprintf(port->process, sizeof(port->process), "%s", process);
    snprintf(port->role, sizeof(port->role), "%s", role);
    return 0;
}

bool port_alive(struct xseg *seg, uint32_t number)
{
    const struct xport *port = &seg->ports[number];

    return number < XSEG_PORTS && load_acquire(&port->bound)
        && process_is(load_acquire(&port->pid), load_acquire(&port->start_time));
}

/* --- binding ---------------------------------------------------------------- */

/* True if the port is now this process's alone. `bound` holds the claimer's pid meanwhile,
 * so that of two that come at once, one wins. */
static bool port_claim(struct xseg *seg, uint32_t number)
{
    struct xport *port = &seg->ports[number];
    uint32_t before = load_acquire(&port->bound);

    if (before && port_alive(seg, number))
        return false;
    if (!swap_if(&port->bound, before, (uint32_t)getpid()))
        return false;
    store_release(&port->pid, getpid());
    store_release(&port->start_time, process_start_time(getpid()));
    return true;
}

static int port_pick(struct xseg *seg, uint32_t number, uint32_t *picked)
{
    if (number != XPORT_ANY) {
        *picked = number;
        if (number >= XSEG_PORTS)
            return -EINVAL;
        return port_claim(seg, number) ? 0 : -EBUSY;
    }
    for (*picked = XSEG_STATIC_PORTS; *picked < XSEG_PORTS; ++*picked)
        if (port_claim(seg, *picked))
            return 0;
    return -EAGAIN;
}

static void push_free(struct port *port, uint32_t slot) { port->free[port->free_count++] = slot; }

/* Sorts the port's own slots into free ones and orphans. Highest first, so that the lowest
 * are taken first and stay in the cache. */
static void adopt_slots(struct port *port)
{
    struct xport *shared = port->shared;
    bool first = port->incarnation == 1;    /* fresh memory is not even touched */

    for (uint32_t i = shared->first + shared->count; i-- > shared->first;) {
        struct xreq *req = &port->seg->reqs[i];
        uint32_t state = first ? XREQ_FREE : load_acquire(&req->state);

        if (state == XREQ_FREE || (state == XREQ_HELD && req->owner == port->number)) {
            if (!first)
                store_release(&req->state, XREQ_FREE);
            push_free(port, i);
        } else if (state <= XREQ_REPLIED) {
            req->orphan = 1;
            port->orphans++;
        }
    }
}

static bool orphan_has(const struct port *port, uint32_t buffer)
{
    const struct xport *shared = port->shared;

    for (uint32_t i = shared->first; i < shared->first + shared->count; i++)
        if (port->seg->reqs[i].state != XREQ_FREE && port->seg->reqs[i].buffer == buffer)
            return true;
    return false;
}

/* Frees the buffers of an earlier incarnation that no orphan still carries. */
static void adopt_buffers(struct port *port)
{
    for (uint32_t class = 0; class < XSEG_CLASSES; class++) {
        uint32_t *owners = port->seg->owners[class];
        uint64_t held = 0;

        for (uint32_t i = 0; i < port->seg->header->buffers[class]; i++) {
            if (load_relaxed(&owners[i]) != port->number + 1)
                continue;
            if (port->orphans && orphan_has(port, buffer_name(class, i)))
                held++;
            else
                store_release(&owners[i], 0u);
        }
        store_relaxed(&port->shared->buffers_held[class], held);
    }
}

static void announce(struct port *port, const char *role)
{
    struct xport *shared = port->shared;
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    if (port->number >= XSEG_STATIC_PORTS)
        snprintf(shared->role, sizeof(shared->role), "%s", role);
    shared->bound_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    shared->bell = port->bell->number;
}

int port_bind(struct xseg *seg, uint32_t number, const char *role, struct bell *bell,
              struct port **out)
{
    struct port *port = calloc(1, sizeof(*port));
    int rc;

    if (!port)
        return -ENOMEM;
    rc = port_pick(seg, number, &port->number);
    if (rc) {
        free(port);
        return rc;
    }
    port->seg = seg;
    port->bell = bell;
    port->shared = &seg->ports[port->number];
    port->free = calloc(port->shared->count, sizeof(*port->free));
    if (!port->free) {
        store_release(&port->shared->bound, 0u);
        free(port);
        return -ENOMEM;
    }
    port->incarnation = ++port->shared->incarnation;
    adopt_slots(port);
    adopt_buffers(port);
    port->recovering = true;        /* until a first receive has seen that all is well */
    announce(port, role);
    *out = port;
    return 0;
}

void port_close(struct port *port)
{
    struct xport *shared = port->shared;

    buffers_release_cached(port);
    shared->ready = 0;
    if (port->number >= XSEG_STATIC_PORTS)
        memset(shared->role, 0, sizeof(shared->role));
    store_release(&shared->start_time, 0u);
    store_release(&shared->bound, 0u);
    free(port->free);
    free(port);
}

/* --- the inbox ---------------------------------------------------------------- */

/* A slot of a list that may be followed: in bounds and on its way to this port. */
static struct xreq *slot_at(const struct port *port, uint32_t link)
{
    struct xreq *req;

    if (link == 0 || link > port->seg->header->slots)
        return NULL;
    req = &port->seg->reqs[link - 1];
    return req->owner == port->number ? req : NULL;
}

/* Marks all of a list held, then reverses it. In this order, a death in the first pass
 * leaves the list as it was under `draining`, and one in the second only held slots. */
static uint32_t take_list(struct port *port, uint32_t top)
{
    uint32_t left = port->seg->header->slots, last = 0, n = 0;
    struct xreq *req;

    for (uint32_t at = top; (req = slot_at(port, at)) && n < left; at = load_relaxed(&req->next)) {
        uint32_t state = load_relaxed(&req->state);
        if (state != XREQ_QUEUED && state != XREQ_REPLIED)
            break;
        store_relaxed(&req->state, XREQ_HELD);
        n++;
    }
    for (uint32_t at = top; n > 0; n--) {
        req = &port->seg->reqs[at - 1];
        uint32_t below = load_relaxed(&req->next);
        store_relaxed(&req->next, last);
        last = at;
        at = below;
    }
    return last;
}

/* Takes the whole inbox. Returns the oldest, the rest linked behind it. */
static uint32_t drain(struct port *port)
{
    struct xport *shared = port->shared;
    uint32_t top, oldest;

    do {
        top = load_acquire(&shared->head);
        if (top == 0)
            return 0;
        store_relaxed(&shared->draining, top);
    } while (!swap_if(&shared->head, top, 0u));
    port->now_ns = clock_ns();
    oldest = take_list(port, top);
    store_release(&shared->draining, 0u);
    return oldest;
}

static void record_latency(struct port *port, const struct xreq *req)
{
    uint64_t us = port->now_ns > req->sent_ns ? (port->now_ns - req->sent_ns) / 1000 : 0;
    uint32_t bucket = us ? 63 - (uint32_t)__builtin_clzll(us) : 0;
    uint32_t kind = req->op == XOP_READ ? 0 : req->op == XOP_WRITE ? 1 : 2;

    if (bucket >= XSEG_LATENCY_BUCKETS)
        bucket = XSEG_LATENCY_BUCKETS - 1;
    count(&port->shared->latency_us[kind][bucket], 1);
}

static void accept_request(struct port *port, struct xreq *req)
{
    req->received_ns = port->now_ns;
    memset(req->holder, 0, sizeof(req->holder));
    count(&port->shared->received, 1);
}

struct xreq *port_receive(struct port *port)
{
    struct xreq *req;

    if (port->recovering)
        port_recover(port);
    for (uint32_t n = 0; n < port->shared->count + 1; n++) {
        if (port->chain == 0 && (port->recovering || (port->chain = drain(port)) == 0))
            return NULL;
        req = &port->seg->reqs[port->chain - 1];
        port->chain = load_relaxed(&req->next);
        if (!xreq_is_reply(port, req)) {
            accept_request(port, req);
            return req;
        }
        if (!req->orphan) {
            record_latency(port, req);
            return req;
        }
        count(&port->shared->dropped, 1);
        xreq_put(port, req);
    }
    return NULL;
}

void port_requeue(struct port *port, struct xreq *req)
{
    assert(req->owner == port->number && req->state == XREQ_HELD && req->src != port->number);
    store_release(&req->state, XREQ_QUEUED);
    inbox_push(port->shared, req);
}

bool port_pending(struct port *port)
{
    return port->chain != 0 || load_acquire(&port->shared->head) != 0;
}

/* --- recovery ------------------------------------------------------------------- */

/* Lets orphans come home. Requests for this port stay held, on no list; answers to this
 * incarnation's own requests are kept, to be given out at once. */
static void collect_orphans(struct port *port)
{
    uint32_t at = drain(port), *tail = &port->chain;

    while (*tail)
        tail = &port->seg->reqs[*tail - 1].next;
    while (at) {
        struct xreq *req = &port->seg->reqs[at - 1];
        uint32_t link = at;

        at = load_relaxed(&req->next);
        if (!xreq_is_reply(port, req))
            continue;
        if (req->orphan) {
            port->orphans--;
            count(&port->shared->dropped, 1);
            xreq_put(port, req);
        } else {
            store_relaxed(&req->next, 0u);
            *tail = link;
            tail = &req->next;
        }
    }
}

static void requeue_held_of(struct port *port, const struct xport *sender)
{
    for (uint32_t i = sender->first; i < sender->first + sender->count; i++) {
        struct xreq *req = &port->seg->reqs[i];

        if (load_relaxed(&req->state) != XREQ_HELD || req->owner != port->number)
            continue;
        count(&port->shared->recovered, 1);
        port_requeue(port, req);
    }
}

/* Requests this port holds and that came from others go back into the inbox. */
static void requeue_held(struct port *port)
{
    if (port->incarnation == 1)
        return;
    for (uint32_t i = 0; i < XSEG_PORTS; i++)
        if (i != port->number && load_acquire(&port->seg->ports[i].incarnation))
            requeue_held_of(port, &port->seg->ports[i]);
}

/* True when everything an earlier incarnation left is in order. */
bool port_recover(struct port *port)
{
    uint32_t draining = load_acquire(&port->shared->draining);

    if (draining) {                 /* it died while it took these out of the inbox */
        take_list(port, draining);
        store_release(&port->shared->draining, 0u);
        port->orphans = count_orphans(port);
    }
    if (port->orphans)
        collect_orphans(port);
    if (port->orphans)
        return false;
    requeue_held(port);
    port->recovering = false;
    return true;
}

/* Frees replies that are already held here and counts what is still away. */
uint32_t count_orphans(struct port *port)
{
    uint32_t away = 0;

    for (uint32_t i = port->shared->first; i < port->shared->first + port->shared->count; i++) {
        struct xreq *req = &port->seg->reqs[i];

        if (!req->orphan || req->state == XREQ_FREE)
            continue;
        if (req->state == XREQ_HELD && req->owner == port->number)
            xreq_put(port, req);
        else
            away++;
    }
    return away;
}

/* --- bells ------------------------------------------------------------------------ */

void port_ring(struct port *port)
{
    while (port->ring) {
        uint32_t bell = (uint32_t)__builtin_ctzll(port->ring);

        port->ring &= port->ring - 1;
        if (bell_ring(port->seg, bell))
            count(&port->shared->rings, 1);
    }
}

int port_wait(struct port *port, uint32_t timeout_ms, uint32_t spin_us)
{
    uint64_t now = clock_ns(), end = now + timeout_ms * 1000000ull;
    struct pollfd fd = { .fd = port->bell->fd, .events = POLLIN };

    for (uint64_t spun = now + spin_us * 1000ull; now < spun; now = clock_ns()) {
        if (port_pending(port))
            return 0;
        cpu_relax();
    }
    while (!port_pending(port)) {
        if (now >= end)
            return -ETIMEDOUT;
        uint64_t left_ms = (end - now + 999999) / 1000000;
        bell_arm(port->bell);
        if (!port_pending(port) && poll(&fd, 1, left_ms < WAIT_SLICE_MS ? (int)left_ms
                                                                        : WAIT_SLICE_MS) > 0)
            count(&port->shared->wakes, 1);
        bell_disarm(port->bell);
        now = clock_ns();
    }
    return 0;
}
