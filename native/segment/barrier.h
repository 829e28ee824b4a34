/* SPDX-License-Identifier: Apache-2.0
 *
 * segment/barrier.h - the only file that names a memory order.
 *
 * Shared words are plain integers in segment/layout.h (cffi must parse it); they are
 * touched through these, and only these, where another process may look.
 */
#ifndef ARCHIPELAGO_BARRIER_H
#define ARCHIPELAGO_BARRIER_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define load_acquire(p)      __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define load_relaxed(p)      __atomic_load_n((p), __ATOMIC_RELAXED)
#define store_release(p, v)  __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define store_relaxed(p, v)  __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define exchange(p, v)       __atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST)
#define fetch_add(p, v)      __atomic_fetch_add((p), (v), __ATOMIC_RELAXED)
#define fetch_or(p, v)       __atomic_fetch_or((p), (v), __ATOMIC_SEQ_CST)
#define compiler_fence()     __atomic_signal_fence(__ATOMIC_SEQ_CST)
#define full_fence()         __atomic_thread_fence(__ATOMIC_SEQ_CST)

/* True when *p was `old` and is now `new`. Full barrier. */
#define swap_if(p, old, new)                                                     \
    ({ __typeof__(*(p)) _old = (old);                                            \
       __atomic_compare_exchange_n((p), &_old, (new), 0, __ATOMIC_SEQ_CST,       \
                                   __ATOMIC_RELAXED); })

/* A counter that one thread writes and anyone reads. */
#define counter_add(p, n)    store_relaxed((p), load_relaxed(p) + (n))

/* Copies what another process may be writing. What is checked afterwards is the copy: the compiler must not
 * look at the source again. */
static inline void read_once(void *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
    __asm__ volatile("" : : "r"(to), "r"(from) : "memory");
}

/* Zeroes a few words. memset() of a constant size becomes `rep stos`, which takes some 30 cycles to begin. */
static inline void zero_words(void *at, uint32_t words)
{
    typedef uint64_t pair __attribute__((vector_size(16), aligned(8), may_alias));
    pair *to = at;

#pragma GCC unroll 16
    for (uint32_t i = 0; i < words / 2; i++) {
        to[i] = (pair){ 0, 0 };
        __asm__ volatile("" : "+r"(to));
    }
}

static inline void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
