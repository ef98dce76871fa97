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

/* Sums over the supervised tokens of a record, or of all. */
struct sums {
	double nll, kl;		/* kl: to the head as it is stored, under --head int8 */
	int64_t targets;
	int rounded;		/* kl means something */
};

static json_t *
scores(const struct sums *s)
{
	double mean = s->nll / (double)s->targets;
	json_t *json;

	if (!s->targets)
		return json_pack("{sn sn sI}", "perplexity", "mean_nll", "targets", (json_int_t)0);
	json = json_pack("{sf sf sI}", "perplexity", exp(mean), "mean_nll", mean, "targets", (json_int_t)s->targets);
	if (s->rounded)
		json_object_set_new(json, "head_kl", json_real(s->kl / (double)s->targets));
	return json;
}

static void
print(json_t *line)
{
	if (json_dumpf(line, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9)) || putchar('\n') == EOF)
		die("cannot write <stdout>:");
	json_decref(line);
}

static struct sums
record_sums(const struct packed *r, const float *logp, const float *kl)
{
	struct sums s = { .targets = r->example.targets, .rounded = kl != NULL };
	int i;

	for (i = 0; i < r->example.targets; i++) {
		s.nll -= (double)logp[r->first + i];
		s.kl += kl ? (double)kl[r->first + i] : 0;
	}
	if (!isfinite(s.nll))
		die("the loss of record '%s' is not finite", r->example.id);
	return s;
}

static void
print_record(const struct packed *r, const struct sums *s)
{
	json_t *line = json_object(), *sample = json_object_get(r->record.text, "sample");

	json_object_set_new(line, "id", json_string(r->example.id));
	if (sample)
		json_object_set(line, "sample", sample);
	json_object_update_new(line, scores(s));
	print(line);
}

/* The log-probabilities of the batch's targets and, where a head is rounded, what that costs. */
static void
score(struct head *head, struct pack *pack, float *logp, float *kl)
{
	const void *hidden = pack_run(pack);

	head_logprob(head, &pack->batch, hidden, 1, logp, NULL);
	if (kl)
		head_rounding(head, &pack->batch, hidden, kl);
	head->m->be->sync();
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
	float *logp = NULL, *kl = NULL;
	struct sums all = { .nll = 0 };
	int64_t records = 0;

	options_parse(argc, argv, options, "-m DIR [FILE]",
	    "Measure the perplexity of a model on the supervised tokens of a stream.", 1, &common);
	feed_open(&feed, "tokens|rollouts|logits", 1, &common);
	all.rounded = feed.int8;
	pack_init(&pack, feed.in, feed.m, feed.rows);
	head = head_new(feed.m, feed.m->config.vocab, CHUNK);

	progress_start(&progress, "records", common.quiet);
	while (pack_fill(&pack)) {
		logp = mem_grow(logp, (size_t)pack.batch.p, sizeof *logp);
		if (feed.int8)
			kl = mem_grow(kl, (size_t)pack.batch.p, sizeof *kl);
		if (pack.batch.p)
			score(head, &pack, logp, kl);
		for (i = 0; i < pack.n; i++) {
			struct sums own = record_sums(&pack.records[i], logp, kl);

			if (each)
				print_record(&pack.records[i], &own);
			all.nll += own.nll;
			all.kl += own.kl;
			all.targets += own.targets;
		}
		records += pack.n;
		progress_add(&progress, (uint64_t)pack.n, (uint64_t)pack.batch.m);
	}
	progress_end(&progress);

	if (!each) {
		if (!all.targets)
			die("%s has no supervised tokens", stream_name(feed.in));
		summary = scores(&all);
		json_object_set_new(summary, "records", json_integer(records));
		print(summary);
	}
	if (fflush(stdout) || ferror(stdout))
		die("cannot write <stdout>:");
	free(logp);
	free(kl);
	head_free(head);
	pack_free(&pack);
	feed_close(&feed);
	return 0;
}
