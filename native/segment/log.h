/* SPDX-License-Identifier: Apache-2.0
 *
 * segment/log.h - a line into the log of a process, which is its stderr. It looks as those that Python writes.
 */
#ifndef ARCHIPELAGO_LOG_H
#define ARCHIPELAGO_LOG_H

/* "2026-01-31 12:00:00.123 ROLE LEVEL TEXT". `level` is INFO, WARNING or ERROR. Of a longer text
 * the first 511 bytes are told. Any thread. */
void log_line(const char *role, const char *level, const char *format, ...) __attribute__((format(printf, 3, 4)));

#endif
