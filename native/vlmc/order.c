/* SPDX-License-Identifier: Apache-2.0
 *
 * vlmc/order.c - no request is begun on a volume while writes of a sender that has died are under way
 * there. See "The dead" in vlmc/parts.h.
 */
#include <assert.h>

#include "vlmc/parts.h"

/* True if this life of a port is over. Processes are looked at once for all that came in together: what was
 * sent after a death was taken in after it. */
static bool has_died(struct vlmc *v, uint32_t port, uint32_t life)
{
    uint64_t now_ns = v->peer->port->now_ns;

    if (load_acquire(&v->seg->ports[port].incarnation) != life)
        return true;
    if (v->alive_ns[port] == now_ns)
        return false;
    if (port_ending(v->seg, port))
        return true;
    v->alive_ns[port] = now_ns;
    return false;
}

bool vlmc_order_wait(struct vlmc *v, struct xreq *req)
{
    struct vlmc_volume *volume = volume_of(v, req);
    uint32_t src = req->src % XSEG_PORTS;
    const struct vlmc_writer *own = &volume->writer[src];
    bool same = own->life == req->incarnation;

    if (volume->changing == (same ? own->changing : 0))
        return false;
    for (uint32_t i = 0; i < v->seg->port_count; i++) {
        const struct vlmc_writer *writer = &volume->writer[i];

        if (writer->changing && !(i == src && same) && has_died(v, i, writer->life)) {
            queue_push(v->peer, &volume->behind, req);
            return true;
        }
    }
    return false;
}

void vlmc_order_note(struct vlmc *v, struct xreq *req)
{
    struct vlmc_volume *volume = volume_of(v, req);
    struct vlmc_writer *writer = &volume->writer[req->src % XSEG_PORTS];

    if (io_of(req)->noted)
        return;
    io_of(req)->noted = 1;
    writer->life = req->incarnation;
    writer->changing++;
    volume->changing++;
}

void vlmc_order_done(struct vlmc *v, struct xreq *req)
{
    struct vlmc_volume *volume = volume_of(v, req);
    struct vlmc_writer *writer = &volume->writer[req->src % XSEG_PORTS];

    if (!io_of(req)->noted)
        return;
    io_of(req)->noted = 0;
    assert(writer->changing > 0 && volume->changing > 0);
    writer->changing--;
    volume->changing--;
    v->order_moved |= !queue_empty(&volume->behind);
}
