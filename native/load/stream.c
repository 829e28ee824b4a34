/* SPDX-License-Identifier: Apache-2.0
 *
 * load/stream.c - the hop through a pipe or a unix socket: 64-byte messages to a child
 * that sends each back. Both sides take all that has come and write it on by one call, the
 * best that can be done with them.
 */
#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "load/load.h"

#define MESSAGE 64
#define BATCH_BYTES (512 * MESSAGE)     /* less than a pipe holds, so that neither side blocks */
#define STREAM_DEPTH_MAX (BATCH_BYTES / MESSAGE)

struct ends { int in, out; };

static int write_all(int fd, const uint8_t *data, size_t size)
{
    while (size) {
        ssize_t n = write(fd, data, size);
        if (n <= 0)
            return n < 0 ? -errno : -EPIPE;
        data += n;
        size -= (size_t)n;
    }
    return 0;
}

static void echo(struct ends ends)
{
    uint8_t data[BATCH_BYTES];
    ssize_t n;

    while ((n = read(ends.in, data, sizeof(data))) > 0)
        if (write_all(ends.out, data, (size_t)n))
            return;
}

static int connect_child(const char *mode, struct ends *ends, pid_t *child)
{
    int pair[2], forth[2], back[2];
    struct ends theirs;

    if (strcmp(mode, "socket") == 0) {
        if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair) < 0)
            return -errno;
        *ends = (struct ends){ pair[0], pair[0] };
        theirs = (struct ends){ pair[1], pair[1] };
    } else {
        if (pipe(forth) < 0 || pipe(back) < 0)
            return -errno;
        *ends = (struct ends){ back[0], forth[1] };
        theirs = (struct ends){ forth[0], back[1] };
    }
    *child = fork();
    if (*child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        close(ends->in);
        close(ends->out);
        echo(theirs);
        _exit(0);
    }
    close(theirs.in);
    close(theirs.out);
    return *child < 0 ? -errno : 0;
}

/* Messages come back in order, so the times of sending stand in a ring. */
static int pump(struct ends ends, struct load *load)
{
    static uint64_t sent_ns[STREAM_DEPTH_MAX];
    uint8_t data[BATCH_BYTES] = { 0 };
    uint32_t depth = load->wish->depth;
    size_t partial = 0;
    int rc;

    for (uint32_t i = 0; i < depth; i++)
        sent_ns[i] = load->start_ns;
    rc = write_all(ends.out, data, depth * MESSAGE);
    while (rc == 0 && load->last_ns < load->end_ns && load->done < load->wish->requests) {
        ssize_t n = read(ends.in, data, sizeof(data));
        uint64_t now = clock_ns();

        if (n <= 0)
            return n < 0 ? -errno : -EPIPE;
        partial += (size_t)n;
        for (; partial >= MESSAGE; partial -= MESSAGE, load->done++) {
            histogram_add(&load->latency, now - sent_ns[load->done % depth]);
            sent_ns[load->done % depth] = now;
        }
        load->last_ns = now;
        rc = write_all(ends.out, data, (size_t)n);
    }
    return rc;
}

int run_stream(const struct wish *wish, struct load *load, uint64_t *cpu_ns)
{
    struct ends ends;
    pid_t child = -1;
    int rc = wish->depth > STREAM_DEPTH_MAX ? -EINVAL : connect_child(wish->mode, &ends, &child);

    if (rc)
        return rc;
    rc = load_start(load, wish, NULL, 0);
    if (rc == 0)
        rc = pump(ends, load);
    close(ends.in);
    if (ends.out != ends.in)
        close(ends.out);
    waitpid(child, NULL, 0);
    *cpu_ns = cpu_used_ns(RUSAGE_SELF) + cpu_used_ns(RUSAGE_CHILDREN);
    return rc;
}
