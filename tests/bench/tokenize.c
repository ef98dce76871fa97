/* SPDX-License-Identifier: MIT */
/*
 * tokenize - megabytes of text per second on one thread
 *
 *	build/bench/tokenize DIR FILE.jsonl...
 *
 * A line's document is all its strings, joined by line ends. Per file: the time
 * to open the tokenizer in DIR, the pass over the documents that finds no word
 * known, and one that finds all, by the thread's own clock; the best of five.
 */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "lib/base/die.h"
#include "lib/base/text.h"
#include "lib/text/corpus.h"
#include "lib/text/reader.h"
#include "lib/text/tokenizer.h"

enum { ROUNDS = 5, BATCH = 1 << 20 };

struct documents {
	struct text text;
	size_t *ends;
	size_t n, cap;
};

static double
seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void
add_document(struct documents *d, const char *line, size_t n)
{
	char why[REASON_MAX];
	json_t *record = reader_parse(line, n, why), *value;
	const char *key;

	if (!record)
		die("%s", why);
	json_object_foreach(record, key, value) {
		text_add(&d->text, json_string_value(value), json_string_length(value));
		text_puts(&d->text, json_is_string(value) ? "\n" : "");
	}
	MEM_PUSH(d->ends, d->n, d->cap, d->text.n);
	json_decref(record);
}

static void
read_documents(struct documents *d, const char *path)
{
	const char *const paths[] = { path, NULL };
	struct corpus *corpus = corpus_open(paths);
	struct corpus_batch batch = { .n = 0 };
	size_t i;

	d->n = d->text.n = 0;
	while (corpus_read(corpus, &batch, BATCH))
		for (i = 0; i < batch.n; i++)
			add_document(d, batch.text.s + batch.lines[i].at, batch.lines[i].n);
	corpus_batch_free(&batch);
	corpus_close(corpus);
}

static size_t
pass(const struct tokenizer *t, const struct documents *d, struct ids *ids)
{
	char why[REASON_MAX];
	size_t i, at = 0, n = 0;

	for (i = 0; i < d->n; at = d->ends[i++]) {
		ids->n = 0;
		if (tokenizer_encode(t, d->text.s + at, d->ends[i] - at, 0, ids, why))
			die("%s", why);
		n += ids->n;
	}
	return n;
}

/* From opening on: what took least is measured best. */
static void
round_of(const char *directory, const struct documents *d, struct ids *ids, double best[3], size_t *n)
{
	char why[REASON_MAX];
	double start = seconds(), took;
	struct tokenizer *t = tokenizer_open(directory, why);
	int i;

	if (!t)
		die("'%s': %s", directory, why);
	for (i = 0; i < 3; i++) {
		if (i)
			*n = pass(t, d, ids);
		took = seconds() - start;
		start += took;
		best[i] = took < best[i] ? took : best[i];
	}
	tokenizer_close(t);
}

int
main(int argc, char **argv)
{
	struct documents d = { .n = 0 };
	struct ids ids = { NULL, 0, 0 };
	double best[3];
	size_t n = 0;
	int i, k;

	if (argc < 3) {
		puts("tokenize: skipped, no tokenizer and files named");
		return 0;
	}
	for (i = 2; i < argc; i++) {
		read_documents(&d, argv[i]);
		best[0] = best[1] = best[2] = 1e9;
		for (k = 0; k < ROUNDS; k++)
			round_of(argv[1], &d, &ids, best, &n);
		printf("tokenize: %s, opened in %.3f s, MB/s: %.0f first, %.0f again, %zu ids\n", argv[i], best[0],
		    1e-6 * (double)d.text.n / best[1], 1e-6 * (double)d.text.n / best[2], n);
	}
	free(d.text.s);
	free(d.ends);
	free(ids.id);
	return 0;
}
