/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_rados/connect.c - from options to a connected client and an open pool; every failure is a
 * sentence.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "blocker_rados/parts.h"

#define NUMBER_MAX 24               /* digits of a number as text, with NUL */
#define READ_AHEAD (64u << 10)      /* bytes taken from a socket at a time: Ceph's 4096 cut each answer in two */

void br_namespace(const struct br *br, uint32_t kind, char name[BR_NAMESPACE_MAX + 16])
{
    snprintf(name, BR_NAMESPACE_MAX + 16, "%s%s%s", br->namespace, br->namespace[0] ? "/" : "",
             kind ? object_kind_name(kind) : "node");
}

/* --- the client -------------------------------------------------------------------------- */

int br_set_number(struct br *br, const char *option, uint64_t value)
{
    char text[NUMBER_MAX];

    snprintf(text, sizeof(text), "%llu", (unsigned long long)value);
    return rados.conf_set(br->cluster, option, text);
}

static int read_conf(struct br *br)
{
    const char *conf = br->conf;
    int rc = rados.conf_read_file(br->cluster, conf);

    if (rc == 0)
        return 0;
    if (!conf)
        return peer_fail(br->peer, rc, "no ceph.conf was found; name one by the option conf");
    return peer_fail(br->peer, rc, "the Ceph configuration %s %s", conf,
                     rc == -ENOENT ? "does not exist" : "cannot be understood");
}

/* The client's own limit on operations under way would block the loop: 0 turns it off. */
static int set_options(struct br *br)
{
    const char *keyring = br->keyring;
    int rc = keyring ? rados.conf_set(br->cluster, "keyring", keyring) : 0;

    if (rc == 0)
        rc = br_set_number(br, "client_mount_timeout", br->connect_timeout_s);
    if (rc == 0)
        rc = br_set_number(br, "rados_mon_op_timeout", br->connect_timeout_s);
    if (rc == 0)
        rc = br_set_number(br, "rados_osd_op_timeout", br->connect_timeout_s);
    if (rc == 0)
        rc = br_set_number(br, "objecter_inflight_ops", 0);
    if (rc == 0)
        rc = br_set_number(br, "objecter_inflight_op_bytes", 0);
    if (rc == 0)
        rc = br_set_number(br, "ms_tcp_prefetch_max_size", READ_AHEAD);
    return rc ? peer_fail(br->peer, rc, "librados does not know an option that is needed: %s", strerror(-rc)) : 0;
}

static int explain_connect(struct br *br, int rc)
{
    const char *keyring = br->keyring ? br->keyring : "that of the Ceph configuration";

    switch (rc) {
    case -ETIMEDOUT:
        return peer_fail(br->peer, rc, "no monitor of the cluster answered within %llu s (connect_timeout_s)",
                         (unsigned long long)br->connect_timeout_s);
    case -ENOENT:
        return peer_fail(br->peer, rc, "no monitor is named by the Ceph configuration, or there is no keyring for the "
                         "user %s (it should be %s)", br->user, keyring);
    case -EACCES:
    case -EPERM:
    case -EINVAL:
        return peer_fail(br->peer, rc, "the cluster refuses the user %s: its key is wrong, or the keyring (%s) has "
                         "none for it", br->user, keyring);
    default:
        return peer_fail(br->peer, rc, "the cluster cannot be reached: %s", strerror(-rc));
    }
}

static int start_client(struct br *br)
{
    char user[128];
    const char *missing;
    int rc = rados_load(&missing);

    if (rc)
        return peer_fail(br->peer, rc, missing ? RADOS_LIBRARY " lacks %s: Ceph 16 or newer is needed"
                         : RADOS_LIBRARY " is not installed%s (on Debian: apt-get install " RADOS_PACKAGE ")",
                         missing ? missing : "");
    snprintf(user, sizeof(user), "%s%s", strncmp(br->user, "client.", 7) ? "client." : "", br->user);
    rc = rados.create2(&br->cluster, "ceph", user, 0);
    if (rc)
        return peer_fail(br->peer, rc, "librados cannot make a client for the user %s: %s", user, strerror(-rc));
    rc = read_conf(br);
    if (rc == 0)
        rc = set_options(br);
    if (rc)
        return rc;
    rc = rados.connect(br->cluster);
    br->connected = rc == 0;
    return rc ? explain_connect(br, rc) : 0;
}

/* --- the pool ------------------------------------------------------------------------------ */

static int open_pool(struct br *br)
{
    char name[BR_NAMESPACE_MAX + 16];
    int rc = 0;

    for (uint32_t kind = 0; kind < XOBJ_KINDS && rc == 0; kind++) {
        rc = rados.ioctx_create(br->cluster, br->pool_name, &br->io[kind]);
        if (rc)
            break;
        br_namespace(br, kind, name);
        rados.ioctx_set_namespace(br->io[kind], name);
        rados.set_pool_full_try(br->io[kind]);
    }
    if (rc)
        return peer_fail(br->peer, rc, rc == -ENOENT ? "the cluster has no pool %s" : "the pool %s cannot be opened",
                         br->pool_name);
    br->pool_id = rados.ioctx_get_id(br->io[0]);
    return 0;
}

/* What an earlier segment of ours was called, too; but so may be one on a copy of this system. */
static void name_instance(struct br *br)
{
    FILE *file = fopen("/etc/machine-id", "re");
    char machine[64] = "", host[64] = "";

    if (!file || fscanf(file, "%63s", machine) != 1)
        machine[0] = 0;
    if (file)
        fclose(file);
    gethostname(host, sizeof(host) - 1);
    snprintf(br->instance, sizeof(br->instance), "%s/%s %.120s", host, machine, br->peer->seg->run);
}

/* Who this client is to the cluster. */
static int learn_identity(struct br *br)
{
    char *addresses = NULL;
    int rc = rados.getaddrs(br->cluster, &addresses);

    if (rc < 0)
        return peer_fail(br->peer, rc, "the client's own address is not known: %s", strerror(-rc));
    snprintf(br->address, sizeof(br->address), "%s", addresses);
    free(addresses);
    name_instance(br);
    snprintf(br->client, sizeof(br->client), "client.%llu",
             (unsigned long long)rados.get_instance_id(br->cluster));
    return 0;
}

int br_connect(struct br *br)
{
    int rc = start_client(br);

    if (rc == 0)
        rc = open_pool(br);
    if (rc == 0)
        rc = learn_identity(br);
    return rc;
}

void br_disconnect(struct br *br)
{
    for (uint32_t kind = 0; kind < XOBJ_KINDS; kind++)
        if (br->io[kind])
            rados.ioctx_destroy(br->io[kind]);
    if (br->cluster)
        rados.shutdown(br->cluster);
}
