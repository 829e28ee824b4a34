/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_file/list.c - LIST and INFO.
 *
 * LIST walks a kind in the order of the hashes of the names; their top byte is the folder. The
 * cursor is the hash to go on from, so it needs no state here and stays good whatever is made or
 * removed meanwhile.
 */
#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "blocker_file/parts.h"
#include "objects/name.h"
#include "segment/clock.h"

#define VERSION_YOUNG_NS 2000000000ull      /* far more than the kernel's clock for times of files takes a step */
#define NUMBERS_APART 0x9e3779b97f4a7c15ull /* odd: no two inodes become one number */

/* --- LIST -------------------------------------------------------------------------- */

struct entry {
    uint64_t hash;
    struct xobj object;
};

struct listing {
    bool versions;                  /* are wanted */
    struct entry *entries;
    uint64_t wanted;                /* more than that, with the smallest hashes, are kept */
    uint64_t count, capacity;
    uint64_t cursor;
};

static int by_hash(const void *a, const void *b)
{
    uint64_t x = ((const struct entry *)a)->hash, y = ((const struct entry *)b)->hash;

    return x < y ? -1 : x > y;
}

/* Keeps wanted + 1: the last tells where to go on. */
static void cut(struct listing *list)
{
    qsort(list->entries, list->count, sizeof(*list->entries), by_hash);
    if (list->count > list->wanted + 1)
        list->count = list->wanted + 1;
}

static void collect(struct listing *list, uint32_t kind, const char *name)
{
    struct entry entry = { .hash = bf_name_hash(name) };

    if (entry.hash < list->cursor || !object_name_parse(kind, name, &entry.object))
        return;
    if (list->count == list->capacity)
        cut(list);
    assert(list->count < list->capacity);
    list->entries[list->count++] = entry;
}

/* A file that REPLACE writes is another one each time, and is not changed after: who it is tells what it holds. 0: it
 * is so young that its successor may have the same number and time. */
static uint64_t version_of(int folder, const struct xobj *object)
{
    char name[OBJECT_NAME_MAX];
    uint64_t changed_ns;
    struct stat st;

    object_name_print(object, name);
    if (fstatat(folder, name, &st, 0))
        return 0;
    changed_ns = (uint64_t)st.st_ctim.tv_sec * 1000000000u + (uint64_t)st.st_ctim.tv_nsec;
    return changed_ns + VERSION_YOUNG_NS > clock_wall_ns() ? 0 : changed_ns ^ st.st_ino * NUMBERS_APART;
}

static int read_folder(struct bf *bf, struct listing *list, uint32_t folder)
{
    struct dirent *entry;
    DIR *dir;
    int rc = bf_folder_read(bf, folder, &dir);

    list->count = 0;
    if (!dir)
        return rc;
    errno = 0;
    while ((entry = readdir(dir)))
        collect(list, folder / 256, entry->d_name);
    rc = -errno;
    cut(list);
    for (uint64_t i = 0; list->versions && i < list->count; i++)
        list->entries[i].object.index = version_of(dirfd(dir), &list->entries[i].object);
    closedir(dir);
    return rc;
}

/* Adds what a folder has to the answer. True if the answer is full. */
static bool emit(struct listing *list, struct xobj *out, uint64_t *done)
{
    uint64_t n = list->count;

    if (n > list->wanted)           /* equal hashes stay together */
        for (n = list->wanted; n && list->entries[n].hash == list->entries[n - 1].hash;)
            n--;
    for (uint64_t i = 0; i < n; i++)
        out[(*done)++] = list->entries[i].object;
    if (n == list->count)
        return false;
    list->cursor = list->entries[n].hash;
    return true;
}

static int list_folders(struct bf *bf, struct xreq *req, struct listing *list, uint64_t limit)
{
    struct xobj *out = xreq_data(bf->peer->seg, req);

    req->done = 0;
    for (uint64_t xx = req->arg >> 56; xx < 256; xx++) {
        int rc;

        list->wanted = limit - req->done;
        rc = read_folder(bf, list, req->object.kind * 256 + (uint32_t)xx);
        if (rc)
            return rc;
        if (emit(list, out, &req->done)) {
            req->arg = list->cursor;
            return 0;
        }
        list->cursor = (xx + 1) << 56;
    }
    req->arg = 0;
    return 0;
}

static int list_run(struct bf *bf, struct bf_work *work)
{
    struct xreq *req = bf_work_request(work);
    uint64_t limit = xreq_list_limit(req);
    struct listing list = { .cursor = req->arg, .capacity = 2 * (limit + 1),
                            .versions = req->flags & XREQ_VERSIONS && req->object.kind == XOBJ_HEADER };
    int rc;

    list.entries = calloc(list.capacity, sizeof(*list.entries));
    if (!list.entries)
        return -ENOMEM;
    rc = list_folders(bf, req, &list, limit);
    free(list.entries);
    return rc;
}

static void worker_done(struct bf *bf, struct bf_work *work, int result)
{
    peer_reply(bf->peer, bf_work_request(work), result);
}

void bf_list_request(struct bf *bf, struct xreq *req)
{
    if (req->object.kind == XOBJ_NONE || req->object.kind >= XOBJ_KINDS
        || !xreq_data_ok(bf->peer->seg, req, 4096)) {
        peer_reply(bf->peer, req, -EINVAL);
        return;
    }
    bf_held(req)->work = (struct bf_work){ .run = list_run, .done = worker_done };
    bf_pool_add(bf, &bf_held(req)->work, POOL_SLOW);
}

/* --- INFO --------------------------------------------------------------------------- */

/* File systems whose word for holes is known to be good while what was written is in memory alone. */
static bool tells_holes(int fd)
{
    static const uint32_t known[] = { 0xEF53, 0x58465342, 0x01021994 };     /* ext4, XFS, tmpfs */
    struct statfs fs;

    for (size_t i = 0; fstatfs(fd, &fs) == 0 && i < sizeof(known) / sizeof(known[0]); i++)
        if ((uint32_t)fs.f_type == known[i])
            return true;
    return false;
}

/* Of a file that is open here, which the caller may be told a part of. */
static int answer_info(struct xreq *req, int fd)
{
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    req->done = (uint64_t)st.st_size;
    req->arg = (uint64_t)st.st_blocks * 512;
    if ((req->flags & XREQ_ZEROS) && !(tells_holes(fd) && lseek(fd, 0, SEEK_DATA) < 0 && errno == ENXIO))
        req->flags &= (uint16_t)~XREQ_ZEROS;
    return 0;
}

static int info_run(struct bf *bf, struct bf_work *work)
{
    struct xreq *req = bf_work_request(work);
    char path[BF_PATH];
    const char *name;
    uint32_t index;
    int folder = bf_locate(bf, &req->object, false, path, &name, &index), fd, rc;

    fd = folder < 0 ? -1 : openat(folder, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return folder < 0 ? folder : -errno;
    rc = answer_info(req, fd);
    close(fd);
    return rc;
}

void bf_info_request(struct bf *bf, struct xreq *req)
{
    struct bf_object *object = bf_object_find(bf, &req->object);

    if (object) {
        peer_reply(bf->peer, req, answer_info(req, object->fd));
        return;
    }
    bf_held(req)->work = (struct bf_work){ .run = info_run, .done = worker_done };
    bf_pool_add(bf, &bf_held(req)->work, POOL_QUICK);
}
