/* SPDX-License-Identifier: Apache-2.0
 *
 * vhost/vhost.c - the peer: its options, turns, what others ask it. See vhost/parts.h.
 *
 * Others ask it: OPEN, look through the folder of attached volumes again; CLOSE, detach the volume of the id that is
 * the data (16 hexadecimal digits), with XREQ_FORCE under its front-end; INFO, a line of text for each attached volume
 * and session.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "segment/barrier.h"
#include "vhost/parts.h"

static const struct peer_option options[] = {
    PEER_OPTION("attached", struct vhost, attached),
    PEER_OPTION("park", struct vhost, park),
    PEER_OPTION("sessions", struct vhost, sessions_max),
    PEER_OPTION("queues", struct vhost, queues_max),
    PEER_OPTION("memory_gib", struct vhost, memory_gib),
    PEER_OPTION("stop_s", struct vhost, stop_s),
    PEER_OPTION("handover_s", struct vhost, handover_s),
    PEER_OPTION("poll_ms", struct vhost, poll_ms),
    PEER_OPTION("socket_group", struct vhost, group),
    { 0 }
};

/* As many descriptors as may be: a session has a dozen. */
static void raise_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int start(struct peer *peer)
{
    struct vhost *vhost = peer->state;
    int rc, records;

    if (peer->target_count != 2)
        return peer_fail(peer, -EINVAL, "a vhost peer has two targets: vlmc and mapper");
    assert(vhost->sessions_max >= 1 && vhost->sessions_max <= VHOST_SESSIONS_MAX);
    assert(vhost->queues_max >= 1 && vhost->queues_max <= VHOST_QUEUES_MAX);
    vhost->peer = peer;
    raise_limit();
    vhost_memory_guard();
    park_open(&vhost->parked, vhost->park, peer->role);
    records = park_take(&vhost->parked, "state");
    rc = vhost_keep_open(vhost, records);
    if (rc) {
        park_close(&vhost->parked);
        return rc;
    }
    if (vhost->records_fd != records)
        park_keep(&vhost->parked, "state", vhost->records_fd);
    vhost_listen_scan(vhost);
    vhost_again(vhost);
    park_settle(&vhost->parked);
    return 0;
}

/* Descriptors are closed here; what the supervisor has of them stays. */
static void stop(struct peer *peer)
{
    struct vhost *vhost = peer->state;

    vhost_listen_stop(vhost);
    park_close(&vhost->parked);
    for (uint32_t i = 0; i < vhost->top; i++) {
        struct vhost_session *session = vhost->sessions[i];

        if (!session)
            continue;
        for (uint32_t n = 0; n < VHOST_QUEUES_MAX; n++)
            vhost_session_kick(&session->rings[n], -1);
        if (!vhost_gone(session)) {
            loop_unwatch(peer->loop, &session->watch);
            close(session->watch.fd);
        }
        vhost_memory_clear(session);
        vhost_map_out(&session->marks);
        vhost_map_out(&session->log);
        free(session);
    }
    for (uint32_t i = 0; i < vhost->disk_count; i++)
        free(vhost->disks[i]);
    vhost_keep_close(vhost);
}

/* --- what others ask ------------------------------------------------------------------ */

/* "S ID STATE PID SINCE SURVIVED RINGS" for a session, "D ID READY SIZE FAILURES" for a disk. */
static int say_disk(const struct vhost_disk *disk, char *out, size_t room)
{
    int n = snprintf(out, room, "D %016" PRIx64 " %d %" PRIu64 " %" PRIu64 "\n", disk->id, disk->watch.fd >= 0,
                     vhost_disk_size(disk), disk->failures);

    for (const struct vhost_session *session = disk->first; session && n >= 0 && (size_t)n < room;
         session = session->next) {
        uint32_t running = 0;
        int more;

        if (vhost_gone(session))
            continue;
        for (uint32_t i = 0; i < VHOST_QUEUES_MAX; i++)
            running += session->rings[i].state == VHOST_RUNS;
        more = snprintf(out + n, room - (size_t)n, "S %016" PRIx64 " %d %" PRIu64 " %u %u\n", disk->id, session->pid,
                        session->since, session->survived, running);
        n = more < 0 ? -1 : n + more;
    }
    return n < 0 || (size_t)n >= room ? -1 : n;
}

static int tell(struct vhost *vhost, struct xreq *req)
{
    struct peer *peer = vhost->peer;
    uint64_t room = req->data_size;
    char *out;

    if (!xreq_data_ok(peer->seg, req, room))
        return -EINVAL;
    out = xreq_data(peer->seg, req);
    req->done = 0;
    for (uint32_t i = (uint32_t)req->arg; i < vhost->disk_count; i++) {
        int n = vhost->disks[i] && !vhost->disks[i]->dropped
              ? say_disk(vhost->disks[i], out + req->done, room - req->done) : 0;

        if (n < 0 && req->done == 0)
            return -ENOBUFS;
        if (n < 0) {
            req->flags |= XREQ_MORE;
            req->arg = i;
            break;
        }
        req->done += (uint64_t)n;
    }
    return 0;
}

static int detach(struct vhost *vhost, struct xreq *req)
{
    char id[17] = "";

    if (req->size != 16 || !xreq_data_ok(vhost->peer->seg, req, 16))
        return -EINVAL;
    read_once(id, xreq_data(vhost->peer->seg, req), 16);
    return vhost_listen_detach(vhost, strtoull(id, NULL, 16), req->flags & XREQ_FORCE);
}

static void request(struct peer *peer, struct xreq *req)
{
    struct vhost *vhost = peer->state;
    int rc = -EOPNOTSUPP;

    if (req->op == XOP_PING)
        rc = 0;
    else if (req->op == XOP_INFO && !req->volume)
        rc = tell(vhost, req);
    else if (req->op == XOP_OPEN)
        rc = vhost->closing ? -EBUSY : vhost_listen_scan(vhost);
    else if (req->op == XOP_CLOSE)
        rc = detach(vhost, req);
    peer_reply(peer, req, rc);
}

/* --- turns ------------------------------------------------------------------------------ */

static void drop_sessions(const struct vhost_disk *disk, const char *why)
{
    for (struct vhost_session *session = disk->first; session; session = session->next)
        vhost_session_drop(session, why);
}

static void wake_sessions(const struct vhost_disk *disk)
{
    for (struct vhost_session *session = disk->first; session; session = session->next)
        vhost_dirty(session);
}

static void disk_reply(struct vhost *vhost, struct xreq *req)
{
    const struct vhost_note *note = vhost_note_of(req);
    struct vhost_disk *disk = note->place < vhost->disk_count ? vhost->disks[note->place] : NULL;
    int rc;

    vhost->away--;
    if (!disk || disk->serial != note->serial) {
        xreq_put(vhost->peer->port, req);
        return;
    }
    rc = vhost_disk_answered(disk, req);
    if (rc)
        drop_sessions(disk, strerror(-rc));
    wake_sessions(disk);
}

static void reply(struct peer *peer, struct xreq *req)
{
    struct vhost *vhost = peer->state;
    const struct vhost_note *note = vhost_note_of(req);
    struct vhost_session *session;

    if (note->errand != VHOST_PIECE) {
        disk_reply(vhost, req);
        return;
    }
    session = note->place < VHOST_SESSIONS_MAX ? vhost->sessions[note->place] : NULL;
    assert(session && session->serial == note->serial);     /* it stays until nothing is away */
    vhost_request_back(session, req);
}

/* Closes volumes that nobody runs, frees disks that were detached, tells of new sizes, asks again. */
static void look_at_disk(struct vhost_disk *disk)
{
    bool used = false;

    for (struct vhost_session *session = disk->first; session; session = session->next) {
        used |= vhost_session_runs(session) || session->away;
        for (uint32_t i = 0; i < VHOST_QUEUES_MAX; i++)
            used |= session->rings[i].state == VHOST_WAITS && session->rings[i].enabled;
        if (!disk->known && !disk->asking && !vhost_gone(session))
            vhost_disk_describe(disk);
    }
    if (disk->state == VHOST_DISK_OPEN) {
        disk->size = vhost_disk_size(disk);
        for (struct vhost_session *session = disk->first; session; session = session->next) {
            session->told = session->told ? session->told : disk->size;
            session->changed |= session->told != disk->size;
        }
    }
    wake_sessions(disk);
    if (!used || disk->vhost->draining)
        vhost_disk_close(disk);
    vhost_listen_retire(disk);
}

static void look_for_closing(struct vhost *vhost)
{
    bool closing = load_relaxed(&vhost->peer->seg->header->closing) != 0;

    if (closing && !vhost->closing)
        for (uint32_t i = 0; i < vhost->top; i++)
            if (vhost->sessions[i])
                vhost_session_drop(vhost->sessions[i], "the instance is stopped");
    vhost->closing = closing;
}

static void tick(struct vhost *vhost)
{
    uint64_t now_ns = loop_now(vhost->peer->loop);

    if (now_ns < vhost->tick_ns)
        return;
    vhost->tick_ns = now_ns + VHOST_TICK_NS;
    if (park_again(&vhost->parked))
        vhost_keep_all(vhost);
    if (vhost->no_descriptors_ns && now_ns >= vhost->no_descriptors_ns)
        vhost_listen_go_on(vhost);
    for (uint32_t i = 0; i < vhost->disk_count; i++)
        if (vhost->disks[i])
            look_at_disk(vhost->disks[i]);
}

static bool turn_word(struct vhost *vhost, uint32_t w)
{
    uint64_t todo = vhost->dirty.word[w];
    bool moved = false;

    for (vhost->dirty.word[w] = 0; todo; todo &= todo - 1) {
        struct vhost_session *session = vhost->sessions[w * 64 + (uint32_t)__builtin_ctzll(todo)];

        if (!session)
            continue;
        if (!vhost_gone(session))
            vhost_talk_turn(session);
        moved |= vhost_session_turn(session);
    }
    return moved;
}

static void look_at_polled(struct vhost *vhost)
{
    for (uint32_t i = 0; i < vhost->top && vhost->polled; i++)
        for (uint32_t n = 0; vhost->sessions[i] && n < VHOST_QUEUES_MAX; n++)
            if (vhost->sessions[i]->rings[n].polled && vhost->sessions[i]->rings[n].state == VHOST_RUNS)
                vhost_dirty(vhost->sessions[i]);
}

static bool flush(struct peer *peer)
{
    struct vhost *vhost = peer->state;
    uint32_t words = (vhost->top + 63) / 64;
    bool moved = false;

    look_for_closing(vhost);
    tick(vhost);
    look_at_polled(vhost);
    vhost->retries = false;
    for (uint32_t i = 0; i < words; i++)
        moved |= turn_word(vhost, (vhost->turn + i) % words);
    vhost->turn = words ? (vhost->turn + 1) % words : 0;
    return moved;
}

static uint64_t deadline(struct peer *peer)
{
    const struct vhost *vhost = peer->state;
    uint64_t now_ns = loop_now(peer->loop);

    if (vhost->retries)
        return now_ns + VHOST_RETRY_NS;
    return vhost->polled ? now_ns + vhost->poll_ms * 1000000 : UINT64_MAX;
}

/* Nothing more is taken; sessions stay as they are, for the next life. */
static void drain(struct peer *peer)
{
    struct vhost *vhost = peer->state;

    vhost->draining = true;
    vhost_listen_stop(vhost);
    for (uint32_t i = 0; i < vhost->disk_count; i++)
        if (vhost->disks[i])
            wake_sessions(vhost->disks[i]);
}

static bool idle(struct peer *peer)
{
    const struct vhost *vhost = peer->state;

    if (vhost->away)
        return false;
    for (uint32_t i = 0; i < vhost->top; i++)
        if (vhost->sessions[i] && vhost->sessions[i]->away)
            return false;
    for (uint32_t i = 0; i < vhost->disk_count; i++)
        if (vhost->disks[i] && vhost->disks[i]->state != VHOST_DISK_CLOSED)
            return false;
    return true;
}

const struct peer_ops vhost_ops = {
    .type = "vhost",
    .state_size = sizeof(struct vhost),
    .options = options,
    .start = start,
    .request = request,
    .reply = reply,
    .flush = flush,
    .deadline = deadline,
    .drain = drain,
    .idle = idle,
    .stop = stop,
};
