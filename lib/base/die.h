/* SPDX-License-Identifier: MIT */
/*
 * die - the one way a tool speaks and stops
 *
 * Messages go to stderr as `prog: message`: lowercase, no full stop, the
 * problem first, the subject in single quotes. A format that ends in ':' gets
 * strerror(errno) appended. A message is one line: control characters of
 * foreign names become '?'. What does I/O may die; what computes may not; what
 * parses foreign bytes returns a reason and lets its caller die.
 */
#ifndef BASE_DIE_H
#define BASE_DIE_H

extern const char *progname;		/* basename of argv[0]; set by options_parse() */

/* Exit 1. An atexit handler removes half-written outputs (lib/base/file.h). */
_Noreturn void die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* Exit 2: the command line was wrong. Adds "try 'prog --help'". */
_Noreturn void die_usage(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

void warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/*
 * For parsers of foreign bytes: write the reason into why[REASON_MAX] and
 * return -1, so that a parser's failure reads `return reason(why, "...", ...)`.
 */
enum { REASON_MAX = 512 };
int reason(char *why, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
