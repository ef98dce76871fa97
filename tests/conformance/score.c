/* SPDX-License-Identifier: MIT */
/* rouge, rouge_aggregate, exact_match, stem */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/score/match.h"
#include "lib/score/porter.h"
#include "lib/score/rouge.h"
#include "tests/conformance/kit.h"

static struct rouge *
scorer(const json_t *c)
{
	return rouge_new(strcmp(get_string(c, "mode"), "unicode") ? ROUGE_GOOGLE : ROUGE_UNICODE);
}

void
kind_rouge(struct verdict *v, const json_t *c, const struct kit *k)
{
	char *text = kit_text(k, get_string(c, "samples"));
	const char *at = text;
	double tol = get_number(c, "tol", 0);
	struct rouge *rouge = scorer(c);
	json_t *sample, *field;
	size_t i;

	while ((sample = kit_sample(&at))) {
		struct rouge_score s = rouge_best(rouge, json_object_get(sample, "prediction"),
		    json_object_get(sample, "references"));

		json_array_foreach(json_object_get(c, "fields"), i, field) {
			const char *name = json_string_value(field);
			double want = get_number(sample, name, -1);
			char which = name[strlen(name) - 1];	/* p, or up of the mode unicode */
			double got = which == 'p' ? s.p : which == 'r' ? s.r : s.f;

			expect_near(v, name, &got, &want, 1, tol);
		}
		json_decref(sample);
	}
	rouge_free(rouge);
	free(text);
}

void
kind_exact_match(struct verdict *v, const json_t *c, const struct kit *k)
{
	char *text = kit_text(k, get_string(c, "samples"));
	const char *at = text;
	json_t *sample;

	while ((sample = kit_sample(&at))) {
		int got = match_any(json_object_get(sample, "prediction"), json_object_get(sample, "references"));

		expect(v, got == (int)get_number(sample, "expected", -1), "'%.80s' matches: %d",
		    get_string(sample, "prediction"), got);
		json_decref(sample);
	}
	free(text);
}

void
kind_stem(struct verdict *v, const json_t *c, const struct kit *k)
{
	char *text = kit_text(k, get_string(c, "samples"));
	const char *at = text;
	json_t *sample;

	while ((sample = kit_sample(&at))) {
		char *word = mem_string(get_string(sample, "word"));
		size_t n = porter_stem(word, strlen(word));

		expect(v, n == strlen(get_string(sample, "stem")) && !memcmp(word, get_string(sample, "stem"), n),
		    "'%s' becomes '%.*s'", get_string(sample, "word"), (int)n, word);
		free(word);
		json_decref(sample);
	}
	free(text);
}

static void
expect_spread(struct verdict *v, const char *what, const json_t *summary, const json_t *c, const char *name,
    double tol)
{
	const json_t *got = json_object_get(summary, name), *want = json_object_get(c, name);
	double mean[2] = { get_number(got, "mean", -1), get_number(want, "mean", -2) };
	double std[2] = { get_number(got, "std", -1), get_number(want, "std_ddof1", -2) };

	expect_near(v, what, &mean[0], &mean[1], 1, tol);
	expect_near(v, what, &std[0], &std[1], 1, tol);
}

static const json_t *
run_of(const json_t *runs, double seed)
{
	size_t i;
	json_t *run;

	json_array_foreach(runs, i, run)
		if (get_number(run, "seed", -1) == seed)
			return run;
	return NULL;
}

/* Through the tool: what it says of five seeds in one file. */
void
kind_rouge_aggregate(struct verdict *v, const json_t *c, const struct kit *k)
{
	char *path = kit_path(k, get_string(c, "samples")), *command = mem_format("rouge '%s'", path);
	FILE *tool = popen(command, "r");
	json_t *summary, *runs, *run;
	double tol = get_number(c, "tol", 0);
	size_t i;

	if (!tool)
		die("cannot run '%s':", command);
	summary = json_loadf(tool, 0, NULL);
	expect(v, !pclose(tool) && summary, "'%s' fails", command);
	expect_spread(v, "rouge_l", summary, c, "rouge_l", tol);
	expect_spread(v, "exact_match", summary, c, "exact_match", tol);
	runs = json_object_get(summary, "runs");
	json_array_foreach(json_object_get(c, "per_seed"), i, run) {
		const json_t *got = run_of(runs, get_number(run, "seed", -2));
		double is[2] = { get_number(got, "rouge_l", -1), get_number(got, "exact_match", -1) };
		double want[2] = { get_number(run, "rouge_l", -2), get_number(run, "exact_match", -2) };

		expect(v, got != NULL, "no run has the seed %g", get_number(run, "seed", -2));
		expect_near(v, "a seed's scores", is, want, 2, tol);
	}
	json_decref(summary);
	free(command);
	free(path);
}
