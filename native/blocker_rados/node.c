/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_rados/node.c - our own registry: this life's line in it, from its start to its stop.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "blocker_rados/parts.h"
#include "segment/barrier.h"

static struct br_client *find_client(struct br_node *node, const char *role)
{
    for (uint32_t i = 0; i < node->count; i++)
        if (strcmp(node->clients[i].role, role) == 0)
            return &node->clients[i];
    return NULL;
}

/* Puts our line in the place of an earlier life's, which is fenced first: it is dead, so only what it had on
 * its way is meant, and blocklist_s is enough. */
static int register_once(struct br *br, const char *name, struct br_node *node, bool *again)
{
    struct br_client *client;
    int rc = br_node_read(br->io[0], name, node);

    if (rc)
        return rc;
    if (node->fenced)
        return -ESTALE;
    client = find_client(node, br->peer->role);
    *again = client != NULL;
    if (client && strcmp(client->address, BR_NO_ADDRESS) != 0) {
        rc = br_fence_address(br, client->address, br->blocklist_s);
        if (rc == 0)
            rc = br_fence_wait(br);
    } else if (!client && node->count < BR_CLIENTS_MAX) {
        client = &node->clients[node->count++];
    } else if (!client) {
        rc = -ENOSPC;
    }
    if (rc)
        return rc;
    snprintf(client->role, sizeof(client->role), "%s", br->peer->role);
    snprintf(client->address, sizeof(client->address), "%s", br->address);
    return br_node_write(br->io[0], name, node);
}

static int explain_register(struct br *br, int rc)
{
    if (rc == -EACCES || rc == -EPERM)
        return peer_fail(br->peer, rc, "the user %s may not write to the pool %s, or may not use the command "
                         "'osd blocklist': give it the caps mon 'profile rbd', osd 'profile rbd pool=%s'",
                         br->user, br->pool_name, br->pool_name);
    if (rc == -ETIMEDOUT)
        return peer_fail(br->peer, rc, "the pool %s did not answer within %llu s (connect_timeout_s): an OSD hangs or "
                         "is down, see `ceph health detail`", br->pool_name,
                         (unsigned long long)br->connect_timeout_s);
    return peer_fail(br->peer, rc, "the client cannot be registered in the pool %s: %s", br->pool_name, strerror(-rc));
}

int br_node_register(struct br *br)
{
    char name[BR_NODE_NAME_MAX];
    struct br_node node;
    uint64_t began = 0;
    bool again = false;
    int rc = -EAGAIN;

    br_node_name(br->node, name);
    for (int i = 0; rc == -EAGAIN && i < BR_TRIES; i++) {
        began = clock_boot_ns();
        rc = register_once(br, name, &node, &again);
    }
    if (rc == -ESTALE && node.fenced) {
        br_distrust(br, node.why);
        return peer_fail(br->peer, rc, "this instance was fenced (%s): `archipelago stop --force`, then "
                         "`archipelago start`", node.why);
    }
    br->registered = rc == 0;
    if (rc == 0)
        br_doubt_none(br);          /* the earlier life's */
    if (rc == 0 && again)
        rc = br_lease_take(br);     /* locks may be held since an earlier life */
    if (rc == 0)
        rc = br_past_watch(br);
    if (rc == 0)
        rc = br_past_tell(br);
    if (rc)
        return explain_register(br, rc);
    br_trust_since(br, began);
    return 0;
}

/* Who is to come back leaves its line, without an address: nobody is to believe that this node is gone. */
void br_node_unregister(struct br *br)
{
    bool ending = load_acquire(&br->peer->seg->header->ending);
    char name[BR_NODE_NAME_MAX];
    int rc = -EAGAIN;

    if (!br->registered)
        return;
    if (br->doubts || br_past_unwatch(br) < 0) {
        br_log(br, "WARNING", "%s leaves as if it had been killed: %s", br->client,
               br->doubts ? "changes that timed out may yet be done" : "the cluster does not answer");
        return;
    }
    br_node_name(br->node, name);
    for (int i = 0; rc == -EAGAIN && i < BR_TRIES; i++) {
        struct br_node node;
        struct br_client *client;
        rc = br_node_read(br->io[0], name, &node);
        client = rc ? NULL : find_client(&node, br->peer->role);
        if (!client || strcmp(client->address, br->address) != 0)
            return;
        if (ending)
            *client = node.clients[--node.count];
        else
            strcpy(client->address, BR_NO_ADDRESS);
        rc = br_node_write(br->io[0], name, &node);
    }
}
