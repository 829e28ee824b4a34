/* SPDX-License-Identifier: Apache-2.0
 *
 * vhost/disk.c - the volume of a disk: asking of it, opening, closing. See vhost/parts.h.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "segment/barrier.h"
#include "segment/log.h"
#include "vhost/parts.h"

#define BY_ID "/id/%016" PRIx64     /* as xseg/volume_name.py has it */

/* A request about the disk's volume at the mapper. NULL: no slot. */
static struct xreq *errand(struct vhost_disk *disk, enum vhost_errand errand, uint32_t op)
{
    struct xreq *req = xreq_get(disk->vhost->peer->port);

    if (!req)
        return NULL;
    req->op = (uint16_t)op;
    *vhost_note_of(req) = (struct vhost_note){ .errand = (uint16_t)errand, .place = disk->place,
                                               .serial = disk->serial };
    return req;
}

static bool ask(struct vhost_disk *disk, enum vhost_errand what, uint32_t op)
{
    struct peer *peer = disk->vhost->peer;
    struct xreq *req = errand(disk, what, op);
    char name[32];

    if (req && xbuf_get(peer->port, req, sizeof(struct xinfo)) != 0) {
        xreq_put(peer->port, req);
        req = NULL;
    }
    if (!req)
        return false;
    req->size = (uint64_t)snprintf(name, sizeof(name), BY_ID, disk->id);
    memcpy(xreq_data(peer->seg, req), name, req->size);
    disk->vhost->away++;
    peer_send(peer, req, VHOST_TO_MAPPER);
    return true;
}

bool vhost_disk_describe(struct vhost_disk *disk)
{
    if (!disk->asking)
        disk->asking = ask(disk, VHOST_DESCRIBE, XOP_INFO);
    return disk->asking;
}

bool vhost_disk_want(struct vhost_disk *disk)
{
    uint64_t now_ns = loop_now(disk->vhost->peer->loop);

    if (!disk->wanted) {
        disk->wanted = true;
        disk->wanted_ns = now_ns;
    }
    if (disk->state == VHOST_DISK_CLOSED && now_ns >= disk->retry_ns && ask(disk, VHOST_OPEN, XOP_OPEN))
        disk->state = VHOST_DISK_OPENING;
    return disk->state == VHOST_DISK_OPEN;
}

bool vhost_disk_close(struct vhost_disk *disk)
{
    struct xreq *req;

    disk->wanted = false;
    if (disk->state != VHOST_DISK_OPEN)
        return disk->state == VHOST_DISK_CLOSED;
    req = errand(disk, VHOST_CLOSE, XOP_CLOSE);
    if (!req)
        return false;
    req->volume = disk->volume;
    req->generation = disk->generation;
    disk->volume = 0;
    disk->state = VHOST_DISK_CLOSING;
    disk->vhost->away++;
    peer_send(disk->vhost->peer, req, VHOST_TO_MAPPER);
    return false;
}

/* --- answers ----------------------------------------------------------------------------- */

static int described(struct vhost_disk *disk, const struct xreq *req)
{
    struct xseg *seg = disk->vhost->peer->seg;
    struct xinfo info;

    disk->asking = false;
    if (req->error)
        return req->error;
    if (req->done != sizeof(info) || !xreq_data_ok(seg, req, sizeof(info)))
        return -EIO;
    read_once(&info, xreq_data(seg, req), sizeof(info));
    disk->size = info.size;
    disk->volume_readonly = info.readonly;
    disk->known = true;
    return 0;
}

/* A volume that another has may be given back soon: the source of a migration does so when it has stopped. */
static int opened(struct vhost_disk *disk, const struct xreq *req)
{
    struct vhost *vhost = disk->vhost;
    struct xseg *seg = vhost->peer->seg;
    uint64_t now_ns = loop_now(vhost->peer->loop);
    const struct xvolume *volume;

    disk->state = VHOST_DISK_CLOSED;
    if (req->error == -EBUSY && now_ns - disk->wanted_ns < vhost->handover_s * 1000000000ull) {
        disk->retry_ns = now_ns + VHOST_TICK_NS;
        return 0;
    }
    if (req->error || req->done == 0 || req->done > seg->volume_count) {
        log_line(vhost->peer->role, "ERROR", "%s: the volume cannot be opened: %s; see the mapper's log", disk->name,
                 strerror(req->error ? -req->error : EIO));
        return req->error ? req->error : -EIO;
    }
    volume = &seg->volumes[req->done - 1];
    disk->volume = (uint32_t)req->done;
    disk->generation = load_acquire(&volume->generation);
    disk->size = load_relaxed(&volume->size);
    disk->volume_readonly = load_relaxed(&volume->readonly);
    disk->known = true;
    disk->state = VHOST_DISK_OPEN;
    return 0;
}

int vhost_disk_answered(struct vhost_disk *disk, struct xreq *req)
{
    int rc = 0;

    switch (vhost_note_of(req)->errand) {
    case VHOST_DESCRIBE: rc = described(disk, req); break;
    case VHOST_OPEN: rc = opened(disk, req); break;
    default: disk->state = VHOST_DISK_CLOSED; break;
    }
    xreq_put(disk->vhost->peer->port, req);
    return rc;
}

/* --- what is known ---------------------------------------------------------------------------- */

uint64_t vhost_disk_size(const struct vhost_disk *disk)
{
    if (disk->state == VHOST_DISK_OPEN)
        return load_relaxed(&disk->vhost->peer->seg->volumes[disk->volume - 1].size);
    return disk->size;
}

void vhost_disk_failed(struct vhost_disk *disk, int error)
{
    uint64_t now_ns = loop_now(disk->vhost->peer->loop);

    disk->failures++;
    if (disk->told_ns && now_ns - disk->told_ns < VHOST_TELL_NS)
        return;
    log_line(disk->vhost->peer->role, "WARNING", "%s: %" PRIu64 " requests failed since last said, this one by: %s",
             disk->name, disk->failures - disk->told_failures, strerror(-error));
    disk->told_failures = disk->failures;
    disk->told_ns = now_ns;
}
