/* SPDX-License-Identifier: Apache-2.0
 *
 * vhost/chain.c - the parts of one request in guest memory. See "Guests" in vhost/parts.h.
 */
#include <errno.h>
#include <string.h>

#include "segment/barrier.h"
#include "vhost/parts.h"

struct table { const struct vring_desc *desc; uint32_t count; };

/* Adds [guest, guest + length), which may lie in several regions. */
static int add(struct vhost_session *session, struct vhost_chain *chain, const struct vring_desc *desc)
{
    uint64_t guest = desc->addr, left = desc->len;
    bool writable = desc->flags & VRING_DESC_F_WRITE;

    if (!writable && chain->readable < chain->count)
        return -EINVAL;             /* readable ones come first */
    if (guest + left < guest)
        return -EINVAL;
    while (left) {
        uint64_t length = left;
        uint8_t *at = vhost_memory_guest(session, guest, &length);

        if (!at || chain->count == VHOST_PARTS_MAX)
            return -EINVAL;
        chain->part[chain->count++] = (struct vhost_part){ at, guest, (uint32_t)length };
        guest += length;
        left -= length;
    }
    if (writable) {
        chain->bytes_out += desc->len;
    } else {
        chain->bytes_in += desc->len;
        chain->readable = chain->count;
    }
    return 0;
}

/* Goes on in the table that a descriptor names. */
static int enter(struct vhost_session *session, struct table *table, const struct vring_desc *desc)
{
    uint64_t length = desc->len;
    uint8_t *at;

    if (desc->flags & VRING_DESC_F_NEXT || desc->len == 0 || desc->len % sizeof(*desc)
        || desc->len / sizeof(*desc) > VHOST_RING_MAX)
        return -EINVAL;
    at = vhost_memory_guest(session, desc->addr, &length);
    if (!at || length < desc->len || desc->addr % 8 || (uintptr_t)at % 8)
        return -EINVAL;
    *table = (struct table){ (const struct vring_desc *)(const void *)at, desc->len / (uint32_t)sizeof(*desc) };
    return 0;
}

int vhost_chain_walk(struct vhost_session *session, const struct vhost_ring *ring, uint32_t head)
{
    struct vhost_chain *chain = &session->vhost->chain;
    struct table table = { ring->desc, ring->num };
    bool inside = false;
    uint32_t i = head;
    int rc = 0;

    chain->count = chain->readable = 0;
    chain->bytes_in = chain->bytes_out = 0;
    for (uint32_t steps = 0; steps < VHOST_STEPS_MAX && rc == 0; steps++) {
        struct vring_desc desc;

        if (i >= table.count)
            return -EINVAL;
        read_once(&desc, &table.desc[i], sizeof(desc));
        if (desc.flags & VRING_DESC_F_INDIRECT) {
            if (inside || chain->count)
                return -EINVAL;
            rc = enter(session, &table, &desc);
            inside = true;
            i = 0;
            continue;
        }
        rc = add(session, chain, &desc);
        if (rc || !(desc.flags & VRING_DESC_F_NEXT))
            return rc;
        i = desc.next;
    }
    return -EINVAL;
}

bool vhost_chain_read(const struct vhost_chain *chain, uint64_t at, void *to, uint64_t length)
{
    uint8_t *out = to;

    for (uint32_t i = 0; i < chain->readable && length; i++) {
        const struct vhost_part *part = &chain->part[i];
        uint64_t take = part->length > at ? part->length - at : 0;

        if (take > length)
            take = length;
        if (take)
            read_once(out, part->at + at, take);
        at -= at < part->length ? at : part->length;
        out += take;
        length -= take;
    }
    return length == 0;
}

uint64_t vhost_chain_write(const struct vhost_session *session, uint64_t at, const void *from, uint64_t length)
{
    const struct vhost_chain *chain = &session->vhost->chain;
    const uint8_t *in = from;

    for (uint32_t i = chain->readable; i < chain->count && length; i++) {
        const struct vhost_part *part = &chain->part[i];
        uint64_t take = part->length > at ? part->length - at : 0;

        if (take > length)
            take = length;
        if (take) {
            memcpy(part->at + at, in, take);
            vhost_memory_mark(session, part->guest + at, take);
        }
        at -= at < part->length ? at : part->length;
        in += take;
        length -= take;
    }
    return (uint64_t)(in - (const uint8_t *)from);
}
