/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_file/forget.c - SYNC with FORCE: what the page cache has of a volume's data is dropped, so that the disk's
 * word is what is read. See "What the disk has lost" in blocker_file/parts.h.
 *
 * Only pages that are not dirty can be dropped, and the SYNC comes first, so that none is. It is not told which objects
 * have met the error, as a dead life may have, so all of the volume's are looked for, by their names.
 */
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "blocker_file/parts.h"
#include "objects/name.h"

/* One file, if it is the volume's. One that was removed meanwhile has no pages. */
static int forget_file(int folder, const char *name, uint64_t volume)
{
    struct xobj object;
    int fd, rc;

    if (!object_name_parse(XOBJ_DATA, name, &object) || object.volume != volume)
        return 0;
    fd = openat(folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    rc = -posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
    return rc;
}

/* In a worker. The rest is forgotten even if one file cannot be. */
static int forget_run(struct bf *bf, struct bf_work *work)
{
    uint64_t volume = bf_work_request(work)->object.volume;
    int result = bf_work_request(work)->error;

    for (uint32_t xx = 0; xx < 256; xx++) {
        struct dirent *entry;
        DIR *dir;
        int rc = bf_folder_read(bf, XOBJ_DATA * 256 + xx, &dir);

        result = result ? result : rc;
        while (dir && (entry = readdir(dir))) {
            rc = forget_file(dirfd(dir), entry->d_name, volume);
            result = result ? result : rc;
        }
        if (dir)
            closedir(dir);
    }
    return result;
}

static void forget_done(struct bf *bf, struct bf_work *work, int result)
{
    peer_reply(bf->peer, bf_work_request(work), result);
}

void bf_forget(struct bf *bf, struct xreq *req, int error)
{
    req->error = error;
    bf_held(req)->work = (struct bf_work){ .run = forget_run, .done = forget_done };
    bf_pool_add(bf, &bf_held(req)->work, POOL_SLOW);
}
