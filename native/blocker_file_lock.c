/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_file_lock.c - locks between processes, which die with their holder.
 *
 * A lock's file says
 *
 *     archipelago lock 1 NUMBER
 *     OWNER TEXT
 *
 * and stays for good, as its number must grow. The lock is taken while a process has a flock on
 * the file that bears the name. A taking writes a new file, which is flocked before it gets the
 * name; the old file's flock is held until then. Whoever gets a flock must therefore look whether
 * the file still has the name, and begin again if not.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "blocker_file.h"

#define LOCK_FORMAT "archipelago lock 1 %" PRIu64 "\n"
#define LOCK_HEAD 48                /* bytes of the first line at most */
#define OPEN_TRIES 16               /* a lock's file may be replaced under our hands */

static struct lock **find(struct bf *bf, const struct xobj *name)
{
    struct lock **link = &bf->locks;

    while (*link && memcmp(&(*link)->name, name, sizeof(*name)) != 0)
        link = &(*link)->next;
    return link;
}

static void drop(struct lock **link)
{
    struct lock *lock = *link;

    *link = lock->next;
    close(lock->fd);
    free(lock);
}

/* --- what the file says -------------------------------------------------------------- */

/* Number and owner of what a file of `size` bytes says. The owner's length, or EBADMSG. */
static int lock_parse(char *text, size_t size, uint64_t *number, char owner[BF_OWNER_MAX])
{
    char first[LOCK_HEAD];
    size_t length;

    text[size] = 0;
    if (sscanf(text, LOCK_FORMAT, number) != 1 || *number == 0 || *number >= INT64_MAX)
        return -EBADMSG;
    length = (size_t)snprintf(first, sizeof(first), LOCK_FORMAT, *number);
    if (size < length || memcmp(text, first, length) != 0 || size - length > BF_OWNER_MAX)
        return -EBADMSG;
    memcpy(owner, text + length, size - length);
    return (int)(size - length);
}

/* Reads number and owner text; the text's length or a negative errno. */
static int read_lock(int fd, uint64_t *number, char owner[BF_OWNER_MAX])
{
    char text[LOCK_HEAD + BF_OWNER_MAX + 1];
    ssize_t n = pread(fd, text, sizeof(text) - 1, 0);

    return n < 0 ? -errno : lock_parse(text, (size_t)n, number, owner);
}

/* Tells the request who has it. Always EBUSY. */
static int busy(struct bf *bf, struct xreq *req, int fd)
{
    char owner[BF_OWNER_MAX];
    uint64_t number;
    int length = read_lock(fd, &number, owner);

    req->done = 0;
    if (length > 0 && xreq_data_ok(bf->peer->seg, req, 1)) {
        req->done = (uint64_t)length < req->data_size ? (uint64_t)length : req->data_size;
        memcpy(xreq_data(bf->peer->seg, req), owner, req->done);
    }
    return -EBUSY;
}

/* A new lock file, flocked and durable, under a temporary name. */
static int write_lock(struct bf *bf, const struct xobj *name, uint64_t number, const void *owner,
                      uint64_t size, uint64_t *temporary)
{
    char text[LOCK_HEAD + BF_OWNER_MAX];
    int fd = bf_temporary(bf, name, temporary), rc = 0;
    int length = snprintf(text, sizeof(text), LOCK_FORMAT, number);

    if (fd < 0)
        return fd;
    memcpy(text + length, owner, size);
    length += (int)size;
    errno = EIO;
    if (flock(fd, LOCK_EX | LOCK_NB) < 0 || pwrite(fd, text, (size_t)length, 0) != length
        || (bf->sync && fdatasync(fd) < 0))
        rc = -errno;
    if (rc)
        bf_temporary_drop(bf, fd, *temporary);
    return rc ? rc : fd;
}

/* --- taking it ---------------------------------------------------------------------------- */

static bool has_name(int fd, int folder, const char *name)
{
    struct stat mine, there;

    return fstat(fd, &mine) == 0 && fstatat(folder, name, &there, 0) == 0
        && mine.st_dev == there.st_dev && mine.st_ino == there.st_ino;
}

/* Opens and flocks the file of a lock nobody holds. ENOENT: there is none yet. EBUSY: held,
 * the owner's text is in the request. */
static int open_free(struct bf *bf, struct xreq *req, int folder, const char *name)
{
    for (int i = 0; i < OPEN_TRIES; i++) {
        int fd = openat(folder, name, O_RDWR | O_CLOEXEC), rc;
        if (fd < 0)
            return -errno;
        if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
            rc = errno == EWOULDBLOCK ? busy(bf, req, fd) : -errno;
            close(fd);
            return rc;
        }
        if (has_name(fd, folder, name))
            return fd;
        close(fd);
    }
    return -EBUSY;
}

static int remember(struct bf *bf, struct xreq *req, uint64_t number, int fd)
{
    struct lock *lock = malloc(sizeof(*lock));

    if (!lock)
        return -ENOMEM;
    *lock = (struct lock){ .next = bf->locks, .name = req->object, .token = req->arg,
                           .number = number, .fd = fd };
    bf->locks = lock;
    req->done = number;
    return 0;
}

/* Puts a new file in the place of `old` (-1: of none). */
static int take(struct bf *bf, struct xreq *req, int old)
{
    char owner[BF_OWNER_MAX];
    uint64_t number = 0, temporary;
    int rc = old < 0 ? 0 : read_lock(old, &number, owner);
    int fd = rc < 0 ? rc : write_lock(bf, &req->object, number + 1, xreq_data(bf->peer->seg, req),
                                      req->size, &temporary);
    int mine;

    if (fd < 0)
        return fd;
    rc = bf_publish(bf, fd, temporary, &req->object, old < 0);
    mine = rc ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 0);     /* the flock is shared by both */
    if (rc == 0)
        rc = mine < 0 ? -errno : remember(bf, req, number + 1, mine);
    if (rc && mine >= 0)
        close(mine);
    bf_temporary_drop(bf, fd, temporary);
    return rc;
}

int bf_lock_acquire(struct bf *bf, struct xreq *req)
{
    struct lock *lock = *find(bf, &req->object);
    char path[BF_PATH];
    const char *name;
    uint32_t index;
    int folder, old, rc;

    if (lock && lock->token != req->arg)
        return busy(bf, req, lock->fd);
    if (lock) {
        req->done = lock->number;
        return 1;
    }
    folder = bf_locate(bf, &req->object, true, path, &name, &index);
    if (folder < 0)
        return folder;
    for (int i = 0; i < OPEN_TRIES; i++) {
        old = open_free(bf, req, folder, name);
        if (old < 0 && old != -ENOENT)
            return old;
        rc = take(bf, req, old);
        if (old >= 0)
            close(old);
        if (rc != -EEXIST)          /* else another process made the file meanwhile */
            return rc;
    }
    return -EBUSY;
}

/* --- letting it go -------------------------------------------------------------------------- */

void bf_lock_drop(struct bf *bf, const struct xobj *name)
{
    struct lock **link = find(bf, name);

    if (*link)
        drop(link);
}

int bf_lock_release(struct bf *bf, struct xreq *req)
{
    struct lock **link = find(bf, &req->object);
    char path[BF_PATH];
    const char *name;
    uint32_t index;
    int folder, fd;

    if (*link && (*link)->token != req->arg && !(req->flags & XREQ_FORCE))
        return -EPERM;
    if (*link) {
        drop(link);
        return 0;
    }
    folder = bf_locate(bf, &req->object, false, path, &name, &index);
    fd = folder < 0 ? folder : open_free(bf, req, folder, name);
    if (fd >= 0) {
        close(fd);
        return -ENOENT;             /* there is a file, but nobody holds it */
    }
    if (fd == -EBUSY && !(req->flags & XREQ_FORCE))
        return -EPERM;
    return fd;
}

int bf_lock_delete(struct bf *bf, struct xreq *req)
{
    char path[BF_PATH];
    const char *name;
    uint32_t index;
    int folder = bf_locate(bf, &req->object, false, path, &name, &index), fd = -1;

    if (folder < 0)
        return folder;
    if (!*find(bf, &req->object)) {
        fd = open_free(bf, req, folder, name);
        if (fd < 0)
            return fd;
    }
    if (unlinkat(folder, name, 0) < 0)
        return -errno;
    bf_lock_drop(bf, &req->object);
    if (fd >= 0)
        close(fd);
    return 0;
}

void bf_locks_stop(struct bf *bf)
{
    while (bf->locks)
        drop(&bf->locks);
}
