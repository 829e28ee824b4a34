/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_file/place.c - where objects lie: names and folders.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "blocker_file/parts.h"
#include "objects/name.h"
#include "segment/barrier.h"

/* --- names --------------------------------------------------------------------- */

uint64_t bf_name_hash(const char *name) { return XXH3_64bits(name, strlen(name)); }

int bf_place(const struct xobj *object, char path[BF_PATH], const char **name, uint32_t *folder)
{
    char text[OBJECT_NAME_MAX];
    int length;
    uint8_t xx;

    if (!object_name_ok(object))
        return -EINVAL;
    object_name_print(object, text);
    xx = (uint8_t)(bf_name_hash(text) >> 56);
    length = sprintf(path, "%s/%02x/", object_kind_name(object->kind), xx);
    strcpy(path + length, text);
    *name = path + length;
    *folder = object->kind * 256 + xx;
    return 0;
}

void bf_line(const struct bf *bf, const char *role, char line[BF_LINE])
{
    char text[XSEG_PATH_MAX + XSEG_ROLE_MAX + 32];
    const struct xseg *seg = bf->peer->seg;

    snprintf(text, sizeof(text), "%s %s %" PRIu64, seg->run, role, seg->created_ns);
    snprintf(line, BF_LINE, "%016" PRIx64, bf_name_hash(text));
}

/* --- folders --------------------------------------------------------------------- */

/* Makes a kind's 256 folders under a temporary name, so that they are there all or none. */
static int fill_kind(struct bf *bf, const char *temporary, const char *kind)
{
    char path[64];
    int fd;

    if (mkdirat(bf->root, temporary, BF_FOLDER_MODE) < 0)
        return -errno;
    for (int xx = 0; xx < 256; xx++) {
        snprintf(path, sizeof(path), "%s/%02x", temporary, xx);
        if (mkdirat(bf->root, path, BF_FOLDER_MODE) < 0)
            return -errno;
    }
    fd = openat(bf->root, temporary, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (bf->sync && fsync(fd) < 0) {
        close(fd);
        return -errno;
    }
    close(fd);
    if (renameat(bf->root, temporary, bf->root, kind) < 0)
        return errno == ENOTEMPTY || errno == EEXIST ? 1 : -errno;
    return 0;
}

void bf_remove_folders(int at, const char *name)
{
    char path[64];

    for (int xx = 0; xx < 256; xx++) {
        snprintf(path, sizeof(path), "%.56s/%02x", name, xx);
        unlinkat(at, path, AT_REMOVEDIR);
    }
    unlinkat(at, name, AT_REMOVEDIR);
}

static int make_kind(struct bf *bf, uint32_t kind)
{
    char temporary[56];
    struct stat st;
    int rc = 0;

    pthread_mutex_lock(&bf->kinds);
    if (fstatat(bf->root, object_kind_name(kind), &st, 0) < 0) {
        snprintf(temporary, sizeof(temporary), "tmp/%s/%s", bf->life_name, object_kind_name(kind));
        rc = fill_kind(bf, temporary, object_kind_name(kind));
        if (rc)
            bf_remove_folders(bf->root, temporary);
    }
    if (rc >= 0)                    /* 1: another process was faster */
        rc = bf->sync && fsync(bf->root) < 0 ? -errno : 0;
    pthread_mutex_unlock(&bf->kinds);
    return rc;
}

/* A descriptor of its own. ENOENT unless make. */
static int open_folder(struct bf *bf, uint32_t folder, bool make)
{
    char path[16];
    int fd, rc;

    snprintf(path, sizeof(path), "%s/%02x", object_kind_name(folder / 256), folder % 256);
    fd = openat(bf->root, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT && make) {
        rc = make_kind(bf, folder / 256);
        if (rc)
            return rc;
        fd = openat(bf->root, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    }
    return fd < 0 ? -errno : fd;
}

/* Descriptor of a folder, kept open. ENOENT unless make. ENFILE: as many are kept as may be. */
static int kept_folder(struct bf *bf, uint32_t folder, bool make)
{
    int fd = load_acquire(&bf->folder[folder]);

    if (fd >= 0)
        return fd;
    if (load_relaxed(&bf->folder_count) >= bf->folders_max)
        return -ENFILE;
    fd = open_folder(bf, folder, make);
    if (fd < 0)
        return fd;
    if (!swap_if(&bf->folder[folder], -1, fd)) {    /* another thread was faster */
        close(fd);
        return load_acquire(&bf->folder[folder]);
    }
    fetch_add(&bf->folder_count, 1u);
    return fd;
}

int bf_folder_sync(struct bf *bf, uint32_t folder)
{
    int kept = kept_folder(bf, folder, false), fd = kept == -ENFILE ? open_folder(bf, folder, false) : kept;
    int rc = fd < 0 ? fd : fsync(fd) < 0 ? -errno : 0;

    if (fd >= 0 && kept < 0)
        close(fd);
    return rc;
}

int bf_folder_read(struct bf *bf, uint32_t folder, DIR **dir)
{
    int fd = open_folder(bf, folder, false), rc = 0;

    *dir = fd < 0 ? NULL : fdopendir(fd);
    if (fd < 0)
        return fd == -ENOENT ? 0 : fd;
    if (!*dir) {
        rc = -errno;
        close(fd);
    }
    return rc;
}

/* The store's own folder, from which `path` leads to the object. The kind's folders are there afterwards, if make. */
static int root_of(struct bf *bf, uint32_t kind, bool make)
{
    struct stat st;
    int rc = 0;

    if (make && fstatat(bf->root, object_kind_name(kind), &st, 0) < 0)
        rc = errno == ENOENT ? make_kind(bf, kind) : -errno;
    return rc ? rc : bf->root;
}

int bf_locate(struct bf *bf, const struct xobj *object, bool make, char path[BF_PATH],
              const char **name, uint32_t *folder)
{
    int rc = bf_place(object, path, name, folder);

    if (rc == 0)
        rc = kept_folder(bf, *folder, make);
    if (rc != -ENFILE)
        return rc;
    *name = path;
    return root_of(bf, object->kind, make);
}
