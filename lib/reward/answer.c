/* SPDX-License-Identifier: MIT */
/* answer, rouge: what a completion says against what it should say */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/text.h"
#include "lib/reward/kinds.h"
#include "lib/text/unicode.h"

int
has_reference(const struct candidate *c)
{
	const json_t *reference;
	size_t i;

	if (json_is_string(c->references))
		return 1;
	json_array_foreach(c->references, i, reference)
		if (!json_is_string(reference))
			return 0;
	return json_array_size(c->references) > 0;
}

/* White space collapsed to one space, none at the ends. */
static struct text
collapse(const char *s, size_t n)
{
	struct text t = { .n = 0 };
	size_t i, size;
	int space = 0;

	unicode_init();
	for (i = 0; i < n; i += size) {
		if (unicode_flags(unicode_get((const unsigned char *)s + i, &size)) & UNICODE_SPACE) {
			space = t.n > 0;
			continue;
		}
		if (space)
			text_add(&t, " ", 1);
		space = 0;
		text_add(&t, s + i, size);
	}
	return t;
}

static struct part
strip(struct part p)
{
	while (p.n && *p.s == ' ')
		p.s++, p.n--;
	while (p.n && p.s[p.n - 1] == ' ')
		p.n--;
	return p;
}

/* Without what opens and closes it, if it has both and something inside. */
static struct part
unwrap(struct part p, const char *open, const char *close)
{
	size_t n = strlen(open), m = strlen(close);

	if (p.n <= n + m || memcmp(p.s, open, n) || memcmp(p.s + p.n - m, close, m))
		return p;
	return strip((struct part){ p.s + n, p.n - n - m });
}

static struct part
unwrap_mathematics(struct part p)
{
	static const char *const pairs[][2] = { { "$$", "$$" }, { "$", "$" }, { "\\(", "\\)" }, { "\\[", "\\]" } };
	struct part q;
	size_t i;

	for (i = 0; i < sizeof pairs / sizeof *pairs; i++)
		if ((q = unwrap(p, pairs[i][0], pairs[i][1])).n < p.n)
			return q;
	return p;
}

/* \boxed{ } whose brace closes at the very end. */
static struct part
unbox(struct part p)
{
	static const char open[] = "\\boxed{";
	size_t i, depth = 1, n = sizeof open - 1;

	if (p.n <= n || memcmp(p.s, open, n))
		return p;
	for (i = n; i < p.n && depth; i++)
		depth += (p.s[i] == '{') - (size_t)(p.s[i] == '}');
	if (depth || i < p.n)
		return p;
	return strip((struct part){ p.s + n, p.n - n - 1 });
}

static struct part
bare(const struct text *t)
{
	struct part p = { t->s ? t->s : "", t->n };
	size_t before;

	do {
		before = p.n;
		p = unbox(unwrap_mathematics(p));
	} while (p.n < before);
	if (p.n > 1 && p.s[p.n - 1] == '.')
		p.n--;
	return p;
}

static size_t
digits(const char *s)
{
	return strspn(s, "0123456789");
}

/* Skip one of the texts if it stands at *s. */
static int
skip_any(const char **s, const char *const *texts)
{
	for (; *texts; texts++)
		if (!strncmp(*s, *texts, strlen(*texts))) {
			*s += strlen(*texts);
			return 1;
		}
	return 0;
}

/* Digits, in groups of three with commas between them or in one piece, to `out`. */
static int
take_digits(const char **s, struct text *out)
{
	size_t n = digits(*s);
	const char *p = *s + n;

	if (!n)
		return 0;
	text_add(out, *s, n);
	for (; n <= 3 && *p == ',' && digits(p + 1) == 3; p += 4)
		text_add(out, p + 1, 3);
	*s = p;
	return 1;
}

static void
take_fraction(const char **s, struct text *out)
{
	size_t n = 1 + digits(*s + 1);

	text_add(out, *s, n);
	*s += n;
}

static void
take_exponent(const char **s, struct text *out)
{
	size_t sign = (*s)[1] == '+' || (*s)[1] == '-', n = digits(*s + 1 + sign);

	if (!n)
		return;
	text_add(out, *s, 1 + sign + n);
	*s += 1 + sign + n;
}

/* a/b of whole numbers, b not 0. */
static int
parse_ratio(const char *s, double *value)
{
	char *end;
	double a, b;
	size_t sign = *s == '+' || *s == '-', n = sign + digits(s + sign), m;

	if (n == sign || s[n] != '/' || !(m = digits(s + n + 1)) || s[n + 1 + m])
		return 0;
	a = strtod(s, &end);
	b = strtod(s + n + 1, &end);
	*value = a / b;
	return b > 0;
}

static int
parse_number(const char *s, double *value)
{
	static const char *const minus[] = { "-", NULL }, *const plus[] = { "+", NULL };
	static const char *const money[] = { "$", "\u20ac", "\u00a3", NULL };
	struct text plain = { .n = 0 };
	const char *p = s;
	int good;

	if (parse_ratio(s, value))
		return 1;
	if (skip_any(&p, minus))
		text_add(&plain, "-", 1);
	else
		skip_any(&p, plus);
	skip_any(&p, money);
	good = take_digits(&p, &plain);
	if (*p == '.' && (good || digits(p + 1))) {
		take_fraction(&p, &plain);
		good = 1;
	}
	if (good && (*p == 'e' || *p == 'E'))
		take_exponent(&p, &plain);
	good = good && !*p;
	if (good) {
		text_add(&plain, "", 1);
		*value = strtod(plain.s, NULL);
	}
	free(plain.s);
	return good;
}

/* A text that may be a number, U+2212 as a minus; to be freed. */
static char *
plain(struct part p)
{
	static const char minus[] = "\u2212";
	struct text t = { .n = 0 };
	size_t i;

	/* a NUL is no part of a number */
	if (memchr(p.s, '\0', p.n))
		return mem_string("");
	for (i = 0; i < p.n; )
		if (p.n - i >= 3 && !memcmp(p.s + i, minus, 3)) {
			text_add(&t, "-", 1);
			i += 3;
		} else {
			text_add(&t, p.s + i++, 1);
		}
	text_add(&t, "", 1);
	return t.s;
}

static int
equal_numbers(struct part a, struct part b, double tolerance)
{
	char *x = plain(a), *y = plain(b);
	double u, v;
	int equal = parse_number(x, &u) && parse_number(y, &v) && fabs(u - v) <= tolerance * fmax(1, fabs(v));

	free(x);
	free(y);
	return equal;
}

static int
equal_texts(struct part a, struct part b)
{
	size_t i = 0, j = 0, n, m;

	for (; i < a.n && j < b.n; i += n, j += m)
		if (unicode_lower(unicode_get((const unsigned char *)a.s + i, &n)) !=
		    unicode_lower(unicode_get((const unsigned char *)b.s + j, &m)))
			return 0;
	return i == a.n && j == b.n;
}

static int
equal(struct part answer, const json_t *reference, double tolerance)
{
	struct text t = collapse(json_string_value(reference), json_string_length(reference));
	struct text u = collapse(answer.s, answer.n);
	struct part a = bare(&u), b = bare(&t);
	int same = equal_numbers(a, b, tolerance) || equal_texts(a, b);

	free(t.s);
	free(u.s);
	return same;
}

int
answer_right(const struct candidate *c, double tolerance)
{
	struct part answer = part_answer(c->text, c->size);
	const json_t *reference;
	size_t i;

	if (!answer.s)
		return 0;
	if (json_is_string(c->references))
		return equal(answer, c->references, tolerance);
	json_array_foreach(c->references, i, reference)
		if (equal(answer, reference, tolerance))
			return 1;
	return 0;
}

void
judge_answer(const struct reward *r, const struct candidate *c, struct judge *judge, struct score *score)
{
	struct part answer = part_answer(c->text, c->size);
	int n = answer.n < 100 ? (int)answer.n : 100;

	(void)judge;
	if (!has_reference(c))
		score_none(score, "no reference");
	else if (!answer.s)
		score_is(score, 0, "no answer part");
	else if (answer_right(c, reward_number(r, "tolerance")))
		score_is(score, 1, "'%.*s' is right", n, answer.s);
	else
		score_is(score, 0, "'%.*s' is wrong", n, answer.s);
}

void
judge_rouge(const struct reward *r, const struct candidate *c, struct judge *judge, struct score *score)
{
	struct part answer = part_answer(c->text, c->size);
	json_t *text;

	(void)r;
	if (!has_reference(c)) {
		score_none(score, "no reference");
		return;
	}
	text = answer.s ? json_stringn_nocheck(answer.s, answer.n) : json_stringn_nocheck(c->text, c->size);
	score_is(score, rouge_best(judge->rouge, text, c->references).f, "of %s", answer.s ? "the answer part" : "all of it");
	json_decref(text);
}
