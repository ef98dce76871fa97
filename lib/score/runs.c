/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdlib.h>

#include "lib/base/mem.h"
#include "lib/score/runs.h"

/* Most records belong to the run of the one before or to one of the last few. */
static struct run *
find(struct runs *runs, json_int_t seed, json_int_t sample)
{
	struct run new = { .seed = seed, .sample = sample };
	size_t i;

	for (i = runs->n; i--; )
		if (runs->runs[i].seed == seed && runs->runs[i].sample == sample)
			return &runs->runs[i];
	MEM_PUSH(runs->runs, runs->n, runs->capacity, new);
	return &runs->runs[runs->n - 1];
}

void
runs_add(struct runs *runs, json_int_t seed, json_int_t sample, double rouge, int match,
    enum finish finish)
{
	struct run *run = find(runs, seed, sample);

	run->records++;
	run->rouge += rouge;
	run->match += match;
	run->stopped += finish == FINISH_STOP;
	run->finished += finish != FINISH_UNKNOWN;
}

void
runs_free(struct runs *runs)
{
	free(runs->runs);
}

static double
percent(double sum, size_t n)
{
	return 100 * sum / (double)n;
}

static json_t *
mean_and_std(const double *x, size_t n)
{
	double mean = 0, squares = 0;
	size_t i;

	for (i = 0; i < n; i++)
		mean += x[i] / (double)n;
	for (i = 0; i < n; i++)
		squares += (x[i] - mean) * (x[i] - mean);
	return json_pack("{s:f, s:o}", "mean", mean, "std",
	    n > 1 ? json_real(sqrt(squares / (double)(n - 1))) : json_null());
}

static json_t *
stopped(size_t n, size_t known)
{
	return known ? json_real(percent((double)n, known)) : json_null();
}

json_t *
runs_summary(const struct runs *runs)
{
	double *rouge = mem_alloc(runs->n * sizeof *rouge), *match = mem_alloc(runs->n * sizeof *match);
	size_t i, records = 0, stops = 0, known = 0;
	json_t *list = json_array(), *summary;
	const struct run *run;

	for (i = 0; i < runs->n; i++) {
		run = &runs->runs[i];
		rouge[i] = percent(run->rouge, run->records);
		match[i] = percent(run->match, run->records);
		json_array_append_new(list, json_pack("{s:I, s:I, s:I, s:f, s:f, s:o}",
		    "seed", run->seed, "sample", run->sample, "records", (json_int_t)run->records,
		    "rouge_l", rouge[i], "exact_match", match[i],
		    "stopped", stopped(run->stopped, run->finished)));
		records += run->records;
		stops += run->stopped;
		known += run->finished;
	}
	summary = json_pack("{s:o, s:o, s:o, s:I, s:o}",
	    "rouge_l", mean_and_std(rouge, runs->n), "exact_match", mean_and_std(match, runs->n),
	    "stopped", stopped(stops, known), "records", (json_int_t)records, "runs", list);
	free(rouge);
	free(match);
	return summary;
}
