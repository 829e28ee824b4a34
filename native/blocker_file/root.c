/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_file/root.c - the store's root: its mark, and what lives leave behind.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "blocker_file/parts.h"
#include "segment/ours.h"

#define STORE_TEXT "archipelago store 1\n"
#define STORE_WORD "archipelago store "
#define LIFE_TRIES 8
#define FENCE_MS 60000              /* that I/O of the dead predecessor may take to end */
#define FENCE_STEP_MS 5

static bool is_empty(struct bf *bf)
{
    int fd = openat(bf->root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    bool empty = dir != NULL;
    struct dirent *entry;

    while (empty && (entry = readdir(dir)))
        empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0
                || strcmp(entry->d_name, "lost+found") == 0;
    if (dir)
        closedir(dir);
    return empty;
}

/* Writes ROOT/store into an empty folder. Two that start at once write the same. */
static int format_root(struct bf *bf)
{
    char temporary[32];
    uint64_t random;
    int fd, rc = 0;

    if (!is_empty(bf))
        return peer_fail(bf->peer, -EINVAL, "%.160s holds files but no store: name an empty folder",
                         bf->path);
    if (getrandom(&random, sizeof(random), 0) < 0)
        return -errno;
    snprintf(temporary, sizeof(temporary), "store.%016" PRIx64, random);
    fd = openat(bf->root, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, BF_FILE_MODE);
    if (fd < 0)
        return peer_fail(bf->peer, -errno, "%.160s cannot be written: %s", bf->path, strerror(errno));
    if (write(fd, STORE_TEXT, strlen(STORE_TEXT)) != (ssize_t)strlen(STORE_TEXT) || fsync(fd) < 0
        || renameat(bf->root, temporary, bf->root, "store") < 0 || fsync(bf->root) < 0)
        rc = peer_fail(bf->peer, errno ? -errno : -EIO, "%.160s/store cannot be written: %s",
                       bf->path, strerror(errno));
    close(fd);
    return rc;
}

static int check_store(struct bf *bf)
{
    char text[64];
    int fd = openat(bf->root, "store", O_RDONLY | O_CLOEXEC);
    ssize_t n;

    if (fd < 0 && errno == ENOENT)
        return format_root(bf);
    if (fd < 0)
        return peer_fail(bf->peer, -errno, "%.160s/store: %s", bf->path, strerror(errno));
    n = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (n < 0)
        return peer_fail(bf->peer, -errno, "%.160s/store: %s", bf->path, strerror(errno));
    text[n] = 0;
    if (strcmp(text, STORE_TEXT) == 0)
        return 0;
    if (strncmp(text, STORE_WORD, strlen(STORE_WORD)) == 0)
        return peer_fail(bf->peer, -EPROTO, "%.160s is a store of version %.*s; this is built for 1",
                         bf->path, (int)strcspn(text + strlen(STORE_WORD), "\n"),
                         text + strlen(STORE_WORD));
    return peer_fail(bf->peer, -EPROTO, "%.160s/store does not say that this is a store", bf->path);
}

/* Waits until nothing of a life of this port is in the kernel any more: see blocker_file/parts.h. */
static int wait_for_end(int life)
{
    for (int ms = 0; ms < FENCE_MS; ms += FENCE_STEP_MS) {
        if (flock(life, LOCK_EX | LOCK_NB) == 0)
            return 0;
        if (errno != EWOULDBLOCK && errno != EINTR)
            return -errno;
        usleep(FENCE_STEP_MS * 1000);
    }
    return -EBUSY;
}

/* Keeps the emptied folder of a dead life for the one that begins. */
static bool keep_spare(struct bf *bf, int fd, const char *name)
{
    if (bf->spare >= 0 || strlen(name) >= sizeof(bf->spare_name))
        return false;
    bf->spare = fcntl(fd, F_DUPFD_CLOEXEC, 0);      /* the flock is shared by both */
    strcpy(bf->spare_name, name);
    return bf->spare >= 0;
}

/* Empties what a dead life left, if it is dead; removes it, or keeps it as a spare. EBUSY: it is one of this port, and
 * its I/O does not end. */
static int clean_life(struct bf *bf, int tmp, const char *name, const char *line)
{
    int fd = openat(tmp, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;
    DIR *dir = NULL;
    struct dirent *entry;

    if (fd < 0)
        return 0;
    if (strncmp(name, line, BF_LINE - 1) == 0)
        rc = wait_for_end(fd);
    if (rc == 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
        dir = fdopendir(fd);
    while (dir && (entry = readdir(dir)))
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            if (unlinkat(fd, entry->d_name, 0) < 0 && errno == EISDIR)
                bf_remove_folders(fd, entry->d_name);
    if (dir && !keep_spare(bf, fd, name))
        unlinkat(tmp, name, AT_REMOVEDIR);
    if (dir)
        closedir(dir);
    else
        close(fd);
    return rc;
}

static int clean_lives(struct bf *bf)
{
    char line[BF_LINE];
    int fd, tmp, rc = 0;
    DIR *dir;
    struct dirent *entry;

    do {
        rc = mkdirat(bf->root, "tmp", BF_FOLDER_MODE) < 0 && errno != EEXIST ? -errno : 0;
    } while (bf_reserve_give(bf, rc));
    if (rc)
        return rc;
    fd = openat(bf->root, "tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    tmp = fd < 0 ? -1 : dup(fd);
    dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir)
        return -errno;
    bf_line(bf, bf->peer->role, line);
    while (rc == 0 && (entry = readdir(dir)))
        if (entry->d_name[0] != '.')
            rc = clean_life(bf, tmp, entry->d_name, line);
    closedir(dir);
    close(tmp);
    if (rc == -EBUSY)
        return peer_fail(bf->peer, rc, "%.100s: I/O of the process that served %s before has not ended "
                         "after %d s: the disk below does not answer", bf->path, bf->peer->role, FENCE_MS / 1000);
    return rc;
}

/* A folder of that name, ROOT/tmp/<life>, flocked: its descriptor. EAGAIN: another start took it for a dead life's
 * before we held it. */
static int life_folder(struct bf *bf, const char *path)
{
    struct stat st;
    int fd;

    if (mkdirat(bf->root, path, BF_FOLDER_MODE) < 0)
        return -errno;
    fd = openat(bf->root, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0 && flock(fd, LOCK_EX) == 0 && fstat(fd, &st) == 0 && st.st_nlink > 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return -EAGAIN;
}

/* The spare folder, by that name. */
static int renamed_spare(struct bf *bf, const char *path)
{
    char from[48];
    int fd = bf->spare;

    snprintf(from, sizeof(from), "tmp/%s", bf->spare_name);
    bf->spare = -1;
    if (fd >= 0 && renameat(bf->root, from, bf->root, path) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return -EAGAIN;
}

static int begin_life(struct bf *bf)
{
    int rc = -EAGAIN;

    for (int i = 0; i < LIFE_TRIES && (rc == -EAGAIN || bf_reserve_give(bf, rc)); i++) {
        char path[48], line[BF_LINE];
        uint32_t random;

        if (getrandom(&random, sizeof(random), 0) < 0)
            return -errno;
        bf_line(bf, bf->peer->role, line);
        snprintf(bf->life_name, sizeof(bf->life_name), "%s.%08" PRIx32, line, random);
        snprintf(path, sizeof(path), "tmp/%s", bf->life_name);
        rc = bf->spare >= 0 ? renamed_spare(bf, path) : life_folder(bf, path);
        if (rc >= 0) {
            bf->life = rc;
            return 0;
        }
    }
    return rc;
}

/* Nobody else may write to the root. A new folder, also that of a new file system, which may be open to all, is closed
 * before the store is made in it; one that has something in it already is refused. */
static int close_door(struct bf *bf)
{
    int rc = ours_check(bf->root, S_IFDIR);
    struct stat st;

    if (rc == -EPERM && fstat(bf->root, &st) == 0 && st.st_uid == geteuid() && is_empty(bf)
        && fchmod(bf->root, BF_FOLDER_MODE) == 0 && is_empty(bf))
        rc = ours_check(bf->root, S_IFDIR);
    return rc ? peer_fail(bf->peer, rc, "%.160s is not ours: it belongs to another user, or others may write to it and "
                          "it is not empty (`chmod go-w` if what is in it is as it should be)", bf->path) : 0;
}

static int check_direct(struct bf *bf)
{
    int fd = bf->direct ? openat(bf->root, "store", O_RDONLY | O_DIRECT | O_CLOEXEC) : -1;

    if (fd < 0 && bf->direct && errno == EINVAL)
        return peer_fail(bf->peer, -EINVAL, "option direct: the file system of %.160s has no direct I/O",
                         bf->path);
    if (fd >= 0)
        close(fd);
    return 0;
}

/* Takes over the supervisor's descriptor of the root, unless it is of what was mounted there before. */
static void open_witness(struct bf *bf)
{
    struct statx there, here;

    if (bf->path_fd >= 0 && statx(bf->path_fd, "", AT_EMPTY_PATH, STATX_INO | STATX_MNT_ID, &there) == 0
        && statx(bf->root, "", AT_EMPTY_PATH, STATX_INO | STATX_MNT_ID, &here) == 0
        && there.stx_ino == here.stx_ino && there.stx_mnt_id == here.stx_mnt_id)
        bf->witness = bf->path_fd;
}

int bf_root_open(struct bf *bf)
{
    int rc;

    bf->root = open(bf->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (bf->root < 0)
        return peer_fail(bf->peer, -errno, "%.160s: %s", bf->path, strerror(errno));
    rc = close_door(bf);
    if (rc == 0)
        rc = check_store(bf);
    open_witness(bf);
    if (rc == 0)
        rc = check_direct(bf);
    if (rc == 0) {
        rc = clean_lives(bf);
        if (rc == 0)
            rc = begin_life(bf);
        if (rc == 0)
            do {
                rc = bf_guard_begin(bf);
            } while (bf_reserve_give(bf, rc));
        if (rc && !bf->peer->error[0])
            rc = peer_fail(bf->peer, rc, "%.160s/tmp: %s", bf->path, strerror(-rc));
    }
    if (rc == 0)
        bf_reserve_fill(bf);
    return rc;
}

/* The life's folder stays: the next one begins in it. */
void bf_root_close(struct bf *bf)
{
    for (uint32_t i = 0; i < BF_FOLDERS; i++)
        if (bf->folder[i] >= 0)
            close(bf->folder[i]);
    bf_guard_end(bf);
    if (bf->life >= 0)
        close(bf->life);
    if (bf->spare >= 0)
        close(bf->spare);
    if (bf->root >= 0)
        close(bf->root);
}
