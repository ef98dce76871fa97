/* SPDX-License-Identifier: MIT */
/*
 * A rule takes a suffix off and puts another on, if what stands before it
 * measures enough. In a list, the first rule whose suffix fits is the only one
 * that is tried. m is the measure: the word is [C](VC)^m[V], C and V runs of
 * consonants and vowels.
 *
 * Most replacements are shorter than their suffix. The few that are not (at,
 * bl, iz, short syllables get an e) follow a removed -ed or -ing, so a word
 * never outgrows its place.
 */
#include <string.h>

#include "lib/score/porter.h"

struct word {
	char *s;
	size_t n;
};

struct rule {
	const char *suffix;
	const char *replacement;
};

static int
consonant(const char *s, size_t i)
{
	int y = 0;

	/* in a run of y, consonants and vowels alternate */
	for (; s[i] == 'y' && i; i--)
		y ^= 1;
	return (s[i] == 'y' || !memchr("aeiou", s[i], 5)) ^ y;
}

static int
measure(const char *s, size_t n)
{
	int m = 0, was, is = 1;
	size_t i;

	for (i = 0; i < n; i++) {
		was = is;
		is = s[i] == 'y' ? !i || !was : !memchr("aeiou", s[i], 5);
		m += is && !was;
	}
	return m;
}

static int
has_vowel(const char *s, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
		if (memchr("aeiou", s[i], 5) || (s[i] == 'y' && i))
			return 1;
	return 0;
}

static int
ends_double(const char *s, size_t n)
{
	return n >= 2 && s[n - 1] == s[n - 2] && consonant(s, n - 1);
}

/* A short syllable: consonant, vowel, consonant other than w, x, y; or vowel, consonant alone. */
static int
ends_short(const char *s, size_t n)
{
	if (n < 2 || !consonant(s, n - 1) || consonant(s, n - 2))
		return 0;
	return n == 2 || (consonant(s, n - 3) && !memchr("wxy", s[n - 1], 3));
}

static int
ends(const struct word *w, const char *suffix)
{
	size_t k = strlen(suffix);

	return w->n >= k && !memcmp(w->s + w->n - k, suffix, k);
}

static void
replace(struct word *w, const char *suffix, const char *replacement)
{
	size_t k = strlen(replacement);

	w->n -= strlen(suffix);
	memcpy(w->s + w->n, replacement, k);
	w->n += k;
}

/* The rule of the list that fits, applied if the stem's measure exceeds m. Whether one fitted. */
static int
apply(struct word *w, const struct rule *rules, int m)
{
	for (; rules->suffix; rules++)
		if (ends(w, rules->suffix)) {
			if (measure(w->s, w->n - strlen(rules->suffix)) > m)
				replace(w, rules->suffix, rules->replacement);
			return 1;
		}
	return 0;
}

/* Plurals. */
static void
step_1a(struct word *w)
{
	static const struct rule rules[] = {
		{ "sses", "ss" }, { "ies", "i" }, { "ss", "ss" }, { "s", "" }, { NULL, NULL }
	};

	if (w->n == 4 && ends(w, "ies"))
		w->n--;
	else
		apply(w, rules, -1);
}

/* What is left when -ed or -ing is gone: hopp(ing) to hop, siz(ed) to size, fil(ing) to file. */
static void
mend(struct word *w)
{
	static const struct rule rules[] = {
		{ "at", "ate" }, { "bl", "ble" }, { "iz", "ize" }, { NULL, NULL }
	};

	if (apply(w, rules, -1))
		return;
	if (ends_double(w->s, w->n))
		w->n -= !memchr("lsz", w->s[w->n - 1], 3);
	else if (measure(w->s, w->n) == 1 && ends_short(w->s, w->n))
		w->s[w->n++] = 'e';
}

/* Past and participle. */
static void
step_1b(struct word *w)
{
	size_t k;

	if (ends(w, "ied")) {
		w->n -= w->n == 4 ? 1 : 2;
		return;
	}
	if (ends(w, "eed")) {
		w->n -= measure(w->s, w->n - 3) > 0;
		return;
	}
	k = ends(w, "ed") ? 2 : ends(w, "ing") ? 3 : 0;
	if (k && has_vowel(w->s, w->n - k)) {
		w->n -= k;
		mend(w);
	}
}

static void
step_1c(struct word *w)
{
	if (ends(w, "y") && w->n > 2 && consonant(w->s, w->n - 2))
		w->s[w->n - 1] = 'i';
}

/* Double suffixes to single ones. */
static void
step_2(struct word *w)
{
	static const struct rule rules[] = {
		{ "ational", "ate" }, { "tional", "tion" }, { "enci", "ence" }, { "anci", "ance" },
		{ "izer", "ize" }, { "bli", "ble" }, { "alli", "al" }, { "entli", "ent" },
		{ "eli", "e" }, { "ousli", "ous" }, { "ization", "ize" }, { "ation", "ate" },
		{ "ator", "ate" }, { "alism", "al" }, { "iveness", "ive" }, { "fulness", "ful" },
		{ "ousness", "ous" }, { "aliti", "al" }, { "iviti", "ive" }, { "biliti", "ble" },
		{ "fulli", "ful" }, { NULL, NULL }
	};

	if (ends(w, "alli") && measure(w->s, w->n - 4) > 0)
		w->n -= 2;
	/* of -logi, the l counts as part of the stem */
	if (!apply(w, rules, 0) && ends(w, "logi") && measure(w->s, w->n - 3) > 0)
		w->n--;
}

static void
step_3(struct word *w)
{
	static const struct rule rules[] = {
		{ "icate", "ic" }, { "ative", "" }, { "alize", "al" }, { "iciti", "ic" },
		{ "ical", "ic" }, { "ful", "" }, { "ness", "" }, { NULL, NULL }
	};

	apply(w, rules, 0);
}

static void
step_4(struct word *w)
{
	static const struct rule rules[] = {
		{ "al", "" }, { "ance", "" }, { "ence", "" }, { "er", "" }, { "ic", "" },
		{ "able", "" }, { "ible", "" }, { "ant", "" }, { "ement", "" }, { "ment", "" },
		{ "ent", "" }, { "ou", "" }, { "ism", "" }, { "ate", "" }, { "iti", "" },
		{ "ous", "" }, { "ive", "" }, { "ize", "" }, { NULL, NULL }
	};

	if (!ends(w, "ion"))
		apply(w, rules, 1);
	else if (measure(w->s, w->n - 3) > 1 && memchr("st", w->s[w->n - 4], 2))
		w->n -= 3;
}

static void
step_5(struct word *w)
{
	int m;

	if (ends(w, "e")) {
		m = measure(w->s, w->n - 1);
		w->n -= m > 1 || (m == 1 && !ends_short(w->s, w->n - 1));
	}
	if (ends(w, "ll") && measure(w->s, w->n - 1) > 1)
		w->n--;
}

/* The stem of an irregular word, or NULL. */
static const char *
irregular(const struct word *w)
{
	static const char *const pool[][2] = {
		{ "skies", "sky" }, { "sky", "sky" }, { "dying", "die" }, { "lying", "lie" },
		{ "tying", "tie" }, { "news", "news" }, { "innings", "inning" },
		{ "inning", "inning" }, { "outings", "outing" }, { "outing", "outing" },
		{ "cannings", "canning" }, { "canning", "canning" }, { "howe", "howe" },
		{ "proceed", "proceed" }, { "exceed", "exceed" }, { "succeed", "succeed" }
	};
	size_t i;

	for (i = 0; i < sizeof pool / sizeof *pool; i++)
		if (strlen(pool[i][0]) == w->n && !memcmp(pool[i][0], w->s, w->n))
			return pool[i][1];
	return NULL;
}

size_t
porter_stem(char *word, size_t n)
{
	struct word w = { word, n };
	const char *known = irregular(&w);

	if (known) {
		memcpy(word, known, strlen(known));
		return strlen(known);
	}
	if (n <= 2)
		return n;
	step_1a(&w);
	step_1b(&w);
	step_1c(&w);
	step_2(&w);
	step_3(&w);
	step_4(&w);
	step_5(&w);
	return w.n;
}
