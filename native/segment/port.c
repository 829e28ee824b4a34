/* SPDX-License-Identifier: Apache-2.0
 *
 * segment/port.c - binding ports, taking what came in, and recovering what a dead owner left.
 */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "segment/barrier.h"
#include "segment/parts.h"
#include "segment/process.h"

#define WAIT_SLICE_MS XBELL_SLEEP_MS
#define TOLD_AGAIN_NS 60000000000ull    /* between two lines in the log about bad slots */
#define LOOK_NS 1000000000ull       /* a request that is away for so long is looked after, once in as long */
#define LOOK_MAX 16                 /* ... of these, so many at a time */
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

/* A link that may be followed. */
static struct xslot *slot_at(const struct xseg *seg, uint64_t link)
{
    return link && link <= seg->slot_count ? &seg->slots[link - 1] : NULL;
}

/* True if a slot is on the list that begins at `top`. */
static bool list_has(const struct xseg *seg, uint32_t top, uint32_t link)
{
    const struct xslot *slot;

    for (uint32_t n = 0; n < seg->slot_count && (slot = slot_at(seg, top)); n++) {
        if (top == link)
            return true;
        top = load_relaxed(&slot->next);
    }
    return false;
}

/* The dead owner was taking a list out of the inbox. Unless it is still there, marks all of it
 * held; what was marked already is passed over. */
static void finish_draining(struct port *port)
{
    const struct xseg *seg = port->seg;
    uint32_t at = load_acquire(&port->shared->draining);
    struct xslot *slot;

    if (at && list_has(seg, load_acquire(&port->shared->head), at))
        at = 0;
    for (uint32_t n = 0; n < seg->slot_count && (slot = slot_at(seg, at)); n++) {
        if (load_relaxed(&slot->owner) != port->number)
            break;
        store_relaxed(&slot->state, XREQ_HELD);
        at = load_relaxed(&slot->next);
    }
    store_release(&port->shared->draining, 0u);
}

/* True if a request that was to be put into an inbox is there, or was taken out of it. The list
 * being drained is looked at after the inbox, and the state last, so that a drain that goes on
 * meanwhile is noticed. */
static bool was_delivered(const struct xseg *seg, uint32_t index, uint32_t owner, uint32_t state)
{
    const struct xport *to = &seg->ports[owner];

    return list_has(seg, load_acquire(&to->head), index + 1)
        || list_has(seg, load_acquire(&to->draining), index + 1)
        || load_acquire(&seg->slots[index].state) != state;
}

/* The dead owner was putting a request into an inbox. One of its own that did not get there
 * has not been sent; an answer, or what it put back into its own inbox, is delivered now. */
static void finish_sending(struct port *port)
{
    struct xseg *seg = port->seg;
    uint64_t link = load_acquire(&port->shared->sending);
    struct xslot *slot = slot_at(seg, link);
    uint32_t index = (uint32_t)link - 1, state = slot ? load_acquire(&slot->state) : XREQ_FREE;
    bool own = is_own_slot(port, index);
    uint32_t owner = slot ? load_relaxed(&slot->owner) : XSEG_PORTS;

    store_release(&port->shared->sending, 0u);
    if (state != XREQ_QUEUED && (state != XREQ_REPLIED || own || load_relaxed(&slot->dst) != port->number))
        return;
    if (owner >= XSEG_PORTS || was_delivered(seg, index, owner, state))
        return;
    if (own) {
        store_relaxed(&slot->owner, (uint16_t)port->number);
        store_release(&slot->state, XREQ_HELD);
    } else {
        port_deliver(port, index, state == XREQ_REPLIED ? xseg_port_of(seg, index) : port->number, state);
    }
}

static void push_free(struct port *port, uint32_t slot) { port->free[port->free_count++] = slot; }

/* The name of a buffer, if this port owns it. */
static uint32_t own_buffer(const struct port *port, uint32_t name)
{
    uint32_t class = (name - 1) >> BUFFER_CLASS_SHIFT;
    uint32_t index = (name - 1) & ((1u << BUFFER_CLASS_SHIFT) - 1);
    bool there = name && class < XSEG_CLASSES && index < port->seg->buffer_count[class];

    return there && load_relaxed(&port->seg->owners[class][index]) == port->number + 1 ? name : XSEG_NONE;
}

/* A request that an earlier incarnation sent and that has not come back. */
static void adopt_orphan(struct port *port, uint32_t index)
{
    struct xslot *slot = &port->seg->slots[index];
    struct xreq *req = &port->reqs[index];

    req->index = index;
    req->src = (uint16_t)port->number;
    req->dst = load_relaxed(&slot->dst);
    req->place = XREQ_AWAY;
    req->buffer = own_buffer(port, load_relaxed(&slot->buffer));
    req->orphan = load_relaxed(&slot->flags) & XREQ_ASIDE ? ORPHAN_ASIDE : ORPHAN_WAITED;
    slot->orphan = (uint16_t)req->orphan;
    port->orphans += req->orphan == ORPHAN_WAITED;
    port->asides += req->orphan == ORPHAN_ASIDE;
}

/* Sorts the port's own slots into free ones and orphans. Highest first, so that the lowest
 * are taken first and stay in the cache. One that says it waits to be served by the port that sent it, which
 * cannot be, is free. One whose state is none is left alone: it may be in somebody's hands. */
static void adopt_slots(struct port *port, bool first)
{
    for (uint32_t i = port->first + port->count; i-- > port->first;) {
        struct xslot *slot = &port->seg->slots[i];
        uint32_t state = first ? XREQ_FREE : load_acquire(&slot->state);    /* fresh memory is not even touched */
        bool here = !first && load_relaxed(&slot->owner) == port->number;

        if (state == XREQ_FREE || ((state == XREQ_HELD || state == XREQ_QUEUED) && here)) {
            if (!first)
                store_release(&slot->state, XREQ_FREE);
            push_free(port, i);
        } else if (state <= XREQ_REPLIED) {
            adopt_orphan(port, i);
        } else {
            port_bad(port, i + 1, "its state is none; it is lost to its port until the next start of the segment");
        }
    }
}

static bool orphan_has(const struct port *port, uint32_t buffer)
{
    for (uint32_t i = port->first; i < port->first + port->count; i++)
        if (port->reqs[i].place == XREQ_AWAY && port->reqs[i].buffer == buffer)
            return true;
    return false;
}

/* Frees the buffers of an earlier incarnation that no orphan still carries, and those of no port. */
static void adopt_buffers(struct port *port)
{
    for (uint32_t class = 0; class < XSEG_CLASSES; class++) {
        uint32_t *owners = port->seg->owners[class];

        port->buffers_held[class] = 0;
        port->buffers_max[class] = xseg_buffers_max(port->seg, port->number, class);
        for (uint32_t i = 0; i < port->seg->buffer_count[class]; i++) {
            uint32_t owner = load_relaxed(&owners[i]);
            if (owner <= XSEG_PORTS && owner != port->number + 1)
                continue;
            if (owner == port->number + 1 && port->orphans + port->asides
                && orphan_has(port, buffer_name(class, i)))
                port->buffers_held[class]++;
            else
                swap_if(&owners[i], owner, 0u);
        }
        store_relaxed(&port->shared->buffers_held[class], port->buffers_held[class]);
    }
}

/* --- slots that make no sense ---------------------------------------------------- */

void port_bad(struct port *port, uint32_t link, const char *why)
{
    uint64_t now = clock_ns();
    struct timespec wall;
    struct tm local;
    char when[32];

    counter_add(&port->shared->bad, 1);
    if (port->told_ns && now - port->told_ns < TOLD_AGAIN_NS)
        return;
    port->told_ns = now;
    clock_gettime(CLOCK_REALTIME, &wall);
    localtime_r(&wall.tv_sec, &local);
    strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &local);
    fprintf(stderr, "%s.%03ld %.31s WARNING slot %u of the segment makes no sense: %s (%llu such until now)\n",
            when, wall.tv_nsec / 1000000, port->shared->role, link - 1, why,
            (unsigned long long)load_relaxed(&port->shared->bad));
}

/* --- what fell out of a list ------------------------------------------------------- */

/* True if some port is putting the slot into an inbox just now. */
static bool being_sent(const struct xseg *seg, uint32_t index)
{
    for (uint32_t i = 0; i < XSEG_PORTS; i++)
        if (load_acquire(&seg->ports[i].sending) == index + 1u)
            return true;
    return false;
}

/* Where an own request that is away says it is: served (nothing to do), on its way there, on its way back, or
 * nowhere, which it cannot be: who moves a slot says so first in `sending`. */
enum whereabouts { IS_SERVED, IS_GOING, IS_COMING, IS_NOWHERE };

static enum whereabouts whereabouts(const struct port *port, const struct xreq *req)
{
    const struct xslot *slot = &port->seg->slots[req->index];
    uint32_t state = load_acquire(&slot->state), owner = load_acquire(&slot->owner);

    if (being_sent(port->seg, req->index) || load_acquire(&slot->state) != state
        || load_acquire(&slot->owner) != owner)
        return IS_SERVED;           /* it moves */
    if (owner == req->dst && (state == XREQ_HELD || state == XREQ_QUEUED))
        return state == XREQ_HELD ? IS_SERVED : IS_GOING;
    return owner == port->number && state == XREQ_REPLIED ? IS_COMING : IS_NOWHERE;
}

/* Sees to it that a request which is away is where it says. What an earlier incarnation sent is not known well
 * enough to be sent anew. */
static void look_after(struct port *port, struct xreq *req)
{
    enum whereabouts place = whereabouts(port, req);
    uint32_t to = place == IS_COMING ? port->number : req->dst;
    uint32_t state = place == IS_COMING ? XREQ_REPLIED : XREQ_QUEUED;

    if (place == IS_SERVED || to >= XSEG_PORTS || (place == IS_NOWHERE && req->orphan))
        return;
    if (place != IS_NOWHERE && was_delivered(port->seg, req->index, to, state))
        return;
    port_bad(port, req->index + 1, "it had fallen out of its list, and was put back");
    if (place == IS_NOWHERE)
        slot_write(port, req);
    port_deliver(port, req->index, to, state);
}

/* Looks after some of the requests that are away for long: their own port knows best where they should be. */
static void port_look_after(struct port *port, uint64_t now)
{
    uint32_t away = port->count - port->free_count, looked = 0;

    port->looked_ns = now;
    for (uint32_t n = 0; n < port->count && away > 0 && looked < LOOK_MAX; n++) {
        struct xreq *req = &port->reqs[port->first + port->look];

        port->look = port->look + 1 < port->count ? port->look + 1 : 0;
        away -= req->place != XREQ_NOT_HERE;
        if (req->place != XREQ_AWAY || now - req->sent_ns < LOOK_NS || now < req->sent_ns)
            continue;
        look_after(port, req);
        looked++;
    }
    if (away == 0)
        port->look = 0;
}

/* --- binding, goes on -------------------------------------------------------------- */

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

/* Takes what an earlier incarnation left, as segment/xseg.h says. */
static void adopt(struct port *port)
{
    bool first = !port_touched(port->seg, port->number);
    uint32_t incarnation = load_relaxed(&port->shared->incarnation) + 1;

    port->incarnation = first || incarnation > 1 ? incarnation : 2;
    store_release(&port->shared->incarnation, port->incarnation);
    finish_draining(port);
    finish_sending(port);
    adopt_slots(port, first);
    adopt_buffers(port);
    port->recovering = true;        /* until a first receive has seen that all is well */
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
    adopt(port);
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

/* --- the inbox ---------------------------------------------------------------- */

/* True if a slot met on the port's list is to be taken in. A request may say of its state what it likes: it is
 * on the list, meant for this port, and not in its hands. */
static bool is_welcome(const struct port *port, uint32_t index, const struct xslot *slot)
{
    if (!is_own_slot(port, index))
        return port->reqs[index].place == XREQ_NOT_HERE;
    return port->reqs[index].place == XREQ_AWAY && load_relaxed(&slot->state) == XREQ_REPLIED;
}

/* Marks all of a list held and puts it, oldest first, into the port's own chain. A death meanwhile leaves the
 * list as it was under `draining`: see finish_draining(). Whose request is behind a link that makes no sense
 * puts it back: see port_look_after(). */
static uint32_t take_list(struct port *port, uint32_t top)
{
    uint32_t last = 0, at = top, n;
    struct xslot *slot;

    for (n = 0; n < port->seg->slot_count && (slot = slot_at(port->seg, at))
                && load_relaxed(&slot->owner) == port->number; n++) {
        struct xreq *req = &port->reqs[at - 1];
        uint32_t here = at;

        at = load_relaxed(&slot->next);
        if (!is_welcome(port, here - 1, slot))
            continue;
        req->place = is_own_slot(port, here - 1) ? XREQ_MINE : XREQ_SERVED;
        store_relaxed(&slot->state, XREQ_HELD);
        req->index = here - 1;
        req->link = last;
        last = here;
    }
    if (at)
        port_bad(port, at, "a list breaks off there");
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
    if (src < XSEG_PORTS && req->index - xseg_first_slot(port->seg, src) < xseg_slots_of(port->seg, src)) {
        req->src = (uint16_t)src;
        return true;
    }
    req->src = (uint16_t)xseg_port_of(port->seg, req->index);
    port_bad(port, req->index + 1, "it says that another port sent it than its own");
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

    if (port->free_count < port->count && now - port->looked_ns >= LOOK_NS)
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
        if (port->chain == 0 && (port->recovering || (port->chain = drain(port)) == 0))
            break;
        req = &port->reqs[port->chain - 1];
        port->chain = req->link;
        if (is_own_slot(port, req->index) ? accept_reply(port, req) : accept_request(port, req))
            return req;
    }
    look_if_due(port);
    return NULL;
}

void port_requeue(struct port *port, struct xreq *req)
{
    assert(req->place == XREQ_SERVED);
    req->place = XREQ_NOT_HERE;
    port_deliver(port, req->index, port->number, XREQ_QUEUED);
}

bool port_pending(struct port *port)
{
    return port->chain != 0 || port->bounced != 0 || load_acquire(&port->shared->head) != 0;
}

/* --- recovery ------------------------------------------------------------------- */

/* Lets orphans come home. Requests for this port stay held, on no list; answers to this
 * incarnation's own requests are kept, to be given out at once. */
static void collect_orphans(struct port *port)
{
    uint32_t at = drain(port), *tail = &port->chain;

    while (*tail)
        tail = &port->reqs[*tail - 1].link;
    while (at) {
        struct xreq *req = &port->reqs[at - 1];
        uint32_t link = at;

        at = req->link;
        if (!is_own_slot(port, req->index)) {
            req->place = XREQ_NOT_HERE;
        } else if (req->orphan) {
            port->orphans -= req->orphan == ORPHAN_WAITED;
            counter_add(&port->shared->dropped, 1);
            xreq_put(port, req);
        } else {
            req->link = 0;
            *tail = link;
            tail = &req->link;
        }
    }
}

/* Links the requests of a sender's present life, or of its earlier ones, behind `tail`. The new tail. */
static uint32_t *take_held_of(struct port *port, uint32_t sender, bool present, uint32_t *tail)
{
    struct xseg *seg = port->seg;
    uint32_t life = port_alive(seg, sender) ? load_acquire(&seg->ports[sender].incarnation) : 0;
    uint32_t first = xseg_first_slot(seg, sender);

    for (uint32_t i = first; i < first + xseg_slots_of(seg, sender); i++) {
        struct xslot *slot = &seg->slots[i];
        struct xreq *req = &port->reqs[i];
        uint32_t op = load_relaxed(&slot->op);

        if (load_relaxed(&slot->state) != XREQ_HELD || load_relaxed(&slot->owner) != port->number
            || (load_relaxed(&slot->incarnation) == life) != present || req->place != XREQ_NOT_HERE)
            continue;
        if (op == XOP_LIST || op == XOP_NAMES)
            slot->arg = slot->asked;
        counter_add(&port->shared->recovered, 1);
        req->place = XREQ_SERVED;
        req->index = i;
        req->link = 0;
        *tail = i + 1;
        tail = &req->link;
    }
    return tail;
}

/* Requests this port holds and that came from others are given out next, before all that the inbox brings:
 * first those of senders that have died. */
static void take_held(struct port *port)
{
    uint32_t *tail = &port->chain;

    while (*tail)
        tail = &port->reqs[*tail - 1].link;
    for (uint32_t n = 0; n < 2 * XSEG_PORTS && port->incarnation > 1; n++) {
        uint32_t i = n % XSEG_PORTS;

        if (i != port->number && port_touched(port->seg, i))
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
            counter_add(&port->shared->rings, 1);
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
