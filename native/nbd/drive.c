/* SPDX-License-Identifier: Apache-2.0
 *
 * nbd/drive.c - what a connection does next: when its socket, its turn, or the end of what it waited for
 * says so. See nbd/parts.h.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/uio.h>
#include <unistd.h>

#include "nbd/parts.h"

/* --- what is wanted of the socket ------------------------------------------------------------- */

/* True if bytes that come now can be taken. */
static bool wants_input(const struct nbd_connection *conn)
{
    if (conn->eof || conn->stop & NBD_STOP_WAIT)
        return false;
    if (conn->phase != NBD_SERVE && nbd_has_output(conn))
        return false;
    return conn->current || conn->skip || !(conn->stop & NBD_STOP_END);
}

void nbd_update_events(struct nbd_connection *conn)
{
    uint32_t events = (wants_input(conn) ? EPOLLIN : 0u) | (conn->full ? EPOLLOUT : 0u);

    if (conn->phase == NBD_GONE || events == conn->events)
        return;
    conn->events = events;
    loop_rewatch(conn->nbd->peer->loop, &conn->watch, events);
}

/* --- bytes that came --------------------------------------------------------------------------- */

static bool step(struct nbd_connection *conn)
{
    if (conn->phase == NBD_GONE || conn->stop & NBD_STOP_WAIT)
        return false;
    if (conn->skip)
        return nbd_request_skip(conn);
    if (conn->current)
        return nbd_request_issue(conn);
    if (conn->stop & NBD_STOP_END)
        return false;
    if (conn->phase == NBD_HELLO)
        return nbd_hello(conn);
    return conn->phase == NBD_OPTIONS ? nbd_options(conn) : nbd_request_begin(conn);
}

void nbd_settle(struct nbd_connection *conn)
{
    if (conn->phase == NBD_GONE || !(conn->stop & NBD_STOP_END))
        return;
    if (conn->phase == NBD_SERVE && (conn->current || conn->free_count < NBD_COMMANDS))
        return;
    if (!nbd_has_output(conn))
        nbd_drop(conn);
}

void nbd_parse(struct nbd_connection *conn)
{
    while (step(conn))
        ;                           /* each step takes staged bytes, or ends something */
    nbd_settle(conn);
    if (conn->phase != NBD_GONE && conn->in_start == conn->in_end)
        conn->in_start = conn->in_end = 0;
}

static void make_room(struct nbd_connection *conn)
{
    if (conn->in_start == 0)
        return;
    memmove(conn->in, conn->in + conn->in_start, nbd_staged(conn));
    conn->in_end -= conn->in_start;
    conn->in_start = 0;
}

/* Shares out what was read: first to the piece being filled. */
static void took(struct nbd_connection *conn, uint32_t n)
{
    uint32_t filled = 0;

    if (conn->fill) {
        filled = conn->fill_size - conn->fill_at;
        filled = n < filled ? n : filled;
        conn->fill_at += filled;
    }
    conn->in_end += n - filled;
    if (conn->phase == NBD_SERVE)
        conn->since_ns = loop_now(conn->nbd->peer->loop);
}

static void receive(struct nbd_connection *conn)
{
    struct iovec to[2];
    int count = 0;
    ssize_t n;

    make_room(conn);
    assert(!conn->fill || nbd_staged(conn) == 0);
    if (conn->fill)
        to[count++] = (struct iovec){ conn->fill_data + conn->fill_at, conn->fill_size - conn->fill_at };
    assert(conn->in_end < NBD_STAGING);
    to[count++] = (struct iovec){ conn->in + conn->in_end, NBD_STAGING - conn->in_end };
    n = readv(conn->watch.fd, to, count);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n < 0) {
        nbd_drop(conn);
        return;
    }
    conn->eof = n == 0;
    if (conn->eof)
        nbd_end(conn);
    nbd_look_at_others(conn);
    took(conn, (uint32_t)n);
    nbd_parse(conn);
}

/* --- bytes that go, and events --------------------------------------------------------------- */

void nbd_send(struct nbd_connection *conn)
{
    if (conn->phase == NBD_GONE)
        return;
    if (nbd_output_send(conn) < 0) {
        nbd_drop(conn);
        return;
    }
    if (conn->stop & NBD_STOP_ROOM && conn->free_count >= NBD_COMMANDS - NBD_RESUME
        && conn->bytes < NBD_BYTES)
        conn->stop &= ~NBD_STOP_ROOM;
    conn->stop &= ~NBD_STOP_SHARE;
    nbd_parse(conn);
    if (conn->full != !!(conn->events & EPOLLOUT) || !(conn->events & EPOLLIN))
        nbd_update_events(conn);
}

static void ready(struct watch *watch, uint32_t events)
{
    struct nbd_connection *conn = watch->arg;

    if (events & (EPOLLHUP | EPOLLERR)) {
        nbd_drop(conn);             /* nobody is there to answer: what is unread must not be done */
        return;
    }
    if (events & EPOLLOUT)
        nbd_send(conn);
    if (conn->phase == NBD_GONE)
        return;
    if (events & EPOLLIN && wants_input(conn))
        receive(conn);
    else if (events & EPOLLIN)
        nbd_update_events(conn);    /* held back meanwhile: it was not worth a system call */
}

/* The first free place; NBD_PLACES: there is none. */
static uint32_t find_index(struct nbd *nbd)
{
    while (nbd->next_free < nbd->top && nbd->connections[nbd->next_free])
        nbd->next_free++;
    return nbd->next_free;
}

void nbd_connect(struct nbd *nbd, int fd)
{
    uint32_t index = find_index(nbd);
    struct nbd_connection *conn = index < NBD_PLACES ? calloc(1, sizeof(*conn)) : NULL;

    if (!conn) {
        nbd_admit_refused(nbd, &(struct nbd_client){ .uid = NBD_NOBODY }, "there is no memory for it");
        close(fd);
        return;
    }
    conn->watch = (struct watch){ .fd = fd, .ready = ready, .arg = conn, .may_be_alone = true };
    conn->nbd = nbd;
    conn->index = index;
    conn->serial = ++nbd->serial;
    conn->phase = NBD_HELLO;
    conn->events = EPOLLIN;
    conn->since_ns = clock_ns();
    nbd_allow_meet(conn);
    if (!nbd_admit(nbd, &conn->client)) {
        close(fd);
        free(conn);
        return;
    }
    for (uint32_t i = 0; i < NBD_COMMANDS; i++)
        conn->free[i] = (uint8_t)(NBD_COMMANDS - 1 - i);
    conn->free_count = NBD_COMMANDS;
    if (loop_watch(nbd->peer->loop, &conn->watch, conn->events) < 0) {
        close(fd);
        free(conn);
        return;
    }
    nbd->connections[index] = conn;
    nbd->connection_count++;
    nbd->live++;
    nbd->top = index < nbd->top ? nbd->top : index + 1;
    nbd_greet(conn);
}

/* --- turns of those that waited --------------------------------------------------------------- */

bool nbd_serve_queue(struct nbd *nbd)
{
    uint32_t first = nbd->queue_next, before = nbd->queue_count;

    if (before == 0)
        return false;
    nbd->serving_queue = true;
    for (uint32_t n = 0, top = nbd->top; n < top; n++) {
        uint32_t i = (first + n) % top;

        if (!nbd_set_has(&nbd->queued, i))
            continue;
        if (nbd->queue_next == first)
            nbd->queue_next = i + 1;       /* another comes first next time */
        nbd_unqueue(nbd->connections[i]);
        nbd_parse(nbd->connections[i]);
        if (!(nbd->connections[i]->events & EPOLLIN))
            nbd_update_events(nbd->connections[i]);
    }
    nbd->serving_queue = false;
    return nbd->queue_count < before;
}

bool nbd_go_on(struct nbd *nbd)
{
    bool moved = false;

    nbd->waited |= nbd->orphans != nbd->peer->port->orphans;
    nbd->orphans = nbd->peer->port->orphans;
    if (!nbd->waited)
        return false;
    nbd->waited = false;
    for (uint32_t i = 0; i < nbd->top; i++) {
        struct nbd_connection *conn = nbd->connections[i];

        if (!conn || conn->phase == NBD_GONE || !(conn->stop & NBD_STOP_ORDER))
            continue;
        conn->stop &= ~NBD_STOP_ORDER;
        nbd_parse(conn);
        nbd_update_events(conn);
        moved = true;
    }
    return moved;
}

/* --- who is too slow ---------------------------------------------------------------- */

static bool too_slow(const struct nbd_connection *conn, uint64_t now_ns)
{
    const struct nbd *nbd = conn->nbd;
    uint64_t age_ns = now_ns > conn->since_ns ? now_ns - conn->since_ns : 0;

    if (conn->phase == NBD_GONE || conn->stop & NBD_STOP_MAPPER)
        return false;
    if (conn->phase != NBD_SERVE)
        return age_ns > nbd->handshake_s * 1000000000ull;
    if (!conn->fill && !conn->skip && !nbd_has_output(conn))
        return false;
    if (nbd->draining)
        return age_ns > NBD_LINGER_NS;
    return (nbd_holds_others(conn) || (nbd->queue_count > 0 && !(conn->stop & NBD_STOP_QUEUE)))
        && age_ns > NBD_STALL_NS;
}

/* Of those that hold buffers: whose client has not taken or given the bytes for some time. */
static void mark_slow(struct nbd_connection *conn, uint64_t now_ns)
{
    bool slow = (conn->full_ns && now_ns > conn->full_ns + NBD_SLOW_NS)
             || (conn->fill && now_ns > conn->fill_ns + NBD_SLOW_NS);

    if (conn->phase == NBD_SERVE && slow && !conn->share.slow)
        share_set_slow(&conn->share, &conn->nbd->slow);
}

void nbd_tick(struct nbd *nbd, uint64_t now_ns)
{
    if (now_ns < nbd->tick_ns)
        return;
    nbd->tick_ns = now_ns + NBD_TICK_NS;
    for (uint32_t i = 0; i < nbd->top; i++) {
        struct nbd_connection *conn = nbd->connections[i];

        if (conn && too_slow(conn, now_ns))
            nbd_drop(conn);
        else if (conn)
            mark_slow(conn, now_ns);
    }
}
