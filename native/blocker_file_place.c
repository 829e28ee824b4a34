/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_file_place.c - where objects lie: names and folders.
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

#include "barrier.h"
#include "blocker_file.h"
#include "object.h"

static const char *const kind_folder[XOBJ_KINDS] = {
    [XOBJ_DATA] = "data", [XOBJ_CONTENT] = "content", [XOBJ_HEADER] = "header",
    [XOBJ_NAME] = "name", [XOBJ_PAGE] = "page", [XOBJ_JOURNAL] = "journal",
    [XOBJ_LOCK] = "lock",
};

/* --- names --------------------------------------------------------------------- */

uint64_t bf_name_hash(const char *name) { return XXH3_64bits(name, strlen(name)); }

static void print_name(const struct xobj *object, char *name)
{
    if (object_has_digest(object->kind))
        for (int i = 0; i < 32; i++)
            sprintf(name + 2 * i, "%02x", object->digest[i]);
    else if (object_has_volume_only(object->kind))
        sprintf(name, "%016" PRIx64, object->volume);
    else
        sprintf(name, "%016" PRIx64 "_%08" PRIx32 "_%016" PRIx64, object->volume, object->epoch,
                object->index);
}

int bf_place(const struct xobj *object, char path[BF_PATH], const char **name, uint32_t *folder)
{
    char text[BF_NAME];
    int length;
    uint8_t xx;

    if (!object_name_ok(object))
        return -EINVAL;
    print_name(object, text);
    xx = (uint8_t)(bf_name_hash(text) >> 56);
    length = sprintf(path, "%s/%02x/", kind_folder[object->kind], xx);
    strcpy(path + length, text);
    *name = path + length;
    *folder = object->kind * 256 + xx;
    return 0;
}

/* `digits` lower-case hexadecimal digits. */
static bool parse_hex(const char *text, int digits, uint64_t *value)
{
    *value = 0;
    for (int i = 0; i < digits; i++) {
        char c = text[i];
        if (c >= '0' && c <= '9')
            *value = *value << 4 | (uint64_t)(c - '0');
        else if (c >= 'a' && c <= 'f')
            *value = *value << 4 | (uint64_t)(c - 'a' + 10);
        else
            return false;
    }
    return true;
}

static bool parse_digest(const char *name, struct xobj *object)
{
    uint64_t byte;

    if (strlen(name) != 64)
        return false;
    for (int i = 0; i < 32; i++) {
        if (!parse_hex(name + 2 * i, 2, &byte))
            return false;
        object->digest[i] = (uint8_t)byte;
    }
    return true;
}

bool bf_parse(uint32_t kind, const char *name, struct xobj *object)
{
    uint64_t volume, epoch = 0, index = 0;

    memset(object, 0, sizeof(*object));
    object->kind = kind;
    if (object_has_digest(kind))
        return parse_digest(name, object);
    if (strlen(name) != (object_has_volume_only(kind) ? 16 : 42) || !parse_hex(name, 16, &volume))
        return false;
    if (!object_has_volume_only(kind)
        && (name[16] != '_' || name[25] != '_' || !parse_hex(name + 17, 8, &epoch)
            || !parse_hex(name + 26, 16, &index)))
        return false;
    object->volume = volume;
    object->epoch = (uint32_t)epoch;
    object->index = index;
    return true;
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
    if (fstatat(bf->root, kind_folder[kind], &st, 0) < 0) {
        snprintf(temporary, sizeof(temporary), "tmp/%s/%s", bf->life_name, kind_folder[kind]);
        rc = fill_kind(bf, temporary, kind_folder[kind]);
        if (rc)
            bf_remove_folders(bf->root, temporary);
    }
    if (rc >= 0)                    /* 1: another process was faster */
        rc = bf->sync && fsync(bf->root) < 0 ? -errno : 0;
    pthread_mutex_unlock(&bf->kinds);
    return rc;
}

int bf_folder(struct bf *bf, uint32_t folder, bool make)
{
    int fd = load_acquire(&bf->folder[folder]);
    char path[16];

    if (fd >= 0)
        return fd;
    snprintf(path, sizeof(path), "%s/%02x", kind_folder[folder / 256], folder % 256);
    fd = openat(bf->root, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT && make) {
        int rc = make_kind(bf, folder / 256);
        if (rc)
            return rc;
        fd = openat(bf->root, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    }
    if (fd < 0)
        return -errno;
    if (!swap_if(&bf->folder[folder], -1, fd)) {    /* another thread was faster */
        close(fd);
        fd = load_acquire(&bf->folder[folder]);
    }
    return fd;
}

int bf_locate(struct bf *bf, const struct xobj *object, bool make, char path[BF_PATH],
              const char **name, uint32_t *folder)
{
    int rc = bf_place(object, path, name, folder);

    return rc ? rc : bf_folder(bf, *folder, make);
}
