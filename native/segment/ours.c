/* SPDX-License-Identifier: Apache-2.0
 *
 * segment/ours.c - is what was opened ours? See segment/ours.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "segment/ours.h"

#define OTHERS_WRITE (S_IWGRP | S_IWOTH)
#define FILE_MODE 0600

int ours_check(int fd, mode_t kind)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    if ((st.st_mode & S_IFMT) != kind || (st.st_uid != 0 && st.st_uid != geteuid()))
        return -EPERM;
    if (st.st_mode & OTHERS_WRITE || (kind == S_IFREG && st.st_nlink > 1))
        return -EPERM;
    return 0;
}

int ours_open(int folder, const char *name, int how, mode_t kind)
{
    int fd = openat(folder, name, how | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY), rc;

    if (fd < 0)
        return -errno;
    rc = ours_check(fd, kind);
    if (rc)
        close(fd);
    return rc ? rc : fd;
}

int ours_create(int folder, const char *name)
{
    int fd;

    if (unlinkat(folder, name, 0) < 0 && errno != ENOENT)
        return -errno;
    fd = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, FILE_MODE);
    return fd < 0 ? -errno : fd;
}

bool ours_listens(int fd)
{
    struct ucred who;
    socklen_t size = sizeof(who);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 && (who.uid == 0 || who.uid == geteuid());
}
