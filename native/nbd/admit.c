/* SPDX-License-Identifier: Apache-2.0
 *
 * nbd/admit.c - how many connections there are, and whose. See "Places" in nbd/parts.h.
 */
#include <stdio.h>
#include <sys/resource.h>

#include "nbd/parts.h"
#include "segment/barrier.h"
#include "segment/log.h"

#define DESCRIPTORS_KEPT 64         /* for bells, folders and the like */

void nbd_admit_limit(struct nbd *nbd)
{
    struct rlimit limit;
    uint64_t room;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return;
    if (limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
        getrlimit(RLIMIT_NOFILE, &limit);
    }
    room = limit.rlim_cur / 2 > 2 * DESCRIPTORS_KEPT ? limit.rlim_cur / 2 - DESCRIPTORS_KEPT : DESCRIPTORS_KEPT;
    if (nbd->connections_max <= room)
        return;
    log_line(nbd->peer->role, "WARNING", "%u connections are configured, but of the %llu files that the process may open "
             "half are for stores: there are %llu (raise the hard limit of open files, or lower option connections)",
             nbd->connections_max, (unsigned long long)limit.rlim_cur, (unsigned long long)room);
    nbd->connections_max = (uint32_t)room;
}

void nbd_admit_refused(struct nbd *nbd, const struct nbd_client *client, const char *why)
{
    uint64_t now_ns = loop_now(nbd->peer->loop);
    char who[64] = "of TCP";

    counter_add(&nbd->peer->port->shared->refused, 1);
    nbd->untold++;
    if (nbd->told_ns && now_ns < nbd->told_ns + NBD_TELL_NS)
        return;
    if (client->uid != NBD_NOBODY)
        snprintf(who, sizeof(who), "of user %u (pid %d)", client->uid, client->pid);
    log_line(nbd->peer->role, "WARNING", "a connection %s is refused: %s (%u refused since this was last said)", who,
             why, nbd->untold);
    nbd->untold = 0;
    nbd->told_ns = now_ns;
}

static bool same_user(const struct nbd_client *one, const struct nbd_client *other)
{
    return one->uid == other->uid && one->address == other->address;
}

/* Ends the handshake that has waited longest for its client, of the same user if `client` is not NULL. */
static bool end_silent(struct nbd *nbd, const struct nbd_client *client)
{
    struct nbd_connection *oldest = NULL;

    for (uint32_t i = 0; i < nbd->top; i++) {
        struct nbd_connection *conn = nbd->connections[i];

        if (conn && (conn->phase == NBD_HELLO || conn->phase == NBD_OPTIONS) && !(conn->stop & NBD_STOP_MAPPER)
            && (!client || same_user(client, &conn->client)) && (!oldest || conn->since_ns < oldest->since_ns))
            oldest = conn;
    }
    if (!oldest)
        return false;
    nbd_admit_refused(nbd, &oldest->client, "its handshake stands still, and its place is needed");
    nbd_drop(oldest);
    return true;
}

bool nbd_admit(struct nbd *nbd, const struct nbd_client *client)
{
    uint32_t own = 0, left;

    for (uint32_t i = 0; i < nbd->top; i++)
        if (nbd->connections[i] && nbd->connections[i]->phase != NBD_GONE
            && same_user(client, &nbd->connections[i]->client))
            own++;
    left = nbd->connections_max - nbd->live;
    if (left && own < 3ull * left)
        return true;
    if (end_silent(nbd, left ? client : NULL))
        return true;
    nbd_admit_refused(nbd, client, left ? "this user has the share of the places that one may have "
                      "(option connections)" : "all places are taken (option connections)");
    return false;
}

bool nbd_admit_to_volume(struct nbd_connection *conn, uint32_t handle)
{
    if (conn->nbd->exports[handle - 1].connections < conn->nbd->volume_max)
        return true;
    nbd_admit_refused(conn->nbd, &conn->client, "its volume has as many connections as one may have "
                      "(option connections_volume)");
    return false;
}
