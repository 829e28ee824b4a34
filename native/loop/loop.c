/* SPDX-License-Identifier: Apache-2.0
 *
 * loop/loop.c - runs the native peers of one thread to completion. See loop/peer.h.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "loop/peer.h"
#include "loop/poll.h"
#include "segment/barrier.h"

#define BATCH_MAX 256               /* requests one peer takes before the next has its turn */
#define TURNS_MAX 64                /* busy turns before descriptors are looked at again */
#define NAP_LEVELS 2                /* TUNE_NAPS at its highest: all of what is asked for */
#define TIMER_SLACK_NS 1000ul        /* the kernel's own 50 us are longer than a nap */
#define SLEEP_NS (XBELL_SLEEP_MS * 1000000ull)

struct loop {
    struct xseg *seg;
    struct bell *bell;
    struct poll poll;
    int stop_fd;
    uint32_t stopping;              /* atomic */
    bool draining;
    uint64_t now_ns;
    struct tune tune;
    struct spin spin;
    uint64_t active_ns;             /* when work was last seen */
    struct peer *peers[LOOP_PEERS_MAX];
    uint32_t peer_count;
    struct queue foreign[LOOP_PEERS_MAX];   /* kept back for the successor while draining */
    uint32_t parked_count;          /* of all its peers */
    bool helps[XSEG_PORTS];         /* draining: a port outside has a request of this loop's */
    struct watch bell_watch, stop_watch;
};

uint64_t loop_now(const struct loop *loop) { return loop->now_ns; }

/* --- descriptors -------------------------------------------------------------- */

int loop_watch(struct loop *loop, struct watch *watch, uint32_t events)
{
    return poll_add(&loop->poll, watch, events);
}

int loop_rewatch(struct loop *loop, struct watch *watch, uint32_t events)
{
    return poll_change(&loop->poll, watch, events);
}

void loop_unwatch(struct loop *loop, struct watch *watch) { poll_remove(&loop->poll, watch); }

/* The bell's FIFO is emptied by bell_disarm(); stopping is seen by its word. */
static void nothing_to_do(struct watch *watch, uint32_t events)
{
    (void)watch;
    (void)events;
}

static void stop_ready(struct watch *watch, uint32_t events)
{
    uint64_t rings;

    (void)events;
    if (read(watch->fd, &rings, sizeof(rings)) < 0)
        return;                     /* another wake took it */
}

int loop_new(struct xseg *seg, uint32_t spin_us, struct loop **out)
{
    struct loop *loop = calloc(1, sizeof(*loop));
    int rc;

    if (!loop)
        return -ENOMEM;
    loop->seg = seg;
    tune_start(&loop->tune);
    if (spin_us != LOOP_SPIN_AUTO)
        tune_force(&loop->tune, "spin", spin_us != 0);
    loop->spin.fixed_ns = spin_us == LOOP_SPIN_AUTO ? 0 : spin_us * 1000ull;
    loop->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    rc = loop->stop_fd < 0 ? -errno : poll_start(&loop->poll, &loop->tune);
    if (rc == 0)
        rc = bell_open(seg, XPORT_ANY, &loop->bell);
    if (rc == 0) {
        loop->bell_watch = (struct watch){ .fd = loop->bell->fd, .ready = nothing_to_do };
        loop->stop_watch = (struct watch){ .fd = loop->stop_fd, .ready = stop_ready };
        rc = loop_watch(loop, &loop->bell_watch, EPOLLIN);
        if (rc == 0)
            rc = loop_watch(loop, &loop->stop_watch, EPOLLIN);
    }
    *out = loop;
    if (rc)
        loop_free(loop);
    return rc;
}

/* --- peers ---------------------------------------------------------------------- */

const struct peer_ops *peer_type(const char *type)
{
    for (uint32_t i = 0; native_peers[i]; i++)
        if (strcmp(native_peers[i]->type, type) == 0)
            return native_peers[i];
    return NULL;
}

static int bind_peer(struct peer *peer, const char *const *targets, uint32_t target_count)
{
    uint32_t number;
    int rc = port_find(peer->seg, peer->role, &number);

    assert(target_count <= PEER_TARGETS_MAX && !peer->port);
    if (rc)
        return peer_fail(peer, rc, "no port is declared for the role %s", peer->role);
    rc = port_bind(peer->seg, number, peer->role, peer->loop->bell, &peer->port);
    if (rc)
        return peer_fail(peer, rc, "the port of %s cannot be bound: %s", peer->role,
                         rc == -EBUSY ? "another process serves it" : strerror(-rc));
    peer->port->looped = true;
    for (uint32_t i = 0; i < target_count; i++) {
        rc = route_find(peer->seg, peer->role, targets[i], &peer->route[i]);
        if (rc)
            return peer_fail(peer, rc, "its target %s is no role of this pipeline", targets[i]);
    }
    peer->target_count = target_count;
    return 0;
}

int loop_add(struct loop *loop, const char *type, const char *role,
             const char *const *targets, uint32_t target_count,
             const struct option *options, uint32_t option_count, struct peer **out)
{
    struct peer *peer = calloc(1, sizeof(*peer));
    int rc;

    assert(!loop->draining);        /* its drain() would never be called */
    *out = peer;
    if (!peer)
        return -ENOMEM;
    peer->loop = loop;
    peer->seg = loop->seg;
    peer->ops = peer_type(type);
    peer->role = strdup(role);
    if (!peer->ops)
        return peer_fail(peer, -ENOENT, "there is no native peer type %s", type);
    if (loop->peer_count == LOOP_PEERS_MAX || option_count > PEER_OPTIONS_MAX
        || target_count > PEER_TARGETS_MAX)
        return peer_fail(peer, -E2BIG, "too many peers in one process, options or targets");
    for (uint32_t i = 0; i < option_count; i++)
        peer->options[i] = (struct option){ strdup(options[i].name),
                                             options[i].value ? strdup(options[i].value) : NULL };
    peer->option_count = option_count;
    rc = bind_peer(peer, targets, target_count);
    if (rc == 0)
        rc = peer_configure(peer);
    if (rc == 0 && peer->ops->start)
        rc = peer->ops->start(peer);
    if (rc)
        free(peer->state);
    if (rc && peer->port) {
        port_close(peer->port);
        peer->port = NULL;
    }
    if (rc)
        return peer->error[0] ? rc : peer_fail(peer, rc, "%s", strerror(-rc));
    assert(peer->ops->request && peer->ops->reply);
    store_release(&peer->port->shared->ready, 1u);
    loop->peers[loop->peer_count++] = peer;
    return 0;
}

/* --- the waiting room ------------------------------------------------------------- */

void peer_park(struct peer *peer, struct xreq *req)
{
    assert(peer->ops->again && peer->parked_count < peer->in_flight);
    queue_push(peer, &peer->parked, req);
    peer->parked_count++;
    peer->loop->parked_count++;
}

struct xreq *peer_unpark(struct peer *peer)
{
    struct xreq *req = queue_pop(peer, &peer->parked);

    assert((req != NULL) == (peer->parked_count != 0));
    if (req) {
        peer->parked_count--;
        peer->loop->parked_count--;
    }
    return req;
}

bool peer_has_slot(struct peer *peer) { return peer->port->free_count != 0; }

/* Tries for those that are parked. True: some wait no more. */
static bool retry(struct peer *peer)
{
    uint32_t before = peer->parked_count, tries = before < PEER_TRIES_MAX ? before : PEER_TRIES_MAX;

    for (uint32_t n = 0; n < tries && (!peer->ops->can_serve || peer->ops->can_serve(peer)); n++) {
        struct xreq *req = peer_unpark(peer);
        if (!req)
            break;                  /* a try before it failed all that were left */
        peer->ops->again(peer, req);
    }
    return peer->parked_count < before;
}

static bool retry_all(struct loop *loop)
{
    bool moved = false;

    for (uint32_t i = 0; i < loop->peer_count; i++)
        moved |= retry(loop->peers[i]);
    return moved;
}

/* --- the loop --------------------------------------------------------------------- */

static bool is_own_port(const struct loop *loop, uint32_t number)
{
    for (uint32_t i = 0; i < loop->peer_count; i++)
        if (loop->peers[i]->port->number == number)
            return true;
    return false;
}

/* While draining, only requests that began in this loop are finished, and those of a port
 * that has one of them: its answer may depend on it (a CLOSE makes the mapper ask vlmc). */
static bool is_foreign(const struct loop *loop, const struct xreq *req)
{
    return !loop->helps[req->src % XSEG_PORTS] && !is_own_port(loop, req->src);
}

static void find_helpers(struct loop *loop)
{
    memset(loop->helps, 0, sizeof(loop->helps));
    for (uint32_t i = 0; i < loop->peer_count; i++) {
        const struct port *port = loop->peers[i]->port;
        const struct xreq *reqs = &port->reqs[port->first];

        assert(port->free_count <= port->count);
        for (uint32_t n = 0; n < port->count && port->free_count < port->count; n++)
            if (reqs[n].place == XREQ_AWAY)
                loop->helps[reqs[n].dst % XSEG_PORTS] = true;
    }
}

static void dispatch(struct loop *loop, uint32_t number, struct xreq *req)
{
    struct peer *peer = loop->peers[number];

    assert(req->place == (xreq_is_reply(peer->port, req) ? XREQ_MINE : XREQ_SERVED));
    if (xreq_is_reply(peer->port, req)) {
        peer->ops->reply(peer, req);
    } else if (loop->draining && is_foreign(loop, req)) {
        queue_push(peer, &loop->foreign[number], req);
    } else {
        peer->in_flight++;
        peer->ops->request(peer, req);
    }
}

/* Serves what was kept back and is wanted now. */
static void reconsider_foreign(struct loop *loop)
{
    assert(loop->draining);
    find_helpers(loop);
    for (uint32_t i = 0; i < loop->peer_count; i++) {
        struct queue kept = loop->foreign[i];
        struct xreq *req;

        loop->foreign[i] = (struct queue){ 0, 0 };
        while ((req = queue_pop(loop->peers[i], &kept)))
            dispatch(loop, i, req);
    }
}

static void set_now(struct loop *loop)
{
    uint64_t now = clock_ns();

    assert(now >= loop->now_ns);
    loop->now_ns = now;
    for (uint32_t i = 0; i < loop->peer_count; i++)
        loop->peers[i]->port->now_ns = loop->now_ns;
}

/* One turn over all peers. True if anything moved. */
static bool turn(struct loop *loop)
{
    bool moved = false;

    set_now(loop);
    if (loop->draining)
        reconsider_foreign(loop);
    for (uint32_t i = 0; i < loop->peer_count; i++) {
        struct peer *peer = loop->peers[i];
        struct xreq *req;

        for (int n = 0; n < BATCH_MAX && (req = port_receive(peer->port)); n++) {
            dispatch(loop, i, req);
            moved = true;
        }
    }
    if (loop->parked_count && retry_all(loop))
        moved = true;
    for (uint32_t i = 0; i < loop->peer_count; i++)
        if (loop->peers[i]->ops->flush && loop->peers[i]->ops->flush(loop->peers[i]))
            moved = true;
    for (uint32_t i = 0; i < loop->peer_count; i++)
        port_ring(loop->peers[i]->port);
    return moved;
}

static bool pending(struct loop *loop)
{
    for (uint32_t i = 0; i < loop->peer_count; i++)
        if (port_pending(loop->peers[i]->port))
            return true;
    return load_acquire(&loop->stopping) && !loop->draining;
}

/* How long it may sleep: until the next peer's deadline, XBELL_SLEEP_MS at most. */
static uint64_t sleep_ns(struct loop *loop)
{
    uint64_t end = loop->now_ns + SLEEP_NS;

    for (uint32_t i = 0; i < loop->peer_count; i++) {
        struct peer *peer = loop->peers[i];
        uint64_t deadline = peer->ops->deadline ? peer->ops->deadline(peer) : UINT64_MAX;
        if (deadline < end)
            end = deadline;
    }
    assert(end <= loop->now_ns + SLEEP_NS);     /* a sender that died before it rang costs no more */
    return end > loop->now_ns ? end - loop->now_ns : 0;
}

/* Serves what descriptors have, and waits for that if there is nothing. True if something came. */
static bool poll_events(struct loop *loop, uint64_t ns)
{
    if (!poll_wait(&loop->poll, ns))
        return false;
    set_now(loop);                  /* what is sent from here was not sent before the sleep */
    poll_serve(&loop->poll);
    return true;
}

/* Polls without sleeping. True if something came. */
static bool look_for_work(struct loop *loop, uint64_t ns)
{
    for (uint64_t end = clock_ns() + ns; clock_ns() < end;) {
        if (pending(loop) || poll_events(loop, 0))
            return true;
        cpu_relax();
    }
    spin_was_vain(&loop->spin, ns);
    return false;
}

/* Lets more come together. True if it did. */
static bool nap(struct loop *loop)
{
    uint64_t ns = 0;

    for (uint32_t i = 0; i < loop->peer_count; i++) {
        struct peer *peer = loop->peers[i];
        uint64_t wanted = peer->ops->nap ? peer->ops->nap(peer) : 0;
        ns = wanted > ns ? wanted : ns;
    }
    assert(ns <= SLEEP_NS);
    ns = ns ? ns * tune_level(&loop->tune, TUNE_NAPS) / NAP_LEVELS : 0;
    if (ns)
        clock_nanosleep(CLOCK_MONOTONIC, 0, &(struct timespec){ .tv_nsec = (long)ns }, NULL);
    return ns && poll_events(loop, 0);
}

static void wait_for_work(struct loop *loop)
{
    uint64_t spin_ns;
    bool woken;

    if (nap(loop))
        return;
    poll_choose(&loop->poll);
    spin_ns = spin_choose(&loop->spin, &loop->tune, loop->now_ns, loop->active_ns);
    woken = spin_ns && look_for_work(loop, spin_ns);
    if (!woken) {
        bell_arm(loop->bell);
        woken = poll_events(loop, pending(loop) ? 0 : sleep_ns(loop));
        bell_disarm(loop->bell);
        if (woken && loop->peer_count)
            counter_add(&loop->peers[0]->port->shared->wakes, 1);
    }
    if (woken)
        spin_learn(&loop->spin, clock_ns() - loop->active_ns);
}

/* --- what its mechanisms gain -------------------------------------------------------- */

int loop_force(struct loop *loop, const char *mechanism, bool on) { return tune_force(&loop->tune, mechanism, on); }

uint32_t loop_level(struct loop *loop, enum tune_name name) { return tune_level(&loop->tune, name); }

static void measure(struct loop *loop)
{
    struct tune_work work = { 0 };
    struct timespec cpu;

    for (uint32_t i = 0; i < loop->peer_count; i++) {
        const struct xport *shared = loop->peers[i]->port->shared;
        work.answers += load_relaxed(&shared->served);
        work.bytes += load_relaxed(&shared->bytes_read) + load_relaxed(&shared->bytes_written);
    }
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    work.cpu_ns = (uint64_t)cpu.tv_sec * 1000000000u + (uint64_t)cpu.tv_nsec;
    tune_turn(&loop->tune, loop->now_ns, &work, loop->peer_count);
}

static bool all_idle(struct loop *loop)
{
    for (uint32_t i = 0; i < loop->peer_count; i++) {
        struct peer *peer = loop->peers[i];

        assert(peer->parked_count <= peer->in_flight);
        if (peer->in_flight || (peer->ops->idle && !peer->ops->idle(peer)))
            return false;
    }
    return true;
}

/* Runs turns until nothing moves, then waits once. */
static void run_once(struct loop *loop)
{
    if (tune_is_due(&loop->tune, loop->now_ns))
        measure(loop);
    for (int n = 0; n < TURNS_MAX; n++) {
        if (!turn(loop)) {
            wait_for_work(loop);
            return;
        }
        loop->active_ns = loop->now_ns;
    }
    poll_events(loop, 0);
}

static void begin_drain(struct loop *loop)
{
    assert(!loop->draining);
    loop->draining = true;
    for (uint32_t i = 0; i < loop->peer_count; i++)
        if (loop->peers[i]->ops->drain)
            loop->peers[i]->ops->drain(loop->peers[i]);
}

/* What was kept back goes into its inbox again, for the port's next owner. */
static void return_foreign(struct loop *loop)
{
    assert(loop->draining);
    for (uint32_t i = 0; i < loop->peer_count; i++) {
        struct xreq *req;
        while ((req = queue_pop(loop->peers[i], &loop->foreign[i])))
            port_requeue(loop->peers[i]->port, req);
    }
}

int loop_run(struct loop *loop, uint32_t drain_ms)
{
    uint64_t end;

    assert(loop->peer_count > 0 && !loop->draining);
    prctl(PR_SET_TIMERSLACK, TIMER_SLACK_NS);
    while (!load_acquire(&loop->stopping))
        run_once(loop);
    begin_drain(loop);
    end = clock_ns() + drain_ms * 1000000ull;
    do
        run_once(loop);
    while (!all_idle(loop) && clock_ns() < end);
    return_foreign(loop);
    assert(!all_idle(loop) || loop->parked_count == 0);
    return all_idle(loop) ? 0 : -ETIMEDOUT;
}

int loop_turn(struct loop *loop) { return turn(loop); }

int loop_poll(struct loop *loop) { return poll_events(loop, 0); }

void loop_stop(struct loop *loop)
{
    uint64_t one = 1;

    store_release(&loop->stopping, 1u);
    if (write(loop->stop_fd, &one, sizeof(one)) < 0)
        return;                     /* the counter is full: it wakes all the same */
}

void loop_free(struct loop *loop)
{
    for (uint32_t i = loop->peer_count; i-- > 0;) {
        struct peer *peer = loop->peers[i];
        if (peer->ops->stop)
            peer->ops->stop(peer);
        free(peer->state);
        port_close(peer->port);
        for (uint32_t o = 0; o < peer->option_count; o++) {
            free((char *)peer->options[o].name);
            free((char *)peer->options[o].value);
        }
        free((char *)peer->role);
        free(peer);
    }
    if (loop->bell)
        bell_close(loop->bell);
    poll_stop(&loop->poll);
    close(loop->stop_fd);
    free(loop);
}
