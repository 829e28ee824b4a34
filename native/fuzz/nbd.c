/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz/nbd.c - a libFuzzer target: what a client may send to the NBD server.
 *
 * Each input is one connection of one server in a small segment, so that slots and buffers run out. Segment,
 * loop and server are made once, and nothing sleeps: the target takes the loop's turns itself, and between
 * them plays the client, vlmc and the mapper. The first byte says how far an ordinary handshake goes before
 * the rest of the input is sent (enum prologue, low bits), in which order the stand-ins for vlmc and the
 * mapper answer (ORDER_REVERSED), and whether the server is told to drain when all is sent (DRAINS); the
 * second how many bytes are sent at a time (0: all). What is checked, beside the sanitizers and the server's
 * own asserts: the connection ends when its client has gone, and then every slot, buffer and volume is given
 * back.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/socket.h>
#include <unistd.h>

#include "nbd/parts.h"

#define TURNS_MAX 2000              /* of the loop for one input, until the client goes */
#define SENDS_MAX 64                /* in which an input is sent */
#define RECEIVED_MAX (256u << 10)   /* bytes after which the client has enough, and goes */
#define QUIET_MAX 4                 /* turns in which nothing moves until it goes by itself */
#define END_S 20                    /* that the server may take to give everything back */
#define AWAY_MAX 64                 /* requests the stand-ins hold back */
#define VOLUME_SIZE (64ull << 20)

enum prologue { RAW = 0, OPTIONS = 1, SIMPLE = 2, STRUCTURED = 3, ORDER_REVERSED = 4, DRAINS = 16 };

static struct xseg *seg;
static struct port *below[2];       /* vlmc, mapper */
static struct loop *loop;
static struct peer *server;
static char folder[64];

static struct {
    int client;
    const uint8_t *data;
    size_t left, piece, received;
    bool reversed, drains, sent_all;
    int opens;
} run;

/* --- vlmc and the mapper ------------------------------------------------------- */

static int serve_open(struct xreq *req)
{
    const char *name = xreq_data(seg, req);

    if (req->size != 1 || (name[0] != 'v' && name[0] != 's'))
        return -ENOENT;
    req->done = name[0] == 's' ? 2 : 1;
    run.opens++;
    return 0;
}

/* Now and then what no mapper says. */
static int serve_info(struct xreq *req)
{
    const char *name = xreq_data(seg, req);
    struct xinfo info = { .id = 7, .size = VOLUME_SIZE, .block_shift = 22, .readonly = name[0] == 's', .name = "v" };

    if (req->size != 1 || (name[0] != 'v' && name[0] != 's'))
        return -ENOENT;
    if (run.piece % 5 == 4)
        memset(info.name, 'v', sizeof(info.name));
    memcpy(xreq_data(seg, req), &info, sizeof(info));
    req->done = sizeof(info) - (run.piece % 7 == 6);
    return 0;
}

static void serve_names(struct xreq *req)
{
    char *names = xreq_data(seg, req);

    memcpy(names, "v\0s\0", 4);
    req->done = 4;
    req->arg = req->arg < 3 ? req->arg + 1 : 0;
}

static void serve_status(struct xreq *req)
{
    struct xextent *extents = xreq_data(seg, req);
    uint32_t room = req->data_size / sizeof(*extents);

    req->done = req->offset % 7 < room ? req->offset % 7 : room;
    for (uint32_t i = 0; i < req->done; i++) {
        extents[i].length = (uint32_t)(req->offset >> i) % 70000;
        extents[i].flags = (uint32_t)(req->offset >> (i + 3));
    }
}

static int serve(struct xreq *req)
{
    switch (req->op) {
    case XOP_OPEN:
        return serve_open(req);
    case XOP_CLOSE:
        run.opens--;
        return 0;
    case XOP_INFO:
        return serve_info(req);
    case XOP_NAMES:
        serve_names(req);
        return 0;
    case XOP_DIFF:
        assert(req->arg == 7);
        serve_status(req);
        break;
    case XOP_BLOCK_STATUS:
        serve_status(req);
        break;
    case XOP_READ:
    case XOP_WRITE:
        assert(req->size <= XSEG_IO_MAX && xreq_data_ok(seg, req, req->size));
        break;
    default:
        break;
    }
    assert(req->volume == 1 || req->volume == 2);
    assert(req->volume == 1 || req->op == XOP_READ || req->op == XOP_BLOCK_STATUS
           || req->op == XOP_DIFF || req->op == XOP_FLUSH || req->op == XOP_CACHE);
    assert(req->offset <= VOLUME_SIZE && req->size <= VOLUME_SIZE - req->offset);
    return req->offset % 13 == 12 ? -EIO : 0;
}

static bool serve_port(struct port *port)
{
    struct xreq *held[AWAY_MAX], *req;
    int count = 0;

    while (count < AWAY_MAX && (req = port_receive(port)))
        held[count++] = req;
    for (int i = 0; i < count; i++) {
        req = held[run.reversed ? count - 1 - i : i];
        xreq_reply(port, req, serve(req));
    }
    port_ring(port);
    return count > 0;
}

/* --- the client -------------------------------------------------------------------- */

static bool send_some(void)
{
    size_t want = run.left < run.piece ? run.left : run.piece;
    ssize_t n;

    if (run.left == 0) {
        if (!run.sent_all)
            shutdown(run.client, SHUT_WR);
        run.sent_all = true;
        return false;
    }
    n = send(run.client, run.data, want, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN)
        run.left = 0;               /* the server has hung up */
    if (n <= 0)
        return false;
    run.data += n;
    run.left -= (size_t)n;
    return true;
}

static bool receive_some(void)
{
    static uint8_t sink[65536];

    ssize_t n = recv(run.client, sink, sizeof(sink), MSG_DONTWAIT);

    if (n > 0)
        run.received += (size_t)n;
    return n > 0;
}

/* One turn of everybody. True if anything moved. */
static bool turn(void)
{
    bool moved = loop_turn(loop);

    moved |= loop_poll(loop);
    moved |= serve_port(below[0]);
    moved |= serve_port(below[1]);
    if (run.client >= 0) {
        moved |= send_some();
        moved |= receive_some();
    }
    return moved;
}

static uint8_t *put_option(uint8_t *at, uint32_t option, const void *data, uint32_t size)
{
    at = nbd_put64(at, NBD_OPTION_MAGIC);
    at = nbd_put32(at, option);
    at = nbd_put32(at, size);
    memcpy(at, data, size);
    return at + size;
}

/* The ordinary part of a handshake; its size. */
static size_t prologue(uint8_t *buffer, uint32_t kind, char name)
{
    const uint8_t go[] = { 0, 0, 0, 1, (uint8_t)name, 0, 0 };
    uint8_t context[64] = { 0, 0, 0, 1, (uint8_t)name, 0, 0, 0, 1, 0, 0, 0, 15 };
    uint8_t *at = buffer;

    if (kind == RAW)
        return 0;
    at = nbd_put32(at, NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES);
    if (kind == STRUCTURED) {
        memcpy(context + 13, "base:allocation", 15);
        at = put_option(at, NBD_OPT_STRUCTURED_REPLY, "", 0);
        at = put_option(at, NBD_OPT_SET_META_CONTEXT, context, 28);
    }
    if (kind != OPTIONS)
        at = put_option(at, NBD_OPT_GO, go, sizeof(go));
    return (size_t)(at - buffer);
}

static void connect_client(const uint8_t *data, size_t size)
{
    uint8_t buffer[256];
    size_t length = prologue(buffer, data[0] & 3, data[0] & 8 ? 's' : 'v');
    int ends[2];

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0
        || send(ends[0], buffer, length, MSG_NOSIGNAL) != (ssize_t)length)
        abort();
    nbd_connect(server->state, ends[1]);
    run.client = ends[0];
    run.data = data + 2;
    run.left = size - 2;
    run.piece = data[1] ? data[1] + run.left / SENDS_MAX : SIZE_MAX;
    run.reversed = data[0] & ORDER_REVERSED;
    run.drains = data[0] & DRAINS;
}

/* --- the target ----------------------------------------------------------------------- */

static void clean_up(void)
{
    char command[96];

    snprintf(command, sizeof(command), "rm -rf %s", folder);
    if (system(command) != 0)
        perror(folder);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const char *roles[] = { "nbd", "vlmc", "mapper" };
    char socket[sizeof(folder) + 16];
    const struct option options[] = {
        { "socket", socket }, { "socket_fd", NULL }, { "socket_mode", "384" }, { "socket_owner", NULL },
        { "socket_group", NULL }, { "listen", NULL }, { "listen_fd", NULL }, { "allow", NULL },
        { "connections", "2" }, { "connections_volume", "2" }, { "handshake_s", "10" }, { "structured_replies", "1" },
    };
    struct xparams params = { .static_slots = 48, .dynamic_slots = 8, .clients = 8, .volumes = 64,
                              .buffers = { 16, 8, 4 }, .frames = 64, .stacks = { 8, 8, 8 }, .contents = 8 };
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    uint32_t number, found;
    struct bell *bell;

    (void)argc;
    (void)argv;
    snprintf(folder, sizeof(folder), "/tmp/fuzz-nbd-XXXXXX");
    if (!mkdtemp(folder))
        abort();
    atexit(clean_up);
    snprintf(params.run, sizeof(params.run), "%s", folder);
    snprintf(socket, sizeof(socket), "%s/nbd.sock", folder);
    if (fchmod(fd, 0600) != 0 || xseg_format(fd, &params) != 0 || xseg_attach(fd, &seg, &found) != 0)
        abort();
    for (int i = 0; i < 3; i++)
        if (port_declare(seg, roles[i], roles[i], "fuzz", &number) != 0)
            abort();
    if (bell_open(seg, XPORT_ANY, &bell) != 0)
        abort();
    for (uint32_t i = 0; i < 2; i++)
        if (port_bind(seg, i + 1, roles[i + 1], bell, &below[i]) != 0)
            abort();
    seg->volumes[0] = (struct xvolume){ .state = XVOL_OPEN, .size = VOLUME_SIZE, .block_shift = 22 };
    seg->volumes[1] = seg->volumes[0];
    seg->volumes[1].readonly = 1;
    if (loop_new(seg, 0, &loop) != 0 || loop_add(loop, "nbd", "nbd", roles + 1, 2, options,
                                          sizeof(options) / sizeof(options[0]), &server) != 0)
        abort();
    return 0;
}

/* All that the server took is given back. */
static void check_nothing_is_left(void)
{
    const struct port *port = server->port;

    assert(port->free_count == port->count);
    for (uint32_t class = 0; class < XSEG_CLASSES; class++)
        assert(port->shared->buffers_held[class] == port->cached_count[class]);
    assert(run.opens == 0);
}

static void serve_client(void)
{
    int quiet = 0;

    for (int n = 0; n < TURNS_MAX && run.received < RECEIVED_MAX && (quiet < QUIET_MAX || !run.sent_all); n++)
        quiet = turn() ? 0 : quiet + 1;
    if (run.drains)
        server->ops->drain(server);
    close(run.client);
    run.client = -1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t end = clock_ns() + END_S * 1000000000ull;

    if (size < 2)
        return 0;
    memset(&run, 0, sizeof(run));
    connect_client(data, size);
    serve_client();
    while (!server->ops->idle(server)) {
        turn();
        assert(clock_ns() < end);
    }
    check_nothing_is_left();
    ((struct nbd *)server->state)->draining = false;
    return 0;
}
