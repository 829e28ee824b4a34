/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_rados/order.c - a change that is late does nothing to what the next holder of its lock has written.
 *
 * The blocklist refuses everything of a fenced client, but only as long as the client stands there. Somebody
 * may have cleared it by hand, and the client goes on after a pause: what librados was given before the pause it
 * sends then, on threads of its own, before we could look at anything.
 *
 * So each change of an object that belongs to a volume (data, pages, journals) bears a number: the header's
 * fence_epoch at the time that librados is given it. To RADOS it is the sequence number of the snapshot
 * context, of snapshots that there are none of: an OSD keeps with an object the largest that a change of it bore,
 * and refuses a change with a smaller one (EOLDSNAPC) as one step with doing it. Whoever takes a lock by force
 * has a larger fence_epoch from then on than its old holder had. After an orderly hand-over the next holder's
 * is not smaller, as the lock says what its last holder's was.
 *
 * Somebody whose number is smaller for another reason is refused, too: a node that removes what another's volume
 * left, for example. So a refusal is no answer: the request waits until a look at our own registry, begun after
 * that, has found no mark, and this client has learned the newest epoch; then it is sent again with that. If
 * what was refused bore the newest already, the pool has snapshots of its own (`ceph osd pool mksnap`), whose
 * numbers the OSDs take instead of ours. Then this life goes without, and the log says so.
 *
 * It costs a change nothing, and a fencing nothing. What it does not do: a late change of an object that the next
 * holder has not written yet is done. The blocklist is what keeps that out.
 */
#include <assert.h>
#include <errno.h>

#include "blocker_rados/parts.h"
#include "segment/barrier.h"

static bool applies(uint32_t kind) { return kind == XOBJ_DATA || kind == XOBJ_PAGE || kind == XOBJ_JOURNAL; }

/* An epoch has 32 bits; what a damaged lock says may be more than RADOS takes. */
static uint64_t number_now(const struct br *br)
{
    uint64_t epoch = load_acquire(&br->peer->seg->header->fence_epoch);

    return epoch < INT64_MAX ? epoch : INT64_MAX;
}

static void set_number(rados_ioctx_t io, uint64_t number)
{
    int rc = rados.ioctx_selfmanaged_snap_set_write_ctx(io, number, NULL, 0);

    assert(rc == 0);                /* it refuses but the last few of 64 bits */
}

int br_order(struct br *br, struct br_op *op, uint32_t kind)
{
    if (!applies(kind) || br->unordered)
        return 0;
    op->ordered = true;
    op->number = number_now(br);
    if (br->numbers[kind] != op->number) {
        set_number(br->io[kind], op->number);
        br->numbers[kind] = op->number;
    }
    return RADOS_ORDERSNAP;
}

void br_order_worker(struct br *br, struct br_op *op, uint32_t kind)
{
    op->ordered = applies(kind) && !br->unordered;
    op->number = number_now(br);
}

int br_order_open(struct br *br, const struct br_op *op, uint32_t kind, rados_ioctx_t *io)
{
    char name[BR_NAMESPACE_MAX + 16];
    int rc = rados.ioctx_create2(br->cluster, br->pool_id, io);

    if (rc)
        return rc;
    br_namespace(br, kind, name);
    rados.ioctx_set_namespace(*io, name);
    rados.set_pool_full_try(*io);
    if (op->ordered)
        set_number(*io, op->number);
    return 0;
}

void br_order_refused(struct br *br, struct br_op *op)
{
    struct xreq *req = op->req;

    if (br->fenced) {
        br_reply(br, op, -ESTALE);
        return;
    }
    br->refused_ns = clock_boot_ns();
    if (op->number >= number_now(br)) {
        br->outnumbered = true;
        br->refused_number = op->number;
    }
    br_op_put(br, op);
    peer_park(br->peer, req);
}

void br_order_learned(struct br *br, uint64_t newest)
{
    br->outnumbered = false;
    if (newest > br->refused_number || br->unordered)
        return;
    br->unordered = true;
    br_log(br, "WARNING", "the pool %s has snapshots of its own: only the blocklist keeps fenced nodes from it",
           br->pool_name);
}
