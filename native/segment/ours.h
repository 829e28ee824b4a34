/* SPDX-License-Identifier: Apache-2.0
 *
 * segment/ours.h - is what was opened ours?
 *
 * Asked, through its descriptor, of what is joined, written to or believed: the segment, doorbells, files of the
 * run folder, the root of a store. It is ours if it belongs to the effective user of this process, or to root, and
 * nobody else may write to it; a regular file must have no other name. xseg/ours.py tells it all, and looks at the
 * folders above.
 *
 * Open such a thing with O_NOFOLLOW, O_CLOEXEC and O_NONBLOCK (a FIFO in its place has no writer for ever), and without
 * O_TRUNC.
 */
#ifndef ARCHIPELAGO_OURS_H
#define ARCHIPELAGO_OURS_H

#include <stdbool.h>
#include <sys/stat.h>

/* 0, or a negative errno. EPERM: it is of another kind than `kind` (S_IFREG, S_IFIFO...), or not ours. */
int ours_check(int fd, mode_t kind);

/* Opens what is there; a descriptor or a negative errno. `how`: O_RDONLY... EPERM as above; ELOOP: a symbolic link. */
int ours_open(int folder, const char *name, int how, mode_t kind);
/* A new file for its owner alone, in place of what has the name. */
int ours_create(int folder, const char *name);
/* True if we are who made the unix socket listen that this one is connected to. */
bool ours_listens(int fd);

#endif
