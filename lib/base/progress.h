/* SPDX-License-Identifier: MIT */
/*
 * progress - what a long run has done so far, on stderr
 *
 * One line that is written again every second on a terminal, every half minute
 * elsewhere, and a last time at the end.
 */
#ifndef BASE_PROGRESS_H
#define BASE_PROGRESS_H

#include <stdint.h>

struct progress {
	int quiet;
	const char *what;	/* is counted: "records" */
	uint64_t count, tokens;
	double started, shown;
};

void progress_start(struct progress *p, const char *what, int quiet);
void progress_add(struct progress *p, uint64_t count, uint64_t tokens);
void progress_end(struct progress *p);

#endif
