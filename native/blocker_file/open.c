/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_file/open.c - the table of open objects.
 *
 * For direct I/O a new object gets at once the size that it may grow to: the kernel lets a direct write that
 * grows its file run with no other beside it and waits for its end, and has a file of small size allocate
 * its blocks here and there.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "blocker_file/parts.h"
#include "segment/barrier.h"

#define VICTIM_STEPS 32             /* open objects looked at for one that is not dirty */
#define CREATE_TRIES 8              /* against others that make and remove the same object */

static uint64_t object_hash(const struct xobj *name) { return XXH3_64bits(name, sizeof(*name)); }

static struct bf_object **bucket(struct bf *bf, uint64_t hash)
{
    return &bf->buckets[hash & bf->bucket_mask];
}

static struct bf_object *lookup(struct bf *bf, const struct xobj *name, uint64_t hash)
{
    struct bf_object *object = *bucket(bf, hash);

    while (object && (object->hash != hash || memcmp(&object->name, name, sizeof(*name)) != 0))
        object = object->hash_next;
    return object;
}

static void unhash(struct bf *bf, struct bf_object *object)
{
    struct bf_object **link = bucket(bf, object->hash);

    while (*link != object)
        link = &(*link)->hash_next;
    *link = object->hash_next;
}

/* --- which go first ------------------------------------------------------------------- */

static void lru_remove(struct bf_object *object)
{
    object->older->newer = object->newer;
    object->newer->older = object->older;
}

static void lru_add(struct bf *bf, struct bf_object *object)
{
    object->newer = &bf->lru;
    object->older = bf->lru.older;
    object->older->newer = object;
    bf->lru.older = object;
}

/* Closes an object nobody uses, which is in neither the table nor the ring of the unused. */
static void forget(struct bf *bf, struct bf_object *object)
{
    assert(object->refs == 0 && object->waiting.head == 0);
    bf_dirty_closed(object);
    if (object->fd >= 0)
        close(object->fd);
    if (object->direct_fd >= 0)
        close(object->direct_fd);
    object->state = BF_OBJECT_UNUSED;
    object->older = bf->unused;
    bf->unused = object;
}

/* Its file was renamed over or removed. */
static bool is_nameless(const struct bf_object *object)
{
    struct stat st;

    return fstat(object->fd, &st) < 0 || st.st_nlink == 0;
}

/* Takes an object that is open out of the table; it is closed when nobody uses it. */
static void doom(struct bf *bf, struct bf_object *object)
{
    unhash(bf, object);
    bf_undirty(object);
    object->doomed = true;
    if (object->refs == 0) {
        lru_remove(object);
        forget(bf, object);
    }
}

/* The oldest that is not in use, a clean one if there is one near. */
static struct bf_object *evict(struct bf *bf)
{
    struct bf_object *victim = bf->lru.newer;

    for (int n = 0; n < VICTIM_STEPS && victim != &bf->lru && victim->dirty; n++)
        victim = victim->newer;
    if (victim == &bf->lru)
        victim = bf->lru.newer;
    if (victim == &bf->lru)
        return NULL;
    lru_remove(victim);
    unhash(bf, victim);
    forget(bf, victim);
    return victim;
}

static struct bf_object *new_object(struct bf *bf, const struct xobj *name, uint64_t hash)
{
    struct bf_object *object;

    if (!bf->unused && !evict(bf))
        return NULL;
    object = bf->unused;
    bf->unused = object->older;
    *object = (struct bf_object){ .name = *name, .hash = hash, .fd = -1, .direct_fd = -1,
                               .state = BF_OBJECT_OPENING, .hash_next = *bucket(bf, hash),
                               .volume = bf_volume_of(bf, name) };     /* known before the first write */
    *bucket(bf, hash) = object;
    return object;
}

/* --- opening --------------------------------------------------------------------------- */

static int open_cached(int folder, const char *name, int flags)
{
    struct open_how how = { .flags = (uint64_t)flags, .resolve = RESOLVE_CACHED };
    long fd = syscall(SYS_openat2, folder, name, &how, sizeof(how));

    return fd < 0 ? -errno : (int)fd;
}

/* No readahead, which would make large page-cache folios; no note of each read's time. */
static void suit_small_io(int fd)
{
    posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
    if (fcntl(fd, F_SETFL, O_NOATIME) < 0)
        return;                     /* not our file: then the time is noted */
}

static bool is_same_file(int one, int other)
{
    struct stat a, b;

    return fstat(one, &a) == 0 && fstat(other, &b) == 0 && a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

/* Gives the object its files. direct_fd is for direct I/O, or a negative errno that says why there is none; it does
 * not count where the store does no direct I/O. EAGAIN: they are two files, as a COPY gave the name to another one
 * between the two openings. After an error both are closed. */
static int take_files(struct bf *bf, struct bf_object *object, int fd, int direct_fd)
{
    if (bf->direct && (direct_fd < 0 || !is_same_file(fd, direct_fd))) {
        close(fd);
        if (direct_fd >= 0)
            close(direct_fd);
        return direct_fd < 0 ? direct_fd : -EAGAIN;
    }
    suit_small_io(fd);
    object->fd = fd;
    object->direct_fd = direct_fd;
    return 0;
}

/* The object's file was made. */
static void made(const struct bf *bf, struct bf_object *object, int fd)
{
    object->is_new = true;
    if (bf->direct && object->grows_to && object->grows_to <= BF_BYTES_MAX
        && ftruncate(fd, (off_t)object->grows_to) < 0)
        return;                     /* it was for speed only */
}

/* Opens a file that the kernel has in its caches; or, with `make`, makes one that most likely is not there. Either
 * takes far less than to wake a worker. EAGAIN: a worker must look. */
static int open_inline(struct bf *bf, struct bf_object *object, bool make)
{
    char path[BF_PATH];
    const char *name;
    uint32_t index;
    int folder, fd;

    if (bf_place(&object->name, path, &name, &index))
        return -EINVAL;
    folder = load_acquire(&bf->folder[index]);
    if (folder < 0)
        return -EAGAIN;
    fd = make ? openat(folder, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, BF_FILE_MODE)
              : open_cached(folder, name, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return !make && fd == -ENOENT ? fd : -EAGAIN;
    if (make)
        made(bf, object, fd);
    return take_files(bf, object, fd, bf->direct ? open_cached(folder, name, O_RDWR | O_DIRECT | O_CLOEXEC) : -1)
        ? -EAGAIN : 0;
}

/* EAGAIN: another made the object, or removed it, between two looks. */
static int open_or_create(const struct bf *bf, struct bf_object *object, int folder, const char *name)
{
    int fd = openat(folder, name, O_RDWR | O_CLOEXEC);

    if (fd >= 0 || errno != ENOENT || !object->create)
        return fd < 0 ? -errno : fd;
    fd = openat(folder, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, BF_FILE_MODE);
    if (fd < 0)
        return errno == EEXIST ? -EAGAIN : -errno;
    made(bf, object, fd);
    return fd;
}

static struct bf_object *object_of(struct bf_work *opening)
{
    return (struct bf_object *)((char *)opening - offsetof(struct bf_object, open));
}

static int open_once(struct bf *bf, struct bf_object *object)
{
    char path[BF_PATH];
    const char *name;
    uint32_t index;
    int folder = bf_locate(bf, &object->name, object->create, path, &name, &index);
    int rc = folder < 0 ? folder : -EAGAIN;

    for (int i = 0; rc == -EAGAIN && i < CREATE_TRIES; i++) {
        int fd = open_or_create(bf, object, folder, name), direct_fd = -1;
        if (fd >= 0 && bf->direct && (direct_fd = openat(folder, name, O_RDWR | O_DIRECT | O_CLOEXEC)) < 0)
            direct_fd = errno == ENOENT ? -EAGAIN : -errno;
        rc = fd < 0 ? fd : take_files(bf, object, fd, direct_fd);
    }
    return rc;
}

/* In a worker. What a volume's map says must find a place on a full disk, too. */
static int open_run(struct bf *bf, struct bf_work *work)
{
    struct bf_object *object = object_of(work);
    int rc;

    do {
        rc = open_once(bf, object);
    } while (object->name.kind == XOBJ_JOURNAL && bf_reserve_give(bf, rc));
    return rc;
}

/* It makes an object that is missing. */
static bool makes(const struct xreq *req) { return req->op == XOP_WRITE || req->op == XOP_WRITE_ZEROES; }

static void get(struct bf *bf, struct xreq *req);

static void get_all(struct bf *bf, struct queue *waiting)
{
    struct xreq *req;

    while ((req = queue_pop(bf->peer, waiting)))
        get(bf, req);
}

/* Gives the object to the request. It stays in use until bf_object_put(). */
static void hand_out(struct bf *bf, struct xreq *req, struct bf_object *object)
{
    bf_object_hold(object);
    bf_held(req)->object = object;
    bf_held(req)->work.done(bf, &bf_held(req)->work, 0);
}

/* The object is open: everyone who waited gets it. It must not go while they are served. */
static void opened(struct bf *bf, struct bf_object *object)
{
    struct queue waiting = object->waiting;
    struct xreq *req;

    object->waiting = (struct queue){ 0, 0 };
    if (object->suspect && is_nameless(object)) {
        unhash(bf, object);
        forget(bf, object);
        get_all(bf, &waiting);
        return;
    }
    object->state = BF_OBJECT_OPEN;
    object->refs = 1;
    while ((req = queue_pop(bf->peer, &waiting)))
        hand_out(bf, req, object);
    bf_object_put(bf, object);
}

/* Readers are told why. Those who make an object that is missing begin again, if this try did not make it. */
static void open_failed(struct bf *bf, struct bf_object *object, int error)
{
    struct queue waiting = object->waiting;
    bool was_create = object->create;
    struct xreq *req;

    object->waiting = (struct queue){ 0, 0 };
    unhash(bf, object);
    forget(bf, object);
    while ((req = queue_pop(bf->peer, &waiting))) {
        if (error == -ENOENT && makes(req) && !was_create)
            get(bf, req);
        else
            bf_held(req)->work.done(bf, &bf_held(req)->work, error);
    }
}

static void open_done(struct bf *bf, struct bf_work *work, int result)
{
    struct bf_object *object = object_of(work);

    if (result)
        open_failed(bf, object, result);
    else
        opened(bf, object);
}

static void open_object(struct bf *bf, struct bf_object *object, bool create, bool make)
{
    int rc = open_inline(bf, object, create && make);

    object->create = create;
    if (rc == 0) {
        opened(bf, object);
    } else if (rc != -EAGAIN && !(rc == -ENOENT && create)) {
        open_failed(bf, object, rc);
    } else {
        object->open = (struct bf_work){ .run = open_run, .done = open_done };
        bf_pool_add(bf, &object->open, POOL_QUICK);
    }
}

static bool is_replaced_by_others(const struct bf_object *object)
{
    return (object->name.kind == XOBJ_HEADER || object->name.kind == XOBJ_NAME)
        && object->state == BF_OBJECT_OPEN && is_nameless(object);
}

static void get(struct bf *bf, struct xreq *req)
{
    uint64_t hash = object_hash(&req->object);
    struct bf_object *object = lookup(bf, &req->object, hash);

    if (object && is_replaced_by_others(object)) {
        doom(bf, object);
        object = NULL;
    }
    if (object && object->state == BF_OBJECT_OPEN) {
        hand_out(bf, req, object);
        return;
    }
    if (object) {
        queue_push(bf->peer, &object->waiting, req);
        return;
    }
    object = new_object(bf, &req->object, hash);
    if (!object) {
        peer_park(bf->peer, req);
        return;
    }
    queue_push(bf->peer, &object->waiting, req);
    object->grows_to = req->flags & XREQ_CREATE ? req->arg : 0;
    open_object(bf, object, makes(req), req->flags & XREQ_CREATE);
}

/* --- for the others ----------------------------------------------------------------------- */

struct bf_object *bf_object_find(struct bf *bf, const struct xobj *name)
{
    struct bf_object *object = lookup(bf, name, object_hash(name));

    if (object && is_replaced_by_others(object)) {
        doom(bf, object);
        return NULL;
    }
    return object && object->state == BF_OBJECT_OPEN ? object : NULL;
}

void bf_object_get(struct bf *bf, struct xreq *req, void (*done)(struct bf *bf, struct bf_work *work, int error))
{
    bf_held(req)->work.done = done;
    get(bf, req);
}

void bf_object_hold(struct bf_object *object)
{
    assert(object->state == BF_OBJECT_OPEN && (object->refs || !object->doomed));
    if (object->refs++ == 0)
        lru_remove(object);
}

void bf_object_put(struct bf *bf, struct bf_object *object)
{
    assert(object->refs > 0 && object->state == BF_OBJECT_OPEN);
    if (--object->refs)
        return;
    if (object->doomed)
        forget(bf, object);
    else
        lru_add(bf, object);
}

void bf_object_renew(struct bf *bf, const struct xobj *name)
{
    struct bf_object *object = lookup(bf, name, object_hash(name));

    if (object && object->state == BF_OBJECT_OPENING)
        object->suspect = true;
    else if (object && is_nameless(object))
        doom(bf, object);
}

void bf_object_close_unused(struct bf *bf, const struct xobj *name)
{
    struct bf_object *object = lookup(bf, name, object_hash(name));

    if (object && object->state == BF_OBJECT_OPEN && object->refs == 0)
        doom(bf, object);
}

bool bf_object_can_get(const struct bf *bf) { return bf->unused || bf->lru.newer != &bf->lru; }

void bf_object_again(struct bf *bf, struct xreq *req) { get(bf, req); }

int bf_objects_start(struct bf *bf, uint32_t limit)
{
    uint32_t buckets = 64;

    while (buckets < 2 * limit)
        buckets *= 2;
    bf->bucket_mask = buckets - 1;
    bf->object_count = limit;
    bf->buckets = calloc(buckets, sizeof(*bf->buckets));
    bf->objects = calloc(limit, sizeof(*bf->objects));
    bf->lru.older = bf->lru.newer = &bf->lru;
    if (!bf->buckets || !bf->objects)
        return -ENOMEM;
    for (uint32_t i = 0; i < limit; i++) {
        bf->objects[i].fd = bf->objects[i].direct_fd = -1;
        bf->objects[i].older = bf->unused;
        bf->unused = &bf->objects[i];
    }
    return 0;
}

void bf_objects_stop(struct bf *bf)
{
    for (uint32_t i = 0; bf->objects && i < bf->object_count; i++) {
        if (bf->objects[i].fd >= 0 && bf->objects[i].state != BF_OBJECT_UNUSED)
            close(bf->objects[i].fd);
        if (bf->objects[i].direct_fd >= 0 && bf->objects[i].state != BF_OBJECT_UNUSED)
            close(bf->objects[i].direct_fd);
    }
    free(bf->objects);
    free(bf->buckets);
}
