/* SPDX-License-Identifier: Apache-2.0
 *
 * map/diff.h - where two leaves say that a volume's bytes lie elsewhere.
 *
 * A chunk is the same on both sides if it lies in the same object: what two maps have in common is never written in
 * place. It is taken to differ if it lies in different ones, though a merge of layers may have copied it there
 * unchanged. Of a block that is nowhere on one side, and so zeros, all is taken to differ.
 */
#ifndef ARCHIPELAGO_MAP_DIFF_H
#define ARCHIPELAGO_MAP_DIFF_H

#include <stdint.h>

#include "map/map.h"

/* Compares [at, end) of two leaves of one block size, of bytes that the leaf covers, and adds the ranges that differ
 * to `ranges`, whole chunks but for what `end` cuts. 0: all were looked at. ENOSPC: they do not fit; `at` is where to
 * go on. EBADMSG. */
int map_diff(struct map_diff *diff);

#endif
