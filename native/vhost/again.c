/* SPDX-License-Identifier: Apache-2.0
 *
 * vhost/again.c - sessions that the last life of this process has left behind. See "What survives" in vhost/parts.h.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "segment/barrier.h"
#include "segment/log.h"
#include "vhost/parts.h"

static int take(const struct vhost *vhost, uint32_t place, const char *kind, uint32_t number)
{
    char name[PARK_NAME_MAX + 1];

    snprintf(name, sizeof(name), "S%u/%s%u", place, kind, number);
    return park_take((struct park *)(uintptr_t)&vhost->parked, name);
}

static struct vhost_disk *disk_of(const struct vhost *vhost, uint64_t id)
{
    for (uint32_t i = 0; i < vhost->disk_count; i++)
        if (vhost->disks[i] && vhost->disks[i]->id == id)
            return vhost->disks[i];
    return NULL;
}

/* Maps what the guest had. A negative errno: something is missing. */
static int take_memory(struct vhost_session *session, const struct vhost_record *record)
{
    for (uint32_t i = 0; i < record->region_count && i < VHOST_REGIONS_MAX; i++) {
        uint32_t number = (uint32_t)record->region[i].number;
        int fd = take(session->vhost, session->place, "mem", number);
        int rc = fd < 0 ? -EBADF : vhost_memory_add(session, &record->region[i].area, number, fd);

        if (rc) {
            if (fd >= 0)
                close(fd);
            return rc;
        }
    }
    session->region_number = record->region_number;
    if (record->marks_size) {
        int fd = take(session->vhost, session->place, "marks", 0);
        int rc = fd < 0 ? -EBADF : vhost_session_marks(session, fd, record->marks_offset, record->marks_size,
                                                       record->marks_stride);
        if (rc) {
            if (fd >= 0)
                close(fd);
            return rc;
        }
    }
    if (record->log_size) {
        session->log_fd = take(session->vhost, session->place, "log", 0);
        if (session->log_fd < 0)
            return -EBADF;
        session->log_size = record->log_size;
        session->log_offset = record->log_offset;
        return vhost_map_in(&session->log, session->log_fd, 0, record->log_offset + record->log_size);
    }
    return 0;
}

static int take_ring(struct vhost_ring *ring, const struct vhost_record *record)
{
    const struct vhost_session *session = ring->session;
    int kick = take(session->vhost, session->place, "kick", ring->index);

    ring->call = take(session->vhost, session->place, "call", ring->index);
    ring->err = take(session->vhost, session->place, "err", ring->index);
    ring->where = record->ring[ring->index].where;
    ring->num = record->ring[ring->index].num;
    ring->base = record->ring[ring->index].base;
    ring->enabled = record->ring[ring->index].enabled;
    ring->kickable = record->ring[ring->index].kickable;
    ring->polled = record->ring[ring->index].polled;
    if (record->ring[ring->index].started) {
        ring->fresh = true;
        vhost_session_want(ring);
        if (kick < 0 && !ring->polled)
            return -EBADF;
    }
    return kick < 0 ? 0 : vhost_session_kick(ring, kick);
}

/* 0 or a negative errno: what of it is there is dropped then. */
static int go_on(struct vhost_session *session, const struct vhost_record *record)
{
    int rc = take_memory(session, record);

    session->features = record->features;
    session->protocol = record->protocol;
    session->wce = record->wce;
    session->status = record->status;
    session->since = record->since;
    session->told = record->told;
    session->pid = record->pid;
    session->stop_ring = record->stop_ring;
    session->stop_flags = record->stop_flags;
    session->stop_ns = clock_ns() + session->vhost->stop_s * 1000000000ull;
    session->survived = record->survived + 1;
    session->request_fd = take(session->vhost, session->place, "request", 0);
    for (uint32_t i = 0; i < VHOST_QUEUES_MAX && rc == 0; i++)
        rc = take_ring(&session->rings[i], record);
    return rc;
}

static void take_up(struct vhost *vhost, uint32_t place, const struct vhost_record *record)
{
    struct vhost_disk *disk = disk_of(vhost, record->disk);
    int fd = take(vhost, place, "sock", 0);
    struct vhost_session *session = disk && fd >= 0 ? vhost_session_new(disk, place, fd) : NULL;
    bool busy = load_acquire(&vhost->pages[place].busy);
    int rc;

    if (!session) {
        if (fd >= 0)
            close(fd);
        return;
    }
    session->watch.ready = vhost_talk_ready;
    rc = loop_watch(vhost->peer->loop, &session->watch, EPOLLIN);
    session->events = EPOLLIN;
    if (rc == 0)
        rc = go_on(session, record);
    if (rc || busy) {
        vhost_session_drop(session, busy ? "the server was killed in the middle of a message of its"
                                         : "not all of it could be taken up after a death");
        return;
    }
    vhost_keep_save(session);
}

void vhost_again(struct vhost *vhost)
{
    uint32_t count = 0;

    for (uint32_t place = 0; place < VHOST_SESSIONS_MAX; place++) {
        struct vhost_record record;
        const struct vhost_record *last = vhost_keep_last(vhost, place);

        if (!last)
            continue;
        read_once(&record, last, sizeof(record));
        take_up(vhost, place, &record);
        if (!vhost->sessions[place] || vhost_gone(vhost->sessions[place]))
            memset(&vhost->pages[place], 0, sizeof(vhost->pages[place]));
        else
            count++;
    }
    if (count)
        log_line(vhost->peer->role, "INFO", "goes on with %u sessions", count);
}
