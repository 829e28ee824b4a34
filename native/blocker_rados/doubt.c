/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_rados/doubt.c - changes that timed out, and may yet be done.
 *
 * Who asked for one was told ETIMEDOUT, but the operation may be on its way still, to an OSD that hangs or
 * cannot be reached for a while. On this node nothing can go wrong by that: a later operation of the same client
 * on the same object comes after it. On another node, which opens the volume next, it could: that one is another
 * client. So while any change is in doubt, no lock is given back (the port's in_doubt says so to the blocker that
 * would do it), and a client that stops leaves its line in the registry as if it had been killed: whoever takes its
 * locks fences it.
 *
 * The doubt ends when a look at the object, which comes after the change, is answered.
 */
#include <errno.h>

#include "blocker_rados/parts.h"
#include "segment/barrier.h"
#include "segment/parts.h"

#define WAIT_NS 3000000000ull       /* for doubts to end, in a RELEASE */
#define POLL_NS 20000000ull

static void publish(struct br *br) { store_release(&br->peer->port->shared->in_doubt, br->doubts); }

static void probe(struct br *br, struct br_op *op);

/* Any answer of the OSD will do. */
static void probed(struct br *br, struct br_op *op)
{
    bool answered = op->result != -ETIMEDOUT;
    struct xobj object = op->doubted;

    br_op_put(br, op);
    if (answered) {
        br->doubts--;
        publish(br);
    } else if (!br->draining) {
        op = br_op_get(br, NULL);
        op->doubted = object;
        probe(br, op);
    }
}

static void probe(struct br *br, struct br_op *op)
{
    char name[OBJECT_NAME_MAX];

    op->done = probed;
    object_name_print(&op->doubted, name);
    br_prepare(br, op, op->doubted.kind);
    br_submitted(br, op, rados.aio_stat(op->io, name, op->completion, &op->size, &op->changed));
}

void br_doubt(struct br *br, const struct xobj *object)
{
    struct br_op *op = br->draining ? NULL : br_op_get(br, NULL);

    br->doubts++;
    publish(br);
    if (!op)
        return;                     /* it stays in doubt until the next life */
    op->doubted = *object;
    probe(br, op);
}

void br_doubt_none(struct br *br) { publish(br); }

static bool any(const struct br *br)
{
    const struct xseg *seg = br->peer->seg;
    bool found = false;

    for (uint32_t i = 0; !found && i < XSEG_STATIC_PORTS; i++)
        found = load_acquire(&seg->ports[i].in_doubt) != 0;
    return found;
}

int br_doubt_wait(struct br *br)
{
    uint64_t end = clock_ns() + WAIT_NS;

    while (any(br) && clock_ns() < end && !load_relaxed(&br->draining))
        br_sleep_until(clock_ns() + POLL_NS);
    return any(br) ? -ETIMEDOUT : 0;
}
