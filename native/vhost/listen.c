/* SPDX-License-Identifier: Apache-2.0
 *
 * vhost/listen.c - the attached volumes, and the sockets they are reached at. See vhost/parts.h.
 *
 * An attached volume is a file in the folder `attached`, called by the volume's id, of lines "KEY VALUE" (written by
 * tools/attaching/attaching.py): name, role, socket, readonly, shared, queues, block_size, since. The folder is the
 * truth: it is looked through at the start and whenever `vlmc attach` asks for it, and what is new gets its socket.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "segment/log.h"
#include "segment/ours.h"
#include "vhost/parts.h"

#define BACKLOG 16
#define ENTRY_MAX 4096              /* bytes of a file */
#define SOCKET_MODE 0660
#define ID_DIGITS 16

/* --- accepting ------------------------------------------------------------------------ */

static void accept_one(struct vhost_disk *disk, int fd)
{
    struct vhost *vhost = disk->vhost;
    struct vhost_session *session = vhost_session_new(disk, UINT32_MAX, fd);

    if (!session) {
        log_line(vhost->peer->role, "WARNING", "%s: a front-end is not let in: there are %u, as many as `sessions` "
                 "says, or no memory is left", disk->name, vhost->session_count);
        close(fd);
        return;
    }
    session->watch.ready = vhost_talk_ready;
    session->events = EPOLLIN;
    vhost_keep_busy(session, false);
    vhost_keep_fd(session, "sock", 0, fd);
    vhost_keep_save(session);
    if (loop_watch(vhost->peer->loop, &session->watch, EPOLLIN) != 0)
        vhost_session_drop(session, "no memory");
    vhost_disk_describe(disk);
}

static void listener_ready(struct watch *watch, uint32_t events)
{
    struct vhost_disk *disk = watch->arg;
    int fd = accept4(watch->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    (void)events;
    if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)) {
        loop_rewatch(disk->vhost->peer->loop, watch, 0);
        disk->vhost->no_descriptors_ns = loop_now(disk->vhost->peer->loop) + VHOST_TICK_NS;
    }
    if (fd >= 0)
        accept_one(disk, fd);
}

void vhost_listen_go_on(struct vhost *vhost)
{
    vhost->no_descriptors_ns = 0;
    for (uint32_t i = 0; i < vhost->disk_count; i++)
        if (vhost->disks[i] && vhost->disks[i]->watch.fd >= 0)
            loop_rewatch(vhost->peer->loop, &vhost->disks[i]->watch, EPOLLIN);
}

/* --- sockets -------------------------------------------------------------------------------- */

/* Removes a dead server's socket. EADDRINUSE: somebody listens there. EEXIST: it is something else. */
static int remove_stale(const struct sockaddr_un *address)
{
    struct stat found;
    int fd, rc;

    if (lstat(address->sun_path, &found) < 0)
        return errno == ENOENT ? 0 : -errno;
    if (!S_ISSOCK(found.st_mode) || (found.st_uid != 0 && found.st_uid != geteuid()))
        return -EEXIST;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    rc = connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 ? -errno : 0;
    close(fd);
    if (rc != -ECONNREFUSED)
        return rc == 0 || rc == -EAGAIN ? -EADDRINUSE : rc;
    return unlink(address->sun_path) < 0 ? -errno : 0;
}

/* A descriptor that listens, or a negative errno. */
static int make_socket(const struct vhost *vhost, const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    char folder[XSEG_PATH_MAX];
    int fd, rc;

    if (strlen(path) >= sizeof(address.sun_path))
        return -ENAMETOOLONG;
    memcpy(address.sun_path, path, strlen(path));
    snprintf(folder, sizeof(folder), "%s", path);
    if (mkdir(dirname(folder), 0755) < 0 && errno != EEXIST)
        return -errno;
    rc = remove_stale(&address);
    if (rc)
        return rc;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0
        || (vhost->group != UINT32_MAX && lchown(path, (uid_t)-1, vhost->group) < 0)
        || chmod(path, SOCKET_MODE) < 0 || listen(fd, BACKLOG) < 0) {
        rc = -errno;
        close(fd);
        return rc;
    }
    return fd;
}

/* True if the socket is the one that the path leads to. */
static bool is_there(int fd, const char *path)
{
    struct sockaddr_un address;
    socklen_t length = sizeof(address);
    struct stat found;

    return getsockname(fd, (struct sockaddr *)&address, &length) == 0 && lstat(path, &found) == 0
        && S_ISSOCK(found.st_mode) && strncmp(address.sun_path, path, sizeof(address.sun_path)) == 0;
}

static int begin_listening(struct vhost_disk *disk)
{
    char name[PARK_NAME_MAX + 1];
    int fd, rc;

    snprintf(name, sizeof(name), "listen/%016" PRIx64, disk->id);
    fd = park_take(&disk->vhost->parked, name);
    if (fd >= 0 && !is_there(fd, disk->socket)) {
        close(fd);
        fd = -1;
    }
    if (fd < 0)
        fd = make_socket(disk->vhost, disk->socket);
    if (fd < 0)
        return fd;
    disk->watch.fd = fd;
    rc = loop_watch(disk->vhost->peer->loop, &disk->watch, EPOLLIN);
    if (rc == 0)
        vhost_keep_listener(disk);
    return rc;
}

static void end_listening(struct vhost_disk *disk, bool for_good)
{
    if (disk->watch.fd < 0)
        return;
    loop_unwatch(disk->vhost->peer->loop, &disk->watch);
    close(disk->watch.fd);
    disk->watch.fd = -1;
    if (!for_good)
        return;
    unlink(disk->socket);
    vhost_keep_forget_listener(disk);
}

/* --- entries ---------------------------------------------------------------------------------- */

/* The value of a line "KEY VALUE"; NULL: there is none. It ends with the line. */
static char *value_of(char *text, const char *key, char *out, size_t size)
{
    size_t length = strlen(key);

    for (char *line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
        if (strncmp(line, key, length) == 0 && line[length] == ' ') {
            size_t value = strcspn(line + length + 1, "\n");

            if (value >= size)
                return NULL;
            memcpy(out, line + length + 1, value);
            out[value] = 0;
            return out;
        }
    return NULL;
}

static uint32_t number_of(char *text, const char *key, uint32_t least, uint32_t most)
{
    char value[16];
    unsigned long number = value_of(text, key, value, sizeof(value)) ? strtoul(value, NULL, 10) : least;

    return number < least ? least : number > most ? most : (uint32_t)number;
}

/* Reads a file of the folder. 0, -ENOENT: it is another role's, or a negative errno. */
static int read_entry(const struct vhost *vhost, int folder, const char *name, struct vhost_disk *disk)
{
    char text[ENTRY_MAX + 1], role[XSEG_ROLE_MAX];
    int fd = ours_open(folder, name, O_RDONLY, S_IFREG);
    ssize_t length;

    if (fd < 0)
        return fd;
    length = read(fd, text, ENTRY_MAX);
    close(fd);
    if (length < 0)
        return -errno;
    text[length] = 0;
    if (!value_of(text, "role", role, sizeof(role)) || !value_of(text, "name", disk->name, sizeof(disk->name))
        || !value_of(text, "socket", disk->socket, sizeof(disk->socket)))
        return -EBADMSG;
    if (strcmp(role, vhost->peer->role) != 0)
        return -ENOENT;
    disk->readonly = number_of(text, "readonly", 0, 1);
    disk->shared = number_of(text, "shared", 0, 1);
    disk->queues = number_of(text, "queues", 1, vhost->queues_max);
    disk->block_size = number_of(text, "block_size", 512, 4096) == 4096 ? 4096 : 512;
    return 0;
}

static struct vhost_disk *find(const struct vhost *vhost, uint64_t id)
{
    for (uint32_t i = 0; i < vhost->disk_count; i++)
        if (vhost->disks[i] && vhost->disks[i]->id == id && !vhost->disks[i]->dropped)
            return vhost->disks[i];
    return NULL;
}

static int add_disk(struct vhost *vhost, int folder, const char *name, uint64_t id)
{
    struct vhost_disk *disk;
    uint32_t place = 0;
    int rc;

    while (place < vhost->disk_count && vhost->disks[place])
        place++;
    if (place == VHOST_DISKS_MAX)
        return -ENOSPC;
    disk = calloc(1, sizeof(*disk));
    if (!disk)
        return -ENOMEM;
    disk->vhost = vhost;
    disk->place = place;
    disk->serial = ++vhost->serial;
    disk->id = id;
    disk->seen = true;
    disk->watch = (struct watch){ .fd = -1, .ready = listener_ready, .arg = disk };
    rc = read_entry(vhost, folder, name, disk);
    if (rc) {
        free(disk);
        return rc == -ENOENT ? 0 : rc;
    }
    vhost->disks[place] = disk;
    vhost->disk_count = place >= vhost->disk_count ? place + 1 : vhost->disk_count;
    rc = begin_listening(disk);
    if (rc) {
        log_line(vhost->peer->role, "ERROR", "%s: cannot listen at %s: %s", disk->name, disk->socket, strerror(-rc));
        disk->dropped = true;
        vhost_listen_retire(disk);
    }
    return rc;
}

int vhost_listen_scan(struct vhost *vhost)
{
    int folder = open(vhost->attached, O_RDONLY | O_DIRECTORY | O_CLOEXEC), first = 0;
    DIR *list = folder < 0 ? NULL : fdopendir(folder);
    const struct dirent *entry;

    if (!list)
        return errno == ENOENT ? 0 : -errno;
    while ((entry = readdir(list))) {
        char *end;
        uint64_t id = strtoull(entry->d_name, &end, 16);
        int rc;

        if (end != entry->d_name + ID_DIGITS || *end || find(vhost, id))
            continue;
        rc = add_disk(vhost, folder, entry->d_name, id);
        first = first ? first : rc;
    }
    closedir(list);
    return first;
}

/* --- ends ----------------------------------------------------------------------------------------- */

void vhost_listen_retire(struct vhost_disk *disk)
{
    struct vhost *vhost = disk->vhost;

    if (!disk->dropped || disk->first || disk->asking || !vhost_disk_close(disk))
        return;
    vhost->disks[disk->place] = NULL;
    free(disk);
}

int vhost_listen_detach(struct vhost *vhost, uint64_t id, bool force)
{
    struct vhost_disk *disk = find(vhost, id);

    if (!disk)
        return -ENOENT;
    for (struct vhost_session *session = disk->first; session && !force; session = session->next)
        if (!vhost_gone(session))
            return -EBUSY;
    disk->dropped = true;
    end_listening(disk, true);
    for (struct vhost_session *session = disk->first; session; session = session->next)
        vhost_session_drop(session, "the volume is detached");
    return 0;
}

void vhost_listen_stop(struct vhost *vhost)
{
    for (uint32_t i = 0; i < vhost->disk_count; i++)
        if (vhost->disks[i])
            end_listening(vhost->disks[i], false);
}
