/* SPDX-License-Identifier: Apache-2.0
 *
 * segment/port.c - ports: declaring and binding them, taking what came in.
 */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "segment/parts.h"
#include "segment/process.h"

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

    return number < seg->port_count && process_alive(load_acquire(&port->tag));
}

bool port_ending(struct xseg *seg, uint32_t number)
{
    return process_ending(load_acquire(&seg->ports[number].tag));
}

/* --- binding ----------------------------------------------------------------------- */

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
        if (number >= seg->port_count)
            return -EINVAL;
        return port_claim(seg, number) ? 0 : -EBUSY;
    }
    for (*picked = XSEG_STATIC_PORTS; *picked < seg->port_count; ++*picked)
        if (port_claim(seg, *picked))
            return 0;
    return -EAGAIN;
}

static void announce(struct port *port, const char *role)
{
    struct xport *shared = port->shared;

    if (port->number >= XSEG_STATIC_PORTS)
        snprintf(shared->role, sizeof(shared->role), "%s", role);
    shared->bound_ns = clock_wall_ns();
    shared->bell = port->bell->number;
}

/* The private side of a port that this process has claimed. */
static struct port *port_make(struct xseg *seg, uint32_t number, struct bell *bell)
{
    struct port *port = calloc(1, sizeof(*port));

    if (!port)
        return NULL;
    port->seg = seg;
    port->bell = bell;
    port->number = number;
    port->shared = &seg->ports[number];
    port->first = xseg_first_slot(seg, number);
    port->count = xseg_slots_of(seg, number);
    port->free = calloc(port->count, sizeof(*port->free));
    port->reqs = mmap(NULL, seg->slot_count * sizeof(*port->reqs), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (port->free && port->reqs != MAP_FAILED)
        return port;
    if (port->reqs != MAP_FAILED)
        munmap(port->reqs, seg->slot_count * sizeof(*port->reqs));
    free(port->free);
    free(port);
    return NULL;
}

int port_bind(struct xseg *seg, uint32_t number, const char *role, struct bell *bell,
              struct port **out)
{
    struct port *port;
    int rc = port_pick(seg, number, &number);

    if (rc)
        return rc;
    port = port_make(seg, number, bell);
    if (!port) {
        store_release(&seg->ports[number].tag, 0u);
        return -ENOMEM;
    }
    port_adopt(port);
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
    munmap(port->reqs, port->seg->slot_count * sizeof(*port->reqs));
    free(port->free);
    free(port);
}

/* --- what came in ------------------------------------------------------------------ */

static void record_latency(struct port *port, const struct xreq *req)
{
    uint64_t us = port->now_ns > req->sent_ns ? (port->now_ns - req->sent_ns) / 1000 : 0;
    uint32_t bucket = us ? 63 - (uint32_t)__builtin_clzll(us) : 0;
    uint32_t kind = req->op == XOP_READ ? 0 : req->op == XOP_WRITE ? 1 : 2;

    if (bucket >= XSEG_LATENCY_BUCKETS)
        bucket = XSEG_LATENCY_BUCKETS - 1;
    counter_add(&port->shared->latency_us[kind][bucket], 1);
}

/* False: it says that another port sent it than the one whose slot it is, and was answered. */
static bool accept_request(struct port *port, struct xreq *req)
{
    struct xslot *slot = &port->seg->slots[req->index];
    uint32_t src = load_relaxed(&slot->src);

    slot->received_ns = port->now_ns;
    zero_words(req->holder, sizeof(req->holder) / sizeof(uint64_t));
    slot_read(port, req);
    counter_add(&port->shared->received, 1);
    if (src < port->seg->port_count && req->index - xseg_first_slot(port->seg, src) < xseg_slots_of(port->seg, src)) {
        req->src = (uint16_t)src;
        return true;
    }
    req->src = (uint16_t)xseg_port_of(port->seg, req->index);
    slot_bad(port, req->index + 1, "it says that another port sent it than its own");
    xreq_reply(port, req, -EINVAL);
    return false;
}

/* An answer. False: that of an earlier incarnation, which was put away. */
static bool accept_reply(struct port *port, struct xreq *req)
{
    if (req->orphan) {
        counter_add(&port->shared->dropped, 1);
        xreq_put(port, req);
        return false;
    }
    slot_answer(port, req);
    record_latency(port, req);
    return true;
}

/* What was sent to nowhere. */
static struct xreq *take_bounced(struct port *port)
{
    struct xreq *req = &port->reqs[port->bounced - 1];

    port->bounced = req->link;
    req->place = XREQ_MINE;
    return req;
}

static void look_if_due(struct port *port)
{
    uint64_t now = port->looped ? port->now_ns : clock_ns();

    if (port->free_count < port->count && now - port->looked_ns >= PORT_LOOK_NS)
        port_look_after(port, now);
}

struct xreq *port_receive(struct port *port)
{
    struct xreq *req;

    if (port->recovering)
        port_recover(port);
    if (port->bounced)
        return take_bounced(port);
    for (uint32_t n = 0; n < port->count + 1; n++) {
        if (port->chain == 0 && (port->recovering || (port->chain = inbox_drain(port)) == 0))
            break;
        req = &port->reqs[port->chain - 1];
        port->chain = req->link;
        if (is_own_slot(port, req->index) ? accept_reply(port, req) : accept_request(port, req))
            return req;
    }
    look_if_due(port);
    return NULL;
}

/* --- bells ------------------------------------------------------------------------- */

void port_ring(struct port *port)
{
    while (port->ring_words) {
        uint32_t word = (uint32_t)__builtin_ctzll(port->ring_words);

        port->ring_words &= port->ring_words - 1;
        while (port->ring[word]) {
            uint32_t bell = word * 64 + (uint32_t)__builtin_ctzll(port->ring[word]);

            port->ring[word] &= port->ring[word] - 1;
            if (bell_ring(port->seg, bell))
                counter_add(&port->shared->rings, 1);
        }
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
            counter_add(&port->shared->wakes, 1);
        bell_disarm(port->bell);
        now = clock_ns();
    }
    return 0;
}
