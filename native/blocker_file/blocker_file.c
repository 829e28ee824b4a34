/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_file/blocker_file.c - the peer type "blocker-file": objects in ordinary files. The essay is in
 * blocker_file/parts.h, the contract in objects/blocker.h, the manual in peers/blocker_file.py.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "blocker_file/parts.h"
#include "segment/barrier.h"

/* --- options -------------------------------------------------------------------------- */

static const struct peer_option options[] = {
    PEER_OPTION("path", struct bf, path),
    PEER_OPTION("path_fd", struct bf, path_fd),
    PEER_OPTION("path_all", struct bf, path_all),
    PEER_OPTION("direct", struct bf, direct),
    PEER_OPTION("sync", struct bf, sync),
    PEER_OPTION("workers", struct bf, workers),
    PEER_OPTION("fds", struct bf, fds),
    { 0 }
};

/* Descriptors a process may have, after asking for as many as it is allowed. */
static uint64_t descriptors(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return 1024;
    if (limit.rlim_cur < limit.rlim_max && limit.rlim_cur < 4 * BF_FDS) {
        struct rlimit more = limit;
        more.rlim_cur = limit.rlim_max < 4 * BF_FDS ? limit.rlim_max : 4 * BF_FDS;
        if (setrlimit(RLIMIT_NOFILE, &more) == 0)
            limit = more;
    }
    return limit.rlim_cur;
}

/* What a blocker keeps open has shares of what the process may: objects a quarter (direct I/O takes two for one),
 * folders an eighth, commits an eighth, locks three eighths. An eighth is for its neighbours. */
static void share_files(struct bf *bf, uint64_t limit)
{
    bf->files_max = limit;
    bf->commit_max = limit / 16 < BF_COMMIT_MAX ? (uint32_t)(limit / 16) : BF_COMMIT_MAX;
    bf->folders_max = limit / 8 < BF_FOLDERS ? (uint32_t)(limit / 8) : BF_FOLDERS;
    bf->locks_max = limit * 3 / 8 < UINT32_MAX ? (uint32_t)(limit * 3 / 8) : UINT32_MAX;
}

static uint32_t usual_fds(uint64_t limit, bool direct)
{
    uint64_t fds = direct ? limit / 8 : limit / 4;

    return fds < BF_FDS_MIN ? BF_FDS_MIN : fds > BF_FDS ? BF_FDS : (uint32_t)fds;
}

static int add_store(struct bf *bf, const char *role, size_t role_size, const char *path, size_t path_size)
{
    struct bf_store *store = &bf->stores[bf->store_count];
    char name[XSEG_ROLE_MAX];

    if (bf->store_count == BF_STORES || role_size >= sizeof(name) || path_size >= sizeof(store->path))
        return peer_fail(bf->peer, -ENAMETOOLONG, "the path of a store has %d bytes at most", BF_STORE_PATH - 1);
    snprintf(name, sizeof(name), "%.*s", (int)role_size, role);
    snprintf(store->path, sizeof(store->path), "%.*s", (int)path_size, path);
    bf_line(bf, name, store->line);
    bf->store_count++;
    return 0;
}

/* Option path_all: lines of "role path", all blocker-files of the instance. */
static int read_stores(struct bf *bf)
{
    const char *at = bf->path_all;
    int rc = 0;

    for (; *at && rc == 0; at += strcspn(at, "\n"), at += *at == '\n') {
        size_t role = strcspn(at, " "), end = strcspn(at, "\n");

        rc = role < end ? add_store(bf, at, role, at + role + 1, end - role - 1)
                        : peer_fail(bf->peer, -EINVAL, "option path_all: a line without a role and a path");
    }
    return rc;
}

static int check_options(struct bf *bf)
{
    uint64_t limit = descriptors();

    if (!bf->path)
        return peer_fail(bf->peer, -EINVAL, "option path is missing: the folder of the store");
    share_files(bf, limit);
    if (bf->commit_max == 0)
        return peer_fail(bf->peer, -EMFILE, "a process may open %" PRIu64 " files: too few", limit);
    if (bf->fds == UINT32_MAX)
        bf->fds = usual_fds(limit, bf->direct);
    return read_stores(bf);
}

/* --- start and stop ------------------------------------------------------------------- */

static void stop(struct peer *peer)
{
    struct bf *bf = peer->state;

    pool_stop(&bf->pool);
    bf_sync_settle(bf);
    finished_stop(&bf->finished);
    ring_stop(&bf->ring);
    bf_objects_stop(bf);
    bf_locks_stop(bf);
    bf_sync_stop(bf);
    bf_root_close(bf);
    pthread_mutex_destroy(&bf->kinds);
}

static void ring_done(void *arg, void *item, int result)
{
    struct bf *bf = arg;
    struct bf_work *work = item;

    work->done(bf, work, result);
}

/* The ring keeps the flocks of this life: see blocker_file/parts.h. */
static int start_ring(struct bf *bf)
{
    bf->ring.done = ring_done;
    bf->ring.arg = bf;
    return ring_start(&bf->ring, bf->peer, (int[]){ bf->life, bf->guard }, 2);
}

static int start_parts(struct bf *bf)
{
    int rc = check_options(bf);

    if (rc == 0)
        rc = bf_root_open(bf);
    if (rc == 0)
        rc = bf_objects_start(bf, bf->fds);
    if (rc == 0)
        rc = start_ring(bf);
    if (rc == 0)
        rc = finished_start(&bf->finished, bf->peer->loop);
    if (rc == 0)
        rc = pool_start(&bf->pool, bf->workers, bf);
    return rc;
}

static int start(struct peer *peer)
{
    struct bf *bf = peer->state;
    int rc;

    bf->peer = peer;
    bf->root = bf->life = bf->spare = bf->witness = bf->guard = -1;
    bf->reserve_missing = true;
    for (uint32_t i = 0; i < BF_FOLDERS; i++)
        bf->folder[i] = -1;
    pthread_mutex_init(&bf->kinds, NULL);
    bf_sync_start(bf);
    rc = start_parts(bf);
    if (rc)
        stop(peer);
    return rc;
}

/* --- on the loop ---------------------------------------------------------------------- */

static bool is_removed(int folder)
{
    struct stat st;

    return fstat(folder, &st) == 0 && st.st_nlink == 0;
}

/* True if somebody has removed the store's folder, or those in it. What lies in files that are open
 * still would be synced without an error, and be gone with them. */
static bool is_gone(struct bf *bf)
{
    while (bf->some_folder < BF_FOLDERS - 1 && load_relaxed(&bf->folder[bf->some_folder]) < 0)
        bf->some_folder++;
    bf->gone |= is_removed(bf->root)
             || (load_relaxed(&bf->folder[bf->some_folder]) >= 0 && is_removed(bf->folder[bf->some_folder]));
    if (load_relaxed(&bf->folder[bf->some_folder]) < 0)
        bf->some_folder = 0;        /* none is open yet */
    return bf->gone;
}

/* What promises that something is durable, or goes by a name. */
static bool relies_on_names(const struct xreq *req)
{
    return req->op >= XOP_SYNC || (req->flags & XREQ_FUA);
}

static void request(struct peer *peer, struct xreq *req)
{
    struct bf *bf = peer->state;

    if (req->volume) {
        peer_reply(peer, req, -EINVAL);
        return;
    }
    if (req->op != XOP_PING && (bf->gone || (relies_on_names(req) && is_gone(bf)))) {
        if (req->op == XOP_SYNC && req->object.kind == XOBJ_DATA)
            xseg_volume_lost(peer->seg, req->object.volume, -ENODEV);
        peer_reply(peer, req, -ENODEV);
        return;
    }
    if (bf->fenced_count && bf_is_fenced(bf, req)) {
        peer_reply(peer, req, -ESTALE);
        return;
    }
    switch (req->op) {
    case XOP_PING: peer_reply(peer, req, 0); break;
    case XOP_READ:
    case XOP_WRITE:
    case XOP_WRITE_ZEROES:
    case XOP_DISCARD: bf_io_request(bf, req); break;
    case XOP_SYNC: bf_sync_request(bf, req); break;
    case XOP_INFO: bf_info_request(bf, req); break;
    case XOP_LIST: bf_list_request(bf, req); break;
    case XOP_COPY: bf_copy_request(bf, req); break;
    case XOP_HASH:
    case XOP_PUT: bf_content_request(bf, req); break;
    case XOP_CLAIM:
    case XOP_DELETE:
    case XOP_REPLACE:
    case XOP_ACQUIRE:
    case XOP_RELEASE: bf_commit_request(bf, req); break;
    default: peer_reply(peer, req, -EOPNOTSUPP); break;
    }
}

/* It sends nothing on, so nothing comes back but what an earlier life of the port sent. */
static void reply(struct peer *peer, struct xreq *child) { xreq_put(peer->port, child); }

static void again(struct peer *peer, struct xreq *req) { bf_object_again(peer->state, req); }

static bool can_serve(struct peer *peer) { return bf_object_can_get(peer->state); }

static bool flush(struct peer *peer)
{
    struct bf *bf = peer->state;
    bool moved = bf_work_reap(bf);

    bf_commit_start(bf);
    ring_flush(&bf->ring);
    return moved;
}

static uint64_t deadline(struct peer *peer)
{
    struct bf *bf = peer->state;

    return ring_deadline(&bf->ring);
}

static bool idle(struct peer *peer)
{
    struct bf *bf = peer->state;

    return bf->ring.active == 0 && bf->active == 0;
}

const struct peer_ops blocker_file_ops = {
    .type = "blocker-file",
    .state_size = sizeof(struct bf),
    .options = options,
    .start = start,
    .request = request,
    .reply = reply,
    .again = again,
    .can_serve = can_serve,
    .flush = flush,
    .deadline = deadline,
    .idle = idle,
    .stop = stop,
};
