/* SPDX-License-Identifier: Apache-2.0
 *
 * load/hop.c - the bare hop. Peers that do nothing pass requests on:
 *
 *     load -> pass1 -> ... -> echo          --hops counts the arrows
 *
 * all in one loop of one process, or (--separate) each in a process of its own, in a
 * segment made for the purpose. The loop, the ports and the bells are those of a pipeline.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "load/load.h"
#include "loop/peer.h"

#define HOPS_MAX 8
#define DRAIN_MS 1000

static struct loop *running;            /* what SIGTERM stops */
static struct load *the_load;           /* of this process's load peer */
static const struct wish *the_wish;

/* --- peers ---------------------------------------------------------------------- */

static void echo_request(struct peer *peer, struct xreq *req)
{
    req->done = req->size;
    peer_reply(peer, req, 0);
}

static void no_reply(struct peer *peer, struct xreq *child) { xreq_put(peer->port, child); }

static const struct peer_ops echo_ops = {
    .type = "echo", .request = echo_request, .reply = no_reply,
};

static void pass_request(struct peer *peer, struct xreq *req)
{
    struct xreq *child = xreq_child(peer->port, req);

    if (!child) {                       /* cannot be: depth is at most the slots there are */
        peer_reply(peer, req, -ENOBUFS);
        return;
    }
    child->op = req->op;
    child->size = req->size;
    peer_send(peer, child, 0);
}

static void pass_reply(struct peer *peer, struct xreq *child)
{
    struct xreq *req = xreq_parent(peer->port, child);
    int error = child->error;

    xreq_put(peer->port, child);
    peer_reply(peer, req, error);
}

static const struct peer_ops pass_ops = {
    .type = "pass", .request = pass_request, .reply = pass_reply,
};

static void load_request(struct peer *peer, struct xreq *req) { peer_reply(peer, req, -EOPNOTSUPP); }
static void load_came(struct peer *peer, struct xreq *req)
{
    (void)peer;
    load_reply(the_load, req);
}

static bool load_flush(struct peer *peer)
{
    if (!the_load->port) {              /* the first turn: the clock starts now */
        if (load_start(the_load, the_wish, peer->port, route_port(peer->seg, peer->route[0])))
            abort();
    }
    if (load_over(the_load)) {
        loop_stop(peer->loop);
        return false;
    }
    return load_fill(the_load);
}

static const struct peer_ops load_ops = {
    .type = "load", .request = load_request, .reply = load_came,
    .flush = load_flush,
};

const struct peer_ops *const native_peers[] = { &echo_ops, &pass_ops, &load_ops, NULL };

/* --- processes -------------------------------------------------------------------- */

static void on_term(int number)
{
    (void)number;
    if (running)
        loop_stop(running);
}

/* Role number n of the chain: load, pass1.., echo. */
static const char *role_name(uint32_t n, uint32_t hops, char out[XSEG_ROLE_MAX])
{
    snprintf(out, XSEG_ROLE_MAX, n == 0 ? "load" : n == hops ? "echo" : "pass%u", n);
    return out;
}

static const char *role_type(uint32_t n, uint32_t hops)
{
    return n == 0 ? "load" : n == hops ? "echo" : "pass";
}

static int add(struct loop *loop, uint32_t n, uint32_t hops)
{
    char role[XSEG_ROLE_MAX], next[XSEG_ROLE_MAX];
    const char *target = role_name(n + 1, hops, next);
    struct peer *peer;
    int rc = loop_add(loop, role_type(n, hops), role_name(n, hops, role), &target, n < hops,
                      NULL, 0, &peer);

    if (rc)
        fprintf(stderr, "tool_load: %s: %s\n", role, peer ? peer->error : strerror(-rc));
    return rc;
}

/* Runs roles [first, last] until stopped. */
static int serve(int fd, uint32_t first, uint32_t last, const struct wish *wish)
{
    struct xseg *seg;
    uint32_t found;
    int rc = xseg_attach(fd, &seg, &found);

    if (rc == 0)
        rc = loop_new(seg, first == 0 ? wish->spin_us : 0, &running);
    for (uint32_t n = first; rc == 0 && n <= last; n++)
        rc = add(running, n, wish->hops);
    if (rc == 0)
        rc = loop_run(running, DRAIN_MS);
    return rc;
}

static pid_t serve_apart(int fd, uint32_t n, const struct wish *wish)
{
    pid_t pid = fork();

    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        signal(SIGTERM, on_term);
        _exit(serve(fd, n, n, wish) ? 1 : 0);
    }
    return pid;
}

static int make_segment(const char *run, uint32_t hops)
{
    struct xparams params = { .static_slots = LOAD_DEPTH_MAX, .dynamic_slots = 16,
                              .buffers = { 16, 16, 4 }, .frames = XMAP_WAYS, .stacks = { 8, 8, 8 }, .contents = 8 };
    char role[XSEG_ROLE_MAX];
    struct xseg *seg;
    uint32_t number, found;
    int fd = memfd_create("tool_load", MFD_CLOEXEC), rc;

    snprintf(params.run, sizeof(params.run), "%s", run);
    rc = fd < 0 || fchmod(fd, 0600) < 0 ? -errno : xseg_format(fd, &params);
    if (rc == 0)
        rc = xseg_attach(fd, &seg, &found);
    for (uint32_t n = 0; rc == 0 && n <= hops; n++)
        rc = port_declare(seg, role_name(n, hops, role), role_type(n, hops), "load", &number);
    return rc ? rc : fd;
}

static void remove_run(const char *run)
{
    char path[64];

    for (int i = 0; i < XSEG_BELLS; i++) {
        snprintf(path, sizeof(path), "%s/bell.%d", run, i);
        unlink(path);
    }
    rmdir(run);
}

int run_hop(const struct wish *wish, struct load *load, uint64_t *cpu_ns)
{
    char run[] = "/tmp/tool_load.XXXXXX";
    pid_t children[HOPS_MAX];
    int fd, rc;

    if (wish->hops < 1 || wish->hops > HOPS_MAX || !mkdtemp(run))
        return -EINVAL;
    the_load = load;
    the_wish = wish;
    fd = make_segment(run, wish->hops);
    for (uint32_t n = 1; fd >= 0 && wish->separate && n <= wish->hops; n++)
        children[n - 1] = serve_apart(fd, n, wish);
    rc = fd < 0 ? fd : serve(fd, 0, wish->separate ? 0 : wish->hops, wish);
    for (uint32_t n = 1; fd >= 0 && wish->separate && n <= wish->hops; n++) {
        kill(children[n - 1], SIGTERM);
        waitpid(children[n - 1], NULL, 0);
    }
    *cpu_ns = cpu_used_ns(RUSAGE_SELF) + cpu_used_ns(RUSAGE_CHILDREN);
    remove_run(run);
    return rc ? rc : load->error;
}
