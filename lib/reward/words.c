/* SPDX-License-Identifier: MIT */
/* keywords, repetition: which words a completion has */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "lib/reward/kinds.h"
#include "lib/text/unicode.h"

/* A text in lower case, code point by code point. */
struct points {
	uint32_t *c;
	size_t n;
};

static struct points
lower(const char *s, size_t n)
{
	struct points p = { mem_alloc(n * sizeof *p.c), 0 };
	size_t i, size;

	unicode_init();
	for (i = 0; i < n; i += size)
		p.c[p.n++] = unicode_lower(unicode_get((const unsigned char *)s + i, &size));
	return p;
}

static int
in_word(uint32_t c)
{
	return (unicode_flags(c) & (UNICODE_LETTER | UNICODE_MARK | UNICODE_NUMBER)) != 0;
}

/* Whether the text has the word, with no letter, mark or number before and after it. */
static int
has_word(const struct points *text, const struct points *word)
{
	size_t i, end;

	for (i = 0; i + word->n <= text->n; i++) {
		end = i + word->n;
		if (!memcmp(text->c + i, word->c, word->n * sizeof *word->c) && (!i || !in_word(text->c[i - 1])) &&
		    (end == text->n || !in_word(text->c[end])))
			return 1;
	}
	return 0;
}

void
judge_keywords(const struct reward *r, const struct candidate *c, struct judge *judge, struct score *score)
{
	const json_t *keywords = json_object_get(r->params, "keywords"), *keyword;
	struct part think = part_think(c->text, c->size);
	struct points text, word;
	size_t i, found = 0, n;

	(void)judge;
	if (!json_array_size(keywords))
		keywords = c->keywords;
	n = json_array_size(keywords);
	if (!n) {
		score_none(score, "no keywords");
		return;
	}
	text = lower(think.s, think.n);
	json_array_foreach(keywords, i, keyword) {
		word = lower(json_string_value(keyword), json_string_length(keyword));
		found += think.s && has_word(&text, &word);
		free(word.c);
	}
	free(text.c);
	score_is(score, (double)found / (double)n, think.s ? "%zu of %zu keywords" : "no think part", found, n);
}

/* Words as spans of code points. */
struct words {
	const struct points *text;
	size_t *begin, *end;
	size_t n, of;			/* words; in an n-gram */
};

static struct words
split(const struct points *text)
{
	struct words w = { .text = text };
	size_t i;
	int inside = 0, space;

	w.begin = mem_alloc((text->n / 2 + 1) * sizeof *w.begin);
	w.end = mem_alloc((text->n / 2 + 1) * sizeof *w.end);
	for (i = 0; i < text->n; i++) {
		space = (unicode_flags(text->c[i]) & UNICODE_SPACE) != 0;
		if (!space && !inside)
			w.begin[w.n++] = i;
		inside = !space;
		if (inside)
			w.end[w.n - 1] = i + 1;
	}
	return w;
}

/* The order of two n-grams by the numbers of their first words. */
static int
compare(const void *a, const void *b, void *context)
{
	const struct words *w = context;
	size_t i = *(const size_t *)a, j = *(const size_t *)b, k, n, m;
	int order;

	for (k = 0; k < w->of; k++, i++, j++) {
		n = w->end[i] - w->begin[i];
		m = w->end[j] - w->begin[j];
		if (n != m)
			return n < m ? -1 : 1;
		order = memcmp(w->text->c + w->begin[i], w->text->c + w->begin[j], n * sizeof *w->text->c);
		if (order)
			return order;
	}
	return 0;
}

static size_t
count_different(struct words *w, size_t total)
{
	size_t *first = mem_alloc(total * sizeof *first), i, n = 1;

	for (i = 0; i < total; i++)
		first[i] = i;
	qsort_r(first, total, sizeof *first, compare, w);
	for (i = 1; i < total; i++)
		n += compare(&first[i - 1], &first[i], w) != 0;
	free(first);
	return n;
}

void
judge_repetition(const struct reward *r, const struct candidate *c, struct judge *judge, struct score *score)
{
	struct points text = lower(c->text, c->size);
	struct words w = split(&text);
	size_t total, unique;

	(void)judge;
	w.of = (size_t)reward_number(r, "n");
	total = w.n < w.of ? 0 : w.n - w.of + 1;
	unique = total ? count_different(&w, total) : 0;
	score_is(score, total ? -reward_number(r, "max_penalty") * (1 - (double)unique / (double)total) : 0,
	    "%zu different of %zu", unique, total);
	free(w.begin);
	free(w.end);
	free(text.c);
}
