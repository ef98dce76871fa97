/* SPDX-License-Identifier: MIT */
/*
 * rouge - rollouts or JSON lines on stdin, scores on stdout
 *
 * Rouge-L and exact match of predictions against references, in sum or record
 * by record. Lines are read in batches, scored by all threads, and added up in
 * their order; the records of a stream become lines first.
 */
#include <ctype.h>
#include <fcntl.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "lib/base/die.h"
#include "lib/base/json.h"
#include "lib/base/mem.h"
#include "lib/base/options.h"
#include "lib/score/match.h"
#include "lib/score/rouge.h"
#include "lib/score/runs.h"
#include "lib/stream/stream.h"
#include "lib/text/corpus.h"
#include "lib/text/reader.h"

enum { BATCH = 1 << 17 };		/* bytes for each thread: they stay in its caches */

struct verdict {
	struct rouge_score rouge;
	int match;
};

struct item {
	size_t n;			/* predictions */
	struct verdict *verdicts;
	json_t *id;			/* where it is to be printed */
	json_int_t seed, sample;
	enum finish finish;
	char *why;			/* it cannot be scored */
};

struct input {
	const char *path[2];		/* one, for the corpus */
	json_int_t seed;		/* of records that name none */
	int fd;
	struct stream_in *stream;	/* or */
	struct corpus *corpus;
	size_t records;			/* of the stream so far */
};

struct scoring {
	struct rouge **rouges;		/* one for each thread */
	struct corpus_batch batch;
	size_t bytes;			/* in it, about */
	struct item *items;		/* one for each line */
	size_t nitems;
};

static int each;

/* The byte that a descriptor would give next, left where it is; 0 at the end, -1 if it cannot be told. */
static int
next_byte(int fd)
{
	unsigned char c;
	int copy[2];
	off_t at = lseek(fd, 0, SEEK_CUR);
	ssize_t n = at < 0 ? recv(fd, &c, 1, MSG_PEEK) : pread(fd, &c, 1, at);

	if (n < 0 && !pipe(copy)) {
		n = tee(fd, copy[1], 1, 0);
		n = n == 1 ? read(copy[0], &c, 1) : n;
		close(copy[0]);
		close(copy[1]);
	}
	return n == 1 ? c : n ? -1 : 0;
}

static void
input_open(struct input *in, const char *path, json_int_t number)
{
	const json_t *seed;
	int c;

	*in = (struct input){ .path = { path ? path : "-" }, .seed = number, .fd = STDIN_FILENO };
	if (path && (in->fd = open(path, O_RDONLY | O_CLOEXEC)) < 0)
		die("cannot open '%s':", path);
	c = next_byte(in->fd);
	if (c < 0 || c == '{' || isspace(c)) {
		in->corpus = corpus_open_fd(in->fd, in->path);
		return;
	}
	in->stream = stream_open_fd(in->fd, path, "rollouts");
	seed = json_object_get(stream_header(in->stream), "seed");
	if (json_is_integer(seed))
		in->seed = json_integer_value(seed);
}

static void
input_close(struct input *in)
{
	if (in->stream) {
		stream_close(in->stream);
		return;
	}
	corpus_close(in->corpus);
	if (in->fd != STDIN_FILENO)
		close(in->fd);
}

/* Records of a stream, about `bytes` of them as lines. */
static size_t
read_stream(struct input *in, struct corpus_batch *b, size_t bytes)
{
	struct corpus_line line = { .file = stream_name(in->stream) };
	struct record r;

	for (b->n = b->text.n = 0; b->text.n < bytes && stream_get(in->stream, &r); ) {
		line.at = b->text.n;
		json_append(&b->text, r.text, 0);
		line.n = b->text.n - line.at;
		line.number = ++in->records;
		MEM_PUSH(b->lines, b->n, b->cap, line);
	}
	return b->n;
}

static size_t
input_read(struct input *in, struct corpus_batch *b, size_t bytes)
{
	return in->corpus ? corpus_read(in->corpus, b, bytes) : read_stream(in, b, bytes);
}

/* A string, or an array of strings that is not empty. */
static int
is_texts(const json_t *texts)
{
	const json_t *text;
	size_t i;

	if (json_is_string(texts))
		return 1;
	json_array_foreach(texts, i, text)
		if (!json_is_string(text))
			return 0;
	return json_array_size(texts) > 0;
}

/* What the record has under the first of two names that it has at all, or NULL. */
static const json_t *
texts(const json_t *record, const char *name, const char *other)
{
	const json_t *found = json_object_get(record, name);

	if (!found || json_is_null(found) || (json_is_array(found) && !json_array_size(found)))
		found = json_object_get(record, other);
	return is_texts(found) ? found : NULL;
}

static enum finish
finish_of(const json_t *record)
{
	const char *finish = json_string_value(json_object_get(record, "finish"));

	if (!finish)
		return FINISH_UNKNOWN;
	return strcmp(finish, "stop") ? FINISH_LENGTH : FINISH_STOP;
}

static json_int_t
integer(const json_t *record, const char *name, json_int_t otherwise)
{
	const json_t *value = json_object_get(record, name);

	return json_is_integer(value) ? json_integer_value(value) : otherwise;
}

/* Returns -1 and the reason if the record cannot be scored. */
static int
score(struct item *item, const json_t *record, json_int_t seed, struct rouge *rouge, char *why)
{
	const json_t *predictions = texts(record, "prediction", "completion"), *prediction;
	const json_t *references = texts(record, "references", "target");
	size_t i;

	if (!predictions)
		return reason(why, "no 'prediction' or 'completion' that is text");
	if (!references)
		return reason(why, "no 'references' or 'target' that are text");
	item->n = json_is_array(predictions) ? json_array_size(predictions) : 1;
	item->verdicts = mem_grow(item->verdicts, item->n, sizeof *item->verdicts);
	for (i = 0; i < item->n; i++) {
		prediction = json_is_array(predictions) ? json_array_get(predictions, i) : predictions;
		item->verdicts[i].rouge = rouge_best(rouge, prediction, references);
		item->verdicts[i].match = match_any(prediction, references);
	}
	item->seed = integer(record, "seed", seed);
	item->sample = integer(record, "sample", 0);
	item->finish = finish_of(record);
	item->id = each ? json_incref(json_object_get(record, "id")) : NULL;
	return 0;
}

static void
score_all(struct scoring *s, json_int_t seed)
{
	const struct corpus_line *line;
	char why[REASON_MAX];
	json_t *record;
	size_t i;

	#pragma omp parallel for private(line, why, record) schedule(dynamic, 16)
	for (i = 0; i < s->batch.n; i++) {
		line = &s->batch.lines[i];
		record = reader_parse(s->batch.text.s + line->at, line->n, why);
		if (!record || score(&s->items[i], record, seed, s->rouges[omp_get_thread_num()], why))
			s->items[i].why = mem_string(why);
		json_decref(record);
	}
}

static void
print(json_t *json)
{
	if (json_dumpf(json, stdout, JSON_COMPACT | JSON_REAL_PRECISION(12)) || putchar('\n') < 0)
		die("cannot write <stdout>:");
	json_decref(json);
}

static void
print_verdict(const struct item *item, json_int_t sample, const struct verdict *v)
{
	print(json_pack("{s:O*, s:I, s:I, s:f, s:f, s:f, s:f}", "id", item->id, "seed", item->seed,
	    "sample", sample, "rouge_l", 100 * v->rouge.f, "precision", 100 * v->rouge.p,
	    "recall", 100 * v->rouge.r, "exact_match", 100. * v->match));
}

static void
add(struct runs *runs, const struct item *item)
{
	const struct verdict *v;
	size_t i;

	for (i = 0; i < item->n; i++) {
		v = &item->verdicts[i];
		runs_add(runs, item->seed, item->sample + (json_int_t)i, v->rouge.f, v->match, item->finish);
		if (each)
			print_verdict(item, item->sample + (json_int_t)i, v);
	}
	json_decref(item->id);
}

static void
read_input(struct runs *runs, struct scoring *s, const char *path, json_int_t number)
{
	const struct corpus_line *line;
	struct input in;
	size_t i;

	input_open(&in, path, number);
	while (input_read(&in, &s->batch, s->bytes)) {
		if (s->batch.n > s->nitems) {
			s->items = mem_grow(s->items, s->batch.n, sizeof *s->items);
			memset(s->items + s->nitems, 0, (s->batch.n - s->nitems) * sizeof *s->items);
			s->nitems = s->batch.n;
		}
		score_all(s, in.seed);
		for (i = 0; i < s->batch.n; i++) {
			line = &s->batch.lines[i];
			if (s->items[i].why)
				die("%s, %s %zu: %s", line->file, in.stream ? "record" : "line", line->number,
				    s->items[i].why);
			add(runs, &s->items[i]);
		}
	}
	input_close(&in);
}

static struct scoring
make_scoring(enum rouge_mode mode)
{
	int i, threads = omp_get_max_threads();
	struct scoring s = { .bytes = (size_t)threads * BATCH };

	s.rouges = mem_alloc((size_t)threads * sizeof *s.rouges);
	for (i = 0; i < threads; i++)
		s.rouges[i] = rouge_new(mode);
	return s;
}

static void
scoring_free(struct scoring *s)
{
	int i, threads = omp_get_max_threads();
	size_t k;

	for (i = 0; i < threads; i++)
		rouge_free(s->rouges[i]);
	for (k = 0; k < s->nitems; k++)
		free(s->items[k].verdicts);
	free(s->rouges);
	free(s->items);
	corpus_batch_free(&s->batch);
}

int
main(int argc, const char **argv)
{
	int unicode = 0;
	const struct poptOption options[] = {
		{ "each", 0, POPT_ARG_NONE, &each, 0, "print the scores of each prediction, not their means", NULL },
		{ "unicode", 'u', POPT_ARG_NONE, &unicode, 0,
		    "words of any script, no stemmer; does not compare with other programs' scores", NULL },
		OPTIONS_THREADS
	};
	struct runs runs = { 0 };
	struct common common;
	struct scoring scoring;
	json_t *summary;
	int i;

	/* arguments */
	options_parse(argc, argv, options, "[FILE...]",
	    "Score rollouts or JSON lines by Rouge-L and exact match.", -1, &common);

	/* prepare */
	scoring = make_scoring(unicode ? ROUGE_UNICODE : ROUGE_GOOGLE);

	/* records */
	if (!common.noperands)
		read_input(&runs, &scoring, NULL, 1);
	for (i = 0; i < common.noperands; i++)
		read_input(&runs, &scoring, options_operand(&common, i), i + 1);
	if (!runs.n)
		die("nothing to score");

	/* summary */
	if (!each) {
		summary = runs_summary(&runs);
		json_object_set_new(summary, "mode", json_string(unicode ? "unicode" : "google"));
		json_object_set_new(summary, "comparable", json_boolean(!unicode));
		print(summary);
	}
	if (fflush(stdout) || ferror(stdout))
		die("cannot write <stdout>:");
	scoring_free(&scoring);
	runs_free(&runs);
	return 0;
}
