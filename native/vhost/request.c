/* SPDX-License-Identifier: Apache-2.0
 *
 * vhost/request.c - from a chain in a ring to pieces sent on to vlmc, and back. See vhost/parts.h.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "segment/barrier.h"
#include "vhost/parts.h"

enum { NOT_SERVED = 1 };            /* of a request's error: no errno, but VIRTIO_BLK_S_UNSUPP */

/* --- the end of a request ------------------------------------------------------------------ */

static uint8_t status_of(int error)
{
    return error == 0 ? VIRTIO_BLK_S_OK : error == NOT_SERVED ? VIRTIO_BLK_S_UNSUPP : VIRTIO_BLK_S_IOERR;
}

/* All its pieces are back: the status goes into the last byte that can be written, and the chain to the guest. */
static void finish(struct vhost_ring *ring, uint32_t head)
{
    struct vhost_session *session = ring->session;
    const struct vhost_chain *chain = &session->vhost->chain;
    struct vhost_request *request = &ring->requests[head];
    uint8_t status = status_of(request->error);
    uint32_t bytes = 0;

    if (request->error < 0)
        vhost_disk_failed(session->disk, request->error);
    if (vhost_chain_walk(session, ring, head) == 0 && chain->bytes_out
        && vhost_chain_write(session, chain->bytes_out - 1, &status, 1) == 1)
        bytes = request->written + 1;
    vhost_ring_done(ring, head, bytes);
    vhost_dirty(session);
}

static void fail(struct vhost_ring *ring, uint32_t head, int error)
{
    struct vhost_request *request = &ring->requests[head];

    if (!request->error)
        request->error = error;
    request->issuing = false;
    if (!request->away)
        finish(ring, head);
}

/* --- pieces ----------------------------------------------------------------------------------- */

static bool carries_data(uint32_t type) { return type == VIRTIO_BLK_T_IN || type == VIRTIO_BLK_T_OUT; }

/* Every write is to be durable when it is answered: the guest knows of no cache, or has turned it off. */
static bool writes_through(const struct vhost_session *session)
{
    if (vhost_has(session, VIRTIO_BLK_F_CONFIG_WCE))
        return !session->wce;
    return !vhost_has(session, VIRTIO_BLK_F_FLUSH);
}

static struct xreq *new_piece(struct vhost_ring *ring, uint32_t head, uint32_t size)
{
    struct vhost_session *session = ring->session;
    struct port *port = session->vhost->peer->port;
    struct xreq *req = xreq_get(port);

    if (req && size && share_get(&session->share, port, req, size) != 0) {
        xreq_put(port, req);
        req = NULL;
    }
    if (!req)
        return NULL;
    req->volume = session->disk->volume;
    req->generation = session->disk->generation;
    *vhost_note_of(req) = (struct vhost_note){ .errand = VHOST_PIECE, .ring = (uint16_t)ring->index,
                                               .place = session->place, .serial = session->serial,
                                               .head = (uint16_t)head, .life = ring->life };
    return req;
}

static void send(struct vhost_ring *ring, struct vhost_request *request, struct xreq *req)
{
    struct vhost_session *session = ring->session;

    request->away++;
    ring->away++;
    session->away++;
    session->bytes += req->data_size;
    peer_send(session->vhost->peer, req, VHOST_TO_VLMC);
}

/* The next piece of an IN or OUT. -EAGAIN: something lacks. */
static int issue_data(struct vhost_ring *ring, uint32_t head)
{
    struct vhost_session *session = ring->session;
    struct vhost_request *request = &ring->requests[head];
    uint64_t offset = request->offset + request->issued;
    uint32_t left = request->length - request->issued, room = XSEG_IO_MAX - (uint32_t)(offset % XSEG_IO_MAX);
    uint32_t size = request->length <= XSEG_IO_MAX || left < room ? left : room;
    struct xreq *req = session->bytes < VHOST_BYTES ? new_piece(ring, head, size) : NULL;

    if (!req)
        return -EAGAIN;
    req->op = request->type == VIRTIO_BLK_T_IN ? XOP_READ : XOP_WRITE;
    req->offset = offset;
    req->size = size;
    vhost_note_of(req)->at = request->issued;
    if (request->type == VIRTIO_BLK_T_OUT) {
        struct vhost_chain *chain = &session->vhost->chain;

        if (!vhost_chain_read(chain, sizeof(struct virtio_blk_outhdr) + request->issued,
                              xreq_data(session->vhost->peer->seg, req), size)) {
            share_put(&session->share, req);
            xreq_put(session->vhost->peer->port, req);
            return -EINVAL;         /* the guest has changed it since it was taken */
        }
        if (writes_through(session))
            req->flags |= XREQ_FUA;
    }
    send(ring, request, req);
    request->issued += size;
    return 0;
}

/* The next range of a DISCARD or WRITE_ZEROES, which is looked at here only. */
static int issue_range(struct vhost_ring *ring, uint32_t head)
{
    struct vhost_session *session = ring->session;
    struct vhost_request *request = &ring->requests[head];
    bool zeroes = request->type == VIRTIO_BLK_T_WRITE_ZEROES;
    struct virtio_blk_discard_write_zeroes range;
    uint64_t size = vhost_disk_size(session->disk), offset, length;
    struct xreq *req;

    if (!vhost_chain_read(&session->vhost->chain, sizeof(struct virtio_blk_outhdr) + request->issued * sizeof(range),
                          &range, sizeof(range)))
        return -EINVAL;
    if (range.flags & ~(zeroes ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0u))
        return NOT_SERVED;
    length = (uint64_t)range.num_sectors * VHOST_SECTOR;
    if (length > VHOST_SPAN_MAX || range.sector > size / VHOST_SECTOR)
        return -EINVAL;
    offset = range.sector * VHOST_SECTOR;
    if (length > size - offset)
        return -EINVAL;
    if (length == 0) {
        request->issued++;
        return 0;
    }
    req = new_piece(ring, head, 0);
    if (!req)
        return -EAGAIN;
    req->op = zeroes ? XOP_WRITE_ZEROES : XOP_DISCARD;
    req->offset = offset;
    req->size = length;
    if (zeroes && !(range.flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP))
        req->flags |= XREQ_NO_HOLE;
    if (zeroes && writes_through(session))
        req->flags |= XREQ_FUA;
    send(ring, request, req);
    request->issued++;
    return 0;
}

static int issue_flush(struct vhost_ring *ring, uint32_t head)
{
    struct xreq *req = new_piece(ring, head, 0);

    if (!req)
        return -EAGAIN;
    req->op = XOP_FLUSH;
    send(ring, &ring->requests[head], req);
    ring->requests[head].issued++;
    return 0;
}

/* Makes pieces of the head in hand, whose chain was just walked. False: it has to wait, and nothing is taken behind. */
static bool issue(struct vhost_ring *ring, uint32_t head)
{
    struct vhost_request *request = &ring->requests[head];
    int rc = 0;

    while (request->issued < request->length && rc == 0)
        rc = carries_data(request->type) ? issue_data(ring, head)
           : request->type == VIRTIO_BLK_T_FLUSH ? issue_flush(ring, head) : issue_range(ring, head);
    if (rc == -EAGAIN) {
        ring->in_hand = head + 1;
        ring->waiting = ring->session->hungry = true;
        return false;
    }
    ring->in_hand = 0;
    ring->waiting = false;
    if (rc) {
        fail(ring, head, rc);
        return true;
    }
    request->issuing = false;
    if (!request->away)
        finish(ring, head);
    return true;
}

/* --- what is asked ------------------------------------------------------------------------------ */

static int begin_data(struct vhost_session *session, struct vhost_request *request, uint64_t sector, uint64_t length)
{
    uint64_t size = vhost_disk_size(session->disk);

    if (request->type == VIRTIO_BLK_T_OUT && vhost_readonly(session->disk))
        return -EROFS;
    if (length > VHOST_LENGTH_MAX || length % VHOST_SECTOR || sector > size / VHOST_SECTOR)
        return -EINVAL;
    request->offset = sector * VHOST_SECTOR;
    if (length > size - request->offset)
        return -EINVAL;
    request->length = (uint32_t)length;
    return 0;
}

static int begin_ranges(struct vhost_session *session, struct vhost_request *request, uint64_t bytes)
{
    uint64_t each = sizeof(struct virtio_blk_discard_write_zeroes);

    if (vhost_readonly(session->disk))
        return -EROFS;
    if (bytes == 0 || bytes % each || bytes / each > VHOST_RANGES_MAX)
        return -EINVAL;
    request->length = (uint32_t)(bytes / each);
    return 0;
}

static int say_id(struct vhost_session *session, struct vhost_request *request)
{
    char id[VHOST_ID_SIZE + 1];
    uint64_t room = session->vhost->chain.bytes_out - 1;

    snprintf(id, sizeof(id), "arc-%016" PRIx64, session->disk->id);
    request->written = (uint32_t)vhost_chain_write(session, 0, id, room < VHOST_ID_SIZE ? room : VHOST_ID_SIZE);
    return 0;
}

/* Reads the head of a chain that was walked. 0, or what it is refused with. */
static int begin(struct vhost_session *session, struct vhost_request *request)
{
    const struct vhost_chain *chain = &session->vhost->chain;
    struct virtio_blk_outhdr head;

    if (chain->bytes_out == 0 || !vhost_chain_read(chain, 0, &head, sizeof(head)))
        return -EINVAL;
    request->type = head.type;
    switch (head.type) {
    case VIRTIO_BLK_T_IN: return begin_data(session, request, head.sector, chain->bytes_out - 1);
    case VIRTIO_BLK_T_OUT: return begin_data(session, request, head.sector, chain->bytes_in - sizeof(head));
    case VIRTIO_BLK_T_FLUSH:
        request->length = 1;
        return 0;
    case VIRTIO_BLK_T_GET_ID: return say_id(session, request);
    case VIRTIO_BLK_T_DISCARD:
    case VIRTIO_BLK_T_WRITE_ZEROES: return begin_ranges(session, request, chain->bytes_in - sizeof(head));
    default: return NOT_SERVED;
    }
}

/* Takes up one head. False: it has to wait. */
static bool take_one(struct vhost_ring *ring, uint32_t head)
{
    struct vhost_session *session = ring->session;
    struct vhost_request *request = &ring->requests[head];
    int rc;

    *request = (struct vhost_request){ .used = true, .issuing = true };
    rc = vhost_chain_walk(session, ring, head);
    if (rc == 0)
        rc = begin(session, request);
    counter_add(&session->vhost->peer->port->shared->received, 1);
    if (rc) {
        fail(ring, head, rc);
        return true;
    }
    return issue(ring, head);
}

/* Goes on with the head in hand. False: it waits still. */
static bool go_on(struct vhost_ring *ring)
{
    uint32_t head = ring->in_hand - 1;

    if (vhost_chain_walk(ring->session, ring, head) == 0)
        return issue(ring, head);
    ring->in_hand = 0;
    ring->waiting = false;
    fail(ring, head, -EINVAL);
    return true;
}

/* What a former life had taken is served in any case. */
static bool may_take(const struct vhost_ring *ring)
{
    if (ring->again_at < ring->again_count)
        return ring->state == VHOST_RUNS || ring->state == VHOST_STOPPING;
    return ring->state == VHOST_RUNS && ring->enabled && !ring->session->vhost->draining;
}

bool vhost_request_take(struct vhost_ring *ring)
{
    bool any = false;

    if (ring->in_hand && !go_on(ring))
        return false;
    for (uint32_t n = 0; n < VHOST_TAKES_MAX && may_take(ring); n++) {
        int head = vhost_ring_next(ring);

        if (head < 0)
            break;
        any = true;
        if (!take_one(ring, (uint32_t)head))
            break;
    }
    return any;
}

/* --- what comes back ------------------------------------------------------------------------------ */

/* Data that was read goes into guest memory, as far as there is place for it by now. */
static void give(struct vhost_ring *ring, uint32_t head, const struct xreq *req)
{
    struct vhost_session *session = ring->session;
    uint64_t room, length = req->size, at = vhost_note_of((struct xreq *)(uintptr_t)req)->at;

    if (vhost_chain_walk(session, ring, head) != 0 || session->vhost->chain.bytes_out <= at + 1)
        return;
    room = session->vhost->chain.bytes_out - 1 - at;
    length = length < room ? length : room;
    ring->requests[head].written += (uint32_t)vhost_chain_write(session, at,
                                                                xreq_data(session->vhost->peer->seg, req), length);
}

void vhost_request_back(struct vhost_session *session, struct xreq *req)
{
    const struct vhost_note *note = vhost_note_of(req);
    struct vhost_ring *ring = &session->rings[note->ring % VHOST_QUEUES_MAX];
    struct vhost_request *request = &ring->requests[note->head % VHOST_RING_MAX];
    bool live = (ring->state == VHOST_RUNS || ring->state == VHOST_STOPPING) && note->life == ring->life;

    if (live && !req->error && req->op == XOP_READ)
        give(ring, note->head, req);
    if (live && req->error && !request->error)
        request->error = req->error;
    ring->away--;
    session->away--;
    session->bytes -= req->data_size;
    if (req->buffer)
        share_put(&session->share, req);
    vhost_dirty(session);
    if (live) {
        assert(request->away > 0);
        request->away--;
        if (!request->away && !request->issuing)
            finish(ring, note->head);
    }
    xreq_put(session->vhost->peer->port, req);
}
