/* SPDX-License-Identifier: Apache-2.0
 *
 * vhost/session.c - what a session does next, from its rings' start to its end. See "States" in vhost/parts.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "segment/barrier.h"
#include "segment/log.h"
#include "vhost/parts.h"

#define KICK_ROOM 512               /* bytes of kicks read at once: of a pipe there may be many */

/* --- kicks -------------------------------------------------------------------------------- */

static void kicked(struct watch *watch, uint32_t events)
{
    struct vhost_ring *ring = watch->arg;
    uint8_t kicks[KICK_ROOM];
    ssize_t rc = read(watch->fd, kicks, sizeof(kicks));

    if ((rc == 0 || (rc < 0 && errno != EAGAIN && errno != EINTR)) || (events & EPOLLERR && rc < 0))
        vhost_session_kick(ring, -1);
    vhost_dirty(ring->session);
}

static void set_fd(int *place, int fd)
{
    if (*place >= 0)
        close(*place);
    *place = fd;
}

int vhost_session_kick(struct vhost_ring *ring, int fd)
{
    struct loop *loop = ring->session->vhost->peer->loop;

    if (ring->kick.fd >= 0)
        loop_unwatch(loop, &ring->kick);
    set_fd(&ring->kick.fd, fd);
    return fd < 0 ? 0 : loop_watch(loop, &ring->kick, EPOLLIN);
}

/* --- life ------------------------------------------------------------------------------------- */

static void begin_rings(struct vhost_session *session)
{
    for (uint32_t i = 0; i < VHOST_QUEUES_MAX; i++) {
        struct vhost_ring *ring = &session->rings[i];

        ring->session = session;
        ring->index = i;
        ring->kick = (struct watch){ .fd = -1, .ready = kicked, .arg = ring };
        ring->call = ring->err = -1;
    }
}

static int32_t front_end(int fd)
{
    struct ucred who;
    socklen_t size = sizeof(who);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 ? who.pid : 0;
}

static uint32_t free_place(const struct vhost *vhost)
{
    uint32_t place = 0;

    while (place < vhost->sessions_max && vhost->sessions[place])
        place++;
    return place;
}

struct vhost_session *vhost_session_new(struct vhost_disk *disk, uint32_t place, int fd)
{
    struct vhost *vhost = disk->vhost;
    struct vhost_session *session;

    if (place == UINT32_MAX)
        place = free_place(vhost);
    if (place >= vhost->sessions_max || vhost->sessions[place])
        return NULL;
    session = calloc(1, sizeof(*session));
    if (!session)
        return NULL;
    session->vhost = vhost;
    session->disk = disk;
    session->place = place;
    session->serial = ++vhost->serial;
    session->watch = (struct watch){ .fd = fd, .arg = session };
    session->log_fd = session->marks_fd = session->request_fd = -1;
    session->wce = true;
    session->since = (uint64_t)time(NULL);
    session->pid = front_end(fd);
    session->share.group = &disk->share;
    begin_rings(session);
    session->next = disk->first;
    disk->first = session;
    vhost->sessions[place] = session;
    vhost->session_count++;
    vhost->top = place >= vhost->top ? place + 1 : vhost->top;
    vhost_dirty(session);
    return session;
}

void vhost_session_listen(struct vhost_session *session, bool listen)
{
    uint32_t events = listen ? EPOLLIN : 0;

    if (vhost_gone(session) || session->events == events)
        return;
    session->events = events;
    loop_rewatch(session->vhost->peer->loop, &session->watch, events);
}

/* Others of its disk may go on now. */
static void wake_others(const struct vhost_session *session)
{
    for (struct vhost_session *other = session->disk->first; other; other = other->next)
        if (other != session)
            vhost_dirty(other);
}

/* It is looked at no more, and its descriptors are closed. */
static void end_ring(struct vhost_ring *ring)
{
    if (ring->polled && ring->state != VHOST_IDLE)
        ring->session->vhost->polled--;
    ring->state = VHOST_IDLE;
    vhost_session_kick(ring, -1);
    set_fd(&ring->call, -1);
    set_fd(&ring->err, -1);
}

void vhost_session_drop(struct vhost_session *session, const char *why)
{
    struct vhost *vhost = session->vhost;

    if (vhost_gone(session))
        return;
    if (why)
        log_line(vhost->peer->role, "WARNING", "%s: the front-end (pid %d) is disconnected: %s", session->disk->name,
                 session->pid, why);
    for (uint32_t i = 0; i < VHOST_QUEUES_MAX; i++)
        end_ring(&session->rings[i]);
    loop_unwatch(vhost->peer->loop, &session->watch);
    set_fd(&session->watch.fd, -1);
    vhost_keep_save(session);
    vhost_keep_busy(session, false);
    vhost_keep_forget(session);
    vhost_memory_clear(session);
    vhost_map_out(&session->marks);
    vhost_map_out(&session->log);
    set_fd(&session->marks_fd, -1);
    set_fd(&session->log_fd, -1);
    set_fd(&session->request_fd, -1);
    while (session->fd_count)
        close(session->fds[--session->fd_count]);
    vhost_dirty(session);
    wake_others(session);
}

/* One that is GONE and has nothing away. */
static void end(struct vhost_session *session)
{
    struct vhost *vhost = session->vhost;
    struct vhost_session **link = &session->disk->first;

    assert(vhost_gone(session) && session->away == 0);
    wake_others(session);
    while (*link != session)
        link = &(*link)->next;
    *link = session->next;
    if (!session->disk->first)
        vhost_disk_close(session->disk);
    vhost->sessions[session->place] = NULL;
    vhost->session_count--;
    while (vhost->top > 0 && !vhost->sessions[vhost->top - 1])
        vhost->top--;
    free(session);
}

/* --- rings ---------------------------------------------------------------------------------------- */

bool vhost_session_runs(const struct vhost_session *session)
{
    for (uint32_t i = 0; i < VHOST_QUEUES_MAX; i++)
        if (session->rings[i].state == VHOST_RUNS || session->rings[i].state == VHOST_STOPPING)
            return true;
    return false;
}

void vhost_session_want(struct vhost_ring *ring)
{
    if (ring->state != VHOST_IDLE || !ring->kickable || !ring->num || !ring->where.desc)
        return;
    ring->state = VHOST_WAITS;
    if (ring->polled)
        ring->session->vhost->polled++;
    vhost_dirty(ring->session);
}

/* Stopped: it may be started again, from where it is now. */
static void rest(struct vhost_ring *ring)
{
    if (ring->polled && ring->state != VHOST_IDLE)
        ring->session->vhost->polled--;
    ring->state = VHOST_IDLE;
    ring->kickable = false;
    wake_others(ring->session);
}

void vhost_session_stop(struct vhost_ring *ring)
{
    if (ring->state == VHOST_RUNS)
        ring->state = VHOST_STOPPING;
    if (ring->state == VHOST_BROKEN || (ring->state == VHOST_WAITS && !ring->fresh))
        rest(ring);
    if (ring->state == VHOST_STOPPING && ring->taken == 0 && ring->again_at == ring->again_count) {
        ring->base = ring->last_avail;
        ring->marks->version = 0;
        rest(ring);
    }
}

void vhost_session_reset(struct vhost_ring *ring)
{
    if (ring->marks && ring->state != VHOST_IDLE)
        ring->marks->version = 0;
    rest(ring);
    ring->base = 0;
    ring->enabled = false;
    ring->fresh = false;
}

/* The inflight region of a front-end that cannot keep one. */
static int make_marks(struct vhost_session *session)
{
    uint64_t stride = vhost_ring_stride(VHOST_RING_MAX), size = stride * VHOST_QUEUES_MAX;
    int fd = memfd_create("vhost-inflight", MFD_CLOEXEC), rc;

    if (fd < 0)
        return -errno;
    rc = ftruncate(fd, (off_t)size) < 0 ? -errno : vhost_keep_fd(session, "marks", 0, fd);
    if (rc == 0)
        rc = vhost_session_marks(session, fd, 0, size, stride);
    if (rc)
        close(fd);
    return rc;
}

int vhost_session_marks(struct vhost_session *session, int fd, uint64_t offset, uint64_t size, uint64_t stride)
{
    struct vhost_map map = { 0 };
    int rc;

    if (offset % VHOST_MARKS_ALIGN || stride == 0 || size < stride)
        return -EINVAL;
    if (vhost_session_runs(session))
        return -EBUSY;
    rc = vhost_map_in(&map, fd, offset, size);
    if (rc)
        return rc;
    vhost_map_out(&map);                /* it can be mapped: so in its own place as well */
    for (uint32_t i = 0; i < VHOST_QUEUES_MAX; i++)
        session->rings[i].marks = NULL; /* found again when it starts */
    vhost_map_out(&session->marks);
    set_fd(&session->marks_fd, -1);
    rc = vhost_map_in(&session->marks, fd, offset, size);
    if (rc)
        return rc;
    session->marks_fd = fd;
    session->marks_offset = offset;
    session->marks_size = size;
    session->marks_stride = stride;
    return 0;
}

/* True if nobody else is in its way, the volume is open, and nothing of a former life is under way on it. */
static bool may_start(struct vhost_ring *ring)
{
    struct vhost_session *session = ring->session;
    struct vhost_disk *disk = session->disk;
    const struct port *port = session->vhost->peer->port;

    if (ring->away || session->vhost->draining)
        return false;
    for (const struct vhost_session *other = disk->first; other; other = other->next)
        if (other != session && ((vhost_gone(other) && other->away) || (!disk->shared && vhost_session_runs(other))))
            return false;
    if (!vhost_disk_want(disk))
        return false;
    if (!port->recovering || !port_awaits(port, disk->volume))
        return true;
    session->vhost->retries = true;
    return false;
}

static void start(struct vhost_ring *ring)
{
    struct vhost_session *session = ring->session;
    uint64_t from = session->marks_stride * ring->index;

    if (!session->marks.base) {
        int rc = make_marks(session);

        if (rc == -EAGAIN)
            return;                     /* the supervisor is slow */
        if (rc || !session->marks.base) {
            vhost_session_drop(session, "no memory for its inflight region");
            return;
        }
        from = session->marks_stride * ring->index;
    }
    if (!vhost_ring_translate(ring))
        return;
    if (vhost_ring_stride(ring->num) > session->marks_stride
        || from + session->marks_stride > session->marks_size) {
        vhost_ring_break(ring, "its inflight region is too small");
        return;
    }
    ring->marks = (struct vhost_marks *)(void *)(session->marks.base + from);
    vhost_ring_start(ring);
    vhost_keep_save(session);
    if (ring->fresh && ring->state == VHOST_RUNS)
        vhost_ring_call(ring);
    ring->fresh = false;
}

/* True: something moved. */
static bool turn_ring(struct vhost_ring *ring)
{
    bool moved = false;

    if (ring->state == VHOST_WAITS && (ring->enabled || ring->fresh) && may_start(ring)) {
        start(ring);
        moved = true;
    }
    if (ring->state != VHOST_RUNS && ring->state != VHOST_STOPPING)
        return moved;
    moved |= vhost_request_take(ring);
    moved |= ring->done_count != 0;
    if (ring->state == VHOST_BROKEN)
        return true;
    vhost_ring_publish(ring);
    if (!moved && ring->state == VHOST_RUNS && ring->enabled && !ring->in_hand && !ring->session->vhost->draining)
        moved = vhost_ring_arm(ring);
    return moved;
}

bool vhost_session_turn(struct vhost_session *session)
{
    bool moved = false;

    if (vhost_gone(session)) {
        if (session->away == 0)
            end(session);
        return false;
    }
    session->hungry = false;
    for (uint32_t i = 0; i < VHOST_QUEUES_MAX && !vhost_gone(session); i++) {
        moved |= turn_ring(&session->rings[i]);
        session->hungry |= session->rings[i].waiting;
    }
    if (!vhost_gone(session) && vhost_memory_torn(session))
        vhost_session_drop(session, "a file behind the guest's memory was cut off");
    if (moved || session->hungry)
        vhost_dirty(session);
    session->vhost->retries |= session->hungry;
    return moved;
}
