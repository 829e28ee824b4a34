/* SPDX-License-Identifier: Apache-2.0
 *
 * registers.c - LD_PRELOAD for user-mode Linux 6.1 on processors with AMX. Its buffer for NT_X86_XSTATE is smaller than
 * the register set of such a host, and PTRACE_SETREGSET refuses that (EFAULT). So what is there is read whole, the
 * part that the caller has is put over it, and it is written whole.
 */
#define _GNU_SOURCE
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#define NT_X86_XSTATE 0x202
long ptrace(enum __ptrace_request req, ...)
{
    va_list ap; va_start(ap, req);
    long pid = va_arg(ap, long); void *addr = va_arg(ap, void *), *data = va_arg(ap, void *); va_end(ap);
    if ((req == PTRACE_SETREGSET) && (long)addr == NT_X86_XSTATE) {
        static unsigned char all[65536] __attribute__((aligned(64)));
        struct iovec v = { all, sizeof all }, *mine = data;
        long rc = syscall(SYS_ptrace, PTRACE_GETREGSET, pid, addr, &v);
        if (rc < 0) return rc;
        if (mine->iov_len < v.iov_len) {
            unsigned long bv, keep;
            memcpy(&keep, all + 512, 8);
            memcpy(all, mine->iov_base, mine->iov_len);
            memcpy(&bv, all + 512, 8);
            bv &= ~(3ul << 17);                      /* tiles: never used by the guest */
            memcpy(all + 512, &bv, 8);
            return syscall(SYS_ptrace, req, pid, addr, &v);
        }
    }
    if (req == PTRACE_PEEKTEXT || req == PTRACE_PEEKDATA || req == PTRACE_PEEKUSER) {
        long word, rc = syscall(SYS_ptrace, req, pid, addr, &word);
        return rc < 0 ? rc : word;
    }
    return syscall(SYS_ptrace, req, pid, addr, data);
}
