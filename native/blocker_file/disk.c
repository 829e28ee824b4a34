/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_file/disk.c - what the others ask of the file system itself: all of a write, all that was written.
 *
 * Large writes go in steps of WRITE_STEP: the kernel makes page-cache folios as large as a write, and one of
 * 1 MiB makes each later 4 KiB write into it cost up to twice the CPU, while the steps cost a large write little.
 */
#include <errno.h>
#include <unistd.h>

#include "blocker_file/parts.h"
#include "segment/barrier.h"

#define WRITE_STEP 131072

/* All of it or an error: a write cut short by a full disk fails when it is tried again. */
int bf_write_all(int fd, const uint8_t *data, uint64_t size, uint64_t offset)
{
    while (size) {
        ssize_t n = pwrite(fd, data, size < WRITE_STEP ? size : WRITE_STEP, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? -errno : -EIO;
        data += n;
        size -= (uint64_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

int bf_syncfs(struct bf *bf)
{
    int rc;

    if (!bf->sync || syncfs(bf->root) == 0)
        return 0;
    rc = -errno;
    fetch_add(&bf->failures, 1);
    return rc;
}

int bf_ask_witness(struct bf *bf)
{
    int rc;

    if (bf->witness < 0 || syncfs(bf->witness) == 0)
        return 0;
    rc = -errno;
    if (bf->has_data)
        xseg_volume_lost(bf->peer->seg, 0, rc);
    fetch_add(&bf->failures, 1);
    return rc;
}
