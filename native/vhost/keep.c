/* SPDX-License-Identifier: Apache-2.0
 *
 * vhost/keep.c - what is kept for the next life. See "What survives" in vhost/parts.h.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "segment/barrier.h"
#include "vhost/parts.h"

#define RECORD_VERSION 1

static size_t records_size(void) { return VHOST_SESSIONS_MAX * sizeof(struct vhost_page); }

int vhost_keep_open(struct vhost *vhost, int fd)
{
    struct stat now;
    void *base;

    if (fd >= 0 && (fstat(fd, &now) < 0 || (size_t)now.st_size != records_size())) {
        close(fd);
        fd = -1;
    }
    if (fd < 0) {
        fd = memfd_create("vhost-records", MFD_CLOEXEC);
        if (fd < 0 || ftruncate(fd, (off_t)records_size()) < 0) {
            int rc = -errno;

            if (fd >= 0)
                close(fd);
            return rc;
        }
    }
    base = mmap(NULL, records_size(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    if (base == MAP_FAILED) {
        int rc = -errno;

        close(fd);
        return rc;
    }
    vhost->records_fd = fd;
    vhost->pages = base;
    return 0;
}

void vhost_keep_close(struct vhost *vhost)
{
    if (!vhost->pages)
        return;
    munmap(vhost->pages, records_size());
    close(vhost->records_fd);
    vhost->pages = NULL;
}

/* The half that was written last; NULL: none was. */
static const struct vhost_record *newest(const struct vhost_page *page)
{
    uint64_t first = page->half[0].sequence, second = page->half[1].sequence;

    return !first && !second ? NULL : &page->half[second > first];
}

const struct vhost_record *vhost_keep_last(const struct vhost *vhost, uint32_t place)
{
    const struct vhost_page *page = &vhost->pages[place];
    const struct vhost_record *record = page->version == RECORD_VERSION ? newest(page) : NULL;

    return record && record->used ? record : NULL;
}

static void fill(struct vhost_record *record, const struct vhost_session *session)
{
    *record = (struct vhost_record){
        .features = session->features, .protocol = session->protocol, .log_size = session->log_size,
        .log_offset = session->log_offset, .marks_size = session->marks_size, .marks_offset = session->marks_offset,
        .marks_stride = session->marks_stride, .disk = session->disk->id, .told = session->told,
        .since = session->since,
        .used = vhost_gone(session) ? 0 : 1, .survived = session->survived, .wce = session->wce,
        .status = session->status, .region_count = session->region_count, .region_number = session->region_number,
        .pid = session->pid, .stop_ring = session->stop_ring, .stop_flags = session->stop_flags,
    };
    for (uint32_t i = 0; i < session->region_count; i++) {
        record->region[i].area = session->regions[i].area;
        record->region[i].number = session->regions[i].number;
    }
    for (uint32_t i = 0; i < VHOST_QUEUES_MAX; i++) {
        const struct vhost_ring *ring = &session->rings[i];

        record->ring[i].where = ring->where;
        record->ring[i].num = ring->num;
        record->ring[i].base = ring->base;
        record->ring[i].started = ring->state != VHOST_IDLE;
        record->ring[i].enabled = ring->enabled;
        record->ring[i].kickable = ring->kickable;
        record->ring[i].polled = ring->polled;
    }
}

void vhost_keep_save(const struct vhost_session *session)
{
    struct vhost_page *page = &session->vhost->pages[session->place];
    const struct vhost_record *last = newest(page);
    struct vhost_record *next = last == &page->half[0] ? &page->half[1] : &page->half[0];
    uint64_t sequence = last ? last->sequence + 1 : 1;

    page->version = RECORD_VERSION;
    next->sequence = 0;
    compiler_fence();
    fill(next, session);
    compiler_fence();
    store_release(&next->sequence, sequence);
}

int vhost_keep_fd(const struct vhost_session *session, const char *kind, uint32_t number, int fd)
{
    char name[PARK_NAME_MAX + 1];
    int rc;

    snprintf(name, sizeof(name), "S%u/%s%u", session->place, kind, number);
    rc = park_keep(&session->vhost->parked, name, fd);
    return rc == -EAGAIN ? rc : 0;
}

void vhost_keep_forget(const struct vhost_session *session)
{
    char names[PARK_NAME_MAX + 1];

    snprintf(names, sizeof(names), "S%u/*", session->place);
    park_drop(&session->vhost->parked, names);
}

static void listener_name(const struct vhost_disk *disk, char *name, size_t size)
{
    snprintf(name, size, "listen/%016" PRIx64, disk->id);
}

void vhost_keep_listener(const struct vhost_disk *disk)
{
    char name[PARK_NAME_MAX + 1];

    listener_name(disk, name, sizeof(name));
    park_keep(&disk->vhost->parked, name, disk->watch.fd);
}

void vhost_keep_forget_listener(const struct vhost_disk *disk)
{
    char name[PARK_NAME_MAX + 1];

    listener_name(disk, name, sizeof(name));
    park_drop(&disk->vhost->parked, name);
}

static int keep_session(const struct vhost_session *session)
{
    int rc = vhost_keep_fd(session, "sock", 0, session->watch.fd);

    for (uint32_t i = 0; i < session->region_count && rc == 0; i++)
        rc = vhost_keep_fd(session, "mem", session->regions[i].number, session->regions[i].fd);
    if (rc == 0 && session->request_fd >= 0)
        rc = vhost_keep_fd(session, "request", 0, session->request_fd);
    if (rc == 0 && session->log_fd >= 0)
        rc = vhost_keep_fd(session, "log", 0, session->log_fd);
    if (rc == 0 && session->marks_fd >= 0)
        rc = vhost_keep_fd(session, "marks", 0, session->marks_fd);
    for (uint32_t i = 0; i < VHOST_QUEUES_MAX && rc == 0; i++) {
        const struct vhost_ring *ring = &session->rings[i];

        if (ring->kick.fd >= 0)
            rc = vhost_keep_fd(session, "kick", i, ring->kick.fd);
        if (rc == 0 && ring->call >= 0)
            rc = vhost_keep_fd(session, "call", i, ring->call);
        if (rc == 0 && ring->err >= 0)
            rc = vhost_keep_fd(session, "err", i, ring->err);
    }
    return rc;
}

void vhost_keep_all(struct vhost *vhost)
{
    int rc = park_keep(&vhost->parked, "state", vhost->records_fd);

    for (uint32_t i = 0; i < vhost->disk_count; i++)
        if (vhost->disks[i] && vhost->disks[i]->watch.fd >= 0)
            vhost_keep_listener(vhost->disks[i]);
    for (uint32_t i = 0; i < vhost->top && rc == 0; i++)
        if (vhost->sessions[i] && !vhost_gone(vhost->sessions[i]))
            rc = keep_session(vhost->sessions[i]);
    if (rc == -EAGAIN)
        park_close(&vhost->parked);         /* all of it again at the next tick */
}
