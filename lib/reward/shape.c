/* SPDX-License-Identifier: MIT */
/* format, tags, steps: what shape a completion has */
#include <string.h>

#include "lib/reward/kinds.h"

/* The first of any tag in [p, end); *which says of which. */
static const char *
any_tag(const char *p, const char *end, int *which)
{
	const char *first = NULL, *found;
	int i;

	*which = -1;
	for (i = 0; i < 4; i++)
		if ((found = part_tag(p, first ? first : end, i))) {
			first = found;
			*which = i;
		}
	return first;
}

/* Past opening tag, text without tags, closing tag; NULL if that is not what stands at p. */
static const char *
element(const char *p, const char *end, int opening)
{
	int which;

	if (part_tag(p, end, opening) != p)
		return NULL;
	p = any_tag(p + strlen(part_tags[opening]), end, &which);
	return p && which == opening + 1 ? p + strlen(part_tags[which]) : NULL;
}

void
judge_format(const struct reward *r, const struct candidate *c, struct judge *judge, struct score *score)
{
	const char *end = c->text + c->size, *p = element(c->text, end, 0);

	(void)r;
	(void)judge;
	if (!p) {
		score_is(score, 0, "does not begin with a think part");
		return;
	}
	while (p < end && strchr(" \t\r\n", *p) && *p)
		p++;
	p = element(p, end, 2);
	if (!p)
		score_is(score, 0, "no answer part follows the think part");
	else if (p < end)
		score_is(score, 0, "%zu bytes behind the answer part", (size_t)(end - p));
	else
		score_is(score, 1, "a think part and an answer part");
}

void
judge_tags(const struct reward *r, const struct candidate *c, struct judge *judge, struct score *score)
{
	const char *end = c->text + c->size, *place = c->text, *p;
	char good[64] = "";
	double value = 0;
	int i;

	(void)r;
	(void)judge;
	for (i = 0; i < 4; i++) {
		p = part_tag(c->text, end, i);
		if (!p || p < place || part_tag(p + 1, end, i))
			continue;
		place = p + strlen(part_tags[i]);
		value += 0.25;
		strcat(strcat(good, " "), part_tags[i]);
	}
	score_is(score, value, "once and in order:%s", *good ? good : " none");
}

/* How many bytes [0-9]+ and then `mark` take at p; 0 if they do not stand there. */
static size_t
numbered(const char *p, const char *end, char mark)
{
	const char *q = p;

	while (q < end && *q >= '0' && *q <= '9')
		q++;
	return q > p && q < end && *q == mark ? (size_t)(q + 1 - p) : 0;
}

static size_t
begins(const char *p, const char *end, const char *word)
{
	size_t n = strlen(word);

	return (size_t)(end - p) >= n && !memcmp(p, word, n) ? n : 0;
}

/* Bytes of the mark of a step at p, or 0. */
static size_t
step(const char *p, const char *end, int line)
{
	static const char *const words[] = { "First,", "Second,", "Next,", "Finally," };
	size_t n = begins(p, end, "Step "), i;

	if (n)
		return (i = numbered(p + n, end, ':')) ? n + i : 0;
	if (line && (*p == '-' || *p == '*'))
		return 1;
	if (line && (n = numbered(p, end, '.')))
		return n;
	for (i = 0; i < sizeof words / sizeof *words && !n; i++)
		n = begins(p, end, words[i]);
	return n;
}

void
judge_steps(const struct reward *r, const struct candidate *c, struct judge *judge, struct score *score)
{
	const char *p = c->text, *end = p + c->size;
	size_t n = 0, size;

	(void)r;
	(void)judge;
	for (; p < end; p += size ? size : 1) {
		size = step(p, end, p == c->text || p[-1] == '\n');
		n += size > 0;
	}
	score_is(score, n < 3 ? (double)n / 3 : 1, "%zu steps", n);
}
