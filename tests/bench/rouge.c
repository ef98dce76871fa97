/* SPDX-License-Identifier: MIT */
/*
 * rouge - pairs per second of Rouge-L, stemmed, on one thread
 *
 *	xz -dc dolly.jsonl.xz | build/bench/rouge
 *
 * Pairs are made of responses of 40 words and more, cut to 45 to 90: half of
 * the predictions are another response, half are the reference with 15 % of its
 * words dropped and 20 % replaced. Each of the passes begins with no word known.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/score/rouge.h"
#include "lib/text/reader.h"

enum { PAIRS = 40000, PASSES = 5, WORDS_MIN = 40, CUT_MIN = 45, CUT_MAX = 90 };

struct response {
	char **words;
	size_t n;
};

static struct response *responses;
static size_t nresponses;

static void
read_responses(FILE *in)
{
	size_t capacity = 0, line_capacity = 0, words_capacity;
	char *line = NULL, why[REASON_MAX], *word, *rest;
	struct response r;
	ssize_t n;
	json_t *json;

	while ((n = getline(&line, &line_capacity, in)) > 0) {
		json = reader_parse(line, (size_t)n, why);
		if (!json || !json_is_string(json_object_get(json, "response")))
			die("a line has no 'response'");
		rest = mem_string(json_string_value(json_object_get(json, "response")));
		r = (struct response){ 0 };
		words_capacity = 0;
		while ((word = strsep(&rest, " ")))
			MEM_PUSH(r.words, r.n, words_capacity, word);
		if (r.n >= WORDS_MIN)
			MEM_PUSH(responses, nresponses, capacity, r);
		json_decref(json);
	}
	free(line);
}

static const struct response *
any_response(void)
{
	return &responses[(size_t)rand() % nresponses];
}

static char *
cut(const struct response *r, int spoil)
{
	size_t i, n = CUT_MIN + (size_t)rand() % (CUT_MAX - CUT_MIN + 1), size;
	const struct response *other;
	FILE *text;
	char *s;

	text = open_memstream(&s, &size);
	for (i = 0; i < n && i < r->n; i++) {
		other = any_response();
		if (spoil && rand() % 100 < 15)
			continue;
		fprintf(text, "%s ", spoil && rand() % 100 < 20 ?
		    other->words[(size_t)rand() % other->n] : r->words[i]);
	}
	fclose(text);
	return s;
}

static double
seconds(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int
main(void)
{
	static char *predictions[PAIRS], *references[PAIRS];
	const struct response *r;
	struct rouge *rouge;
	double start, sum;
	int i, pass;

	read_responses(stdin);
	if (!nresponses) {
		puts("rouge: skipped, stdin holds no responses");
		return 0;
	}
	for (i = 0; i < PAIRS; i++) {
		r = any_response();
		references[i] = cut(r, 0);
		predictions[i] = i % 2 ? cut(any_response(), 0) : cut(r, 1);
	}
	for (pass = 0; pass < PASSES; pass++) {
		rouge = rouge_new(ROUGE_GOOGLE);
		start = seconds();
		for (i = 0, sum = 0; i < PAIRS; i++)
			sum += rouge_pair(rouge, predictions[i], strlen(predictions[i]),
			    references[i], strlen(references[i])).f;
		printf("rouge: %.0f pairs/s, mean F %.4f\n", PAIRS / (seconds() - start), sum / PAIRS);
		rouge_free(rouge);
	}
	return 0;
}
