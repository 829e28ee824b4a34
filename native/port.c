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
#define ORPHAN_WAITED 1             /* nothing is given out until it is home */
#define ORPHAN_ASIDE 2              /* freed when it comes */

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

    return number < XSEG_PORTS && process_alive(load_acquire(&port->tag));
}

bool port_ending(struct xseg *seg, uint32_t number)
{
    return process_ending(load_acquire(&seg->ports[number].tag));
}

/* --- binding ---------------------------------------------------------------- */

/* True if the port is now this process's alone: of two that come at once, one wins. */
static bool port_claim(struct xseg *seg, uint32_t number)
{
    struct xport *port = &seg->ports[number];
    uint64_t before = load_acquire(&port->tag);

    if (process_alive(before) || !swap_if(&port->tag, before, process_tag(getpid())))
        return false;
    store_release(&port->pid, getpid());
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

/* --- what a death left half done ---------------------------------------------- */

/* True if a slot is on the list that begins at `top`. Links are stable but for those of a list
 * whose slots are all held already. */
static bool list_has(const struct xseg *seg, uint32_t top, uint32_t link)
{
    for (uint32_t n = 0; top && top <= seg->header->slots && n < seg->header->slots; n++) {
        if (top == link)
            return true;
        top = load_relaxed(&seg->reqs[top - 1].next);
    }
    return false;
}

/* The dead owner was taking a list out of the inbox. Unless it is still there, marks all of it
 * held; what was marked already is passed over. */
static void finish_draining(struct port *port)
{
    const struct xseg *seg = port->seg;
    uint32_t at = load_acquire(&port->shared->draining);

    if (at && list_has(seg, load_acquire(&port->shared->head), at))
        at = 0;
    for (uint32_t n = 0; at && at <= seg->header->slots && n < seg->header->slots; n++) {
        struct xreq *req = &seg->reqs[at - 1];

        if (req->owner != port->number)
            break;
        store_relaxed(&req->state, XREQ_HELD);
        at = load_relaxed(&req->next);
    }
    store_release(&port->shared->draining, 0u);
}

/* True if a request that was to be put into an inbox is there, or was taken out of it. The list
 * being drained is looked at after the inbox, and the state last, so that a drain that goes on
 * meanwhile is noticed. */
static bool was_delivered(const struct xseg *seg, const struct xreq *req, uint32_t state)
{
    const struct xport *to = &seg->ports[req->owner];

    return list_has(seg, load_acquire(&to->head), req->index + 1)
        || list_has(seg, load_acquire(&to->draining), req->index + 1)
        || load_acquire(&req->state) != state;
}

/* The dead owner was putting a request into an inbox. One of its own that did not get there
 * has not been sent; an answer, or what it put back into its own inbox, is delivered now. */
static void finish_sending(struct port *port)
{
    uint64_t link = load_acquire(&port->shared->sending);
    struct xreq *req = link && link <= port->seg->header->slots ? &port->seg->reqs[link - 1] : NULL;
    uint32_t state = req ? load_acquire(&req->state) : XREQ_FREE;
    bool own = req && req->src == port->number;

    store_release(&port->shared->sending, 0u);
    if (state != XREQ_QUEUED && (state != XREQ_REPLIED || own || req->dst != port->number))
        return;
    if (req->owner >= XSEG_PORTS || req->src >= XSEG_PORTS || was_delivered(port->seg, req, state))
        return;
    if (own) {
        req->owner = (uint16_t)port->number;
        store_release(&req->state, XREQ_HELD);
    } else {
        port_deliver(port, req, state == XREQ_REPLIED ? req->src : port->number, state);
    }
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
            req->orphan = req->flags & XREQ_ASIDE ? ORPHAN_ASIDE : ORPHAN_WAITED;
            port->orphans += req->orphan == ORPHAN_WAITED;
            port->asides += req->orphan == ORPHAN_ASIDE;
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
            if (port->orphans + port->asides && orphan_has(port, buffer_name(class, i)))
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
        store_release(&port->shared->tag, 0u);
        free(port);
        return -ENOMEM;
    }
    port->incarnation = ++port->shared->incarnation;
    finish_draining(port);
    finish_sending(port);
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
    store_release(&shared->tag, 0u);
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
 * leaves the list as it was under `draining`, and one in the second only held slots: see
 * finish_draining(). */
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
    port_deliver(port, req, port->number, XREQ_QUEUED);
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
            port->orphans -= req->orphan == ORPHAN_WAITED;
            count(&port->shared->dropped, 1);
            xreq_put(port, req);
        } else {
            store_relaxed(&req->next, 0u);
            *tail = link;
            tail = &req->next;
        }
    }
}

/* Links the requests of a sender's present life, or of its earlier ones, behind `tail`. The new tail. */
static uint32_t *take_held_of(struct port *port, uint32_t sender, bool present, uint32_t *tail)
{
    const struct xport *from = &port->seg->ports[sender];
    uint32_t life = port_alive(port->seg, sender) ? from->incarnation : 0;

    for (uint32_t i = from->first; i < from->first + from->count; i++) {
        struct xreq *req = &port->seg->reqs[i];

        if (load_relaxed(&req->state) != XREQ_HELD || req->owner != port->number
            || (req->incarnation == life) != present)
            continue;
        if (req->op == XOP_LIST || req->op == XOP_NAMES)
            req->arg = req->asked;
        count(&port->shared->recovered, 1);
        store_relaxed(&req->next, 0u);
        *tail = i + 1;
        tail = &req->next;
    }
    return tail;
}

/* Requests this port holds and that came from others are given out next, before all that the inbox brings:
 * first those of senders that have died. */
static void take_held(struct port *port)
{
    uint32_t *tail = &port->chain;

    while (*tail)
        tail = &port->seg->reqs[*tail - 1].next;
    for (uint32_t n = 0; n < 2 * XSEG_PORTS && port->incarnation > 1; n++) {
        uint32_t i = n % XSEG_PORTS;

        if (i != port->number && load_acquire(&port->seg->ports[i].incarnation))
            tail = take_held_of(port, i, n >= XSEG_PORTS, tail);
    }
}

/* True when everything an earlier incarnation left is in order. */
bool port_recover(struct port *port)
{
    if (port->orphans)
        collect_orphans(port);
    if (port->orphans)
        return false;
    take_held(port);
    port->recovering = false;
    return true;
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
