/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz/file_fence.c - a libFuzzer target: what the file of a life on a file store may say.
 */
#include "blocker_file/fence.c"

#include <assert.h>
#include <sys/mman.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct bf bf;

    if (bf.guard == 0)
        bf.guard = memfd_create("fuzz", MFD_CLOEXEC);
    if (ftruncate(bf.guard, 0) < 0 || pwrite(bf.guard, data, size, 0) != (ssize_t)size)
        abort();
    assert(read_fenced(&bf) == 0 && bf.fenced_count <= size / 8);
    for (uint32_t i = 0; i < bf.fenced_count; i++)
        assert(has_fenced(&bf, bf.fenced[i]));
    return 0;
}
