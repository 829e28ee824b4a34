/* SPDX-License-Identifier: Apache-2.0
 *
 * loop/tune.c - finds out which mechanisms gain something. See loop/tune.h.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "loop/tune.h"

static const struct { const char *name; uint32_t levels, first; } mechanisms[TUNE_NAMES] = {
    [TUNE_NAPS] = { "naps", 3, 0 },
    [TUNE_SPIN] = { "spin", 2, 0 },
    [TUNE_ALONE] = { "alone", 2, 1 },
    [TUNE_HOLD] = { "hold", 3, 2 },
    [TUNE_READS] = { "reads", 2, 0 },
    [TUNE_WRITES] = { "writes", 2, 1 },
};

/* --- levels --------------------------------------------------------------------- */

static struct tune_knob *tried_knob(struct tune *tune) { return &tune->knobs[tune->candidate / 2]; }

static struct tune_try *tried_way(struct tune *tune)
{
    return tune->candidate & 1 ? &tried_knob(tune)->higher : &tried_knob(tune)->lower;
}

static uint32_t tried_level(struct tune *tune)
{
    return tune->candidate & 1 ? tried_knob(tune)->level + 1 : tried_knob(tune)->level - 1;
}

static void set_level(struct tune_knob *knob, uint32_t level)
{
    knob->level = knob->now = level;
    knob->lower = knob->higher = (struct tune_try){ 0 };
}

void tune_start(struct tune *tune)
{
    *tune = (struct tune){ .pause = 1, .rest = 1, .credit = TUNE_CREDIT_MAX, .noise = TUNE_NOISE_FIRST,
                            .epoch_ns = TUNE_EPOCH_NS };
    for (uint32_t i = 0; i < TUNE_NAMES; i++)
        set_level(&tune->knobs[i], mechanisms[i].first);
}

int tune_force(struct tune *tune, const char *name, bool on)
{
    for (uint32_t i = 0; i < TUNE_NAMES; i++)
        if (strcmp(mechanisms[i].name, name) == 0) {
            set_level(&tune->knobs[i], on ? mechanisms[i].levels - 1 : 0);
            tune->knobs[i].forced = true;
            return 0;
        }
    return -ENOENT;
}

/* --- tries ------------------------------------------------------------------------ */

/* Nothing that was measured counts any more. */
static void forget(struct tune *tune)
{
    for (uint32_t i = 0; i < TUNE_NAMES; i++)
        set_level(&tune->knobs[i], tune->knobs[i].level);
    tune->phase = TUNE_BASE;
    tune->before.ns = 0;
    tune->rest = tune->pause = 1;
}

static bool is_candidate(struct tune *tune)
{
    const struct tune_knob *knob = tried_knob(tune);
    struct tune_try *way = tried_way(tune);
    bool exists = tune->candidate & 1 ? knob->level + 1 < mechanisms[tune->candidate / 2].levels : knob->level > 0;

    if (knob->forced || !knob->used || !exists)
        return false;
    if (way->count < TUNE_TRIES_MIN || way->rate >= TUNE_HOPELESS || way->passed++ == TUNE_PASSES) {
        way->passed = 0;
        return true;
    }
    return false;
}

/* Goes on to the next level that could be tried. False: none could. */
static bool choose(struct tune *tune)
{
    for (uint32_t n = 0; n < 2 * TUNE_NAMES; n++) {
        tune->candidate = (tune->candidate + 1) % (2 * TUNE_NAMES);
        if (is_candidate(tune))
            return true;
    }
    return false;
}

static double clip(double ratio)
{
    return ratio > TUNE_CLIP ? TUNE_CLIP : ratio < 1 / TUNE_CLIP ? 1 / TUNE_CLIP : ratio;
}

static bool is_better(const struct tune *tune, const struct tune_try *way)
{
    double doubt = (TUNE_DOUBT + 2 * tune->noise)
                   / (way->count < TUNE_DOUBT_TRIES ? way->count : TUNE_DOUBT_TRIES);

    return way->count >= TUNE_TRIES_MIN
        && (way->rate > 1 + TUNE_GAIN + doubt || (way->rate > 1 - TUNE_EVEN && way->cost < 1 - TUNE_SAVING - doubt));
}

static bool differ(const struct tune_sample *a, const struct tune_sample *b, double factor)
{
    return a->rate > b->rate * factor || b->rate > a->rate * factor;
}

static void note_noise(struct tune *tune, const struct tune_sample *sample)
{
    double ratio = clip(sample->rate / tune->before.rate);

    tune->noise += ((ratio > 1 ? ratio - 1 : 1 - ratio) - tune->noise) / TUNE_NOISE_MEMORY;
    if (tune->noise > TUNE_LENGTHEN && tune->epoch_ns < TUNE_EPOCH_LONG * TUNE_EPOCH_NS) {
        tune->epoch_ns *= 2;
        tune->noise /= TUNE_ROOT;
    } else if (tune->noise < TUNE_SHORTEN && tune->epoch_ns > TUNE_EPOCH_NS) {
        tune->epoch_ns /= 2;
        tune->noise *= TUNE_ROOT;
    }
}

/* True: a level has changed. */
static bool judge(struct tune *tune, const struct tune_sample *after)
{
    struct tune_try *way = tried_way(tune);
    double rate = clip(2 * tune->tried.rate / (tune->before.rate + after->rate));
    double cost = clip(2 * tune->tried.cost / (tune->before.cost + after->cost));
    double weight = 1.0 / (way->count < TUNE_MEMORY ? way->count + 1 : TUNE_MEMORY);

    way->rate += (rate - way->rate) * weight;
    way->cost += (cost - way->cost) * weight;
    way->count++;
    if (is_better(tune, way)) {
        set_level(tried_knob(tune), tried_level(tune));
        tune->rest = tune->pause = 1;
        return true;
    }
    tune->pause += tune->pause < TUNE_PAUSE_MAX && way->count >= TUNE_TRIES_MIN;
    tune->rest = tune->pause;
    return false;
}

/* --- epochs ------------------------------------------------------------------------- */

static void begin(struct tune *tune, uint64_t now_ns, const struct tune_work *work)
{
    tune->began_ns = now_ns;
    tune->due_ns = now_ns + tune->epoch_ns;
    tune->began = *work;
    for (uint32_t i = 0; i < TUNE_NAMES; i++)
        tune->knobs[i].used = false;
}

/* After an epoch without a try. */
static void begin_try(struct tune *tune)
{
    tune->credit += tune->credit < TUNE_CREDIT_MAX;
    tune->rest -= tune->rest > 0;
    if (tune->rest > 0 || tune->noise > TUNE_UNSTEADY || tune->credit < TUNE_TRY_PRICE || !choose(tune))
        return;
    tune->credit -= TUNE_TRY_PRICE;
    tune->phase = TUNE_TRY;
    tried_knob(tune)->now = tried_level(tune);
}

static void end(struct tune *tune, const struct tune_sample *sample)
{
    bool changed = false;

    if (tune->phase == TUNE_TRY) {
        tune->tried = *sample;
        tried_knob(tune)->now = tried_knob(tune)->level;
        tune->phase = TUNE_AFTER;
        return;
    }
    if (tune->before.ns)
        note_noise(tune, sample);
    if (tune->before.ns && differ(&tune->before, sample, TUNE_CHANGE + TUNE_CHANGE_NOISE * tune->noise))
        forget(tune);
    else if (tune->phase == TUNE_AFTER && !differ(&tune->before, sample, TUNE_CHANGE))
        changed = judge(tune, sample);
    tune->phase = TUNE_BASE;
    tune->before = changed ? (struct tune_sample){ 0 } : *sample;
    if (!changed)
        begin_try(tune);
}

void tune_turn(struct tune *tune, uint64_t now_ns, const struct tune_work *work, uint32_t peers)
{
    uint64_t ns = now_ns - tune->began_ns, answers = work->answers - tune->began.answers;
    uint64_t bytes = work->bytes - tune->began.bytes + answers * TUNE_ANSWER_BYTES;
    bool enough = ns >= tune->epoch_ns && answers >= (uint64_t)TUNE_EPOCH_ANSWERS * peers;

    assert(now_ns >= tune->began_ns);
    if (ns > TUNE_EPOCH_MAX_NS) {
        forget(tune);
    } else if (answers > 0 && (enough || (tune->phase == TUNE_TRY && ns > 2 * tune->before.ns))) {
        struct tune_sample sample = { .ns = ns, .rate = (double)bytes / (double)ns,
                                      .cost = (double)(work->cpu_ns - tune->began.cpu_ns) / (double)bytes };
        end(tune, &sample);
    } else {
        tune->due_ns = now_ns + tune->epoch_ns / TUNE_LOOKS;
        return;
    }
    begin(tune, now_ns, work);
}
