/* SPDX-License-Identifier: Apache-2.0
 *
 * loop/tune.h - which of a loop's mechanisms gain something, on this machine and for this load.
 *
 * What makes one processor quick costs another its speed: to nap until more has come, to look for work before
 * sleeping, to hold a part of the reads back. So none of that is on for good. Each mechanism has levels, of which 0
 * is its absence and the highest its bound, and the loop finds out, while it runs, which level serves it best.
 *
 * Time is cut into epochs of TUNE_EPOCH_NS and TUNE_EPOCH_ANSWERS at least, and up to TUNE_EPOCH_LONG as long where
 * epochs beside each other differ much, as on a machine where others want the CPU. In most of them each mechanism is at
 * its level. In one of them now and then, a try, a mechanism that was in use in the epoch before is one level higher
 * or lower, and that epoch is compared with the mean of its two neighbours: by its rate, which is bytes a second with
 * TUNE_ANSWER_BYTES for each answer, and by its cost, the CPU that the process took for them. What is measured so,
 * try by try, is kept for each mechanism and direction. It goes to that level when the rate is higher by TUNE_GAIN,
 * or the cost lower by TUNE_SAVING while the rate is as high but for TUNE_EVEN; and the fewer tries there were, and the
 * more neighbours differ anyway (`noise`), the more has to be gained. A load that does not wait for its answers has the
 * same rate at each level, and so gets what is cheapest. While neighbours differ by TUNE_UNSTEADY nothing is tried.
 *
 * What a try may cost is bounded: it ends after twice the time of its neighbour; TUNE_PAUSE_MAX epochs lie between
 * two when there is nothing new; never more than one epoch of TUNE_TRY_PRICE is one in the long run; a level that
 * was much worse (TUNE_HOPELESS) is tried a quarter as often. So with a mechanism that takes 40 % where it does not
 * belong, 1 % is lost by trying.
 *
 * Epochs that last longer than TUNE_EPOCH_MAX_NS, as the load is light or gone, say nothing, and what was measured
 * before counts no more. A rate that changes by TUNE_CHANGE and more is a new load, too. Levels stay meanwhile.
 *
 * All of it is the loop's thread's. Nothing here waits, and an epoch's end takes a microsecond.
 */
#ifndef ARCHIPELAGO_TUNE_H
#define ARCHIPELAGO_TUNE_H

#include <stdbool.h>
#include <stdint.h>

#define TUNE_EPOCH_NS 4000000ull
#define TUNE_EPOCH_LONG 16
#define TUNE_LOOKS 4                /* in so many parts of the shortest, whether one that lasts longer is over */
#define TUNE_EPOCH_ANSWERS 32       /* of each peer, in the mean */
#define TUNE_EPOCH_MAX_NS 200000000ull
#define TUNE_ANSWER_BYTES 4096
#define TUNE_GAIN 0.02
#define TUNE_SAVING 0.10
#define TUNE_EVEN 0.02
#define TUNE_DOUBT 0.12             /* and twice the noise: divided by the number of tries, */
#define TUNE_DOUBT_TRIES 12         /* this at most */
#define TUNE_UNSTEADY 0.25
#define TUNE_LENGTHEN 0.15          /* noise, from which on epochs become twice as long, */
#define TUNE_SHORTEN 0.03           /* and below which half as long */
#define TUNE_ROOT 1.4               /* by so much does that change the noise */
#define TUNE_NOISE_FIRST 0.14       /* until more is known */
#define TUNE_NOISE_MEMORY 8         /* neighbours that count, about */
#define TUNE_TRIES_MIN 2            /* before a level changes */
#define TUNE_MEMORY 6               /* tries that count, about */
#define TUNE_CLIP 2.0               /* one try tells of no larger factor */
#define TUNE_CHANGE 1.5             /* by such a factor neighbours may not differ that a try is compared with; */
#define TUNE_CHANGE_NOISE 4         /* and this by the noise added: another load */
#define TUNE_HOPELESS 0.90
#define TUNE_PASSES 3               /* times a hopeless one is passed over */
#define TUNE_PAUSE_MAX 32
#define TUNE_TRY_PRICE 12           /* in credits; one is earned by an epoch without a try */
#define TUNE_CREDIT_MAX (16 * TUNE_TRY_PRICE)

enum tune_name {                    /* tune.c: their levels, and where they begin */
    TUNE_NAPS,                      /* share of the nap a peer asks for: none, half, all */
    TUNE_SPIN,                      /* look for work before sleeping */
    TUNE_ALONE,                     /* wait for the one active descriptor by itself */
    TUNE_HOLD,                      /* part of the reads a ring holds back: none, an eighth, a quarter */
    TUNE_READS,                     /* large buffered reads by a worker */
    TUNE_WRITES,                    /* large buffered writes by a worker */
    TUNE_NAMES
};

struct tune_work { uint64_t answers, bytes, cpu_ns; };      /* so far; cpu_ns: of the process */

struct tune_sample { uint64_t ns; double rate, cost; };

struct tune_try {                   /* what is known of the next level in one direction, by this one's */
    double rate, cost;
    uint32_t count;
    uint32_t passed;                /* times it was passed over, as it is hopeless */
};

struct tune_knob {
    uint32_t level, now;            /* now: differs while another is tried */
    bool forced;
    bool used;                      /* in this epoch it made, or would have made, a difference */
    struct tune_try lower, higher;
};

enum tune_phase { TUNE_BASE, TUNE_TRY, TUNE_AFTER };

struct tune {
    struct tune_knob knobs[TUNE_NAMES];
    enum tune_phase phase;
    uint64_t began_ns;              /* this epoch */
    uint64_t epoch_ns;              /* the shortest now */
    uint64_t due_ns;                /* when to look whether it is over */
    struct tune_work began;
    struct tune_sample before, tried;       /* before.ns 0: there is none */
    uint32_t candidate;             /* that is tried, or was last: 2 * its name, and 1 if higher */
    double noise;                   /* by which part the rates of neighbours differ, of late */
    uint32_t rest, pause;           /* epochs until the next try; the whole of that */
    uint32_t credit;
};

void tune_start(struct tune *tune);
/* Sets a mechanism, by its name as the configuration has it, for good. ENOENT: there is none of that name. */
int tune_force(struct tune *tune, const char *name, bool on);
/* The level to go by now. To be asked only when it makes a difference. */
static inline uint32_t tune_level(struct tune *tune, enum tune_name name)
{
    tune->knobs[name].used = true;
    return tune->knobs[name].now;
}
/* True if the epoch may be over, so that tune_turn() is worth its while. */
static inline bool tune_is_due(const struct tune *tune, uint64_t now_ns)
{
    return now_ns >= tune->due_ns;
}
/* Between two turns. `peers`: whose answers `work` has. */
void tune_turn(struct tune *tune, uint64_t now_ns, const struct tune_work *work, uint32_t peers);

#endif
