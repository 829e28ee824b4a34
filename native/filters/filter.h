/* SPDX-License-Identifier: Apache-2.0
 *
 * filters/filter.h - for peers that pass requests on to one target and its answers back.
 *
 * A filter's request() decides, and calls filter_pass() for what goes on; its reply() is filter_reply,
 * its again() filter_again and its can_serve() peer_has_slot. The child borrows the data of the
 * request it stands for, so nothing is copied.
 */
#ifndef ARCHIPELAGO_FILTER_H
#define ARCHIPELAGO_FILTER_H

#include "loop/peer.h"

struct filter {                     /* first member of a filter's state, and called `filter` */
    const char *op_names, *kind_name;       /* options */
    uint32_t ops;                   /* bit per operation the filter is about */
    uint32_t kinds;                 /* bit per kind of object; a request on a volume has kind 0 */
};
_Static_assert(XOP_COUNT <= 32, "filter.ops has a bit for each operation");

/* The options that all filters have: `ops` (names with commas, or "all") and `kind` (one, or "any"). */
#define FILTER_OPTIONS(state) \
    PEER_OPTION("ops", state, filter.op_names), PEER_OPTION("kind", state, filter.kind_name)

/* A filter's start(), or the first it does there: understands these options. */
int filter_start(struct peer *peer);
/* What an operation below XOP_COUNT is called in `ops`. */
const char *filter_op_name(uint32_t op);
/* True if the request is one that these options name. */
bool filter_matches(const struct filter *filter, const struct xreq *req);
void filter_pass(struct peer *peer, struct xreq *req);
void filter_reply(struct peer *peer, struct xreq *child);
/* Passes on a request that found no free slot for its child. */
void filter_again(struct peer *peer, struct xreq *req);

#endif
