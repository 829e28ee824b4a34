/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_file/reserve.c - the space that is given up when the disk is full. See blocker_file/parts.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "blocker_file/parts.h"
#include "segment/barrier.h"

#define RESERVE_FILES 16            /* each a file's place, too, where these run out */
#define RESERVE_BYTES (4u << 20)    /* of all together ... */
#define RESERVE_SHARE 128           /* ... or this share of a small disk */
#define RESERVE_ALIGN 4096
#define ATTRIBUTES 192              /* of each file on btrfs ... */
#define ATTRIBUTE_BYTES 3800        /* ... each as large as its smallest nodes can hold */
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

static const uint8_t zeros[RESERVE_ALIGN];

static int take_space(int fd, uint64_t bytes)
{
    if (fallocate(fd, 0, 0, (off_t)bytes) == 0)
        return 0;
    if (errno != EOPNOTSUPP)
        return -errno;
    for (uint64_t at = 0; at < bytes; at += sizeof(zeros))
        if (pwrite(fd, zeros, sizeof(zeros), (off_t)at) != (ssize_t)sizeof(zeros))
            return -ENOSPC;
    return 0;
}

/* What names and inodes need on btrfs: see parts.h. */
static int take_nodes(int fd)
{
    struct statfs disk;
    char name[32];

    if (fstatfs(fd, &disk) < 0 || disk.f_type != BTRFS_SUPER_MAGIC)
        return 0;
    for (int i = 0; i < ATTRIBUTES; i++) {
        snprintf(name, sizeof(name), "user.reserve.%02d", i);
        if (fsetxattr(fd, name, zeros, ATTRIBUTE_BYTES, 0) < 0)
            return -errno;
    }
    return 0;
}

/* 0: it is there, with its space. */
static int make_one(struct bf *bf, uint32_t number, uint64_t bytes)
{
    char name[32];
    int fd, rc;

    reserve_name(number, name);
    fd = openat(bf->root, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, BF_FILE_MODE);
    if (fd < 0)
        return errno == EEXIST ? 0 : -errno;
    rc = take_space(fd, bytes);
    if (rc == 0)
        rc = take_nodes(fd);
    if (rc)
        unlinkat(bf->root, name, 0);
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
