/* SPDX-License-Identifier: MIT */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/base/die.h"
#include "lib/train/plan.h"

enum { PROCESS = 48 << 20 };	/* code, streams and their frames, threads' stacks */
enum { FEWEST = 64 };		/* rows that one would still train with */

size_t
plan_bytes(const struct plan *p)
{
	return PROCESS + optimizer_bytes(p->m, p->type, p->stochastic) + p->teacher +
	    trainer_bytes(p->m, p->type, p->columns, p->rows, p->keep);
}

static double
gib(size_t bytes)
{
	return (double)bytes / (1 << 30);
}

/* The most rows, in steps of FEWEST, with which the plan fits; 0 if it does not. */
static int
rows_that_fit(struct plan p, size_t limit)
{
	for (p.rows -= p.rows % FEWEST ? p.rows % FEWEST : FEWEST; p.rows >= FEWEST; p.rows -= FEWEST)
		if (plan_bytes(&p) <= limit)
			return p.rows;
	return 0;
}

void
plan_check(const struct plan *p, size_t limit)
{
	struct plan other = *p;
	double need = gib(plan_bytes(p)), have = gib(limit);
	int rows;

	if (plan_bytes(p) <= limit)
		return;
	other.keep = KEEP_INPUTS;
	if (plan_bytes(&other) <= limit)
		die("needs %.2f GiB of memory, has %.2f: --recompute needs %.2f", need, have, gib(plan_bytes(&other)));
	if ((rows = rows_that_fit(*p, limit)))
		die("needs %.2f GiB of memory, has %.2f: --micro-tokens %d would fit", need, have, rows);
	if ((rows = rows_that_fit(other, limit)))
		die("needs %.2f GiB of memory, has %.2f: --recompute --micro-tokens %d would fit", need, have, rows);
	other.type = DT_BF16;
	if (p->type == DT_F32 && plan_bytes(&other) <= limit)
		die("needs %.2f GiB of memory, has %.2f: --dtype bf16 --recompute needs %.2f", need, have,
		    gib(plan_bytes(&other)));
	other.rows = FEWEST;
	die("needs %.2f GiB of memory, has %.2f: this model cannot be trained in less than %.2f", need, have,
	    gib(plan_bytes(&other)));
}
