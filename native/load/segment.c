/* SPDX-License-Identifier: Apache-2.0
 *
 * load/segment.c - load on a running instance, over a dynamic port: on a volume (opened
 * through the mapper, served by vlmc) or on whatever plays a role (a blocker, `null`).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "load/load.h"

#define OBJECT_SHIFT 22                 /* objects of 4 MiB, as volumes have by default */

static int fail(int error, const char *what)
{
    fprintf(stderr, "tool_load: %s: %s\n", what, strerror(-error));
    return error;
}

static int join(const char *name, struct xseg **seg)
{
    uint32_t found = 0;
    int fd = shm_open(name, O_RDWR, 0);
    int rc = fd < 0 ? -errno : xseg_attach(fd, seg, &found);

    if (fd >= 0)
        close(fd);
    return rc;
}

/* Sends the one request and waits for its answer; its error. */
static int ask(struct port *port, struct xreq *req, uint32_t dst)
{
    struct xreq *reply;

    xreq_send(port, req, dst);
    port_ring(port);
    while (!(reply = port_receive(port))) {
        int rc = port_wait(port, LOAD_REPLY_TIMEOUT_MS, 0);
        if (rc)
            return rc;
    }
    return reply->error;
}

static int open_volume(struct port *port, const struct wish *wish, uint32_t *handle)
{
    struct xreq *req = xreq_get(port);
    uint32_t mapper;
    int rc = port_find(port->seg, "mapper", &mapper);

    if (rc == 0)
        rc = xbuf_get(port, req, XSEG_NAME_MAX);
    if (rc == 0) {
        req->op = XOP_OPEN;
        req->flags = wish->readonly ? XREQ_READONLY : 0;
        req->size = strnlen(wish->name, XSEG_NAME_MAX);
        memcpy(xreq_data(port->seg, req), wish->name, req->size);
        rc = ask(port, req, mapper);
        *handle = (uint32_t)req->done;
    }
    if (rc != -ETIMEDOUT)
        xreq_put(port, req);
    return rc;
}

static int close_volume(struct port *port, uint32_t handle)
{
    struct xreq *req = xreq_get(port);
    uint32_t mapper;
    int rc = port_find(port->seg, "mapper", &mapper);

    if (rc == 0) {
        req->op = XOP_CLOSE;
        req->volume = handle;
        rc = ask(port, req, mapper);
    }
    return rc;
}

static int pump(struct load *load)
{
    struct port *port = load->port;

    while (!load_over(load)) {
        struct xreq *req;
        bool came = false;

        while ((req = port_receive(port))) {
            load_reply(load, req);
            came = true;
        }
        if (load_fill(load))
            port_ring(port);
        else if (!came && port_wait(port, LOAD_REPLY_TIMEOUT_MS, load->wish->spin_us) < 0)
            return fail(-ETIMEDOUT, "no answer");
    }
    return 0;
}

static int run_on(struct port *port, struct wish *wish, struct load *load)
{
    const char *role = wish->name ? "vlmc" : wish->role;
    uint32_t dst;
    int rc = port_find(port->seg, role, &dst);

    if (rc)
        return fail(rc, role);
    load->block_shift = OBJECT_SHIFT;
    if (wish->name && (rc = open_volume(port, wish, &load->volume)) != 0)
        return fail(rc, wish->name);
    if (wish->name && wish->range == 0)
        wish->range = port->seg->volumes[load->volume - 1].size;
    rc = load_start(load, wish, port, dst);
    if (rc == 0)
        rc = pump(load);
    if (rc == 0 && load->error)
        rc = fail(load->error, "a request failed");
    if (wish->name && rc != -ETIMEDOUT && close_volume(port, load->volume))
        fprintf(stderr, "tool_load: the volume could not be closed\n");
    return rc;
}

int run_segment(const struct wish *asked, struct load *load, uint64_t *cpu_ns)
{
    static struct wish wish;            /* load->wish points to it until the report */
    struct xseg *seg;
    struct bell *bell;
    struct port *port;
    int rc = join(asked->segment, &seg);

    wish = *asked;
    if (rc)
        return fail(rc, asked->segment);
    rc = bell_open(seg, XPORT_ANY, &bell);
    if (rc)
        return fail(rc, "no doorbell");
    rc = port_bind(seg, XPORT_ANY, "tool_load", bell, &port);
    if (rc)
        return fail(rc, "no port");
    rc = run_on(port, &wish, load);
    *cpu_ns = cpu_used_ns(RUSAGE_SELF);
    port_close(port);
    bell_close(bell);
    return rc;
}
