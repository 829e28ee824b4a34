/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_rados_trust.c - how long may this node believe what it has in memory?
 *
 * Reads of blocks that hold nothing, and writes of zeros to them, are answered by vlmc out of its
 * map, without asking the store. A node that was stopped and robbed of a volume must not do that
 * when it goes on. So a look at our own registry, BR_LOOK_NS after the last one began, makes
 * the header's trusted_until_ns BR_TRUST_NS later than when the look began: whoever fences us marks
 * that object before anything else, and waits for BR_TRUST_NS and a margin after it. A look that
 * finds the mark makes it XSEG_FENCED, which nothing changes any more.
 *
 * Only the OSD of that one object is asked, so it does not matter when the others learn of the
 * blocklist. As long as the cluster does not answer, vlmc holds its requests back.
 */
#include <string.h>

#include "barrier.h"
#include "blocker_rados.h"

void br_distrust(struct br *br, const char *why)
{
    if (!br->fenced)
        br_log(br, "ERROR", "this node was fenced: %s. Every request of %s at %s fails with ESTALE. Stop the "
               "instance and start it again; locks of its volumes may have been taken by others", why,
               br->client, br->address);
    br->fenced = true;
    store_release(&br->peer->seg->header->trusted_until_ns, (uint64_t)XSEG_FENCED);
}

/* Only ever later, and never after it was fenced. */
static void trust_until(struct br *br, uint64_t until)
{
    uint64_t *shared = &br->peer->seg->header->trusted_until_ns, before;

    do {
        before = load_acquire(shared);
        if (before == XSEG_FENCED || before >= until)
            return;
    } while (!swap_if(shared, before, until));
}

static void look_done(struct br *br, struct br_op *op)
{
    char why[BR_ADDRESS_MAX];
    int result = op->result;

    br->looking = false;
    br_op_put(br, op);
    if (result < 0) {
        br_errno(br, result);       /* there is another look to come */
        return;
    }
    br->look_text[result] = 0;
    if (br_node_is_fenced(br->look_text, why))
        br_distrust(br, why);
    else
        trust_until(br, br->look_began_ns + BR_TRUST_NS);
}

void br_look(struct br *br)
{
    struct br_op *op;
    char name[BR_NODE_NAME_MAX];

    if (br->looking || br->fenced || br->draining || loop_now(br->peer->loop) < br->look_ns)
        return;
    op = br_op_get(br, NULL);
    if (!op)
        return;
    op->done = look_done;
    br->looking = true;
    br->look_began_ns = clock_ns();
    br->look_ns = br->look_began_ns + BR_LOOK_NS;
    br_node_name(br->node, name);
    br_prepare(br, op, 0);
    br_submitted(br, op, rados.aio_read(op->io, name, op->completion, br->look_text, BR_TEXT_MAX - 1, 0));
}
