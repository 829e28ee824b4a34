/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_file/reserve.c - the space that is given up when the disk is full. See blocker_file/parts.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "blocker_file/parts.h"
#include "segment/barrier.h"

#define RESERVE_FILES 16            /* each a file's place, too, where these run out */
#define RESERVE_BYTES (4u << 20)    /* of all together ... */
#define RESERVE_SHARE 128           /* ... or this share of a small disk */
#define RESERVE_ALIGN 4096
#define PLENTY 8                    /* so many times what is missing must be free before it is taken */

static void reserve_name(uint32_t number, char name[32])
{
    snprintf(name, 32, "reserve/%02" PRIu32, number);
}

static uint64_t bytes_of_one(const struct statvfs *disk)
{
    uint64_t all = (uint64_t)disk->f_blocks * disk->f_frsize / RESERVE_SHARE;

    all = all < RESERVE_BYTES ? all : RESERVE_BYTES;
    return all / RESERVE_FILES / RESERVE_ALIGN * RESERVE_ALIGN + RESERVE_ALIGN;
}

static bool is_plenty(const struct statvfs *disk, uint64_t bytes)
{
    return (uint64_t)disk->f_bavail * disk->f_frsize > PLENTY * RESERVE_FILES * bytes
        && (disk->f_files == 0 || disk->f_favail > PLENTY * RESERVE_FILES);
}

/* 0: it is there, with its space. */
static int make_one(struct bf *bf, uint32_t number, uint64_t bytes)
{
    static const uint8_t zeros[RESERVE_ALIGN];
    char name[32];
    int fd, rc;

    reserve_name(number, name);
    fd = openat(bf->root, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, BF_FILE_MODE);
    if (fd < 0)
        return errno == EEXIST ? 0 : -errno;
    rc = fallocate(fd, 0, 0, (off_t)bytes) < 0 ? -errno : 0;
    for (uint64_t at = 0; rc == -EOPNOTSUPP && at < bytes; at += sizeof(zeros))
        if (pwrite(fd, zeros, sizeof(zeros), (off_t)at) != (ssize_t)sizeof(zeros))
            rc = -ENOSPC;
    if (rc && rc != -EOPNOTSUPP)
        unlinkat(bf->root, name, 0);
    else
        rc = 0;
    close(fd);
    return rc;
}

void bf_reserve_fill(struct bf *bf)
{
    struct statvfs disk;
    uint64_t bytes;
    int rc = 0;

    if (!load_acquire(&bf->reserve_missing) || fstatvfs(bf->root, &disk) < 0)
        return;
    bytes = bytes_of_one(&disk);
    if (!is_plenty(&disk, bytes) || (mkdirat(bf->root, "reserve", BF_FOLDER_MODE) < 0 && errno != EEXIST))
        return;
    for (uint32_t number = 0; rc == 0 && number < RESERVE_FILES; number++)
        rc = make_one(bf, number, bytes);
    store_release(&bf->reserve_missing, rc != 0);
}

bool bf_reserve_give(struct bf *bf, int error)
{
    char name[32];

    if (error != -ENOSPC && error != -EDQUOT)
        return false;
    store_release(&bf->reserve_missing, true);
    for (uint32_t number = 0; number < RESERVE_FILES; number++) {
        reserve_name(number, name);
        if (unlinkat(bf->root, name, 0) == 0) {
            bf_syncfs(bf);          /* some file systems give the space back only then */
            return true;
        }
    }
    return false;
}
