/* SPDX-License-Identifier: Apache-2.0
 *
 * segment/process.c - start times and ends of processes, out of /proc. See segment/process.h.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "segment/process.h"

struct stat_line { char state; unsigned flags; long threads; unsigned long long start; };

static bool read_stat(int pid, struct stat_line *line)
{
    char path[32], text[512];
    ssize_t length;
    int fd;

    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    length = read(fd, text, sizeof(text) - 1);
    close(fd);
    if (length <= 0)
        return false;
    text[length] = 0;
    char *after = strrchr(text, ')');       /* the name may hold anything */
    return after && sscanf(after + 1, " %c %*d %*d %*d %*d %*d %u %*u %*u %*u %*u %*u %*u %*d %*d"
                           " %*d %*d %ld %*d %llu", &line->state, &line->flags, &line->threads, &line->start) == 4;
}

/* A process whose first thread has ended looks like a zombie while others are still at work. */
uint64_t process_start_time(int pid)
{
    struct stat_line line;

    if (!read_stat(pid, &line) || (line.state == 'Z' && line.threads <= 1) || line.state == 'X')
        return 0;
    return line.start;
}

bool process_ending(uint64_t tag)
{
    struct stat_line line;

    return !tag || !read_stat((int)(tag & PROCESS_PID_MASK), &line) || line.start != tag >> PROCESS_PID_BITS
        || line.flags & PROCESS_EXITING;
}
