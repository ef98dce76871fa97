/* SPDX-License-Identifier: MIT */
/*
 * perplexity - tokens on stdin, JSON lines on stdout
 *
 * exp of the mean negative log-likelihood of all supervised tokens: of all
 * records together, so that a long record weighs more than a short one.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/base/progress.h"
#include "lib/model/feed.h"
#include "lib/train/head.h"
#include "lib/train/pack.h"

enum { CHUNK = 128 };	/* rows of logits at a time: 78 MB at Qwen2's vocabulary */

static json_t *
scores(double nll, int64_t targets)
{
	double mean = nll / (double)targets;

	if (!targets)
		return json_pack("{sn sn sI}", "perplexity", "mean_nll", "targets", (json_int_t)0);
	return json_pack("{sf sf sI}", "perplexity", exp(mean), "mean_nll", mean, "targets", (json_int_t)targets);
}

static void
print(json_t *line)
{
	if (json_dumpf(line, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9)) || putchar('\n') == EOF)
		die("cannot write <stdout>:");
	json_decref(line);
}

static double
record_nll(const struct packed *r, const float *logp)
{
	double nll = 0;
	int i;

	for (i = 0; i < r->example.targets; i++)
		nll -= logp[r->first + i];
	if (!isfinite(nll))
		die("the loss of record '%s' is not finite", r->example.id);
	return nll;
}

static void
print_record(const struct packed *r, double nll)
{
	json_t *line = json_object(), *sample = json_object_get(r->record.text, "sample");

	json_object_set_new(line, "id", json_string(r->example.id));
	if (sample)
		json_object_set(line, "sample", sample);
	json_object_update_new(line, scores(nll, r->example.targets));
	print(line);
}

int
main(int argc, const char **argv)
{
	int each = 0, i;
	struct common common;
	const struct poptOption options[] = {
		{ "each", 0, POPT_ARG_NONE, &each, 0, "a line for each record, not the summary", NULL },
		OPTIONS_FEED,
		OPTIONS_COMMON
	};
	struct feed feed;
	struct head *head;
	struct pack pack;
	struct progress progress;
	json_t *summary;
	float *logp = NULL;
	double nll = 0;
	int64_t targets = 0, records = 0;

	options_parse(argc, argv, options, "-m DIR [FILE]",
	    "Measure the perplexity of a model on the supervised tokens of a stream.", 1, &common);
	feed_open(&feed, "tokens|rollouts|logits", &common);
	pack_init(&pack, feed.in, feed.m, feed.rows);
	head = head_new(feed.m, feed.m->config.vocab, CHUNK);

	progress_start(&progress, "records", common.quiet);
	while (pack_fill(&pack)) {
		logp = mem_grow(logp, (size_t)pack.batch.p, sizeof *logp);
		if (pack.batch.p)
			head_logprob(head, &pack.batch, pack_run(&pack), 1, logp, NULL);
		for (i = 0; i < pack.n; i++) {
			double own = record_nll(&pack.records[i], logp);

			if (each)
				print_record(&pack.records[i], own);
			nll += own;
			targets += pack.records[i].example.targets;
		}
		records += pack.n;
		progress_add(&progress, (uint64_t)pack.n, (uint64_t)pack.batch.m);
	}
	progress_end(&progress);

	if (!each) {
		if (!targets)
			die("%s has no supervised tokens", stream_name(feed.in));
		summary = scores(nll, targets);
		json_object_set_new(summary, "records", json_integer(records));
		print(summary);
	}
	if (fflush(stdout) || ferror(stdout))
		die("cannot write <stdout>:");
	free(logp);
	head_free(head);
	pack_free(&pack);
	feed_close(&feed);
	return 0;
}
