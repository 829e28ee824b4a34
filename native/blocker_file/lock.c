/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_file/lock.c - locks between processes, which die with their holder.
 *
 * A lock's file says
 *
 *     archipelago lock 2 NUMBER held          NUMBER has 20 digits; "free" once it was given back
 *     boot BOOT                               of the machine
 *     run FOLDER                              of the instance that took it
 *     life LINE DEV INO ROOT                  one a blocker-file of that instance
 *                                             an empty line
 *     OWNER TEXT
 *
 * and stays for good, as its number must grow. While its taker lives it has a flock on the file that bears the
 * name. A taking writes a new file, which is flocked before it gets the name; the old file's flock is held until
 * then. Whoever gets a flock must therefore look whether the file still has the name, and begin again if not.
 *
 * That the flock is free says only that one process has died. If the lock was not given back, others of that
 * instance may go on writing: see "Two instances" in blocker_file/parts.h.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "blocker_file/parts.h"
#include "segment/barrier.h"

#define LOCK_FIRST "archipelago lock 2 %020" PRIu64 " %.4s\n"
#define LOCK_HEAD 64                /* bytes of the first line at most */
#define LOCK_STATE 40               /* offset of "held" or "free" */
#define LOCK_MAX (BF_STORES * (BF_STORE_PATH + 80) + BF_OWNER_MAX + 512)    /* bytes of the file */
#define OPEN_TRIES 16               /* a lock's file may be replaced under our hands */
#define LOOKED_MAX 1000             /* and others look at it, each for a short while */
#define LOOKED_STEP_US 5000

static struct bf_lock **find(struct bf *bf, const struct xobj *name)
{
    struct bf_lock **link = &bf->locks;

    while (*link && memcmp(&(*link)->name, name, sizeof(*name)) != 0)
        link = &(*link)->next;
    return link;
}

static void drop(struct bf *bf, struct bf_lock **link)
{
    struct bf_lock *lock = *link;

    assert(bf->lock_count > 0);
    bf->lock_count--;
    *link = lock->next;
    close(lock->fd);
    free(lock);
}

/* --- what the file says -------------------------------------------------------------- */

static int parse_line(struct bf_holder *holder, const char *line)
{
    struct bf_life *life = &holder->lives[holder->life_count];

    if (sscanf(line, "boot %39[^\n]", holder->boot) == 1 || sscanf(line, "run %191[^\n]", holder->run) == 1)
        return 0;
    if (holder->life_count == BF_STORES
        || sscanf(line, "life %16[0-9a-f] %" SCNu64 " %" SCNu64 " %511[^\n]", life->line, &life->dev, &life->ino,
                  life->path) != 4)
        return -EBADMSG;
    holder->life_count++;
    return 0;
}

/* Returns the bytes of the first line. A lock of version 1 was held only while its taker had the flock. */
static int parse_first(struct bf_holder *holder, const char *text, size_t size)
{
    char state[5] = "", again[LOCK_HEAD];
    int version, length = 0;

    if (sscanf(text, "archipelago lock %d %" SCNu64 " %4s", &version, &holder->number, state) < 2
        || holder->number == 0 || holder->number >= INT64_MAX)
        return -EBADMSG;
    holder->held = version == 2 && strcmp(state, "held") == 0;
    if (version == 1)
        length = snprintf(again, sizeof(again), "archipelago lock 1 %" PRIu64 "\n", holder->number);
    else if (holder->held || (version == 2 && strcmp(state, "free") == 0))
        length = snprintf(again, sizeof(again), LOCK_FIRST, holder->number, state);
    holder->version = version;
    return length && (size_t)length <= size && memcmp(text, again, (size_t)length) == 0 ? length : -EBADMSG;
}

/* What a file of `size` bytes says; one more is there to be written. 0 or EBADMSG. */
static int lock_parse(char *text, size_t size, struct bf_holder *holder)
{
    char *at, *next, *end = text + size;
    int length;

    memset(holder, 0, sizeof(*holder));
    text[size] = 0;
    length = parse_first(holder, text, size);
    if (length < 0)
        return length;
    for (at = text + length; holder->version == 2; at = next + 1) {
        next = memchr(at, '\n', (size_t)(end - at));
        if (!next || (next != at && parse_line(holder, at)))
            return -EBADMSG;
        if (next == at++)
            break;
    }
    if (end - at > BF_OWNER_MAX)
        return -EBADMSG;
    holder->owner_size = (uint32_t)(end - at);
    memcpy(holder->owner, at, holder->owner_size);
    return 0;
}

static int read_lock(int fd, struct bf_holder *holder)
{
    char *text = malloc(LOCK_MAX + 1);
    ssize_t n = text ? pread(fd, text, LOCK_MAX, 0) : -1;
    int rc = !text ? -ENOMEM : n < 0 ? -errno : lock_parse(text, (size_t)n, holder);

    free(text);
    return rc;
}

/* Puts a sentence, or what a lock's file says, into the request's data. */
static void tell(struct bf *bf, struct xreq *req, const char *text, int length)
{
    req->done = 0;
    if (length > 0 && xreq_data_ok(bf->peer->seg, req, 1)) {
        req->done = (uint64_t)length < req->data_size ? (uint64_t)length : req->data_size;
        memcpy(xreq_data(bf->peer->seg, req), text, req->done);
    }
}

/* Tells the request who has it, and `why` it stays so. Always EBUSY. */
static int busy(struct bf *bf, struct xreq *req, const struct bf_holder *holder, const char *why)
{
    char text[BF_OWNER_MAX + BF_WHY];

    tell(bf, req, text, snprintf(text, sizeof(text), "%.*s%s%s", (int)holder->owner_size, holder->owner,
                                 why[0] ? "; " : "", why));
    return -EBUSY;
}

/* Tells the request that no more locks can be had. Always EMFILE. */
static int too_many(struct bf *bf, struct xreq *req)
{
    char text[BF_WHY];

    tell(bf, req, text, snprintf(text, sizeof(text), "the process of %s may have %" PRIu64 " files open, %" PRIu32
                                 " of them for volumes' locks, and has these; close some volumes, or raise its hard "
                                 "limit (ulimit -Hn, LimitNOFILE= of a unit) and restart it",
                                 bf->peer->role, bf->files_max, bf->locks_max));
    return -EMFILE;
}

/* The same for a file whose flock another process has. */
static int busy_file(struct bf *bf, struct xreq *req, int fd)
{
    struct bf_holder *holder = malloc(sizeof(*holder));

    req->done = 0;
    if (holder && read_lock(fd, holder) == 0)
        busy(bf, req, holder, "");
    free(holder);
    return -EBUSY;
}

/* What a lock's file is to say of us. Its length. */
static int lock_text(struct bf *bf, uint64_t number, const void *owner, uint64_t size, char text[LOCK_MAX])
{
    char boot[BF_BOOT];
    int length = snprintf(text, LOCK_MAX, LOCK_FIRST, number, "held");

    bf_boot_id(boot);
    length += snprintf(text + length, LOCK_MAX - (size_t)length, "boot %s\nrun %s\n", boot, bf->peer->seg->run);
    for (uint32_t i = 0; i < bf->store_count; i++) {
        struct stat st = { 0 };

        if (stat(bf->stores[i].path, &st) < 0)
            st.st_dev = st.st_ino = 0;      /* its blocker has yet to start */
        length += snprintf(text + length, LOCK_MAX - (size_t)length, "life %s %" PRIu64 " %" PRIu64 " %s\n",
                           bf->stores[i].line, (uint64_t)st.st_dev, (uint64_t)st.st_ino, bf->stores[i].path);
    }
    text[length++] = '\n';
    memcpy(text + length, owner, size);
    return length + (int)size;
}

/* A new lock file, flocked and durable, under a temporary name. */
static int write_lock(struct bf *bf, const struct xobj *name, uint64_t number, const void *owner,
                      uint64_t size, uint64_t *temporary)
{
    char *text = malloc(LOCK_MAX);
    int fd = text ? bf_temporary(bf, name, temporary) : -ENOMEM, rc = 0, length;

    if (fd >= 0) {
        length = lock_text(bf, number, owner, size, text);
        errno = EIO;
        if (flock(fd, LOCK_EX | LOCK_NB) < 0 || pwrite(fd, text, (size_t)length, 0) != length
            || (bf->sync && fdatasync(fd) < 0))
            rc = -errno;
        if (rc)
            bf_temporary_drop(bf, fd, *temporary);
    }
    free(text);
    return rc ? rc : fd;
}

static int note_free(int fd)
{
    return pwrite(fd, "free", 4, LOCK_STATE) == 4 ? 0 : -errno;
}

/* --- taking it ---------------------------------------------------------------------------- */

static bool has_name(int fd, int folder, const char *name)
{
    struct stat mine, there;

    return fstat(fd, &mine) == 0 && fstatat(folder, name, &there, 0) == 0
        && mine.st_dev == there.st_dev && mine.st_ino == there.st_ino;
}

static bool is_ours(const struct bf *bf, const struct bf_holder *holder)
{
    for (uint32_t i = 0; i < holder->life_count; i++)
        for (uint32_t n = 0; n < bf->store_count; n++)
            if (strcmp(holder->lives[i].line, bf->stores[n].line) == 0)
                return true;
    return false;
}

/* The flock of a file is not to be had. EBUSY: another process holds the lock. EAGAIN: it is this instance's, of an
 * earlier life, and another only looks whether it may have it. */
static int who_has(struct bf *bf, struct xreq *req, int fd)
{
    struct bf_holder *holder = malloc(sizeof(*holder));
    int rc = holder ? read_lock(fd, holder) : -ENOMEM;

    if (rc == 0)
        rc = is_ours(bf, holder) ? -EAGAIN : busy(bf, req, holder, "");
    free(holder);
    return rc;
}

/* Opens and flocks the file of a lock that no process holds. ENOENT: there is none yet. EBUSY: held,
 * the owner's text is in the request. */
static int open_free(struct bf *bf, struct xreq *req, int folder, const char *name)
{
    int looked = 0, rc = -EBUSY;

    for (int i = 0; i < OPEN_TRIES; i++) {
        int fd = openat(folder, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0)
            return -errno;
        rc = flock(fd, LOCK_EX | LOCK_NB) == 0 ? 0 : errno == EWOULDBLOCK ? who_has(bf, req, fd) : -errno;
        if (rc == 0 && has_name(fd, folder, name))
            return fd;
        close(fd);
        if (rc == -EAGAIN && looked++ < LOOKED_MAX) {
            usleep(LOOKED_STEP_US);
            i--;
        } else if (rc && rc != -EAGAIN) {
            return rc;
        }
    }
    return -EBUSY;
}

static int remember(struct bf *bf, struct xreq *req, uint64_t number, int fd)
{
    struct bf_lock *lock = malloc(sizeof(*lock));

    if (!lock)
        return -ENOMEM;
    *lock = (struct bf_lock){ .next = bf->locks, .name = req->object, .token = req->arg,
                           .number = number, .fd = fd };
    bf->locks = lock;
    bf->lock_count++;
    req->done = number;
    return 0;
}

/* True if the volume is open in this instance. */
static bool is_open_here(const struct bf *bf, uint64_t volume)
{
    const struct xvolume *volumes = bf->peer->seg->volumes;

    for (uint32_t i = 0; i < bf->peer->seg->volume_count; i++)
        if (load_acquire(&volumes[i].state) != XVOL_FREE && volumes[i].id == volume && volumes[i].lock_number)
            return true;
    return false;
}

/* May a lock with this file, whose flock we have, be ours now? Fills in *holder. EBUSY: no, the request says why. */
static int may_take(struct bf *bf, struct xreq *req, int fd, bool force, struct bf_holder *holder)
{
    char why[BF_WHY] = "";
    int rc = read_lock(fd, holder);

    if (rc || is_ours(bf, holder))
        return rc;
    if (is_open_here(bf, req->object.volume))
        return busy(bf, req, holder, "it has had the lock since this instance lost it");
    if (holder->held)
        rc = bf_fence(bf, req->object.volume, holder, force, why);
    return rc == -EBUSY ? busy(bf, req, holder, why) : rc;
}

/* Puts a new file in the place of `old` (-1: of none). */
static int take(struct bf *bf, struct xreq *req, int old, uint64_t number)
{
    uint64_t temporary;
    int fd = write_lock(bf, &req->object, number + 1, xreq_data(bf->peer->seg, req), req->size, &temporary);
    int mine, rc;

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

/* One try. EEXIST: another process made the file meanwhile. */
static int try_to_take(struct bf *bf, struct xreq *req, int folder, const char *name, struct bf_holder *holder)
{
    int old = open_free(bf, req, folder, name), rc = 0;

    if (old < 0 && old != -ENOENT)
        return old;
    holder->number = 0;
    if (old >= 0)
        rc = may_take(bf, req, old, false, holder);
    if (rc == 0)
        rc = bf_lift(bf, req->object.volume);
    if (rc == 0)
        rc = take(bf, req, old, holder->number);
    if (old >= 0)
        close(old);
    return rc;
}

int bf_lock_acquire(struct bf *bf, struct xreq *req)
{
    struct bf_lock *lock = *find(bf, &req->object);
    struct bf_holder *holder;
    char path[BF_PATH];
    const char *name;
    uint32_t index;
    int folder, rc = -EEXIST;

    if (lock && lock->token != req->arg)
        return busy_file(bf, req, lock->fd);
    if (lock) {
        req->done = lock->number;
        return 1;
    }
    if (bf->lock_count >= bf->locks_max)
        return too_many(bf, req);
    folder = bf_locate(bf, &req->object, true, path, &name, &index);
    if (folder < 0)
        return folder;
    holder = malloc(sizeof(*holder));
    if (!holder)
        return -ENOMEM;
    for (int i = 0; rc == -EEXIST && i < OPEN_TRIES; i++)
        rc = try_to_take(bf, req, folder, name, holder);
    free(holder);
    return rc == -EEXIST ? -EBUSY : rc;
}

/* --- letting it go -------------------------------------------------------------------------- */

void bf_lock_drop(struct bf *bf, const struct xobj *name)
{
    struct bf_lock **link = find(bf, name);

    if (*link)
        drop(bf, link);
}

/* RELEASE of a lock that no process holds: ENOENT if it was given back; else only by force. */
static int release_left(struct bf *bf, struct xreq *req, int fd)
{
    bool force = req->flags & XREQ_FORCE;
    struct bf_holder *holder = malloc(sizeof(*holder));
    int rc = holder ? read_lock(fd, holder) : -ENOMEM;

    if (rc == 0 && !holder->held)
        rc = -ENOENT;
    else if (rc == 0 && !force && !is_ours(bf, holder))
        rc = -EPERM;
    else if (rc == 0)
        rc = may_take(bf, req, fd, force, holder);
    if (rc == 0)
        rc = note_free(fd);
    free(holder);
    return rc;
}

int bf_lock_release(struct bf *bf, struct xreq *req)
{
    struct bf_lock **link = find(bf, &req->object);
    char path[BF_PATH];
    const char *name;
    uint32_t index;
    int folder, fd, rc;

    if (*link && (*link)->token != req->arg && !(req->flags & XREQ_FORCE))
        return -EPERM;
    if (*link) {
        rc = note_free((*link)->fd);
        if (rc == 0)
            drop(bf, link);
        return rc;
    }
    folder = bf_locate(bf, &req->object, false, path, &name, &index);
    fd = folder < 0 ? folder : open_free(bf, req, folder, name);
    if (fd >= 0) {
        rc = release_left(bf, req, fd);
        close(fd);
        return rc;
    }
    if (fd == -EBUSY && !(req->flags & XREQ_FORCE))
        return -EPERM;
    return fd;
}

/* The file of a lock that another instance may have had, with its flock, if it may be removed. */
static int open_left(struct bf *bf, struct xreq *req, int folder, const char *name)
{
    struct bf_holder *holder = malloc(sizeof(*holder));
    int fd = holder ? open_free(bf, req, folder, name) : -ENOMEM;
    int rc = fd < 0 ? fd : may_take(bf, req, fd, false, holder);

    free(holder);
    if (rc && fd >= 0)
        close(fd);
    return rc ? rc : fd;
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
        fd = open_left(bf, req, folder, name);
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
        drop(bf, &bf->locks);
}
