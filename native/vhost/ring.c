/* SPDX-License-Identifier: Apache-2.0
 *
 * vhost/ring.c - taking heads from a ring, giving them back; the inflight region. See "What survives" in vhost/parts.h.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "segment/barrier.h"
#include "segment/log.h"
#include "vhost/parts.h"

static_assert(sizeof(struct vhost_mark) == 16 && sizeof(struct vhost_marks) == 16, "as the specification has them");

uint64_t vhost_ring_stride(uint32_t num)
{
    uint64_t bytes = sizeof(struct vhost_marks) + num * sizeof(struct vhost_mark);

    return (bytes + VHOST_MARKS_ALIGN - 1) / VHOST_MARKS_ALIGN * VHOST_MARKS_ALIGN;
}

void vhost_ring_break(struct vhost_ring *ring, const char *why)
{
    uint64_t one = 1;

    if (ring->state == VHOST_BROKEN)
        return;
    ring->state = VHOST_BROKEN;
    log_line(ring->session->vhost->peer->role, "WARNING", "%s: the guest's ring %u is given up: %s",
             ring->session->disk->name, ring->index, why);
    if (ring->err >= 0 && write(ring->err, &one, sizeof(one)) < 0)
        return;                     /* nobody listens: the log has it */
}

/* --- where it lies ---------------------------------------------------------------------- */

static uint16_t *used_event(const struct vhost_ring *ring) { return &ring->avail->ring[ring->num]; }

static uint16_t *avail_event(const struct vhost_ring *ring)
{
    return (uint16_t *)(void *)&ring->used->ring[ring->num];
}

bool vhost_ring_translate(struct vhost_ring *ring)
{
    const struct vhost_session *session = ring->session;
    uint64_t num = ring->num;

    ring->desc = (const void *)vhost_memory_user(session, ring->where.desc, num * sizeof(struct vring_desc));
    ring->avail = (void *)vhost_memory_user(session, ring->where.avail, sizeof(*ring->avail) + (num + 1) * 2);
    ring->used = (void *)vhost_memory_user(session, ring->where.used,
                                           sizeof(*ring->used) + num * sizeof(struct vring_used_elem) + 2);
    if (ring->desc && ring->avail && ring->used && (uintptr_t)ring->desc % 16 == 0
        && (uintptr_t)ring->avail % 2 == 0 && (uintptr_t)ring->used % 4 == 0)
        return true;
    ring->desc = NULL;
    vhost_ring_break(ring, "it does not lie in guest memory");
    return false;
}

static void log_used(const struct vhost_ring *ring)
{
    if (ring->where.flags & VHOST_RING_LOGGED)
        vhost_memory_mark(ring->session, ring->where.log,
                          sizeof(*ring->used) + ring->num * sizeof(struct vring_used_elem) + 2);
}

/* --- starting ------------------------------------------------------------------------------ */

static int by_counter(const void *a, const void *b, void *arg)
{
    const struct vhost_marks *marks = arg;
    uint64_t x = marks->mark[*(const uint16_t *)a].counter, y = marks->mark[*(const uint16_t *)b].counter;

    return x < y ? -1 : x > y;
}

/* What a former life gave back is not under way any more. False: the region makes no sense. */
static bool settle(struct vhost_ring *ring, uint16_t used_idx)
{
    uint16_t given = (uint16_t)(used_idx - ring->marks->used_idx), head = ring->marks->last_batch_head;

    if (given > ring->num)
        return false;
    for (uint32_t n = 0; n < given; n++) {
        if (head >= ring->num)
            return false;
        ring->marks->mark[head].inflight = 0;
        head = ring->marks->mark[head].next;
    }
    compiler_fence();
    ring->marks->used_idx = used_idx;
    return true;
}

static void find_again(struct vhost_ring *ring)
{
    ring->again_count = ring->again_at = 0;
    ring->counter = 0;
    for (uint32_t x = 0; x < ring->num; x++)
        if (ring->marks->mark[x].inflight)
            ring->again[ring->again_count++] = (uint16_t)x;
    qsort_r(ring->again, ring->again_count, sizeof(ring->again[0]), by_counter, ring->marks);
    if (ring->again_count)
        ring->counter = ring->marks->mark[ring->again[ring->again_count - 1]].counter + 1;
}

void vhost_ring_start(struct vhost_ring *ring)
{
    uint16_t used_idx = load_acquire(&ring->used->idx);

    assert(ring->marks && ring->desc);
    memset(ring->requests, 0, sizeof(ring->requests[0]) * ring->num);
    ring->taken = ring->in_hand = ring->done_count = ring->again_count = ring->again_at = 0;
    ring->waiting = false;
    if (ring->marks->version == 1 && ring->marks->desc_num == ring->num) {
        if (!settle(ring, used_idx)) {
            vhost_ring_break(ring, "its inflight region makes no sense");
            return;
        }
        find_again(ring);
        ring->last_avail = (uint16_t)(used_idx + ring->again_count);
    } else {
        memset(ring->marks, 0, sizeof(*ring->marks) + ring->num * sizeof(struct vhost_mark));
        ring->marks->desc_num = (uint16_t)ring->num;
        ring->marks->used_idx = used_idx;
        compiler_fence();
        ring->marks->version = 1;
        ring->counter = 0;
        ring->last_avail = (uint16_t)ring->base;
    }
    ring->used_idx = used_idx;
    ring->life++;
    ring->state = VHOST_RUNS;
}

/* --- taking ---------------------------------------------------------------------------------- */

static int mark(struct vhost_ring *ring, uint16_t head)
{
    ring->marks->mark[head].counter = ring->counter++;
    compiler_fence();
    ring->marks->mark[head].inflight = 1;
    compiler_fence();
    return head;
}

/* Each head is in hand once only: what is marked for us is private, in `requests`. */
static int take(struct vhost_ring *ring, uint16_t head, bool marked)
{
    if (head >= ring->num || ring->requests[head].used) {
        vhost_ring_break(ring, head >= ring->num ? "it has a head that is none" : "it has a head twice");
        return -EPROTO;
    }
    ring->requests[head].used = true;
    ring->taken++;
    return marked ? head : mark(ring, head);
}

int vhost_ring_next(struct vhost_ring *ring)
{
    uint16_t idx, head;

    if (ring->again_at < ring->again_count)
        return take(ring, ring->again[ring->again_at++], true);
    idx = load_acquire(&ring->avail->idx);
    if (idx == ring->last_avail)
        return -EAGAIN;
    if ((uint16_t)(idx - ring->last_avail) > ring->num) {
        vhost_ring_break(ring, "it has more heads than descriptors");
        return -EPROTO;
    }
    head = load_relaxed(&ring->avail->ring[ring->last_avail % ring->num]);
    ring->last_avail++;
    return take(ring, head, false);
}

bool vhost_ring_arm(struct vhost_ring *ring)
{
    if (ring->again_at < ring->again_count)
        return true;
    if (!vhost_has(ring->session, VIRTIO_RING_F_EVENT_IDX))
        return load_acquire(&ring->avail->idx) != ring->last_avail;
    store_relaxed(avail_event(ring), ring->last_avail);
    full_fence();
    log_used(ring);
    return load_acquire(&ring->avail->idx) != ring->last_avail;
}

/* --- giving back ------------------------------------------------------------------------------- */

void vhost_ring_done(struct vhost_ring *ring, uint32_t head, uint32_t bytes)
{
    assert(head < ring->num && ring->requests[head].used && ring->done_count < ring->num);
    ring->done_bytes[ring->done_count] = bytes;
    ring->done[ring->done_count++] = (uint16_t)head;
}

void vhost_ring_call(const struct vhost_ring *ring)
{
    uint64_t one = 1;

    if (ring->call >= 0 && write(ring->call, &one, sizeof(one)) < 0)
        return;                     /* it is full: the guest has been told */
}

static bool wants_call(const struct vhost_ring *ring, uint16_t before)
{
    full_fence();
    if (!vhost_has(ring->session, VIRTIO_RING_F_EVENT_IDX))
        return !(load_relaxed(&ring->avail->flags) & VRING_AVAIL_F_NO_INTERRUPT);
    return (uint16_t)(ring->used_idx - load_relaxed(used_event(ring)) - 1) < (uint16_t)(ring->used_idx - before);
}

void vhost_ring_publish(struct vhost_ring *ring)
{
    uint16_t before = ring->used_idx;

    if (ring->done_count == 0)
        return;
    assert(ring->done_count <= ring->taken);
    for (uint32_t i = 0; i < ring->done_count; i++) {
        struct vring_used_elem *place = &ring->used->ring[ring->used_idx++ % ring->num];

        store_relaxed(&place->id, (uint32_t)ring->done[i]);
        store_relaxed(&place->len, ring->done_bytes[i]);
        ring->marks->mark[ring->done[i]].next = ring->marks->last_batch_head;
        compiler_fence();
        ring->marks->last_batch_head = ring->done[i];
        ring->requests[ring->done[i]].used = false;
    }
    store_release(&ring->used->idx, ring->used_idx);
    log_used(ring);                     /* whoever copies the page from now on has all of it */
    compiler_fence();
    for (uint32_t i = 0; i < ring->done_count; i++)
        ring->marks->mark[ring->done[i]].inflight = 0;
    compiler_fence();
    ring->marks->used_idx = ring->used_idx;
    ring->taken -= ring->done_count;
    ring->done_count = 0;
    if (wants_call(ring, before))
        vhost_ring_call(ring);
}
