/* SPDX-License-Identifier: Apache-2.0
 *
 * blocker_rados/api.h - the part of librados' C interface that blocker-rados uses, as a table filled at
 * run time by dlopen(): nothing needs librados to be built or, without this peer, to run.
 *
 * The names are librados' own without "rados_"; what they do is told in its librados.h. All of
 * them are there since Ceph 16 (Pacific).
 */
#ifndef ARCHIPELAGO_RADOS_API_H
#define ARCHIPELAGO_RADOS_API_H

#include <stddef.h>
#include <stdint.h>
#include <sys/time.h>
#include <sys/types.h>
#include <time.h>

#define RADOS_LIBRARY "librados.so.2"
#define RADOS_PACKAGE "librados2"   /* Debian's name for it */

typedef void *rados_t;
typedef void *rados_ioctx_t;
typedef void *rados_completion_t;
typedef void *rados_write_op_t;
typedef void *rados_read_op_t;
typedef void *rados_cursor_t;
typedef void (*rados_callback_t)(rados_completion_t completion, void *arg);
typedef void (*rados_notified_t)(void *arg, uint64_t notify, uint64_t watch, uint64_t notifier, void *data,
                                 size_t size);
typedef void (*rados_unwatched_t)(void *arg, uint64_t watch, int error);

struct rados_list_item {
    size_t name_length;
    char *name;
    size_t namespace_length;
    char *namespace;
    size_t locator_length;
    char *locator;
};

enum {
    RADOS_FULL_TRY = 64,            /* flag of an operation: a full pool is an error, not a wait */
    RADOS_FULL_FORCE = 128,         /* ... a full pool does not matter */
    RADOS_ORDERSNAP = 512,          /* ... refused if the object has seen a newer snapshot context */
    RADOS_CREATE_EXCLUSIVE = 1,
    RADOS_CREATE_IDEMPOTENT = 0,
    RADOS_XATTR_LESS = 3,           /* cmpxattr: the attribute's text comes before the value, else ECANCELED */
    RADOS_COMPARE_BASE = 4095,      /* cmpext: -(this + offset of the first difference) */
    RADOS_EOLDSNAPC = 85,           /* ERESTART */
    RADOS_EBLOCKLISTED = 108        /* ESHUTDOWN */
};

#define RADOS_FUNCTIONS(X)                                                                         \
    X(int, create2, (rados_t *cluster, const char *name, const char *user, uint64_t flags))        \
    X(int, conf_read_file, (rados_t cluster, const char *path))                                    \
    X(int, conf_set, (rados_t cluster, const char *option, const char *value))                     \
    X(int, connect, (rados_t cluster))                                                             \
    X(void, shutdown, (rados_t cluster))                                                           \
    X(uint64_t, get_instance_id, (rados_t cluster))                                                \
    X(int, getaddrs, (rados_t cluster, char **addrs))                                              \
    X(void, buffer_free, (char *buffer))                                                           \
    X(int, wait_for_latest_osdmap, (rados_t cluster))                                              \
    X(int, mon_command, (rados_t cluster, const char **command, size_t count, const char *in,      \
                         size_t in_size, char **out, size_t *out_size, char **status,              \
                         size_t *status_size))                                                     \
    X(int, blocklist_add, (rados_t cluster, char *address, uint32_t expire_s))                     \
    X(int, pool_reverse_lookup, (rados_t cluster, int64_t pool, char *name, size_t room))          \
    X(int, ioctx_create, (rados_t cluster, const char *pool, rados_ioctx_t *io))                   \
    X(int, ioctx_create2, (rados_t cluster, int64_t pool, rados_ioctx_t *io))                      \
    X(void, ioctx_destroy, (rados_ioctx_t io))                                                     \
    X(int64_t, ioctx_get_id, (rados_ioctx_t io))                                                   \
    X(void, ioctx_set_namespace, (rados_ioctx_t io, const char *name))                             \
    X(void, set_pool_full_try, (rados_ioctx_t io))                                                 \
    X(int, ioctx_selfmanaged_snap_set_write_ctx, (rados_ioctx_t io, uint64_t sequence,             \
                                                  uint64_t *snaps, int count))                     \
    X(int, aio_create_completion2, (void *arg, rados_callback_t done, rados_completion_t *out))    \
    X(int, aio_get_return_value, (rados_completion_t completion))                                  \
    X(void, aio_release, (rados_completion_t completion))                                          \
    X(int, aio_cancel, (rados_ioctx_t io, rados_completion_t completion))                          \
    X(int, aio_read, (rados_ioctx_t io, const char *name, rados_completion_t completion,           \
                      char *data, size_t size, uint64_t offset))                                   \
    X(int, aio_write, (rados_ioctx_t io, const char *name, rados_completion_t completion,          \
                       const char *data, size_t size, uint64_t offset))                            \
    X(int, aio_stat, (rados_ioctx_t io, const char *name, rados_completion_t completion,           \
                      uint64_t *size, time_t *changed))                                            \
    X(int, aio_write_op_operate, (rados_write_op_t op, rados_ioctx_t io,                           \
                                  rados_completion_t completion, const char *name,                 \
                                  time_t *changed, int flags))                                     \
    X(rados_write_op_t, create_write_op, (void))                                                   \
    X(void, release_write_op, (rados_write_op_t op))                                               \
    X(void, write_op_assert_exists, (rados_write_op_t op))                                         \
    X(void, write_op_cmpext, (rados_write_op_t op, const char *data, size_t size,                  \
                              uint64_t offset, int *result))                                       \
    X(void, write_op_create, (rados_write_op_t op, int exclusive, const char *category))           \
    X(void, write_op_write, (rados_write_op_t op, const char *data, size_t size, uint64_t offset)) \
    X(void, write_op_write_full, (rados_write_op_t op, const char *data, size_t size))             \
    X(void, write_op_writesame, (rados_write_op_t op, const char *data, size_t data_size,          \
                                 size_t size, uint64_t offset))                                    \
    X(void, write_op_remove, (rados_write_op_t op))                                                \
    X(void, write_op_setxattr, (rados_write_op_t op, const char *name, const char *value, size_t size)) \
    X(void, write_op_cmpxattr, (rados_write_op_t op, const char *name, uint8_t how,                 \
                                const char *value, size_t size))                                   \
    X(void, write_op_truncate, (rados_write_op_t op, uint64_t size))                               \
    X(void, write_op_zero, (rados_write_op_t op, uint64_t offset, uint64_t size))                  \
    X(void, write_op_exec, (rados_write_op_t op, const char *class, const char *method,            \
                            const char *in, size_t in_size, int *result))                          \
    X(void, write_op_set_alloc_hint, (rados_write_op_t op, uint64_t object_size,                   \
                                      uint64_t write_size))                                        \
    X(int, write_op_operate, (rados_write_op_t op, rados_ioctx_t io, const char *name,             \
                              time_t *changed, int flags))                                         \
    X(int, read, (rados_ioctx_t io, const char *name, char *data, size_t size, uint64_t offset))   \
    X(rados_read_op_t, create_read_op, (void))                                                     \
    X(void, release_read_op, (rados_read_op_t op))                                                 \
    X(void, read_op_read, (rados_read_op_t op, uint64_t offset, size_t size, char *data,           \
                           size_t *done, int *result))                                             \
    X(void, read_op_exec_user_buf, (rados_read_op_t op, const char *class, const char *method,     \
                                    const char *in, size_t in_size, char *out, size_t out_size,    \
                                    size_t *done, int *result))                                    \
    X(int, read_op_operate, (rados_read_op_t op, rados_ioctx_t io, const char *name, int flags))   \
    X(int, watch3, (rados_ioctx_t io, const char *name, uint64_t *watch, rados_notified_t notified,\
                    rados_unwatched_t unwatched, uint32_t timeout_s, void *arg))                   \
    X(int, unwatch2, (rados_ioctx_t io, uint64_t watch))                                           \
    X(int, watch_flush, (rados_t cluster))                                                         \
    X(int, notify2, (rados_ioctx_t io, const char *name, const char *data, int size,               \
                     uint64_t timeout_ms, char **out, size_t *out_size))                           \
    X(int, notify_ack, (rados_ioctx_t io, const char *name, uint64_t notify, uint64_t watch,       \
                        const char *data, int size))                                               \
    X(rados_cursor_t, object_list_begin, (rados_ioctx_t io))                                       \
    X(rados_cursor_t, object_list_end, (rados_ioctx_t io))                                         \
    X(int, object_list_is_end, (rados_ioctx_t io, rados_cursor_t cursor))                          \
    X(void, object_list_cursor_free, (rados_ioctx_t io, rados_cursor_t cursor))                    \
    X(void, object_list_slice, (rados_ioctx_t io, rados_cursor_t start, rados_cursor_t finish,     \
                                size_t n, size_t m, rados_cursor_t *slice_start,                   \
                                rados_cursor_t *slice_finish))                                     \
    X(int, object_list, (rados_ioctx_t io, rados_cursor_t start, rados_cursor_t finish,            \
                         size_t room, const char *filter, size_t filter_size,                      \
                         struct rados_list_item *items, rados_cursor_t *next))                     \
    X(void, object_list_free, (size_t count, struct rados_list_item *items))

struct rados_api {
#define X(type, name, arguments) type (*name) arguments;
    RADOS_FUNCTIONS(X)
#undef X
};

/* All its members may be called after rados_load() has returned 0. */
extern struct rados_api rados;

/* Loads the library once. ENOENT: it is not installed, or lacks a function (*missing; else NULL). */
int rados_load(const char **missing);

#endif
