/* SPDX-License-Identifier: Apache-2.0
 *
 * load/load.c - command line and report of the load generator. See load/load.h.
 *
 * One JSON object goes to stdout. Times are in microseconds; cpu_us is what this process (and,
 * in the modes hop, pipe and socket, the others too) used for one request.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "load/load.h"

static const char usage[] =
    "usage: tool_load volume --segment SEG --name VOLUME [--readonly] LOAD\n"
    "       tool_load role   --segment SEG --role ROLE LOAD\n"
    "       tool_load hop    [--hops N] [--separate] [--spin US] LOAD\n"
    "       tool_load pipe|socket LOAD\n"
    "       tool_load rados  --conf CEPH.CONF --name POOL LOAD\n"
    "LOAD:  --op ping|read|write|write_zeroes|discard|flush  --size BYTES  --depth N\n"
    "       --seconds S and/or --requests N   --range BYTES (of the volume or all objects)\n"
    "       --sequential [--stride BYTES] [--run N --jump BYTES: after N, on at the next jump]\n"
    "       --flush-every N   --seed N   --spin US\n"
    "       --windows MS: what happened in each stretch of so many milliseconds\n"
    "role: with --op read/write, objects of 4 MiB of volume 1, epoch 1, are meant.\n";

static const struct { const char *name; uint16_t op; } ops[] = {
    { "ping", XOP_PING }, { "read", XOP_READ }, { "write", XOP_WRITE },
    { "write_zeroes", XOP_WRITE_ZEROES }, { "discard", XOP_DISCARD }, { "flush", XOP_FLUSH },
};

enum { SEGMENT = 1, NAME, ROLE, READONLY, SEPARATE, HOPS, SPIN, OP, SIZE, DEPTH, SECONDS, REQUESTS,
       RANGE, SEQUENTIAL, STRIDE, RUN, JUMP, FLUSH_EVERY, SEED, WINDOWS, CONF };

static const struct option options[] = {
    { "segment", 1, 0, SEGMENT }, { "name", 1, 0, NAME }, { "role", 1, 0, ROLE },
    { "readonly", 0, 0, READONLY }, { "separate", 0, 0, SEPARATE }, { "hops", 1, 0, HOPS },
    { "spin", 1, 0, SPIN }, { "op", 1, 0, OP }, { "size", 1, 0, SIZE }, { "depth", 1, 0, DEPTH },
    { "seconds", 1, 0, SECONDS }, { "requests", 1, 0, REQUESTS }, { "range", 1, 0, RANGE },
    { "sequential", 0, 0, SEQUENTIAL }, { "stride", 1, 0, STRIDE }, { "run", 1, 0, RUN },
    { "jump", 1, 0, JUMP }, { "conf", 1, 0, CONF },
    { "flush-every", 1, 0, FLUSH_EVERY }, { "seed", 1, 0, SEED }, { "windows", 1, 0, WINDOWS },
    { 0, 0, 0, 0 },
};

static void wrong(const char *why)
{
    fprintf(stderr, "tool_load: %s\n%s", why, usage);
    exit(2);
}

static uint64_t number(uint64_t most)
{
    char *end;
    uint64_t value;

    errno = 0;
    value = strtoull(optarg, &end, 10);
    if (errno || end == optarg || *end || optarg[0] == '-' || value > most)
        wrong("not a number, or too large");
    return value;
}

static uint16_t op_named(const char *name)
{
    for (size_t i = 0; i < sizeof(ops) / sizeof(ops[0]); i++)
        if (strcmp(ops[i].name, name) == 0)
            return ops[i].op;
    wrong("there is no such operation");
    return 0;
}

static void take_option(struct wish *wish, int which)
{
    switch (which) {
    case SEGMENT: wish->segment = optarg; break;
    case NAME: wish->name = optarg; break;
    case ROLE: wish->role = optarg; break;
    case CONF: wish->conf = optarg; break;
    case READONLY: wish->readonly = true; break;
    case SEPARATE: wish->separate = true; break;
    case HOPS: wish->hops = (uint32_t)number(64); break;
    case SPIN: wish->spin_us = (uint32_t)number(1000000); break;
    case OP: wish->op = op_named(optarg); break;
    case SIZE: wish->size = number(1ull << 30); break;
    case DEPTH: wish->depth = (uint32_t)number(LOAD_DEPTH_MAX); break;
    case SECONDS: wish->seconds = strtod(optarg, NULL); break;
    case REQUESTS: wish->requests = number(UINT64_MAX); break;
    case RANGE: wish->range = number(UINT64_MAX); break;
    case SEQUENTIAL: wish->sequential = true; break;
    case STRIDE: wish->stride = number(UINT64_MAX); break;
    case RUN: wish->run = number(UINT64_MAX); break;
    case JUMP: wish->jump = number(UINT64_MAX); break;
    case FLUSH_EVERY: wish->flush_every = (uint32_t)number(1000000); break;
    case SEED: wish->seed = number(UINT64_MAX); break;
    case WINDOWS: wish->window_ms = (uint32_t)number(60000); break;
    default: wrong("unknown option");
    }
}

static void check_wish(struct wish *wish)
{
    bool on_volume = strcmp(wish->mode, "volume") == 0, on_role = strcmp(wish->mode, "role") == 0;
    bool data = wish->op == XOP_READ || wish->op == XOP_WRITE, on_rados = strcmp(wish->mode, "rados") == 0;

    if ((on_volume || on_role) && !wish->segment)
        wrong("--segment is missing");
    if (on_volume ? !wish->name : on_role && !wish->role)
        wrong("--name or --role is missing");
    if (on_rados && (!wish->conf || !wish->name || !data))
        wrong("--conf or --name is missing, or --op is neither read nor write");
    if (!on_volume && !on_rados)
        wish->name = NULL;
    if (wish->depth == 0 || (data && (wish->size == 0 || wish->size > XSEG_IO_MAX)))
        wrong("--depth must be 1 at least, --size from 1 to 1048576");
    if (wish->seconds <= 0 && wish->requests == UINT64_MAX)
        wrong("--seconds or --requests is missing");
    if ((on_role || on_rados) && data && wish->range == 0)
        wrong("--range is missing");
    if (wish->stride == 0)
        wish->stride = wish->size;
}

static void print_windows(const struct load *load)
{
    printf(", \"window_ms\": %u, \"windows\": [", load->wish->window_ms);
    for (uint32_t i = 0; i < load->window_count; i++) {
        const struct window *w = &load->windows[i];
        printf("%s[%" PRIu64 ", %.1f, %.1f]", i ? ", " : "", w->done,
               (double)w->latency_max_ns / 1e3, (double)w->gap_max_ns / 1e3);
    }
    printf("]");
}

static void print_latency(const char *prefix, const struct histogram *latency)
{
    static const struct { const char *name; uint32_t permille; } points[] = {
        { "p50", 500 }, { "p99", 990 }, { "p999", 999 },
    };

    printf(", \"%smean_us\": %.3f", prefix,
           (double)latency->sum / 1e3 / (latency->count ? (double)latency->count : 1));
    for (size_t i = 0; i < sizeof(points) / sizeof(points[0]); i++)
        printf(", \"%s%s_us\": %.3f", prefix, points[i].name,
               (double)histogram_at(latency, points[i].permille) / 1e3);
    printf(", \"%smax_us\": %.3f", prefix, (double)latency->max / 1e3);
}

static void report(const struct load *load, uint64_t cpu_ns)
{
    double seconds = (double)(load->last_ns - load->start_ns) / 1e9;
    double done = load->done ? (double)load->done : 1;

    printf("{\"done\": %" PRIu64 ", \"flushes\": %" PRIu64 ", \"seconds\": %.6f, \"iops\": %.1f, "
           "\"cpu_us\": %.4f, \"start_ns\": %" PRIu64, load->done, load->flushes, seconds,
           seconds > 0 ? (double)load->done / seconds : 0, (double)cpu_ns / 1e3 / done,
           load->start_ns);
    print_latency("", &load->latency);
    if (load->flushes)
        print_latency("flush_", &load->flush_latency);
    if (load->windows)
        print_windows(load);
    printf("}\n");
}

int main(int argc, char **argv)
{
    static struct load load;
    struct wish wish = { .op = XOP_PING, .depth = 1, .size = 4096, .hops = 1, .seed = 1,
                         .requests = UINT64_MAX };
    uint64_t cpu_ns = 0;
    int rc, which;

    if (argc < 2)
        wrong("a mode is missing");
    wish.mode = argv[1];
    argc--;
    argv++;
    while ((which = getopt_long(argc, argv, "", options, NULL)) != -1)
        take_option(&wish, which);
    check_wish(&wish);
    if (strcmp(wish.mode, "volume") == 0 || strcmp(wish.mode, "role") == 0)
        rc = run_segment(&wish, &load, &cpu_ns);
    else if (strcmp(wish.mode, "hop") == 0)
        rc = run_hop(&wish, &load, &cpu_ns);
    else if (strcmp(wish.mode, "pipe") == 0 || strcmp(wish.mode, "socket") == 0)
        rc = run_stream(&wish, &load, &cpu_ns);
    else if (strcmp(wish.mode, "rados") == 0)
        rc = run_rados(&wish, &load, &cpu_ns);
    else
        wrong("there is no such mode");
    if (rc) {
        fprintf(stderr, "tool_load: %s: %s\n", wish.mode, strerror(-rc));
        return 1;
    }
    report(&load, cpu_ns);
    return 0;
}
