/* SPDX-License-Identifier: MIT */
/*
 * teacher-logits - tokens or rollouts on stdin, logits on stdout
 *
 * Run the teacher over each example and store its distribution at the supervised
 * positions, in one of four forms.
 */
#include <limits.h>
#include <stdlib.h>

#include "lib/base/die.h"
#include "lib/base/progress.h"
#include "lib/model/feed.h"
#include "lib/train/form.h"

/* Columns of all softmaxes: the tokenizer's true size, not the padded head's. */
static int
vocab_of(const struct feed *f)
{
	const json_t *stated = json_object_get(stream_header(f->in), "vocab");
	json_int_t vocab = json_integer_value(stated);

	if (!stated)
		vocab = f->tokenizer ? tokenizer_vocab(f->tokenizer) : f->m->config.vocab;
	if (vocab < 1 || vocab > f->m->config.vocab)
		die("%s has a vocabulary of %lld ids, the model one of %d", stream_name(f->in), (long long)vocab,
		    f->m->config.vocab);
	return (int)vocab;
}

static json_t *
make_header(const struct feed *f, const struct form *form, const struct common *common)
{
	json_t *header = header_new("logits", f->in, common);
	char *path = realpath(f->directory, NULL), *head = model_head_digest(f->directory);
	char *digest = model_digest(f->directory);

	if (!path)
		die("cannot find '%s':", f->directory);
	json_object_set_new(header, "head", json_string(head));
	json_object_set_new(header, "teacher", json_pack("{ss ss}", "path", path, "digest", digest));
	form_header(form, header);
	free(path);
	free(head);
	free(digest);
	return header;
}

int
main(int argc, const char **argv)
{
	static char *name, *output;
	int k = 16, draws = 50, vocab, i;
	long seed = 0;
	struct common common;
	const struct poptOption options[] = {
		{ "form", 'f', POPT_ARG_STRING, &name, 0,
		    "what is stored: hidden (default; exact), sample (no bias), topk (biased), full", "FORM" },
		{ "top-k", 'k', POPT_ARG_INT | POPT_ARGFLAG_SHOW_DEFAULT, &k, 0, "form topk: ids of a position", "K" },
		{ "draws", 0, POPT_ARG_INT | POPT_ARGFLAG_SHOW_DEFAULT, &draws, 0, "form sample: draws of a position",
		    "N" },
		{ "seed", 's', POPT_ARG_LONG | POPT_ARGFLAG_SHOW_DEFAULT, &seed, 0, "form sample: of the draws", "SEED" },
		{ "output", 'o', POPT_ARG_STRING, &output, 0, "write to FILE (default: stdout)", "FILE" },
		OPTIONS_FEED,
		OPTIONS_COMMON
	};
	enum stored kind;
	struct feed feed;
	struct form *form;
	struct pack pack;
	struct progress progress;
	struct stream_out *out;
	json_t *header;

	/* arguments */
	options_parse(argc, argv, options, "-m DIR [FILE]",
	    "Store a teacher's distribution at the supervised tokens of a stream.", 1, &common);
	kind = name ? (enum stored)options_choice("form", name, form_names) : STORED_HIDDEN;
	if (k < 1 || draws < 1 || draws > UINT16_MAX)
		die_usage("--top-k and --draws must be positive, and draws at most %d", UINT16_MAX);

	/* model and streams */
	feed_open(&feed, "tokens|rollouts", 0, &common);
	vocab = vocab_of(&feed);
	if (kind == STORED_TOPK && k > vocab)
		die_usage("--top-k is larger than the vocabulary of %d ids", vocab);
	pack_init(&pack, feed.in, feed.m, feed.rows);
	form = form_new(feed.m, kind, vocab, kind == STORED_TOPK ? k : draws, (uint64_t)seed);
	header = make_header(&feed, form, &common);
	out = stream_create(output, header);
	json_decref(header);

	/* records */
	progress_start(&progress, "records", common.quiet);
	while (pack_fill(&pack)) {
		form_compute(form, &pack, pack_run(&pack));
		for (i = 0; i < pack.n; i++) {
			struct record r = pack.records[i].record;

			form_add(form, &pack.records[i], &r);
			stream_put(out, &r);
		}
		stream_flush(out);
		progress_add(&progress, (uint64_t)pack.n, (uint64_t)pack.batch.m);
	}
	progress_end(&progress);
	stream_finish(out);
	form_free(form);
	pack_free(&pack);
	feed_close(&feed);
	return 0;
}
