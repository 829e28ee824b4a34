/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_rados/past.c - is the holder of a lock an earlier segment of our own?
 *
 * After a power cut an instance finds its own locks taken, and may take them again without force. That the
 * holder has our host name, machine-id and run folder does not say so: systems copied from one image share
 * them, and the other may be alive. So two more things are asked for:
 *
 *   - The segment was made in this home: ROLE.rados in the run folder names the last PAST_MAX of them, durably,
 *     before any of them takes a lock. A copy does not have those that were made after it was.
 *   - None of its blockers answers. Each watches its registry, and acknowledges what it is notified of, as long
 *     as its process runs. This covers the copy of a home that was in use.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "blocker_rados/parts.h"
#include "segment/barrier.h"
#include "segment/ours.h"

#define PAST_MAX 64
#define EARLIER "earlier %016" PRIx64 "\n"
#define ANSWER_MS 3000              /* that a live blocker has to answer in */
#define WATCH_S 0                   /* until a silent watcher is forgotten: as the cluster has it */

/* --- the segments of this home ----------------------------------------------------------------- */

uint64_t br_past_node(uint64_t created_ns)
{
    FILE *file = fopen("/proc/sys/kernel/random/boot_id", "re");
    uint64_t hash = created_ns;
    int c;

    while (file && (c = fgetc(file)) != EOF)
        hash = (hash ^ (uint64_t)c) * 1099511628211u;
    if (file)
        fclose(file);
    return hash ? hash : created_ns;
}

static void path_of(const struct br *br, char path[XSEG_PATH_MAX + 64])
{
    snprintf(path, XSEG_PATH_MAX + 64, "%s/%s" BR_REGISTRY_SUFFIX, br->peer->seg->run, br->peer->role);
}

/* The file's text; empty if there is none. */
static void read_file(const struct br *br, char text[BR_TEXT_MAX])
{
    char path[XSEG_PATH_MAX + 64];
    ssize_t n = -1;
    int fd;

    path_of(br, path);
    fd = ours_open(AT_FDCWD, path, O_RDONLY, S_IFREG);
    if (fd >= 0) {
        n = read(fd, text, BR_TEXT_MAX - 1);
        close(fd);
    }
    text[n > 0 ? n : 0] = 0;
}

/* Copies the newest PAST_MAX of what a file says of segments before `node`, newest first. */
static void copy_past(const char *old, uint64_t node, char text[BR_TEXT_MAX])
{
    struct br_registry last;
    uint64_t earlier;
    int left = PAST_MAX;

    if (br_registry_parse(old, &last) && last.node != node) {
        br_text_add(text, EARLIER, last.node);
        left--;
    }
    for (const char *line = strchr(old, '\n'); left && line && sscanf(line + 1, "earlier %" SCNx64, &earlier) == 1;
         line = strchr(line + 1, '\n'))
        if (earlier != node) {
            br_text_add(text, EARLIER, earlier);
            left--;
        }
}

static int write_file(const struct br *br, const char *text)
{
    char path[XSEG_PATH_MAX + 64], temporary[XSEG_PATH_MAX + 72];
    int folder = open(br->peer->seg->run, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd, rc = 0;

    path_of(br, path);
    snprintf(temporary, sizeof(temporary), "%s.new", path);
    fd = folder < 0 ? -errno : ours_create(AT_FDCWD, temporary);
    if (fd < 0)
        rc = fd;
    errno = EIO;
    if (rc == 0 && (write(fd, text, strlen(text)) != (ssize_t)strlen(text) || fsync(fd) < 0))
        rc = -errno;
    if (fd >= 0 && close(fd) < 0 && rc == 0)
        rc = -errno;
    if (rc == 0 && (rename(temporary, path) < 0 || fsync(folder) < 0))
        rc = -errno;
    if (folder >= 0)
        close(folder);
    return rc;
}

int br_past_tell(struct br *br)
{
    char *old = malloc(BR_TEXT_MAX), *text = malloc(BR_TEXT_MAX);
    int rc = -ENOMEM;

    if (old && text) {
        read_file(br, old);
        snprintf(text, BR_TEXT_MAX, "%" PRId64 " %016" PRIx64 " %s\n", br->pool_id, br->node, br->namespace);
        copy_past(old, br->node, text);
        rc = write_file(br, text);
    }
    free(old);
    free(text);
    return rc;
}

static bool is_told(const struct br *br, uint64_t node)
{
    char text[BR_TEXT_MAX], line[32];

    snprintf(line, sizeof(line), EARLIER, node);
    read_file(br, text);
    return strstr(text, line) != NULL;
}

/* --- watching --------------------------------------------------------------------------------------- */

/* On a thread of librados. Who fences us says why, as from then on we can ask nobody; the first one counts. */
static void notified(void *arg, uint64_t notify, uint64_t watch, uint64_t notifier, void *data, size_t size)
{
    struct br *br = arg;
    char name[BR_NODE_NAME_MAX];

    (void)notifier;
    if (size && swap_if(&br->told_state, 0, BR_BEING_TOLD)) {
        snprintf(br->told, sizeof(br->told), "%.*s", (int)(size < sizeof(br->told) ? size : sizeof(br->told) - 1),
                 (const char *)data);
        store_release(&br->told_state, BR_TOLD);
    }
    br_node_name(br->node, name);
    rados.notify_ack(br->io[0], name, notify, watch, NULL, 0);
}

/* On a thread of librados: the OSD took the watch away, or cannot be asked. */
static void unwatched(void *arg, uint64_t watch, int error)
{
    struct br *br = arg;

    (void)watch, (void)error;
    store_release(&br->unwatched, true);
}

int br_past_watch(struct br *br)
{
    char name[BR_NODE_NAME_MAX];

    br_node_name(br->node, name);
    store_release(&br->unwatched, false);
    return rados.watch3(br->io[0], name, &br->watch, notified, unwatched, WATCH_S, br);
}

int br_past_unwatch(struct br *br)
{
    int rc = br->watch ? rados.unwatch2(br->io[0], br->watch) : 0;

    if (br->watch)
        rados.watch_flush(br->cluster);
    br->watch = 0;
    return rc == -ETIMEDOUT ? rc : 0;
}

/* In a worker. */
static int watch_anew(struct br *br, struct br_op *op)
{
    int rc;

    (void)op;
    br_past_unwatch(br);
    rc = br_past_watch(br);
    if (rc)
        store_release(&br->unwatched, true);
    return rc;
}

static void watched_anew(struct br *br, struct br_op *op)
{
    br->watching = false;
    br_op_put(br, op);
}

void br_past_watch_on(struct br *br)
{
    struct br_op *op = !load_acquire(&br->unwatched) || br->watching || br->fenced || br->draining
                     ? NULL : br_op_get(br, NULL);

    if (!op)
        return;
    br->watching = true;
    op->done = watched_anew;
    br_to_worker(br, op, watch_anew, POOL_QUICK);
}

/* --- asking --------------------------------------------------------------------------------------------- */

int br_past_notify(rados_ioctx_t io, const char *name, const char *text, uint64_t timeout_ms)
{
    uint32_t acknowledged = 0;
    char *reply = NULL;
    size_t size = 0;
    int rc = rados.notify2(io, name, text, (int)strlen(text), timeout_ms, &reply, &size);

    if (reply && size >= sizeof(acknowledged))
        memcpy(&acknowledged, reply, sizeof(acknowledged));     /* the answer begins with how many did */
    rados.buffer_free(reply);
    return rc == -ENOENT || rc == -ETIMEDOUT || rc == 0 ? acknowledged > 0 : rc;
}

/* 1: somebody who watches the registry answers. */
static int answers(struct br *br, const struct br_registry *registry)
{
    char name[BR_NODE_NAME_MAX];
    rados_ioctx_t io;
    int rc = br_node_open(br, registry, &io, name);

    if (rc)
        return rc < 0 ? rc : 0;
    rc = br_past_notify(io, name, "", ANSWER_MS);
    rados.ioctx_destroy(io);
    return rc;
}

int br_past_was_us(struct br *br, const char *instance, const struct br_registry *registries, uint32_t count)
{
    int rc = 0;

    if (strcmp(instance, br->instance) != 0 || count == 0 || !is_told(br, registries[0].node))
        return 0;
    for (uint32_t i = 0; rc == 0 && i < count; i++)
        rc = answers(br, &registries[i]);
    return rc < 0 ? rc : rc == 0;
}
