/* SPDX-License-Identifier: Apache-2.0
 *
 * segment/route.c - edges of the pipeline: who sends what to whom.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "segment/xseg.h"

static int route_lookup(struct xseg *seg, const char *edge, uint32_t *route)
{
    for (uint32_t i = 0; i < XSEG_ROUTES; i++)
        if (load_acquire(&seg->routes[i].used) == 1
            && strncmp(seg->routes[i].edge, edge, XSEG_EDGE_MAX) == 0) {
            *route = i;
            return 0;
        }
    return -ENOENT;
}

static int route_add(struct xseg *seg, const char *edge, uint32_t port, uint32_t *route)
{
    for (uint32_t i = 0; i < XSEG_ROUTES; i++) {
        struct xroute *r = &seg->routes[i];
        if (!swap_if(&r->used, 0u, 2u))
            continue;
        snprintf(r->edge, sizeof(r->edge), "%s", edge);
        store_relaxed(&r->port, port);
        store_release(&r->used, 1u);
        *route = i;
        return 0;
    }
    return -ENOSPC;
}

int route_find(struct xseg *seg, const char *from, const char *to, uint32_t *route)
{
    char edge[XSEG_EDGE_MAX];
    uint32_t port;
    int rc;

    if (snprintf(edge, sizeof(edge), "%s>%s", from, to) >= (int)sizeof(edge))
        return -ENAMETOOLONG;
    if (route_lookup(seg, edge, route) == 0)
        return 0;
    rc = port_find(seg, to, &port);
    return rc ? rc : route_add(seg, edge, port, route);
}

int route_set(struct xseg *seg, const char *edge, uint32_t port)
{
    uint32_t route;

    if (port >= seg->port_count)
        return -EINVAL;
    if (strlen(edge) >= XSEG_EDGE_MAX)
        return -ENAMETOOLONG;
    if (route_lookup(seg, edge, &route) == 0) {
        store_release(&seg->routes[route].port, port);
        return 0;
    }
    return route_add(seg, edge, port, &route);
}
