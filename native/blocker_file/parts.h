/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_file/parts.h - between the files of the peer type "blocker-file", and nobody else's.
 *
 * The store
 * ---------
 * A folder of an ordinary file system:
 *
 *     ROOT/store                 "archipelago store 1": refused if it says anything else
 *     ROOT/<kind>/<xx>/<name>    the objects. kind: data content header name page journal
 *                                lock; xx: two digits, the top byte of XXH3-64 of the name
 *     ROOT/tmp/<life>/<n>        what is being renamed over an object; each life of a peer holds a
 *                                flock on its folder there, and takes over or removes those nobody holds
 *     ROOT/life/<line>           the lives of one port of one segment: see "Two instances"
 *     ROOT/reserve/<nn>          space and names of files, kept for when there is no other: see below
 *
 *     kind                 name (lower-case hexadecimal)
 *     data page journal    volume (16), epoch (8), number (16), with "_" between
 *     header lock          volume (16)
 *     content name         digest (64)
 *
 * Who runs what
 * -------------
 * The loop's thread owns everything below but where a member says otherwise. It does what does
 * not block: reads from the page cache, writes into it, opening what the kernel has in its
 * caches. All else is a `struct bf_work`, handed to io_uring (reads that miss, direct I/O,
 * fallocate, fsync) or to a small pool of threads (loop/pool.h): opening a file and INFO as quick tasks;
 * large writes, COPY, HASH, PUT, LIST, the removal of a file, syncfs as slow ones. Its done() runs on the
 * loop again. A request's work lies in its `holder` scratch, so nothing is allocated per request
 * and every queue is bounded by the number of request slots.
 *
 * REPLACE, ACQUIRE, RELEASE, CLAIM and the end of a DELETE, PUT or HASH are committed in groups, one group at a time. The
 * loop gathers them; at the end of a turn, when no group is away, what was gathered goes to a worker as
 * one quick task: it prepares each, makes them durable together, publishes each, makes the folders durable
 * together, and only then hands all back to be answered. The files that were replaced it closes after
 * that, when the next group may be under way already, as freeing them takes long. When a peer stops
 * before all is answered, what still waits for a group is left to its successor.
 *
 * Open objects
 * ------------
 * A table of at most `fds` open objects, least recently used first out. An object that was
 * renamed over or removed is `doomed`: out of the table at once, closed when its last user is
 * done. HEADER and NAME objects are replaced by other processes too, so a hit on one is believed
 * only while its file still has a name.
 *
 * The end of a life
 * -----------------
 * What a peer had under way when it was killed is done again by its successor, and by then it must
 * have ended: a late write would land over a newer one that was acknowledged, a late direct read
 * over a buffer that serves something else by now. So a start first waits for the flock on the
 * folder of its predecessor's life (lives of one port in one segment have names that begin alike).
 * That lock goes with the last reference to the folder's open file, and there are two kinds: the
 * process's table of descriptors, which the kernel frees when the last of its threads has left its
 * last system call (pwrite, fallocate, rename, fsync; also those that io_uring's workers make, as
 * they are threads of the process); and the ring, in which it is registered, and which the kernel
 * takes down, some time after the process is gone, when the last of its requests has completed.
 * Whoever gets the flock knows that the predecessor changes nothing any more, in a file or in the
 * segment. Bytes it had written into the page cache are there, as if it had lived.
 *
 * Two instances
 * -------------
 * A volume's lock is taken by the blocker of the maps, but its data are written by another process, and requests
 * wait in yet others. So that a process has died does not say that its instance writes no more. Each life of a
 * blocker, from before its first I/O, has a flock on ROOT/life/<line>, where <line> is its port's and its
 * segment's, and it is the ring's, too, as that of the life's folder: the flock is free when nothing of that
 * life is under way. It does not matter whether the process runs or stands still. A lock's file names the lines
 * and stores of all blockers of its instance, as the configuration has them, started or not, and says "held"
 * until it is given back. Giving it back comes after VOL_CLOSE, when nothing of the volume is under way. Another
 * instance that finds a lock held, and the flock on its file free, takes it so (bf_fence()):
 *
 *   1. it takes the flocks of all those lines that are in a store of its own, which shows that no blocker of
 *      that instance is alive, and keeps each that starts now waiting;
 *   2. it writes "fenced VOLUME" into each file, and only then lets them go: a life that begins later reads
 *      that, and refuses all that would change an object of the volume (ESTALE);
 *   3. it gives the lock's file a new one in its place, with its own lines.
 *
 * If one flock is not to be had, nothing has happened, and the answer is EBUSY with the pid. So when the new
 * holder begins, every blocker that the old instance had is gone, and those that it will have refuse, whatever
 * vlmc, the mapper or a replayed request ask them. The fence is lifted when the instance takes the lock anew,
 * which the volume's place in its segment shows: while it is still open there from before, the lock is not given
 * to it again once another has had it. A blocker that is restarted while its instance goes on finds its own
 * lines in the lock, and takes it again. An instance whose supervisor listens is not robbed either, though no
 * blocker lives: it starts them again.
 *
 * This holds between processes that one kernel runs, in containers too. Of another boot nothing is left if the
 * file system is one that a single kernel mounts (ext4, xfs, btrfs, tmpfs...). On one that hosts share (NFS,
 * FUSE, a cluster's) the same boot is judged in the same way; a lock of another host, or of before a boot, is
 * refused, as a flock there is the server's, and gone when that thinks the host dead, which may only sleep.
 * `vlmc unlock -f` then takes the operator's word for that, and still no lock whose flocks somebody has.
 *
 * A full disk
 * -----------
 * Writing data may fail for want of space; what leads out of that may not: removing, opening, closing,
 * stopping, starting. They take little: a REPLACE writes the new content before the old is freed, ACQUIRE and
 * a commit's record may need a new file, a life its folder. When one of them finds no space, a file of the
 * reserve is removed and it is tried again. The reserve is made anew when there is plenty of space. A life
 * begins in the folder of a dead one, under another name, so that it needs none.
 *
 * On btrfs names, inodes and attributes lie in nodes, in block groups that data get no space from and give none
 * to, and while a call runs it has nodes set aside for the worst case: a rename, with nodes of 16 KiB, near 9 MiB.
 * So there the files of the reserve have attributes, of 11 MiB together. What calls do not use of what was given
 * up is free again when they return, and the next one finds it.
 *
 * What is durable
 * ---------------
 * Every volume has a list of objects written since its last SYNC. A SYNC takes the list as it is
 * then: up to BF_FEW objects are synced one by one (with their folder if they are new), more by
 * one syncfs() that all who wait share. `lost` says that the list no longer tells all (a dirty
 * object was closed, a worker wrote files), so the next SYNC is a syncfs; `unknown` says so for
 * all volumes until the first one after a start, as nobody knows what an earlier life left.
 * Files that are open can be written and synced when their folder has been removed, and are gone with the
 * last descriptor. So what promises durability or goes by a name first looks whether the root, and one of
 * the folders in it, still have a link; where not, all is answered with ENODEV until the next life.
 *
 * SYNCs of a volume never overlap; those that come meanwhile share the next round. An error
 * found by fsync goes to all that wait for it; one found by somebody else's fsync (a FUA write's,
 * another's syncfs) is kept for the volume's next SYNC.
 *
 * What the disk has lost
 * ----------------------
 * When writing back fails, the kernel says so once to each open file that was open before, takes
 * the pages for clean and goes on: the next fsync succeeds, and the bytes are gone with the page
 * cache. So whoever might hear of an error must, and what it says must last:
 *
 *   - A volume's list holds objects that have been open since they were written, so that an fsync of
 *     each tells all, whoever else has called fsync or syncfs meanwhile. That is why a round that
 *     goes object by object asks nobody else, and fails for no other volume's sake.
 *   - What was closed meanwhile is told by syncfs() on `root`, which was open before it was written.
 *     As one call tells it for all volumes, failed calls are counted, and each volume whose list has
 *     lost something looks whether there was one since its last round.
 *   - What an earlier life wrote is told by syncfs() on `witness`, a descriptor of the root that the
 *     supervisor has had open since before that life, and that each life looks at once, at its first
 *     SYNC. A `root` opened after the error would not tell one that somebody else has heard already.
 *     Without a supervisor there is no witness, and an error before a start can then be missed if
 *     another has called syncfs() between the two.
 *
 * Before a failed SYNC (DATA) is answered the volume's `lost` is set in the segment, where it outlives
 * this process, and stays until the volume is opened anew; when the witness tells of an error, that of
 * each volume with data not yet synced is. A process killed between hearing and setting it leaves the
 * next one to hear it from the witness, which `root` and the objects' descriptors do not use up. A life
 * that ends in order and has met errors settles which volumes they concern, and uses up what its
 * witness would say of them to the next.
 *
 * The pages that were taken for clean still hold what the disk has not, and would be read until the
 * kernel needs their memory. So before a volume that has lost something is closed, a SYNC with FORCE
 * drops the pages of all its data: what is read after that is what the disk has, now and after a boot.
 * The file system may go on to treat such a place as unwritten, whatever is written there later: so the
 * next life of the volume writes into no object of this one or an earlier one (`in_place_since` in
 * peers/mapper/header.py).
 */
#ifndef ARCHIPELAGO_BLOCKER_FILE_H
#define ARCHIPELAGO_BLOCKER_FILE_H

#include <dirent.h>
#include <pthread.h>

#include "loop/peer.h"
#include "loop/pool.h"
#include "loop/ring.h"
#include "objects/blocker.h"
#include "objects/name.h"

#define BF_FEW 16                   /* up to so many fsyncs; more become one syncfs */
#define BF_FDS 4096                 /* open objects, unless the limit on descriptors is lower */
#define BF_FDS_MIN 16
#define BF_FOLDERS (XOBJ_KINDS * 256)
#define BF_COMMIT_MAX 512           /* requests in one group commit, two descriptors each */
#define BF_VOLUMES 65536            /* volumes told apart by SYNC; others share one record */
#define BF_VOLUME_BUCKETS 4096
#define BF_SYNC_OPS 256             /* fsyncs under way for SYNCs; beyond that: syncfs */
#define BF_PATH (OBJECT_NAME_MAX + 16)  /* "kind/xx/name" */
#define BF_ALIGN 4096               /* of direct I/O: offset, size, address */
#define BF_BYTES_MAX (1ull << 46)   /* of an object */
#define BF_COPY_BUFFER 262144       /* bytes a worker moves at a time */
#define BF_OWNER_MAX 1024           /* bytes of a lock owner's text */
#define BF_STORES XSEG_STATIC_PORTS /* stores of an instance */
#define BF_STORE_PATH 512           /* bytes of a store's path that a lock can name, with the NUL */
#define BF_LINE 17                  /* of the name of a port's lives, with the NUL */
#define BF_BOOT 40
#define BF_WHY 320                  /* bytes of a sentence that says why a lock stays its holder's */
#define BF_FILE_MODE 0600
#define BF_FOLDER_MODE 0700

struct bf;

/* Something that is done elsewhere than on the loop. */
struct bf_work {
    struct task task;               /* unused for io_uring */
    /* In a worker: 0 or more, or a negative errno. Unused for io_uring and in a group. */
    int (*run)(struct bf *bf, struct bf_work *work);
    /* On the loop. */
    void (*done)(struct bf *bf, struct bf_work *work, int result);
    int result;
    int fd;                         /* in a group: of the temporary file, -1: none */
};
_Static_assert(offsetof(struct bf_work, task) == 0, "bf_work_of() casts");

static inline struct bf_work *bf_work_of(struct task *task) { return (struct bf_work *)task; }
static inline struct bf_work *bf_work_next(const struct bf_work *work) { return bf_work_of(work->task.next); }

/* What a request keeps while it is served. */
struct bf_held {
    struct bf_work work;
    struct bf_object *object;       /* in use by it */
    union {
        uint64_t position;          /* bytes of the I/O done so far */
        uint64_t temporary;         /* in a group: number of its temporary file */
    };
};
XREQ_HOLDER(bf_held, struct bf_held)
static inline struct xreq *bf_work_request(struct bf_work *work)
{
    return (struct xreq *)((char *)work - offsetof(struct xreq, holder));
}

enum bf_object_state { BF_OBJECT_UNUSED, BF_OBJECT_OPENING, BF_OBJECT_OPEN };

struct bf_object {
    struct xobj name;
    uint64_t hash;
    struct bf_work open;            /* OPENING */
    int fd, direct_fd;              /* direct_fd: -1 unless the store does direct I/O */
    enum bf_object_state state;
    uint32_t refs;
    bool create;                    /* OPENING: make it if it is missing */
    uint64_t grows_to;              /* OPENING: bytes, if it is made; 0: nobody knows */
    bool doomed;                    /* no longer in the table, as its file has lost its name */
    bool suspect;                   /* OPENING: its file may have lost its name meanwhile */
    bool is_new;                    /* made in this life, its folder entry not yet durable */
    bool dirty;                     /* on its volume's list */
    struct queue waiting;           /* for it to be opened; once open: for direct writes to end */
    uint32_t direct_writes;         /* under way */
    struct bf_volume *volume;
    struct bf_object *hash_next;
    struct bf_object *older, *newer;    /* among those open and not in use; or the free list */
    struct bf_object *dirty_prev, *dirty_next;
};

/* What SYNC knows of a volume. Kept for the life of the peer. */
struct bf_volume {
    uint64_t id;
    struct bf_volume *next;
    struct bf_object *dirty;
    uint32_t dirty_count;
    uint32_t left;                  /* fsyncs of this round still away */
    bool running;
    bool lost;                      /* something dirty is not on the list */
    bool by_syncfs;                 /* this round */
    int error;                      /* for the next SYNC */
    int round_error;
    uint32_t failures_seen;         /* of bf->failures */
    uint32_t failures_begun;        /* ... when this round began */
    struct queue waiting, serving;
    struct bf_volume *syncfs_next;
};

struct bf_sync_op {                 /* one fsync of a SYNC */
    struct bf_work work;
    struct bf_volume *volume;
    struct bf_object *object;
    bool folder;
    struct bf_sync_op *next;
};

struct bf_group {                   /* of the group commit */
    struct task_list waiting;       /* for the next one */
    struct bf_work work;            /* the group that is away */
    struct bf_work *list;           /* its members, linked; NULL: none is away */
};

struct bf_lock {                    /* held by this process; the workers' (one at a time) */
    struct bf_lock *next;
    struct xobj name;
    uint64_t token, number;
    int fd;                         /* its flock goes with it */
};

struct bf_store {                   /* of a blocker-file of this instance */
    char path[BF_STORE_PATH], line[BF_LINE];
};

struct bf_life { char line[BF_LINE], path[BF_STORE_PATH]; uint64_t dev, ino; };

struct bf_holder {                  /* what a lock's file says of who took it */
    uint64_t number;
    int version;                    /* of the file */
    bool held;                      /* and not given back */
    char boot[BF_BOOT], run[XSEG_PATH_MAX];
    uint32_t life_count;
    struct bf_life lives[BF_STORES];
    char owner[BF_OWNER_MAX];
    uint32_t owner_size;
};

struct bf {
    struct peer *peer;
    const char *path, *path_all;    /* options: see peers/blocker_file.py */
    int path_fd;                    /* the supervisor's descriptor of the root; -1: none */
    bool direct, sync;
    uint32_t workers, fds;
    uint64_t files_max;             /* descriptors that the process may have; and a share of these each: */
    uint32_t commit_max;            /* BF_COMMIT_MAX, or requests of one group commit */
    uint32_t folders_max;           /* BF_FOLDERS, or folders kept open */
    uint32_t locks_max;             /* locks, which have one each for as long as they are held */
    uint32_t lock_count;            /* the workers' (one at a time) */
    uint32_t folder_count;          /* atomic */
    int root;                       /* never closed: syncfs() reports errors since its opening */
    int witness;                    /* the same, of the supervisor's since before this life; -1: none */
    int life;                       /* ROOT/tmp/<life> */
    int spare;                      /* folder of a dead life, while the next is begun; -1: none */
    char spare_name[32];
    char life_name[32];
    int guard;                      /* ROOT/life/<line>: flocked for as long as this life may write */
    uint64_t *fenced;               /* volumes that are fenced from this instance */
    uint32_t fenced_count;
    struct bf_store stores[BF_STORES];
    uint32_t store_count;
    uint64_t temporaries;           /* atomic: names given out in it */
    bool gone;                      /* somebody has removed the store's folder, or those in it */
    uint32_t some_folder;           /* number of one that is open */
    int folder[BF_FOLDERS];         /* atomic: opened on first use, -1 before */
    bool reserve_missing;           /* atomic; not all of it may be there */
    pthread_mutex_t kinds;          /* held while a kind's folders are made */
    uint32_t failures;              /* atomic: syncfs() calls that failed */
    bool unknown;                   /* nobody has looked yet what earlier lives left unsynced */
    bool has_data;                  /* the data of volumes: a SYNC (DATA) has come */
    bool troubled;                  /* a SYNC has failed in this life */
    bool no_nowait;                 /* the file system has no RWF_NOWAIT */
    struct bf_lock *locks;
    struct pool pool;
    struct finished finished;
    uint32_t active;                /* work for workers, not yet done */
    struct bf_group group;
    struct ring ring;
    /* objects */
    struct bf_object *objects;
    uint32_t object_count, bucket_mask;
    struct bf_object **buckets;
    struct bf_object *unused;       /* free list, by `older` */
    struct bf_object lru;           /* ring head: lru.newer is the oldest */
    /* volumes */
    struct bf_volume *volumes[BF_VOLUME_BUCKETS];
    uint32_t volume_count;
    struct bf_volume rest;          /* id 0, digests, and volumes beyond BF_VOLUMES */
    struct bf_sync_op sync_ops[BF_SYNC_OPS];
    struct bf_sync_op *free_ops;
    uint32_t free_op_count;
    struct bf_work syncfs;
    bool syncfs_running;
    struct bf_volume *syncfs_waiting, *syncfs_serving;
};

/* What follows goes up: a file calls only what is declared above its own part, and work comes back by done(). */

/* --- blocker_file/disk.c: the file system. Any thread. ------------------------------ */

/* Writes all of `size` bytes, in steps that keep the page cache's folios small. */
int bf_write_all(int fd, const uint8_t *data, uint64_t size, uint64_t offset);
/* All of the file system. Counts failures. 0 or a negative errno. */
int bf_syncfs(struct bf *bf);
/* What the witness tells of earlier lives: 0, or a negative errno, which is noted in the segment. */
int bf_ask_witness(struct bf *bf);

/* --- blocker_file/reserve.c: a full disk. Any thread. ----------------------------- */

/* Gives up a part of the reserve if that is what `error` asks for. True: try again. */
bool bf_reserve_give(struct bf *bf, int error);
/* Makes what is missing of the reserve, if there is plenty of space. */
void bf_reserve_fill(struct bf *bf);

/* --- blocker_file/place.c: names and folders. Any thread. ------------------------- */

/* EINVAL: not the name of an object. Fills in "kind/xx/name"; *name points into it. */
int bf_place(const struct xobj *object, char path[BF_PATH], const char **name, uint32_t *folder);
uint64_t bf_name_hash(const char *name);
/* What the names of all lives of a port begin with, as long as the segment lasts. */
void bf_line(const struct bf *bf, const char *role, char line[BF_LINE]);
/* Makes durable which names a folder has. */
int bf_folder_sync(struct bf *bf, uint32_t folder);
/* A folder to be read from its beginning, until closedir(). NULL and 0: there is no such folder. */
int bf_folder_read(struct bf *bf, uint32_t folder, DIR **dir);
/* Descriptor of the folder of an object, kept open, and its file's name; or of the store's own folder, and its file's
 * path, when folders_max are open. ENOENT unless make. */
int bf_locate(struct bf *bf, const struct xobj *object, bool make, char path[BF_PATH],
              const char **name, uint32_t *folder);
/* Removes an empty kind's folders, with the kind's own. */
void bf_remove_folders(int at, const char *name);

/* --- blocker_file/temporary.c: what is to become an object. Any thread. -------------- */

/* A new file, without a name where the file system can (*number is 0 then), to become the
 * object: its descriptor. */
int bf_temporary(struct bf *bf, const struct xobj *object, uint64_t *number);
/* Closes it and removes what name is left. To be called after bf_publish() too. */
void bf_temporary_drop(struct bf *bf, int fd, uint64_t number);
/* Gives it the object's name. EEXIST when it must be new and is not. */
int bf_publish(struct bf *bf, int fd, uint64_t number, const struct xobj *object, bool must_be_new);

/* --- blocker_file/fence.c: see "Two instances" ------------------------------------------- */

void bf_boot_id(char boot[BF_BOOT]);
bool bf_is_local(int fd);
int bf_guard_begin(struct bf *bf);
void bf_guard_end(struct bf *bf);
/* When bf->fenced_count: must the request be refused, as it changes what was taken from this instance? */
bool bf_is_fenced(struct bf *bf, const struct xreq *req);
/* In a worker. 0: whoever holds that lock is gone for good, and if its instance is started again it will not change
 * this volume. EBUSY: why not. */
int bf_fence(struct bf *bf, uint64_t volume, const struct bf_holder *holder, bool force, char why[BF_WHY]);
/* In a worker: this instance has taken the volume's lock anew. */
int bf_lift(struct bf *bf, uint64_t volume);

/* --- blocker_file/lock.c: locks. A worker, one at a time. ----------------------------- */

/* 1: it was ours already. 0: it is ours once its folder is synced. */
int bf_lock_acquire(struct bf *bf, struct xreq *req);
int bf_lock_release(struct bf *bf, struct xreq *req);
/* Lets go of a lock if it is ours. */
void bf_lock_drop(struct bf *bf, const struct xobj *name);
/* DELETE of a lock. EBUSY: another process holds it. */
int bf_lock_delete(struct bf *bf, struct xreq *req);
void bf_locks_stop(struct bf *bf);

/* --- blocker_file/root.c: the beginning and end of a life ------------------------------ */

/* Opens ROOT, checks or makes its `store`, takes a life's folder. Sets peer->error. */
int bf_root_open(struct bf *bf);
void bf_root_close(struct bf *bf);

/* --- blocker_file/work.c: workers ----------------------------------------------------- */

void bf_pool_add(struct bf *bf, struct bf_work *work, enum pool_class class);
/* Calls the done() of work that is over. */
void bf_work_done(struct bf *bf, struct bf_work *work);
/* The same for all that workers have done since the last call. True: there was something. */
bool bf_work_reap(struct bf *bf);

/* --- blocker_file/volume.c: what is dirty of a volume. The loop. ----------------------- */

/* What is known of the volume of an object, or of that id. Never NULL. */
struct bf_volume *bf_volume_of(struct bf *bf, const struct xobj *name);
struct bf_volume *bf_volume_by_id(struct bf *bf, uint64_t id);
/* The object was written. */
void bf_dirty(struct bf *bf, struct bf_object *object);
/* Takes it from its volume's list, if it is there: it is being synced, or need not become durable. */
void bf_undirty(struct bf_object *object);
/* The object is about to be closed: its volume's list loses it. */
void bf_dirty_closed(struct bf_object *object);

/* --- blocker_file/open.c: open objects. The loop. ----------------------------------- */

int bf_objects_start(struct bf *bf, uint32_t limit);
void bf_objects_stop(struct bf *bf);
/* Opens the object of a request, whose work is free meanwhile. done(): 0, and held->object is it, in use until
 * bf_object_put(); or why it cannot be opened. A WRITE or WRITE_ZEROES makes it if it is missing. */
void bf_object_get(struct bf *bf, struct xreq *req, void (*done)(struct bf *bf, struct bf_work *work, int error));
/* One more user of an object in the table or in use. */
void bf_object_hold(struct bf_object *object);
void bf_object_put(struct bf *bf, struct bf_object *object);
/* The object was, or may have been, replaced or removed. Forgets the file that is open if it has lost its name. It
 * keeps a file that has its name still: two open objects that are one file would not know of each other's I/O. */
void bf_object_renew(struct bf *bf, const struct xobj *name);
/* For an object that is about to be removed. Closes it if nobody uses it, as the last to close a removed file frees
 * its space, which takes long. If the object is not removed after all, the caller sets `lost` of its volume. */
void bf_object_close_unused(struct bf *bf, const struct xobj *name);
/* The open object if it is in the table and may be believed, else NULL. */
struct bf_object *bf_object_find(struct bf *bf, const struct xobj *name);
/* For a request that found every object in use, and is parked: is it of use to try again? And that try. */
bool bf_object_can_get(const struct bf *bf);
void bf_object_again(struct bf *bf, struct xreq *req);

/* --- blocker_file/list.c: LIST, INFO. The loop. -------------------------------------- */

void bf_info_request(struct bf *bf, struct xreq *req);
void bf_list_request(struct bf *bf, struct xreq *req);

/* --- blocker_file/forget.c, blocker_file/sync.c: SYNC. The loop. ----------------------- */

/* Has the page cache forget the data of a volume, and answers with the error. */
void bf_forget(struct bf *bf, struct xreq *req, int error);
void bf_sync_start(struct bf *bf);
/* The end of a life in order: nothing is under way. */
void bf_sync_settle(struct bf *bf);
void bf_sync_stop(struct bf *bf);
void bf_sync_request(struct bf *bf, struct xreq *req);
/* Answers the request after making its object durable. */
void bf_sync_one(struct bf *bf, struct xreq *req, struct bf_object *object);

/* --- blocker_file/copy.c: COPY. The loop, and for its neighbours in a worker: ----------- */

void bf_copy_request(struct bf *bf, struct xreq *req);
/* A descriptor of its own. */
int bf_open_to_read(struct bf *bf, const struct xobj *object);
/* Stores what is not zeros of `size` bytes. */
int bf_write_sparse(int fd, const uint8_t *data, uint64_t size, uint64_t offset);
/* The first `size` bytes, from data to data: holes stay holes. Shares the space where the file system can. */
int bf_copy_extents(int from, int to, uint64_t size);

/* --- blocker_file/io.c: READ, WRITE, WRITE_ZEROES, DISCARD. The loop. ------------------ */

void bf_io_request(struct bf *bf, struct xreq *req);

/* --- blocker_file/claim.c: contents' names and claims. A worker. ------------------------- */

/* EBUSY: what is in that file was claimed at `moment` (ns since 1970; 0: none) or later. */
int bf_claim_check(int fd, uint64_t moment);
/* The file is claimed now, once it is synced. */
int bf_claim_file(int fd);
/* Gives a claimed file the content's name, in place of another that may have it. */
int bf_claim_publish(struct bf *bf, int fd, uint64_t number, const struct xobj *content);
/* Claims a content; *fd is its file, which the caller syncs and closes, or -1. ENOENT. */
int bf_claim_set(struct bf *bf, const struct xobj *content, int *fd);

/* --- blocker_file/commit.c: group commit. The loop. ------------------------------------ */

/* A request whose work has a durable file in `fd` (PUT, HASH; its object is the content). done() is called then. */
void bf_commit_add(struct bf *bf, struct bf_work *work);
void bf_commit_request(struct bf *bf, struct xreq *req);
/* Hands over the next group, if there is something for it and none is away. */
void bf_commit_start(struct bf *bf);

/* --- blocker_file/content.c: PUT, HASH. The loop. ----------------------------------------- */

void bf_content_request(struct bf *bf, struct xreq *req);

#endif
