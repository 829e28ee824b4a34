/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_file/claim.c - contents: their names, and when each was last claimed, which is the time of its file's last
 * change. Nothing writes into such a file, and whoever changes the time or the name does so under a flock on the folder,
 * so that no other process comes between a look at the time and the removal.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "blocker_file/parts.h"

#define SECOND 1000000000u

int bf_claim_check(int fd, uint64_t moment)
{
    struct stat st;

    if (moment == 0)
        return 0;
    if (fstat(fd, &st) < 0)
        return -errno;
    return (uint64_t)st.st_mtim.tv_sec * SECOND + (uint64_t)st.st_mtim.tv_nsec >= moment ? -EBUSY : 0;
}

int bf_claim_file(int fd)
{
    uint64_t now = clock_wall_ns();
    struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { (time_t)(now / SECOND), (long)(now % SECOND) } };

    return futimens(fd, times) < 0 ? -errno : 0;
}

int bf_claim_publish(struct bf *bf, int fd, uint64_t number, const struct xobj *content)
{
    char path[BF_PATH];
    const char *name;
    uint32_t index;
    int folder = bf_locate(bf, content, true, path, &name, &index), rc;

    if (folder < 0)
        return folder;
    if (flock(folder, LOCK_EX) < 0)
        return -errno;
    rc = bf_publish(bf, fd, number, content, false);
    flock(folder, LOCK_UN);
    return rc;
}

/* By a descriptor of its own, as others of this process may hold the flock by the one that is kept. */
static int lock_folder(int folder)
{
    int fd = openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;

    if (fd < 0)
        return -errno;
    if (flock(fd, LOCK_EX) < 0) {
        rc = -errno;
        close(fd);
    }
    return rc ? rc : fd;
}

int bf_claim_set(struct bf *bf, const struct xobj *content, int *fd)
{
    char path[BF_PATH];
    const char *name;
    uint32_t index;
    int folder = bf_locate(bf, content, false, path, &name, &index), lock, rc;

    *fd = -1;
    lock = folder < 0 ? folder : lock_folder(folder);
    if (lock < 0)
        return lock;
    *fd = openat(folder, name, O_RDONLY | O_CLOEXEC);
    rc = *fd < 0 ? -errno : bf_claim_file(*fd);
    close(lock);
    if (rc && *fd >= 0) {
        close(*fd);
        *fd = -1;
    }
    return rc;
}
