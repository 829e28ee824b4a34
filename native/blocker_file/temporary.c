/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_file/temporary.c - files that are to become objects, and how they get the object's name.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "blocker_file/parts.h"
#include "segment/barrier.h"

static void temporary_name(uint64_t number, char name[32])
{
    snprintf(name, 32, "%016" PRIx64, number);
}

/* For file systems that have no files without a name. */
static int named_temporary(struct bf *bf, uint64_t *number)
{
    char name[32];
    int fd;

    *number = fetch_add(&bf->temporaries, 1) + 1;
    temporary_name(*number, name);
    fd = openat(bf->life, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, BF_FILE_MODE);
    return fd < 0 ? -errno : fd;
}

int bf_temporary(struct bf *bf, const struct xobj *object, uint64_t *number)
{
    char path[BF_PATH];
    const char *name;
    uint32_t index;
    int folder = object ? bf_locate(bf, object, true, path, &name, &index) : bf->life, fd;

    if (folder < 0)
        return folder;
    *number = 0;
    fd = openat(folder, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, BF_FILE_MODE);
    if (fd < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == EINVAL))
        return named_temporary(bf, number);
    return fd < 0 ? -errno : fd;
}

void bf_temporary_drop(struct bf *bf, int fd, uint64_t number)
{
    char name[32];

    temporary_name(number, name);
    if (number)
        unlinkat(bf->life, name, 0);
    close(fd);
}

/* Gives a file without a name one. Without privileges that goes by way of /proc. */
static int link_unnamed(int fd, int folder, const char *name)
{
    char path[32];

    if (linkat(fd, "", folder, name, AT_EMPTY_PATH) == 0)
        return 0;
    if (errno != ENOENT)
        return -errno;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return linkat(AT_FDCWD, path, folder, name, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
}

static int publish_new(struct bf *bf, int fd, uint64_t number, int folder, const char *name)
{
    char temporary[32];

    if (number == 0)
        return link_unnamed(fd, folder, name);
    temporary_name(number, temporary);
    return linkat(bf->life, temporary, folder, name, 0) < 0 ? -errno : 0;
}

/* Tries again by itself, as a file that has lost its name cannot be given one again. No reserve is for data. */
static int publish_over(struct bf *bf, int fd, uint64_t number, int folder, const char *name, bool is_data)
{
    char temporary[32];
    int rc = 0;

    temporary_name(number ? number : fetch_add(&bf->temporaries, 1) + 1, temporary);
    if (number == 0)
        rc = link_unnamed(fd, bf->life, temporary);
    if (rc)
        return rc;
    do {
        rc = renameat(bf->life, temporary, folder, name) < 0 ? -errno : 0;
    } while (!is_data && bf_reserve_give(bf, rc));
    if (rc)
        unlinkat(bf->life, temporary, 0);
    return rc;
}

int bf_publish(struct bf *bf, int fd, uint64_t number, const struct xobj *object, bool must_be_new)
{
    char path[BF_PATH];
    const char *name;
    uint32_t index;
    int folder = bf_locate(bf, object, true, path, &name, &index);

    if (folder < 0)
        return folder;
    return must_be_new ? publish_new(bf, fd, number, folder, name)
                       : publish_over(bf, fd, number, folder, name, object->kind == XOBJ_DATA || object->kind == XOBJ_CONTENT);
}
