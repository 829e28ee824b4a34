/* SPDX-License-Identifier: Apache-2.0
 *
 * segment/share.h - how an endpoint shares the data buffers that its port may hold between its clients.
 *
 * A buffer that came back with data is free again when its client has taken the data, so a client that is slow, or
 * takes nothing, holds buffers for as long as it likes. No number would be right for how many: one client alone
 * shall have most of them, a hundred shall leave some for the next. So what one may have depends on what is free:
 *
 *   - A client that holds none may take one.
 *   - Else it may take one more if it would hold less than is left to its group, which is all that have the same
 *     volume open: twice what is free, less what the group holds already.
 *
 * One client alone so gets half of what the port may hold. Many that take what they can, on as many volumes, get
 * equal shares, and leave one such share free. All clients of one volume together get two thirds.
 *
 *   - A client that is known to be slow may take its first only while more than a quarter of what the port may hold
 *     is free, and another only while the slow ones hold less than half of it. So however many they are, something is
 *     left for others. Who is slow is the endpoint's to say.
 *
 * Each class of buffers is counted by itself, and only what is asked for by these functions. A request's buffer is
 * taken off when it is put back. All of it is private to the process, and one thread's.
 */
#ifndef ARCHIPELAGO_SHARE_H
#define ARCHIPELAGO_SHARE_H

#include "segment/xseg.h"

struct share_group { uint32_t held[XSEG_CLASSES]; };

struct share {                      /* of a client */
    uint32_t held[XSEG_CLASSES];
    struct share_group *group;      /* all of its volume */
    struct share_group *slow;       /* all that are slow, if it is; else NULL */
};

/* As xbuf_get(). EDQUOT: the client has its share; try again when a buffer of it was put back, or, if it holds none,
 * when those of other slow ones were. */
int share_get(struct share *share, struct port *port, struct xreq *req, uint64_t size);
/* Before a request is put back that share_get() gave a buffer. */
void share_put(struct share *share, const struct xreq *req);
/* The client is slow from now on, or no longer (slow NULL). */
void share_set_slow(struct share *share, struct share_group *slow);
static inline bool share_is_empty(const struct share *share)
{
    return share->held[0] + share->held[1] + share->held[2] == 0;
}

#endif
