/* SPDX-License-Identifier: Apache-2.0
 *
 * load/rados.c - the least that RADOS costs a C program: asynchronous reads and writes of
 * objects of 4 MiB, and nothing around them. One thread submits; librados' threads hand over what
 * has completed, and wake it only if it waits.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "blocker_rados/api.h"
#include "load/load.h"

#define RADOS_OBJECT_SHIFT 22           /* objects of 4 MiB */
#define NAME_BYTES 32

struct slot {
    struct slot *next;                  /* completed */
    struct raw *raw;
    uint64_t sent_ns;
    int result;
    char *data;
};

struct raw {
    rados_t cluster;
    rados_ioctx_t io;
    struct load *load;
    pthread_mutex_t mutex;              /* guards `completed` */
    pthread_cond_t wake;
    struct slot *completed;
};

static int fail(int error, const char *what)
{
    fprintf(stderr, "tool_load: %s: %s\n", what, strerror(-error));
    return error;
}

static int connect_pool(struct raw *raw, const struct wish *wish)
{
    const char *missing;
    int rc = rados_load(&missing);

    if (rc)
        return fail(rc, RADOS_LIBRARY);
    rc = rados.create2(&raw->cluster, "ceph", "client.admin", 0);
    if (rc == 0)
        rc = rados.conf_read_file(raw->cluster, wish->conf);
    if (rc == 0)
        rc = rados.connect(raw->cluster);
    if (rc)
        return fail(rc, wish->conf);
    rc = rados.ioctx_create(raw->cluster, wish->name, &raw->io);
    if (rc)
        return fail(rc, wish->name);
    rados.ioctx_set_namespace(raw->io, "raw");
    return 0;
}

/* On a thread of librados. */
static void completed(rados_completion_t completion, void *arg)
{
    struct slot *slot = arg;
    struct raw *raw = slot->raw;
    bool first;

    slot->result = rados.aio_get_return_value(completion);
    pthread_mutex_lock(&raw->mutex);
    first = raw->completed == NULL;
    slot->next = raw->completed;
    raw->completed = slot;
    pthread_mutex_unlock(&raw->mutex);
    if (first)
        pthread_cond_signal(&raw->wake);
}

static struct slot *wait_completed(struct raw *raw)
{
    struct slot *slots;

    pthread_mutex_lock(&raw->mutex);
    while (!raw->completed)
        pthread_cond_wait(&raw->wake, &raw->mutex);
    slots = raw->completed;
    raw->completed = NULL;
    pthread_mutex_unlock(&raw->mutex);
    return slots;
}

static int submit(struct raw *raw, struct slot *slot)
{
    struct load *load = raw->load;
    const struct wish *wish = load->wish;
    uint64_t offset = load_offset(load), in = offset & ((1ull << RADOS_OBJECT_SHIFT) - 1);
    rados_completion_t completion;
    char name[NAME_BYTES];
    int rc;

    snprintf(name, sizeof(name), "o.%08llx", (unsigned long long)(offset >> RADOS_OBJECT_SHIFT));
    slot->sent_ns = load->last_ns;
    rados.aio_create_completion2(slot, completed, &completion);
    if (wish->op == XOP_WRITE) {
        load_stamp(load, slot->data, offset);
        rc = rados.aio_write(raw->io, name, completion, slot->data, wish->size, in);
    } else {
        rc = rados.aio_read(raw->io, name, completion, slot->data, wish->size, in);
    }
    rados.aio_release(completion);
    if (rc)
        return fail(rc, name);
    load->begun++;
    load->under_way++;
    return 0;
}

static int pump(struct raw *raw, struct slot *slots)
{
    struct load *load = raw->load;
    int rc = 0;

    for (uint32_t n = 0; n < load->wish->depth && load_wants_more(load) && rc == 0; n++)
        rc = submit(raw, &slots[n]);
    while (load->under_way && rc == 0) {
        uint64_t now;

        for (struct slot *slot = wait_completed(raw), *next; slot && rc == 0; slot = next) {
            next = slot->next;
            now = clock_ns();
            if (slot->result < 0 && !load->error)
                load->error = slot->result;
            load->under_way--;
            load->done++;
            load_note(load, load->wish->op, now, now - slot->sent_ns);
            if (load_wants_more(load))
                rc = submit(raw, slot);
        }
    }
    return rc;
}

static int run_on(struct raw *raw, const struct wish *wish)
{
    static struct slot slots[LOAD_DEPTH_MAX];
    char *data = malloc(wish->depth * wish->size);
    int rc = data ? load_start(raw->load, wish, NULL, 0) : -ENOMEM;

    for (uint32_t n = 0; n < wish->depth; n++)
        slots[n] = (struct slot){ .raw = raw, .data = data + n * wish->size };
    if (rc == 0)
        rc = pump(raw, slots);
    if (rc == 0 && raw->load->error)
        rc = fail(raw->load->error, "a request failed");
    rados.shutdown(raw->cluster);       /* its threads are gone: nothing writes to data */
    free(data);
    return rc;
}

int run_rados(const struct wish *wish, struct load *load, uint64_t *cpu_ns)
{
    static struct raw raw = { .mutex = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER };
    int rc;

    raw.load = load;
    rc = connect_pool(&raw, wish);
    if (rc == 0)
        rc = run_on(&raw, wish);
    *cpu_ns = cpu_used_ns(RUSAGE_SELF);
    return rc;
}
