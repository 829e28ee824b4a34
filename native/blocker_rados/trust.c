/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_rados/trust.c - how long may this node believe what it has in memory?
 *
 * Reads of blocks that hold nothing, and writes of zeros to them, are answered by vlmc out of its
 * map, without asking the store. A node that was stopped and robbed of a volume must not do that
 * when it goes on. So a look at our own registry makes the header's trusted_until_ns BR_TRUST_NS later
 * than when the look began: whoever fences us marks that object before anything else, and waits for
 * BR_TRUST_NS and a margin after it. A look that finds the mark makes it XSEG_FENCED, which nothing
 * changes any more. The clock is one that goes on while the machine sleeps.
 *
 * When that time has passed, vlmc holds its requests back, and so do we: nothing is sent before a look
 * has succeeded. What a node had under way when it was paused, for however long, is so not even sent,
 * let alone refused.
 *
 * All registries of a node are marked before its time is waited for, so a look at one of them is as good as
 * at any other, and the first blocker that finds it due does it for all. It is due BR_LOOK_NS after the last
 * one began while requests come; a node that rests does not look. Its first request waits for a look, and where
 * vlmc would answer that out of memory, it sends the blocker a PING, which waits for one, too.
 *
 * Only the OSD of that one object is asked, so it does not matter when the others learn of the
 * blocklist. As long as the cluster does not answer, requests wait; for op_timeout_s at most.
 */
#include <errno.h>
#include <string.h>

#include "blocker_rados/parts.h"
#include "segment/barrier.h"
#include "segment/parts.h"

static uint64_t *trusted(const struct br *br) { return &br->peer->seg->header->trusted_until_ns; }

/* Only ever later, and never after it was fenced. */
void br_trust_since(struct br *br, uint64_t ns)
{
    uint64_t *shared = trusted(br), before;

    do {
        before = load_acquire(shared);
        if (before == XSEG_FENCED || before >= ns + BR_TRUST_NS)
            return;
    } while (!swap_if(shared, before, ns + BR_TRUST_NS));
}

/* Looks at the clock, not at the turn's time: the process may have been stopped since. */
static bool is_trusted(const struct br *br)
{
    return clock_boot_ns() < load_acquire(trusted(br)) && br->looked_ns >= br->refused_ns;
}

bool br_trusts(struct br *br) { return is_trusted(br) && br_fence_known(br); }

bool br_writers(const struct br *br)
{
    const struct xvolume *volumes = br->peer->seg->volumes;

    for (uint32_t i = 0; i < br->peer->seg->volume_count; i++)
        if (load_relaxed(&volumes[i].state) != XVOL_FREE && !volumes[i].readonly)
            return true;
    return false;
}

static void look_done(struct br *br, struct br_op *op)
{
    char why[BR_ADDRESS_MAX];
    int result = op->result;

    br->looking = false;
    br_op_put(br, op);
    if (result == -ETIMEDOUT && br->draining)
        return;                     /* it was cancelled: nobody waits for it */
    if (result < 0) {               /* there is another look to come */
        result = br_errno(br, result);
        if (!is_trusted(br))
            br_fail_waiting(br, result);
        return;
    }
    br->look_text[result] = 0;
    if (br_node_is_fenced(br->look_text, why)) {
        br_distrust(br, why);
        br_fail_waiting(br, -ESTALE);
    } else {
        br->looked_ns = br->look_began_ns;
        br_trust_since(br, br->look_began_ns);
    }
}

/* Whether to look, now that the time for it has come. */
static bool is_wanted(struct br *br)
{
    bool others_did = clock_boot_ns() + BR_TRUST_NS - BR_LOOK_NS < load_acquire(trusted(br));

    return !others_did && br->peer->port->shared->received != br->look_received;
}

void br_look(struct br *br)
{
    struct br_op *op;
    char name[BR_NODE_NAME_MAX];
    bool waited_for = peer_has_parked(br->peer) && !is_trusted(br);

    if (br->looking || br->fenced || (!waited_for && (br->draining || loop_now(br->peer->loop) < br->look_ns)))
        return;
    br->look_ns = loop_now(br->peer->loop) + BR_LOOK_NS;
    op = waited_for || is_wanted(br) ? br_op_get(br, NULL) : NULL;
    if (!op)
        return;
    op->done = look_done;
    br->looking = true;
    br->look_received = br->peer->port->shared->received;
    br->look_began_ns = clock_boot_ns();
    br_node_name(br->node, name);
    br_prepare(br, op, 0);
    br_submitted(br, op, rados.aio_read(op->io, name, op->completion, br->look_text, BR_TEXT_MAX - 1, 0));
}

uint64_t br_look_deadline(const struct br *br) { return br->looking || br->fenced ? UINT64_MAX : br->look_ns; }
