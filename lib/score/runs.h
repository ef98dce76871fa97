/* SPDX-License-Identifier: MIT */
/*
 * runs - scores of several runs: the mean of each, mean and deviation over them
 *
 * A run is a pass over the data with one seed and one sample index. Scores go
 * in from 0 to 1 and come out times 100. Deviations are those of a sample,
 * sqrt(sum (x - mean)^2 / (n - 1)); of a single run, null.
 */
#ifndef SCORE_RUNS_H
#define SCORE_RUNS_H

#include <jansson.h>
#include <stddef.h>

enum finish { FINISH_UNKNOWN, FINISH_STOP, FINISH_LENGTH };

struct run {
	json_int_t seed, sample;
	size_t records;
	double rouge, match;		/* sums */
	size_t stopped, finished;	/* ended by themselves; known how they ended */
};

struct runs {
	struct run *runs;		/* in order of appearance */
	size_t n, capacity;
};

void runs_add(struct runs *runs, json_int_t seed, json_int_t sample, double rouge, int match,
    enum finish finish);
void runs_free(struct runs *runs);

/* {"rouge_l": {"mean", "std"}, "exact_match": the same, "stopped", "records", "runs": [...]} */
json_t *runs_summary(const struct runs *runs);

#endif
