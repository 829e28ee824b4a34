/* SPDX-License-Identifier: Apache-2.0
 *
 * fuzz/vhost.c - a libFuzzer target: what a front-end may say to the vhost server, and a guest put into its memory.
 *
 * Each input is one connection to one disk, in a small segment, so that slots and buffers run out. The target takes the
 * loop's turns itself, and between them plays the front-end, its guest, vlmc and the mapper. The first byte says
 * whether the connection begins with an ordinary set-up of two rings (SET_UP), and in which order vlmc answers
 * (REVERSED). Then come steps, a byte each (enum step, modulo their number) and what belongs to it. What is checked,
 * beside the sanitizers and the server's own asserts: nothing is sent to vlmc that lies outside the volume, and when the
 * front-end has gone every slot, buffer and volume is given back.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "vhost/parts.h"

#define MEMORY (64u << 10)          /* bytes of the guest */
#define USER 0x100000ull            /* its first byte, by the front-end's addresses */
#define RING 16u                    /* descriptors */
#define RING_ROOM 1024u             /* bytes from one ring to the next */
#define DATA 4096u                  /* from here on there is data */
#define VOLUME_SIZE (64ull << 20)
#define AWAY_MAX 64
#define STEPS_MAX 512
#define TURNS_MAX 64                /* after the last step */
#define END_S 20

enum { SET_UP = 1, REVERSED = 2 };
enum step { SAY, SAY_WITH_MEMORY, SAY_WITH_BELL, WRITE_MEMORY, ADD_CHAIN, KICK, TURN, CUT_OFF, STEPS };

static struct xseg *seg;
static struct port *below[2];       /* vlmc, mapper */
static struct loop *loop;
static struct peer *server;
static char folder[64], path[96];

static struct {
    int socket, memory_fd, bell;
    uint8_t *memory;
    const uint8_t *data;
    size_t left;
    bool reversed;
    uint16_t avail;
    int opens;
} run;

/* --- vlmc and the mapper ------------------------------------------------------- */

static int serve(struct xreq *req)
{
    struct xinfo info = { .id = 7, .size = VOLUME_SIZE, .block_shift = 22, .name = "v" };

    switch (req->op) {
    case XOP_OPEN:
        run.opens++;
        req->done = 1;
        return 0;
    case XOP_CLOSE:
        run.opens--;
        return 0;
    case XOP_INFO:
        memcpy(xreq_data(seg, req), &info, sizeof(info));
        req->done = sizeof(info);
        return 0;
    case XOP_READ:
    case XOP_WRITE:
        assert(req->size && req->size <= XSEG_IO_MAX && xreq_data_ok(seg, req, req->size));
        break;
    default:
        assert(req->op == XOP_FLUSH || req->op == XOP_DISCARD || req->op == XOP_WRITE_ZEROES);
    }
    assert(req->volume == 1 && req->offset <= VOLUME_SIZE && req->size <= VOLUME_SIZE - req->offset);
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

static bool turn(void)
{
    static uint8_t sink[65536];
    bool moved = loop_turn(loop);

    moved |= loop_poll(loop);
    moved |= serve_port(below[0]);
    moved |= serve_port(below[1]);
    if (run.socket >= 0)
        moved |= recv(run.socket, sink, sizeof(sink), MSG_DONTWAIT) > 0;
    return moved;
}

/* --- the front-end and its guest --------------------------------------------------- */

static uint8_t next(void)
{
    if (!run.left)
        return 0;
    run.left--;
    return *run.data++;
}

static void say(uint32_t request, const void *payload, uint32_t size, int fd)
{
    struct vhost_header header = { request, VHOST_VERSION | VHOST_NEED_REPLY, size };
    struct iovec parts[2] = { { &header, sizeof(header) }, { (void *)(uintptr_t)payload, size } };
    union { struct cmsghdr head; char space[CMSG_SPACE(sizeof(int))]; } control;
    struct msghdr message = { .msg_iov = parts, .msg_iovlen = size ? 2 : 1 };

    if (fd >= 0) {
        memset(&control, 0, sizeof(control));
        control.head = (struct cmsghdr){ CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
        memcpy(CMSG_DATA(&control.head), &fd, sizeof(fd));
        message.msg_control = control.space;
        message.msg_controllen = sizeof(control.space);
    }
    if (sendmsg(run.socket, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EPIPE && errno != EAGAIN)
        run.left = 0;
}

static void say_number(uint32_t request, uint32_t index, uint32_t value, int fd)
{
    struct vhost_number number = { index, value };

    say(request, &number, sizeof(number), fd);
}

static uint32_t avail_at(uint32_t ring) { return ring * RING_ROOM + RING * 16; }
static uint32_t used_at(uint32_t ring) { return ring * RING_ROOM + RING * 16 + 128; }

static void set_up(void)
{
    struct { uint32_t count, pad; struct vhost_area area; } memory = { 1, 0, { 0, MEMORY, USER, 0 } };
    uint64_t features = 1ull << VHOST_F_VERSION_1 | 1ull << VHOST_F_PROTOCOL | 1ull << VIRTIO_RING_F_EVENT_IDX
                      | 1ull << VIRTIO_RING_F_INDIRECT_DESC | 1ull << VIRTIO_BLK_F_FLUSH;

    say(VHOST_SET_FEATURES, &features, sizeof(features), -1);
    say(VHOST_SET_MEM_TABLE, &memory, sizeof(memory), run.memory_fd);
    for (uint32_t ring = 0; ring < 2; ring++) {
        struct vhost_addresses where = { ring, 0, USER + ring * RING_ROOM, USER + used_at(ring), USER + avail_at(ring),
                                         0 };
        say_number(VHOST_SET_VRING_NUM, ring, RING, -1);
        say(VHOST_SET_VRING_ADDR, &where, sizeof(where), -1);
        say_number(VHOST_SET_VRING_KICK, ring, 0, run.bell);
        say_number(VHOST_SET_VRING_CALL, ring, 0, run.bell);
        say_number(VHOST_SET_VRING_ENABLE, ring, 1, -1);
    }
    for (int n = 0; n < 8; n++)
        turn();
}

static void say_something(int fd)
{
    uint8_t payload[64] = { 0 };
    uint32_t request = next() % (VHOST_MESSAGES + 2), size = next() % (sizeof(payload) + 1);

    for (uint32_t i = 0; i < size; i++)
        payload[i] = next();
    say(request, payload, size, fd);
}

static void write_memory(void)
{
    uint32_t at = (uint32_t)(next() | next() << 8) % MEMORY, length = next() % 32;

    for (uint32_t i = 0; i < length && at + i < MEMORY; i++)
        run.memory[at + i] = next();
}

/* A request of the kind that drivers make, in descriptors that may be in use. */
static void add_chain(void)
{
    uint32_t ring = next() % 2, head = next() % RING, length = next() * 512u % 8192;
    struct virtio_blk_outhdr what = { next() % 15, 0, next() };
    struct vring_desc *desc = (struct vring_desc *)(void *)(run.memory + ring * RING_ROOM);
    struct vring_avail *avail = (struct vring_avail *)(void *)(run.memory + avail_at(ring));
    uint32_t at = DATA + (uint32_t)next() * 128;
    bool reads = what.type == VIRTIO_BLK_T_IN || what.type == VIRTIO_BLK_T_GET_ID;

    memcpy(run.memory + at, &what, sizeof(what));
    desc[head] = (struct vring_desc){ at, sizeof(what), VRING_DESC_F_NEXT, (uint16_t)((head + 1) % RING) };
    desc[(head + 1) % RING] = (struct vring_desc){ at + 16, length, VRING_DESC_F_NEXT
                                                   | (reads ? VRING_DESC_F_WRITE : 0), (uint16_t)((head + 2) % RING) };
    desc[(head + 2) % RING] = (struct vring_desc){ at + 8300, 1, VRING_DESC_F_WRITE, 0 };
    avail->ring[avail->idx % RING] = (uint16_t)head;
    avail->idx++;
}

static void step(void)
{
    uint64_t one = 1;

    switch ((enum step)(next() % STEPS)) {
    case SAY: say_something(-1); break;
    case SAY_WITH_MEMORY: say_something(run.memory_fd); break;
    case SAY_WITH_BELL: say_something(run.bell); break;
    case WRITE_MEMORY: write_memory(); break;
    case ADD_CHAIN: add_chain(); break;
    case KICK:
        if (write(run.bell, &one, sizeof(one)) < 0)
            abort();
        break;
    case CUT_OFF:
        if (next() == 0xff && ftruncate(run.memory_fd, MEMORY / 2) == 0) {
            munmap(run.memory, MEMORY);     /* the target's own would be a SIGBUS as well */
            run.memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        }
        break;
    default: break;
    }
    turn();
}

/* --- the target ----------------------------------------------------------------------- */

static void clean_up(void)
{
    char command[96];

    snprintf(command, sizeof(command), "rm -rf %s", folder);
    if (system(command) != 0)
        perror(folder);
}

static void attach(void)
{
    char name[128];
    FILE *file;

    snprintf(name, sizeof(name), "%s/attached", folder);
    if (mkdir(name, 0700) != 0)
        abort();
    snprintf(name, sizeof(name), "%s/attached/0000000000000007", folder);
    file = fopen(name, "w");
    if (!file || fchmod(fileno(file), 0600) != 0)
        abort();
    fprintf(file, "name v\nrole vhost\nsocket %s\nreadonly 0\nshared 0\nqueues 2\nblock_size 512\n", path);
    fclose(file);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    const char *roles[] = { "vhost", "vlmc", "mapper" };
    char attached[96];
    const struct option options[] = {
        { "attached", attached }, { "park", "/nonexistent" }, { "sessions", "4" }, { "queues", "2" },
        { "memory_gib", "1" }, { "stop_s", "1" }, { "handover_s", "0" }, { "poll_ms", "1" }, { "socket_group", NULL },
    };
    struct xparams params = { .static_slots = 48, .dynamic_slots = 8, .clients = 8, .volumes = 64,
                              .buffers = { 16, 8, 4 }, .frames = 64, .stacks = { 8, 8, 8 }, .contents = 8 };
    int fd = memfd_create("fuzz", MFD_CLOEXEC);
    uint32_t number, found;
    struct bell *bell;

    (void)argc;
    (void)argv;
    signal(SIGPIPE, SIG_IGN);
    snprintf(folder, sizeof(folder), "/tmp/fuzz-vhost-XXXXXX");
    if (!mkdtemp(folder))
        abort();
    atexit(clean_up);
    snprintf(params.run, sizeof(params.run), "%s", folder);
    snprintf(path, sizeof(path), "%s/v.sock", folder);
    snprintf(attached, sizeof(attached), "%s/attached", folder);
    attach();
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
    if (loop_new(seg, 0, &loop) != 0 || loop_add(loop, "vhost", "vhost", roles + 1, 2, options,
                                                 sizeof(options) / sizeof(options[0]), &server) != 0)
        abort();
    return 0;
}

static void begin(void)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };

    strcpy(address.sun_path, path);
    run.memory_fd = memfd_create("guest", MFD_CLOEXEC);
    run.bell = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    run.socket = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (ftruncate(run.memory_fd, MEMORY) != 0
        || connect(run.socket, (struct sockaddr *)&address, sizeof(address)) != 0)
        abort();
    run.memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, run.memory_fd, 0);
    for (int n = 0; n < 4; n++)
        turn();
}

static void end(void)
{
    uint64_t limit = clock_ns() + END_S * 1000000000ull;
    const struct vhost *vhost = server->state;
    const struct port *port = server->port;

    close(run.socket);
    run.socket = -1;
    while (vhost->session_count || !server->ops->idle(server)) {
        turn();
        assert(clock_ns() < limit);
    }
    munmap(run.memory, MEMORY);
    close(run.memory_fd);
    close(run.bell);
    assert(port->free_count == port->count);
    for (uint32_t class = 0; class < XSEG_CLASSES; class++)
        assert(port->shared->buffers_held[class] == port->cached_count[class]);
    assert(run.opens == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int how;

    memset(&run, 0, sizeof(run));
    run.data = data;
    run.left = size;
    how = next();
    run.reversed = how & REVERSED;
    begin();
    if (how & SET_UP)
        set_up();
    for (int n = 0; n < STEPS_MAX && run.left; n++)
        step();
    for (int n = 0; n < TURNS_MAX && turn(); n++)
        continue;
    end();
    return 0;
}
