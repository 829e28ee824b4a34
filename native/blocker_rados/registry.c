/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_rados/registry.c - which clients an instance has: registries, read and written. The formats are in
 * blocker_rados/parts.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "blocker_rados/parts.h"
#include "segment/ours.h"

#define KIND "node"
#define SUFFIX BR_REGISTRY_SUFFIX
#define REGISTRY_MAX 256            /* bytes of a file ROLE.rados, with NUL */

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

static int parse_line(struct br_node *node, const char *line)
{
    struct br_client *client = &node->clients[node->count];

    if (strncmp(line, "fenced ", 7) == 0) {
        node->fenced = true;
        return sscanf(line, "fenced %255[^\n]", node->why) == 1 ? 0 : -EBADMSG;
    }
    if (sscanf(line, "over %" SCNu64, &node->over) == 1)
        return 0;
    if (node->count == BR_CLIENTS_MAX
        || sscanf(line, "client %31s %255s", client->role, client->address) != 2)
        return -EBADMSG;
    node->count++;
    return 0;
}

/* What a text says behind its first line. */
static int node_parse(const char *text, struct br_node *node)
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

int br_node_read(rados_ioctx_t io, const char *name, struct br_node *node)
{
    char text[BR_TEXT_MAX];
    uint64_t generation;
    int rc = br_text_read(io, name, KIND, text, &generation);

    *node = (struct br_node){ .generation = generation };
    if (rc < 0)
        return rc == -ENOENT ? 0 : rc;
    return node_parse(text, node);
}

int br_node_write(rados_ioctx_t io, const char *name, const struct br_node *node)
{
    rados_write_op_t op = br_text_swap(KIND, node->generation);
    char text[BR_TEXT_MAX];
    int rc = 0;

    br_text_begin(KIND, node->generation + 1, text);
    if (node->fenced)
        rc = br_text_add(text, "fenced %s\n", node->why);
    if (rc == 0 && node->over)
        rc = br_text_add(text, "over %" PRIu64 "\n", node->over);
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

/* --- another's registry ------------------------------------------------------------------------ */

int br_node_open(struct br *br, const struct br_registry *registry, rados_ioctx_t *io, char name[BR_NODE_NAME_MAX])
{
    char namespace[BR_NAMESPACE_MAX + 16];
    int rc = rados.ioctx_create2(br->cluster, registry->pool, io);

    if (rc) {
        *io = NULL;
        return rc == -ENOENT ? 1 : rc;
    }
    snprintf(namespace, sizeof(namespace), "%s%snode", registry->namespace, registry->namespace[0] ? "/" : "");
    rados.ioctx_set_namespace(*io, namespace);
    br_node_name(registry->node, name);
    return 0;
}

int br_node_lives(struct br *br, const struct br_registry *registry, bool *any)
{
    char name[BR_NODE_NAME_MAX];
    struct br_node node;
    rados_ioctx_t io;
    int rc = br_node_open(br, registry, &io, name);

    if (rc)
        return rc < 0 ? rc : 0;
    rc = br_node_read(io, name, &node);
    rados.ioctx_destroy(io);
    *any |= rc == 0 && node.count > 0 && !node.fenced;
    return rc;
}

/* --- all registries of this instance -------------------------------------------------------------- */

bool br_registry_same(const struct br_registry *a, const struct br_registry *b)
{
    return a->pool == b->pool && a->node == b->node && strcmp(a->namespace, b->namespace) == 0;
}

static int add_registry(struct br_registry list[BR_REGISTRIES_MAX], uint32_t *count,
                        const struct br_registry *registry)
{
    for (uint32_t i = 0; i < *count; i++)
        if (br_registry_same(&list[i], registry))
            return 0;
    if (*count == BR_REGISTRIES_MAX)
        return -E2BIG;
    list[(*count)++] = *registry;
    return 0;
}

bool br_registry_parse(const char *text, struct br_registry *registry)
{
    *registry = (struct br_registry){ 0 };
    return sscanf(text, "%" SCNd64 " %" SCNx64 "%*1[ ]%128[^\n]", &registry->pool, &registry->node,
                  registry->namespace) >= 2;
}

static bool read_registry(int folder, const char *name, struct br_registry *registry)
{
    int fd = ours_open(folder, name, O_RDONLY, S_IFREG);
    char text[REGISTRY_MAX];
    ssize_t n;

    if (fd < 0)
        return false;
    n = read(fd, text, sizeof(text) - 1);
    close(fd);
    text[n > 0 ? n : 0] = 0;
    return br_registry_parse(text, registry);
}

/* Of every role of this type that the segment has, known to have registered in this segment. */
static bool find_registry(struct br *br, int folder, const struct xport *port, struct br_registry *registry)
{
    char name[XSEG_ROLE_MAX + sizeof(SUFFIX)];

    snprintf(name, sizeof(name), "%.*s" SUFFIX, XSEG_ROLE_MAX - 1, port->role);
    return read_registry(folder, name, registry) && registry->node == br->node;
}

int br_node_registries(struct br *br, struct br_registry list[BR_REGISTRIES_MAX], uint32_t *count,
                       char missing[XSEG_ROLE_MAX])
{
    const struct xseg *seg = br->peer->seg;
    int folder = open(seg->run, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = folder < 0 ? -errno : 0;
    struct br_registry registry = { .pool = br->pool_id, .node = br->node };

    *count = 0;
    missing[0] = 0;
    snprintf(registry.namespace, sizeof(registry.namespace), "%s", br->namespace);
    add_registry(list, count, &registry);
    for (uint32_t i = 0; rc == 0 && i < XSEG_STATIC_PORTS; i++) {
        if (strncmp(seg->ports[i].type, br->peer->ops->type, sizeof(seg->ports[i].type)) != 0)
            continue;
        if (find_registry(br, folder, &seg->ports[i], &registry)) {
            rc = add_registry(list, count, &registry);
        } else {
            snprintf(missing, XSEG_ROLE_MAX, "%.*s", XSEG_ROLE_MAX - 1, seg->ports[i].role);
            rc = -EAGAIN;
        }
    }
    if (folder >= 0)
        close(folder);
    return rc;
}
