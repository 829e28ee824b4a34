/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_rados_node.c - which clients an instance has, and how they are fenced. The formats are in
 * blocker_rados.h.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "blocker_rados.h"

#define KIND "node"
#define SUFFIX ".rados"
#define FILES_MAX 4096              /* looked at in the run folder */
#define REGISTRY_MAX 256            /* bytes of a file ROLE.rados, with NUL */

struct client { char role[XSEG_ROLE_MAX], address[BR_ADDRESS_MAX]; };

struct node {
    uint64_t generation;            /* 0: there is no such object */
    bool fenced;
    char why[BR_ADDRESS_MAX];
    struct client clients[BR_CLIENTS_MAX];
    uint32_t count;
};

void br_node_name(uint64_t node, char name[BR_NODE_NAME_MAX])
{
    snprintf(name, BR_NODE_NAME_MAX, "%016" PRIx64, node);
}

bool br_node_is_fenced(const char *text, char why[BR_ADDRESS_MAX])
{
    const char *mark = strstr(text, "\nfenced ");

    return mark && sscanf(mark, "\nfenced %255[^\n]", why) == 1;
}

/* --- the object ------------------------------------------------------------------------- */

static int parse_line(struct node *node, const char *line)
{
    struct client *client = &node->clients[node->count];

    if (strncmp(line, "fenced ", 7) == 0) {
        node->fenced = true;
        return sscanf(line, "fenced %255[^\n]", node->why) == 1 ? 0 : -EBADMSG;
    }
    if (node->count == BR_CLIENTS_MAX
        || sscanf(line, "client %31s %255s", client->role, client->address) != 2)
        return -EBADMSG;
    node->count++;
    return 0;
}

/* What a text says behind its first line. */
static int node_parse(const char *text, struct node *node)
{
    const char *line = strchr(text, '\n') + 1, *next;
    int rc = 0;

    for (; rc == 0 && *line; line = next) {
        next = strchr(line, '\n');
        if (!next)
            return -EBADMSG;
        rc = parse_line(node, line);
        next++;
    }
    return rc;
}

/* 0 with generation 0 if there is none. */
static int node_read(rados_ioctx_t io, const char *name, struct node *node)
{
    char text[BR_TEXT_MAX];
    uint64_t generation;
    int rc = br_text_read(io, name, KIND, text, &generation);

    *node = (struct node){ .generation = generation };
    if (rc < 0)
        return rc == -ENOENT ? 0 : rc;
    return node_parse(text, node);
}

/* EAGAIN: it was changed meanwhile. One without any content is removed. */
static int node_write(rados_ioctx_t io, const char *name, const struct node *node)
{
    rados_write_op_t op = br_text_swap(KIND, node->generation);
    char text[BR_TEXT_MAX];
    int rc = 0;

    br_text_begin(KIND, node->generation + 1, text);
    if (node->fenced)
        rc = br_text_add(text, "fenced %s\n", node->why);
    for (uint32_t i = 0; rc == 0 && i < node->count; i++)
        rc = br_text_add(text, "client %s %s\n", node->clients[i].role, node->clients[i].address);
    if (rc) {
        rados.release_write_op(op);
        return rc;
    }
    if (node->fenced || node->count)
        rados.write_op_write_full(op, text, strlen(text));
    else
        rados.write_op_remove(op);
    return br_text_operate(op, io, name);
}

static struct client *find_client(struct node *node, const char *role)
{
    for (uint32_t i = 0; i < node->count; i++)
        if (strcmp(node->clients[i].role, role) == 0)
            return &node->clients[i];
    return NULL;
}

/* --- fencing ------------------------------------------------------------------------------- */

int br_fence_address(struct br *br, const char *address)
{
    char copy[BR_ADDRESS_MAX];
    int rc;

    snprintf(copy, sizeof(copy), "%s", address);
    rc = rados.blocklist_add(br->cluster, copy, (uint32_t)br->blocklist_s);
    br_log(br, rc ? "ERROR" : "WARNING", "client %s %s%s", address,
           rc ? "could not be put on the blocklist: " : "is on the blocklist from now on",
           rc ? strerror(-rc) : "");
    return rc;
}

int br_fence_wait(struct br *br) { return rados.wait_for_latest_osdmap(br->cluster); }

static int mark_fenced(rados_ioctx_t io, const char *name, struct node *node, const char *why)
{
    int rc = -EAGAIN;

    for (int i = 0; rc == -EAGAIN && i < BR_TRIES; i++) {
        rc = node_read(io, name, node);
        if (rc || node->fenced)
            return rc;
        node->fenced = true;
        snprintf(node->why, sizeof(node->why), "%s", why);
        rc = node_write(io, name, node);
    }
    return rc;
}

void br_node_fenced(struct br *br, uint64_t node)
{
    pthread_mutex_lock(&br->fenced_mutex);
    br->fenced_nodes[br->fenced_count++ % BR_FENCED_MAX] = node;
    pthread_mutex_unlock(&br->fenced_mutex);
}

static bool was_fenced(struct br *br, uint64_t node)
{
    bool found = false;

    pthread_mutex_lock(&br->fenced_mutex);
    for (uint32_t i = 0; i < BR_FENCED_MAX && i < br->fenced_count; i++)
        found |= br->fenced_nodes[i] == node;
    pthread_mutex_unlock(&br->fenced_mutex);
    return found;
}

/* 1: the pool is gone, and with it all that could be written. */
static int open_registry(struct br *br, const struct br_registry *registry, rados_ioctx_t *io,
                         char name[BR_NODE_NAME_MAX])
{
    char namespace[BR_NAMESPACE_MAX + 16];
    int rc = rados.ioctx_create2(br->cluster, registry->pool, io);

    if (rc)
        return rc == -ENOENT ? 1 : rc;
    snprintf(namespace, sizeof(namespace), "%s%snode", registry->namespace, registry->namespace[0] ? "/" : "");
    rados.ioctx_set_namespace(*io, namespace);
    br_node_name(registry->node, name);
    return 0;
}

int br_node_has_clients(struct br *br, const struct br_registry *registry, bool *any)
{
    char name[BR_NODE_NAME_MAX];
    struct node node;
    rados_ioctx_t io;
    int rc = open_registry(br, registry, &io, name);

    if (rc)
        return rc < 0 ? rc : 0;
    rc = node_read(io, name, &node);
    rados.ioctx_destroy(io);
    *any |= rc == 0 && node.count > 0;
    return rc;
}

int br_node_fence(struct br *br, const struct br_registry *registry, const char *why, bool *found)
{
    char name[BR_NODE_NAME_MAX];
    struct node node = { 0 };
    rados_ioctx_t io;
    int rc = was_fenced(br, registry->node) ? 1 : open_registry(br, registry, &io, name);

    if (rc)
        return rc < 0 ? rc : 0;
    rc = mark_fenced(io, name, &node, why);
    *found |= rc == 0 && node.count > 0;
    for (uint32_t i = 0; rc == 0 && i < node.count; i++)
        rc = br_fence_address(br, node.clients[i].address);
    rados.ioctx_destroy(io);
    return rc;
}

/* --- our own registry ------------------------------------------------------------------------- */

/* Puts our line in the place of an earlier life's, which is fenced first. */
static int register_once(struct br *br, const char *name, struct node *node)
{
    struct client *client;
    int rc = node_read(br->io[0], name, node);

    if (rc)
        return rc;
    if (node->fenced)
        return -ESTALE;
    client = find_client(node, br->peer->role);
    if (client) {
        rc = br_fence_address(br, client->address);
        if (rc == 0)
            rc = br_fence_wait(br);
    } else if (node->count < BR_CLIENTS_MAX) {
        client = &node->clients[node->count++];
    } else {
        rc = -ENOSPC;
    }
    if (rc)
        return rc;
    snprintf(client->role, sizeof(client->role), "%s", br->peer->role);
    snprintf(client->address, sizeof(client->address), "%s", br->address);
    return node_write(br->io[0], name, node);
}

static int tell_run_folder(struct br *br)
{
    char path[XSEG_PATH_MAX + 64], temporary[XSEG_PATH_MAX + 72];
    FILE *file;

    snprintf(path, sizeof(path), "%s/%s" SUFFIX, br->peer->seg->header->run, br->peer->role);
    snprintf(temporary, sizeof(temporary), "%s.new", path);
    file = fopen(temporary, "we");
    if (!file)
        return -errno;
    fprintf(file, "%" PRId64 " %016" PRIx64 " %s\n", br->pool_id, br->node, br->namespace);
    if (fclose(file) || rename(temporary, path) < 0)
        return -errno;
    return 0;
}

int br_node_register(struct br *br)
{
    char name[BR_NODE_NAME_MAX];
    struct node node;
    int rc = -EAGAIN;

    br_node_name(br->node, name);
    for (int i = 0; rc == -EAGAIN && i < BR_TRIES; i++)
        rc = register_once(br, name, &node);
    if (rc == -ESTALE && node.fenced)
        return peer_fail(br->peer, rc, "this instance was fenced (%s): stop it and start it again", node.why);
    if (rc == -EACCES || rc == -EPERM)
        return peer_fail(br->peer, rc, "the user %s may not write to the pool %s, or may not use the command "
                         "'osd blocklist': give it the caps mon 'profile rbd', osd 'profile rbd pool=%s'",
                         br->user, br->pool_name, br->pool_name);
    if (rc == 0) {
        br->registered = true;
        rc = tell_run_folder(br);
    }
    return rc ? peer_fail(br->peer, rc, "the client cannot be registered in the pool %s: %s", br->pool_name,
                          strerror(-rc)) : 0;
}

void br_node_unregister(struct br *br)
{
    char name[BR_NODE_NAME_MAX];
    int rc = -EAGAIN;

    if (!br->registered)
        return;
    br_node_name(br->node, name);
    for (int i = 0; rc == -EAGAIN && i < BR_TRIES; i++) {
        struct node node;
        struct client *client;
        rc = node_read(br->io[0], name, &node);
        client = rc ? NULL : find_client(&node, br->peer->role);
        if (!client || strcmp(client->address, br->address) != 0)
            return;
        *client = node.clients[--node.count];
        rc = node_write(br->io[0], name, &node);
    }
}

/* --- all registries of this instance -------------------------------------------------------------- */

static void add_registry(struct br_registry list[BR_REGISTRIES_MAX], uint32_t *count,
                         const struct br_registry *registry)
{
    for (uint32_t i = 0; i < *count; i++)
        if (list[i].pool == registry->pool && list[i].node == registry->node
            && strcmp(list[i].namespace, registry->namespace) == 0)
            return;
    if (*count < BR_REGISTRIES_MAX)
        list[(*count)++] = *registry;
}

/* What a file ROLE.rados says. */
static bool registry_parse(const char *text, struct br_registry *registry)
{
    *registry = (struct br_registry){ 0 };
    return sscanf(text, "%" SCNd64 " %" SCNx64 "%*1[ ]%128[^\n]", &registry->pool, &registry->node,
                  registry->namespace) >= 2;
}

static bool read_registry(int folder, const char *name, struct br_registry *registry)
{
    int fd = openat(folder, name, O_RDONLY | O_CLOEXEC);
    char text[REGISTRY_MAX];
    ssize_t n;

    if (fd < 0)
        return false;
    n = read(fd, text, sizeof(text) - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    return registry_parse(text, registry);
}

uint32_t br_node_registries(struct br *br, struct br_registry list[BR_REGISTRIES_MAX])
{
    struct br_registry registry = { .pool = br->pool_id, .node = br->node };
    DIR *dir = opendir(br->peer->seg->header->run);
    struct dirent *entry;
    uint32_t count = 0, seen = 0;

    snprintf(registry.namespace, sizeof(registry.namespace), "%s", br->namespace);
    add_registry(list, &count, &registry);
    if (!dir)
        return count;
    while (seen++ < FILES_MAX && (entry = readdir(dir))) {
        const char *dot = strrchr(entry->d_name, '.');
        if (dot && strcmp(dot, SUFFIX) == 0 && read_registry(dirfd(dir), entry->d_name, &registry)
            && registry.node == br->node)       /* else left by an earlier segment */
            add_registry(list, &count, &registry);
    }
    closedir(dir);
    return count;
}
