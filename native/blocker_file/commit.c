/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_file/commit.c - REPLACE, DELETE, CLAIM, ACQUIRE, RELEASE, the names of contents: many made durable at once.
 *
 * Objects are removed by any worker, as freeing their space may take milliseconds each, unless the
 * request says what they must begin with: such a look is step 3. The rest
 * gathers on the loop; one worker at a time gets what did, and does, in the order in which it came:
 *
 *     1. REPLACE: writes the content to a temporary file each
 *     2. makes these durable together
 *     3. gives them their names; locks and unlocks; claims
 *     4. makes the folders durable together, those of removed objects too, and claims
 *
 * "Together" is an fsync each for up to BF_FEW, else one syncfs(). Whether a REPLACE or DELETE finds the
 * content it expects is looked at in step 3 under a flock on the folder, so that no other
 * process comes between the look and the rename.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "blocker_file/parts.h"
#include "segment/barrier.h"

struct commit {
    struct bf_work *list;
    uint32_t failures;              /* of syncfs() when it began */
    uint32_t files;                 /* temporary files written */
    int closing[BF_COMMIT_MAX];     /* what was replaced: closed, and so freed, when the rest is done */
    uint32_t closing_count;
    uint32_t folders;               /* distinct ones changed */
    uint8_t touched[BF_FOLDERS / 8];
};

static int write_temporary(int fd, const uint8_t *data, uint64_t size)
{
    uint64_t done = 0;

    while (done < size) {
        ssize_t n = write(fd, data + done, size - done);
        if (n < 0 && errno != EINTR)
            return -errno;
        done += n > 0 ? (uint64_t)n : 0;
    }
    return 0;
}

/* --- 1 and 2: contents ---------------------------------------------------------------- */

static int write_content(struct bf *bf, struct bf_work *work)
{
    struct xreq *req = bf_work_request(work);
    int rc;

    work->fd = bf_temporary(bf, &req->object, &bf_held(req)->temporary);
    if (work->fd < 0)
        return work->fd;
    rc = write_temporary(work->fd, xreq_data(bf->peer->seg, req), req->size);
    if (rc) {
        bf_temporary_drop(bf, work->fd, bf_held(req)->temporary);
        work->fd = -1;
    }
    return rc;
}

/* PUT and HASH come with a file that is durable. */
static bool has_file(const struct xreq *req) { return req->op == XOP_PUT || req->op == XOP_HASH; }

/* What makes something new may fail on a full disk. */
static bool makes_new(const struct xreq *req)
{
    return has_file(req) || (req->op == XOP_REPLACE && (req->flags & XREQ_CREATE));
}

static void prepare(struct bf *bf, struct commit *commit, struct bf_work *work)
{
    struct xreq *req = bf_work_request(work);

    work->result = 0;
    if (has_file(req))
        return;
    work->fd = -1;
    if (req->op != XOP_REPLACE)
        return;
    do {
        work->result = write_content(bf, work);
    } while (!makes_new(req) && bf_reserve_give(bf, work->result));
    commit->files += work->result == 0;
}

static bool is_written(struct bf_work *work)
{
    return work->fd >= 0 && work->result == 0 && bf_work_request(work)->op == XOP_REPLACE;
}

/* syncfs() tells an error only once, maybe to somebody else: hence the count of failures. */
static int sync_everything(struct bf *bf, const struct commit *commit)
{
    int rc = bf_syncfs(bf);

    return rc == 0 && load_acquire(&bf->failures) != commit->failures ? -EIO : rc;
}

/* Has the kernel begin to write all of them before it waits for the first. */
static void sync_files(struct bf *bf, struct commit *commit)
{
    bool many = commit->files > BF_FEW;
    int rc = many ? sync_everything(bf, commit) : 0;

    if (many || !bf->sync) {
        for (struct bf_work *w = commit->list; w; w = bf_work_next(w))
            if (is_written(w))
                w->result = rc;
        return;
    }
    for (struct bf_work *w = commit->list; w; w = bf_work_next(w))
        if (is_written(w))
            sync_file_range(w->fd, 0, 0, SYNC_FILE_RANGE_WRITE);
    for (struct bf_work *w = commit->list; w; w = bf_work_next(w))
        if (is_written(w) && fdatasync(w->fd) < 0)
            w->result = -errno;
}

/* --- 3: names ---------------------------------------------------------------------------- */

/* The first 8 bytes of a file are what is expected, if anything is. */
static int check_first(int fd, uint64_t expected)
{
    uint64_t first = 0;
    ssize_t n = expected ? pread(fd, &first, sizeof(first), 0) : 0;

    if (n < 0)
        return -errno;
    return expected && (n != sizeof(first) || first != expected) ? -ESTALE : 0;
}

/* Opens what is there now, if it is what the request expects. */
static int open_present(int folder, const char *name, const struct xreq *req)
{
    bool is_content = req->op == XOP_DELETE && req->object.kind == XOBJ_CONTENT;
    int fd = openat(folder, name, O_RDONLY | O_CLOEXEC), rc;

    if (fd < 0)
        return -errno;
    rc = is_content ? bf_claim_check(fd, req->arg) : check_first(fd, req->arg);
    if (rc)
        close(fd);
    return rc ? rc : fd;
}

static int replace(struct bf *bf, struct commit *commit, struct xreq *req)
{
    struct bf_held *h = bf_held(req);
    char path[BF_PATH];
    const char *name;
    uint32_t index;
    int folder, old, rc;

    if (req->flags & XREQ_CREATE)
        return bf_publish(bf, h->work.fd, h->temporary, &req->object, true);
    folder = bf_locate(bf, &req->object, false, path, &name, &index);
    if (folder < 0)
        return folder;
    if (flock(folder, LOCK_EX) < 0)
        return -errno;
    rc = old = open_present(folder, name, req);
    if (old >= 0) {
        rc = bf_publish(bf, h->work.fd, h->temporary, &req->object, false);
        if (rc)
            close(old);
        else
            commit->closing[commit->closing_count++] = old;
    }
    flock(folder, LOCK_UN);
    return rc;
}

static int delete_expected(struct bf *bf, struct commit *commit, struct xreq *req)
{
    char path[BF_PATH];
    const char *name;
    uint32_t index;
    int folder = bf_locate(bf, &req->object, false, path, &name, &index), old, rc;

    if (folder < 0)
        return folder;
    if (flock(folder, LOCK_EX) < 0)
        return -errno;
    rc = old = open_present(folder, name, req);
    if (old >= 0) {
        rc = unlinkat(folder, name, 0) < 0 ? -errno : 0;
        commit->closing[commit->closing_count++] = old;
    }
    flock(folder, LOCK_UN);
    return rc;
}

/* What is left of a DELETE: one that expects nothing was done before. */
static int publish_delete(struct bf *bf, struct commit *commit, struct xreq *req)
{
    if (req->object.kind == XOBJ_LOCK)
        return bf_lock_delete(bf, req);
    return req->arg ? delete_expected(bf, commit, req) : 0;
}

static int publish(struct bf *bf, struct commit *commit, struct xreq *req)
{
    switch (req->op) {
    case XOP_PUT:
    case XOP_HASH: return bf_claim_publish(bf, bf_held(req)->work.fd, bf_held(req)->temporary, &req->object);
    case XOP_CLAIM: return bf_claim_set(bf, &req->object, &bf_held(req)->work.fd);
    case XOP_REPLACE: return replace(bf, commit, req);
    case XOP_ACQUIRE: return bf_lock_acquire(bf, req);
    case XOP_RELEASE: return bf_lock_release(bf, req);
    default: return publish_delete(bf, commit, req);
    }
}

/* --- 4: folders -------------------------------------------------------------------------- */

static void touch(struct commit *commit, const struct xobj *object)
{
    char path[BF_PATH];
    const char *name;
    uint32_t folder;

    if (bf_place(object, path, &name, &folder))
        return;
    commit->folders += !(commit->touched[folder / 8] >> folder % 8 & 1);
    commit->touched[folder / 8] |= (uint8_t)(1 << folder % 8);
}

/* Closes what was claimed. */
static void sync_claims(struct bf *bf, struct commit *commit)
{
    uint32_t count = 0;
    int rc;

    for (struct bf_work *w = commit->list; w; w = bf_work_next(w))
        count += w->fd >= 0 && bf_work_request(w)->op == XOP_CLAIM;
    rc = count > BF_FEW ? sync_everything(bf, commit) : 0;
    for (struct bf_work *w = commit->list; w; w = bf_work_next(w)) {
        if (w->fd < 0 || bf_work_request(w)->op != XOP_CLAIM)
            continue;
        if (count <= BF_FEW && bf->sync && fsync(w->fd) < 0)
            w->result = -errno;
        w->result = w->result ? w->result : rc;
        close(w->fd);
    }
}

static int sync_folders(struct bf *bf, const struct commit *commit)
{
    int rc;

    if (!bf->sync)
        return 0;
    if (commit->folders > BF_FEW)
        return sync_everything(bf, commit);
    for (uint32_t folder = 0; folder < BF_FOLDERS; folder++)
        if (commit->touched[folder / 8] >> folder % 8 & 1 && (rc = bf_folder_sync(bf, folder)) != 0)
            return rc;
    return 0;
}

/* 3, for each whose content is durable. */
static void publish_all(struct bf *bf, struct commit *commit)
{
    for (struct bf_work *w = commit->list; w; w = bf_work_next(w)) {
        struct xreq *req = bf_work_request(w);
        while (w->result == 0 && (w->result = publish(bf, commit, req)) < 0)
            if (!makes_new(req) && bf_reserve_give(bf, w->result))
                w->result = 0;
        if (w->result == 0 && req->op != XOP_RELEASE && req->op != XOP_CLAIM)
            touch(commit, &req->object);
        if (w->fd >= 0 && req->op != XOP_CLAIM)
            bf_temporary_drop(bf, w->fd, bf_held(req)->temporary);
    }
}

/* Sets all results. */
static void commit_all(struct bf *bf, struct commit *commit)
{
    int rc;

    for (struct bf_work *w = commit->list; w; w = bf_work_next(w))
        prepare(bf, commit, w);
    sync_files(bf, commit);
    publish_all(bf, commit);
    sync_claims(bf, commit);
    rc = sync_folders(bf, commit);
    for (struct bf_work *w = commit->list; w && rc; w = bf_work_next(w)) {
        if (w->result)
            continue;
        w->result = rc;
        if (bf_work_request(w)->op == XOP_ACQUIRE)
            bf_lock_drop(bf, &bf_work_request(w)->object);
    }
}

/* The next group may come into another worker as soon as the loop has this one back. */
static void commit_run(struct task *task, void *arg)
{
    struct bf *bf = arg;
    struct commit commit = { .list = bf->group.list, .failures = load_acquire(&bf->failures) };

    commit_all(bf, &commit);
    finished_add(&bf->finished, task);
    while (commit.closing_count)
        close(commit.closing[--commit.closing_count]);
    bf_reserve_fill(bf);
}

/* --- on the loop ---------------------------------------------------------------------------- */

void bf_commit_add(struct bf *bf, struct bf_work *work)
{
    bf->active++;
    task_list_add(&bf->group.waiting, &work->task);
}

static void group_done(struct bf *bf, struct bf_work *group, int result)
{
    struct bf_work *work = bf->group.list, *next;

    (void)group;
    (void)result;
    bf->group.list = NULL;
    for (; work; work = next) {
        next = bf_work_next(work);
        bf_work_done(bf, work);
    }
}

void bf_commit_start(struct bf *bf)
{
    struct bf_group *group = &bf->group;

    if (group->list || !group->waiting.head)
        return;
    group->list = bf_work_of(task_list_take(&group->waiting, bf->commit_max));
    group->work = (struct bf_work){ .task.run = commit_run, .done = group_done };
    bf->active++;
    pool_add(&bf->pool, &group->work.task, POOL_QUICK);
}

static void commit_done(struct bf *bf, struct bf_work *work, int result)
{
    struct xreq *req = bf_work_request(work);
    bool changes = req->op == XOP_REPLACE || req->op == XOP_DELETE;

    if (changes && result != -ENOENT && result != -EEXIST && result != -ESTALE && result != -EBUSY) {
        bf_object_renew(bf, &req->object);
        bf_volume_of(bf, &req->object)->lost |= result < 0; /* it may be there or not */
    }
    peer_reply(bf->peer, req, result < 0 ? result : 0);
}

static int delete_run(struct bf *bf, struct bf_work *work)
{
    char path[BF_PATH];
    const char *name;
    uint32_t index;
    int folder = bf_locate(bf, &bf_work_request(work)->object, false, path, &name, &index);
    int rc = folder < 0 ? folder : 0;

    while (rc == 0 && unlinkat(folder, name, 0) < 0)
        rc = bf_reserve_give(bf, -errno) ? 0 : -errno;
    return rc;
}

static void delete_done(struct bf *bf, struct bf_work *work, int result)
{
    work->done = commit_done;
    if (result)
        commit_done(bf, work, result);
    else
        bf_commit_add(bf, work);
}

static bool is_valid(struct bf *bf, const struct xreq *req)
{
    bool is_lock = req->object.kind == XOBJ_LOCK;
    char path[BF_PATH];
    const char *name;
    uint32_t folder;

    if (bf_place(&req->object, path, &name, &folder))
        return false;
    switch (req->op) {
    case XOP_REPLACE:
        return !is_lock && req->size <= BLOCKER_REPLACE_MAX
            && xreq_data_ok(bf->peer->seg, req, req->size);
    case XOP_ACQUIRE:
        return is_lock && req->arg && req->size <= BF_OWNER_MAX
            && xreq_data_ok(bf->peer->seg, req, req->size);
    case XOP_RELEASE: return is_lock;
    case XOP_CLAIM: return req->object.kind == XOBJ_CONTENT;
    default: return true;
    }
}

void bf_commit_request(struct bf *bf, struct xreq *req)
{
    if (!is_valid(bf, req)) {
        peer_reply(bf->peer, req, -EINVAL);
        return;
    }
    bf_held(req)->work = (struct bf_work){ .run = delete_run, .done = commit_done };
    if (req->op == XOP_DELETE && req->object.kind != XOBJ_LOCK)
        bf_object_close_unused(bf, &req->object);
    if (req->op == XOP_DELETE && req->object.kind != XOBJ_LOCK && !req->arg) {
        bf_held(req)->work.done = delete_done;
        bf_pool_add(bf, &bf_held(req)->work, POOL_SLOW);
    } else {
        bf_commit_add(bf, &bf_held(req)->work);
    }
}
