/* SPDX-License-Identifier: Apache-2.0
 *
 * segment/share.c - see segment/share.h.
 */
#include <assert.h>
#include <errno.h>

#include "segment/parts.h"
#include "segment/share.h"

static void count_one(struct share *share, uint32_t class, uint32_t change)
{
    share->held[class] += change;
    share->group->held[class] += change;
    if (share->slow)
        share->slow->held[class] += change;
}

/* True if the client may take one more of a class. */
static bool allows(const struct share *share, const struct port *port, uint32_t class)
{
    uint64_t taken = port->buffers_held[class] - port->cached_count[class], most = port->buffers_max[class];
    uint64_t left = most > taken ? most - taken : 0;

    if (share->held[class] == 0)
        return !share->slow || left > most / 4;
    if (share->slow && share->slow->held[class] >= most / 2)
        return false;
    return share->held[class] + share->group->held[class] < 2 * left;
}

int share_get(struct share *share, struct port *port, struct xreq *req, uint64_t size)
{
    uint32_t class = 0;
    int rc;

    while (class < XSEG_CLASSES - 1 && size > xbuffer_size(class))
        class++;
    if (!allows(share, port, class))
        return -EDQUOT;
    rc = xbuf_get(port, req, size);
    if (rc == 0)
        count_one(share, buffer_class(req), 1);
    return rc;
}

void share_put(struct share *share, const struct xreq *req)
{
    assert(share->held[buffer_class(req)] > 0);
    count_one(share, buffer_class(req), (uint32_t)-1);
}

void share_set_slow(struct share *share, struct share_group *slow)
{
    for (uint32_t class = 0; class < XSEG_CLASSES; class++) {
        if (share->slow)
            share->slow->held[class] -= share->held[class];
        if (slow)
            slow->held[class] += share->held[class];
    }
    share->slow = slow;
}
