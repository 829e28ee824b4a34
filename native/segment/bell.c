/* SPDX-License-Identifier: Apache-2.0
 *
 * segment/bell.c - doorbells: a "sleeping" word in the segment and a FIFO. See segment/xseg.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "segment/barrier.h"
#include "segment/ours.h"
#include "segment/process.h"
#include "segment/xseg.h"

#define BELL_PATH_MAX 224
#define BELL_MODE 0600
#define MAKE_TRIES 3
#define FIFO_DRAIN_MAX 16           /* reads of 512 bytes: more rings than senders can leave */

static void bell_path(const struct xseg *seg, uint32_t number, char path[BELL_PATH_MAX])
{
    snprintf(path, BELL_PATH_MAX, "%s/bell.%u", seg->run, number);
}

/* Claims the bell for this process, from nobody or from a dead one. */
static int bell_claim(struct xbell *shared)
{
    uint64_t before = load_acquire(&shared->tag);

    if (process_alive(before) || !swap_if(&shared->tag, before, process_tag(getpid())))
        return -EBUSY;
    return 0;
}

static int bell_pick(struct xseg *seg, uint32_t number, uint32_t *picked)
{
    if (number != XPORT_ANY) {
        *picked = number;
        return number < seg->bell_count ? bell_claim(&seg->bells[number]) : -EINVAL;
    }
    for (*picked = 0; *picked < seg->bell_count; ++*picked)
        if (bell_claim(&seg->bells[*picked]) == 0)
            return 0;
    return -EAGAIN;
}

/* The FIFO, if it is ours; else a negative errno. */
static int bell_open_fifo(const struct xseg *seg, uint32_t number, int how)
{
    char path[BELL_PATH_MAX];

    bell_path(seg, number, path);
    return ours_open(AT_FDCWD, path, how, S_IFIFO);
}

/* The FIFO to listen at. One that an earlier life left serves again; what else is there is removed, as the folder
 * is ours. */
static int bell_make_fifo(const struct xseg *seg, uint32_t number)
{
    char path[BELL_PATH_MAX];
    int fd;

    bell_path(seg, number, path);
    for (int i = 0; i < MAKE_TRIES; i++) {
        if (mkfifo(path, BELL_MODE) < 0 && errno != EEXIST)
            return -errno;
        fd = bell_open_fifo(seg, number, O_RDWR);
        if (fd != -EPERM && fd != -ELOOP && fd != -ENXIO)
            return fd;              /* else it is not ours, a link, or a socket */
        if (unlink(path) < 0 && errno != ENOENT)
            return -errno;
    }
    return -EPERM;
}

int bell_open(struct xseg *seg, uint32_t number, struct bell **out)
{
    struct bell *bell = calloc(1, sizeof(*bell));
    int rc;

    if (!bell)
        return -ENOMEM;
    bell->seg = seg;
    rc = bell_pick(seg, number, &bell->number);
    if (rc == 0) {
        bell->fd = bell_make_fifo(seg, bell->number);
        if (bell->fd < 0) {
            rc = bell->fd;
            store_release(&seg->bells[bell->number].tag, 0u);
        }
    }
    if (rc) {
        free(bell);
        return rc;
    }
    bell_disarm(bell);
    *out = bell;
    return 0;
}

void bell_close(struct bell *bell)
{
    struct xbell *shared = &bell->seg->bells[bell->number];

    store_release(&shared->sleeping, 0u);
    store_release(&shared->tag, 0u);
    close(bell->fd);
    free(bell);
}

void bell_arm(struct bell *bell)
{
    store_release(&bell->seg->bells[bell->number].sleeping, 1u);
    full_fence();
}

void bell_disarm(struct bell *bell)
{
    char bytes[512];

    if (exchange(&bell->seg->bells[bell->number].sleeping, 0u) == 1)
        return;                     /* nobody rang: the FIFO is empty */
    for (int i = 0; i < FIFO_DRAIN_MAX; i++)
        if (read(bell->fd, bytes, sizeof(bytes)) < (ssize_t)sizeof(bytes))
            return;
}

static int bell_open_sender(struct xseg *seg, uint32_t number)
{
    int fd = bell_open_fifo(seg, number, O_WRONLY);

    if (fd < 0)
        return -1;
    if (!swap_if(&seg->bell_fd[number], -1, fd)) {
        close(fd);                  /* another thread was first */
        fd = load_acquire(&seg->bell_fd[number]);
    }
    return fd;
}

bool bell_ring(struct xseg *seg, uint32_t number)
{
    int fd;

    if (number >= seg->bell_count || !exchange(&seg->bells[number].sleeping, 0u))
        return false;
    fd = load_acquire(&seg->bell_fd[number]);
    if (fd < 0)
        fd = bell_open_sender(seg, number);
    if (fd < 0)
        return false;               /* the owner died: its successor looks when it starts */
    return write(fd, "", 1) == 1;
}
