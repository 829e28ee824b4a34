/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_file/fence.c - the lives of an instance's blockers, and what is fenced from them: see "Two instances" in
 * blocker_file/parts.h.
 *
 *     ROOT/life/<line>       archipelago life 1 BOOT
 *                            fenced VOLUME               one a volume that was taken from this instance;
 *                            lifted VOLUME               it has taken that again since
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "blocker_file/parts.h"
#include "segment/barrier.h"

#define HEAD "archipelago life 1 %.36s\n"
#define ENTRY_SIZE 24               /* "fenced " or "lifted ", 16 digits, a newline */
#define TRIES 16                    /* it may be removed under our hands */
#define WAIT_MS 60000               /* for who looks at it, or I/O of a predecessor to end */
#define LOOK_MS 50                  /* for another that looks at it, too */
#define STEP_MS 5

void bf_boot_id(char boot[BF_BOOT])
{
    int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, boot, BF_BOOT - 1);

    boot[n < 0 ? 0 : n] = 0;
    boot[strcspn(boot, "\n")] = 0;
    if (fd >= 0)
        close(fd);
}

/* File systems that one kernel alone has mounted. */
bool bf_is_local(int fd)
{
    static const uint32_t local[] = { 0xEF53, 0x58465342, 0x9123683E, 0x01021994, 0xF2F52010, 0xCA451A4E, 0x2FC12FC1 };
    struct statfs fs;

    for (size_t i = 0; fstatfs(fd, &fs) == 0 && i < sizeof(local) / sizeof(local[0]); i++)
        if ((uint32_t)fs.f_type == local[i])
            return true;
    return false;
}

/* --- the file ---------------------------------------------------------------------------- */

static int lock_within(int fd, int ms)
{
    for (; flock(fd, LOCK_EX | LOCK_NB) < 0; ms -= STEP_MS) {
        if (errno != EWOULDBLOCK && errno != EINTR)
            return -errno;
        if (ms <= 0)
            return -EBUSY;
        usleep(STEP_MS * 1000);
    }
    return 0;
}

static int write_head(int fd)
{
    char boot[BF_BOOT], head[64];
    struct stat st;
    int length;

    if (fstat(fd, &st) < 0 || st.st_size > 0)
        return st.st_size > 0 ? 0 : -errno;
    bf_boot_id(boot);
    length = snprintf(head, sizeof(head), HEAD, boot);
    return pwrite(fd, head, (size_t)length, 0) == length ? 0 : errno ? -errno : -EIO;
}

/* Opens the file of a line, made if need be, with its flock. EBUSY: a process has that. */
static int open_life(int root, const char *line, int ms, int *busy_fd)
{
    char path[BF_LINE + 8];

    snprintf(path, sizeof(path), "life/%s", line);
    if (mkdirat(root, "life", BF_FOLDER_MODE) < 0 && errno != EEXIST)
        return -errno;
    for (int i = 0; i < TRIES; i++) {
        int fd = openat(root, path, O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_CLOEXEC, BF_FILE_MODE);
        struct stat st;
        int rc = fd < 0 ? -errno : lock_within(fd, ms);

        if (rc == 0 && fstat(fd, &st) == 0 && st.st_nlink > 0)
            rc = write_head(fd);
        else if (rc == 0)
            rc = -EAGAIN;           /* a cleaner was first */
        if (rc == 0)
            return fd;
        if (rc == -EBUSY && busy_fd)
            *busy_fd = fd;
        else if (fd >= 0)
            close(fd);
        if (rc != -EAGAIN)
            return rc;
    }
    return -EAGAIN;
}

/* Reads the entries; NULL: it cannot be read. The text is the caller's. */
static char *read_life(int fd)
{
    struct stat st;
    char *text = fstat(fd, &st) < 0 ? NULL : calloc(1, (size_t)st.st_size + 1);

    if (text && pread(fd, text, (size_t)st.st_size, 0) != st.st_size) {
        free(text);
        return NULL;
    }
    return text;
}

static char *find_entry(char *text, const char *word, uint64_t volume)
{
    char entry[ENTRY_SIZE + 1];

    snprintf(entry, sizeof(entry), "%s %016" PRIx64 "\n", word, volume);
    return strstr(text, entry);
}

/* --- our own ------------------------------------------------------------------------------- */

/* Notes which volumes are fenced from this instance. */
static int read_fenced(struct bf *bf)
{
    char *text = read_life(bf->guard), *at = text;
    uint32_t most = 0;

    free(bf->fenced);
    bf->fenced = NULL;
    bf->fenced_count = 0;
    while (at && (at = strstr(at, "\nfenced ")))
        most++, at++;
    if (most)
        bf->fenced = calloc(most, sizeof(*bf->fenced));
    for (at = text; bf->fenced && (at = strstr(at, "\nfenced ")); at++)
        bf->fenced_count += sscanf(at, "\nfenced %" SCNx64, &bf->fenced[bf->fenced_count]) == 1;
    free(text);
    return !text ? -EIO : most && !bf->fenced ? -ENOMEM : 0;
}

static bool has_fenced(const struct bf *bf, uint64_t volume)
{
    for (uint32_t i = 0; i < bf->fenced_count; i++)
        if (bf->fenced[i] == volume)
            return true;
    return false;
}

/* Removes what no life holds and nothing is fenced by, or what was before the last boot. */
static void clean(struct bf *bf)
{
    int fd = openat(bf->root, "life", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    bool local = fd >= 0 && bf_is_local(fd);
    struct dirent *entry;
    char boot[BF_BOOT];

    bf_boot_id(boot);
    while (dir && (entry = readdir(dir))) {
        int file = entry->d_name[0] == '.' ? -1 : openat(fd, entry->d_name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
        char *text = file >= 0 && flock(file, LOCK_EX | LOCK_NB) == 0 ? read_life(file) : NULL;

        if (text && (!strstr(text, "\nfenced ") || (local && !strstr(text, boot))))
            unlinkat(fd, entry->d_name, 0);
        free(text);
        if (file >= 0)
            close(file);
    }
    if (dir)
        closedir(dir);
}

int bf_guard_begin(struct bf *bf)
{
    char line[BF_LINE];

    clean(bf);
    bf_line(bf, bf->peer->role, line);
    bf->guard = open_life(bf->root, line, WAIT_MS, NULL);
    return bf->guard < 0 ? bf->guard : read_fenced(bf);
}

void bf_guard_end(struct bf *bf)
{
    char path[BF_LINE + 8] = "life/";

    if (bf->guard < 0)
        return;
    bf_line(bf, bf->peer->role, path + 5);
    if (!bf->fenced_count)
        unlinkat(bf->root, path, 0);
    free(bf->fenced);
    close(bf->guard);
}

bool bf_is_fenced(struct bf *bf, const struct xreq *req)
{
    if (req->op == XOP_READ || req->op == XOP_INFO || req->op == XOP_SYNC || req->object.kind == XOBJ_CONTENT
        || req->object.kind == XOBJ_NAME || req->object.kind == XOBJ_LOCK)
        return false;
    if (!has_fenced(bf, req->object.volume))
        return false;
    return read_fenced(bf) || has_fenced(bf, req->object.volume);   /* it may have been lifted */
}

/* --- another instance's ---------------------------------------------------------------------- */

/* The store of a life that a lock names, as one of this instance's. ENOENT: it is none. */
static int open_store(struct bf *bf, const struct bf_life *life, bool same_boot)
{
    bool by_inode = same_boot && life->ino && bf_is_local(bf->root);
    struct stat st;

    for (uint32_t i = 0; i < bf->store_count; i++) {
        const char *path = bf->stores[i].path;
        bool same = by_inode ? stat(path, &st) == 0 && st.st_dev == life->dev && st.st_ino == life->ino
                             : strcmp(path, life->path) == 0;
        int fd = same ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;

        if (same)
            return fd < 0 ? -errno : fd;
    }
    return by_inode ? -ENOENT : -ESTALE;
}

/* Pid of who has a flock on the file; 0: nobody that is seen from here. */
static int holder_of(int fd)
{
    FILE *locks = fopen("/proc/locks", "re");
    char line[256];
    struct stat st;
    int found = 0;

    for (; locks && fstat(fd, &st) == 0 && fgets(line, sizeof(line), locks);) {
        unsigned long inode;
        int pid;
        if (sscanf(line, "%*d: FLOCK %*s %*s %d %*x:%*x:%lu", &pid, &inode) == 2 && inode == st.st_ino)
            found = pid;
    }
    if (locks)
        fclose(locks);
    return found;
}

/* Pid of the instance's supervisor, which starts again what has died; 0: it does not listen. */
static int supervisor_of(const struct bf_holder *holder)
{
    int run = open(holder->run, O_PATH | O_DIRECTORY | O_CLOEXEC);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    struct ucred who = { 0 };
    socklen_t size = sizeof(who);

    snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/supervisor.sock", run);
    if (run >= 0 && fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size);
    else if (run >= 0 && fd >= 0 && errno == EAGAIN)
        who.pid = -1;               /* it has more to do than it takes in: its pid is not told then */
    if (run >= 0)
        close(run);
    if (fd >= 0)
        close(fd);
    return who.pid;
}

/* True if the holder was an earlier segment of our own home: who listens there is our supervisor. */
static bool is_our_past(const struct bf *bf, const struct bf_holder *holder)
{
    struct stat theirs, ours;

    return stat(holder->run, &theirs) == 0 && stat(bf->peer->seg->run, &ours) == 0
        && theirs.st_dev == ours.st_dev && theirs.st_ino == ours.st_ino;
}

static int fence_one(int fd, uint64_t volume)
{
    char entry[ENTRY_SIZE + 1], *text = read_life(fd);
    bool there = text && find_entry(text, "fenced", volume);

    free(text);
    if (!text || there)
        return there ? 0 : -EIO;
    snprintf(entry, sizeof(entry), "fenced %016" PRIx64 "\n", volume);
    errno = ENOSPC;
    return write(fd, entry, ENTRY_SIZE) == ENTRY_SIZE && fdatasync(fd) == 0 ? 0 : -errno;
}

/* Takes the flocks of all lives that a lock names. */
static int hold_lives(struct bf *bf, const struct bf_holder *holder, bool same_boot, int *fds, char why[BF_WHY])
{
    int rc = 0;

    for (uint32_t i = 0; i < holder->life_count && rc == 0; i++) {
        const struct bf_life *life = &holder->lives[i];
        int root = open_store(bf, life, same_boot), busy_fd = -1;

        if (root == -ENOENT)
            continue;               /* this instance has nothing there: a copy was made of the store */
        fds[i] = rc = root < 0 ? root : open_life(root, life->line, LOOK_MS, &busy_fd);
        if (root < 0)
            snprintf(why, BF_WHY, "its store %.120s is not one of this instance by that path", life->path);
        else if (rc == -EBUSY)
            snprintf(why, BF_WHY, "its process %d still serves %.120s", holder_of(busy_fd), life->path);
        else if (rc < 0)
            snprintf(why, BF_WHY, "%.120s/life: %s", life->path, strerror(-rc));
        rc = rc < 0 ? -EBUSY : 0;
        if (busy_fd >= 0)
            close(busy_fd);
        if (root >= 0)
            close(root);
    }
    return rc;
}

int bf_fence(struct bf *bf, uint64_t volume, const struct bf_holder *holder, bool force, char why[BF_WHY])
{
    int fds[BF_STORES], rc, pid;
    char boot[BF_BOOT];
    bool same_boot;

    bf_boot_id(boot);
    same_boot = strcmp(boot, holder->boot) == 0;
    if (!same_boot && bf_is_local(bf->root))
        return 0;                   /* this kernel alone has the store, and it is not the one of then */
    if (!same_boot && !force) {
        snprintf(why, BF_WHY, "that is another host, or was before a boot, and the store is on a file system that "
                 "hosts share: `vlmc unlock -f` once it is certain that it runs no more");
        return -EBUSY;
    }
    if (same_boot && !is_our_past(bf, holder) && (pid = supervisor_of(holder)) != 0) {
        snprintf(why, BF_WHY, "its supervisor %d lives, and starts again what has died", pid);
        return -EBUSY;
    }
    memset(fds, -1, sizeof(fds));
    rc = hold_lives(bf, holder, same_boot, fds, why);
    for (uint32_t i = 0; i < holder->life_count; i++) {
        if (rc == 0 && fds[i] >= 0)
            rc = fence_one(fds[i], volume);
        if (fds[i] >= 0)
            close(fds[i]);
    }
    return rc;
}

int bf_lift(struct bf *bf, uint64_t volume)
{
    int rc = 0;

    for (uint32_t i = 0; i < bf->store_count && rc == 0; i++) {
        char path[XSEG_PATH_MAX + BF_LINE + 64], *text, *entry;
        int fd;

        snprintf(path, sizeof(path), "%s/life/%s", bf->stores[i].path, bf->stores[i].line);
        fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0 && errno == ENOENT)
            continue;
        if (fd < 0)
            return -errno;
        text = read_life(fd);
        entry = text ? find_entry(text, "fenced", volume) : NULL;
        if (!text)
            rc = -EIO;
        else if (entry && pwrite(fd, "lifted", 6, entry - text) != 6)
            rc = -errno;
        free(text);
        close(fd);
    }
    return rc;
}
