/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include "lib/base/clock.h"
#include "lib/base/die.h"
#include "lib/base/progress.h"

void
progress_start(struct progress *p, const char *what, int quiet)
{
	*p = (struct progress){ .quiet = quiet, .what = what, .started = clock_now() };
	p->shown = p->started;
}

static void
show(struct progress *p, double time, const char *end)
{
	int terminal = isatty(STDERR_FILENO);
	double seconds = time - p->started;

	fprintf(stderr, "%s%s: %" PRIu64 " %s, %" PRIu64 " tokens, %.4g tokens/s%s", terminal ? "\r" : "", progname,
	    p->count, p->what, p->tokens, seconds > 0 ? (double)p->tokens / seconds : 0,
	    terminal ? end : "\n");
	p->shown = time;
}

void
progress_add(struct progress *p, uint64_t count, uint64_t tokens)
{
	double time;

	p->count += count;
	p->tokens += tokens;
	if (p->quiet)
		return;
	time = clock_now();
	if (time - p->shown >= (isatty(STDERR_FILENO) ? 1 : 30))
		show(p, time, "\033[K");
}

void
progress_end(struct progress *p)
{
	if (!p->quiet)
		show(p, clock_now(), "\033[K\n");
}
