/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/mem.h"
#include "lib/score/match.h"
#include "lib/score/porter.h"
#include "lib/score/rouge.h"
#include "tests/unit/tap.h"

static struct rouge_score
score(struct rouge *rouge, const char *prediction, const char *reference)
{
	return rouge_pair(rouge, prediction, strlen(prediction), reference, strlen(reference));
}

static int
is(struct rouge_score s, double p, double r)
{
	double f = p + r > 0 ? 2 * p * r / (p + r) : 0;

	return fabs(s.p - p) < 1e-12 && fabs(s.r - r) < 1e-12 && fabs(s.f - f) < 1e-12;
}

/* The table that everyone writes first. */
static int
plain_lcs(const int *a, int n, const int *b, int m)
{
	int *row = mem_zero((size_t)m + 1, sizeof *row), i, j, left, diagonal, best;

	for (i = 0; i < n; i++)
		for (j = left = diagonal = 0; j < m; j++) {
			best = a[i] == b[j] ? diagonal + 1 : left > row[j + 1] ? left : row[j + 1];
			diagonal = row[j + 1];
			row[j + 1] = left = best;
		}
	best = row[m];
	free(row);
	return best;
}

static char *
words_of(const int *a, int n)
{
	char *text = mem_zero((size_t)n + 1, 4);
	int i;

	for (i = 0; i < n; i++)
		sprintf(text + strlen(text), "%d ", a[i]);
	return text;
}

static void
test_lcs(struct rouge *rouge)
{
	int a[300], b[300], trial, i, n, m, words, bad = 0, tried = 0;
	struct rouge_score s;
	char *x, *y;

	for (trial = 0; trial < 600; trial++) {
		n = rand() % 300;
		m = trial % 3 ? rand() % 300 : rand() % 10;
		words = trial % 2 ? 3 : 90;
		for (i = 0; i < 300; i++) {
			a[i] = rand() % words;
			b[i] = rand() % words;
		}
		x = words_of(a, n);
		y = words_of(b, m);
		s = score(rouge, x, y);
		bad += n && m && lround(s.p * n) != plain_lcs(a, n, b, m);
		tried += n && m;
		free(x);
		free(y);
	}
	ok(!bad && tried > 500, "the longest common subsequence is the plain table's, %d pairs of up to 300 words", tried);
}

static void
test_stems(void)
{
	/* Porter's paper, then what NLTK adds to it */
	static const char *const stems[][2] = {
		{ "caresses", "caress" }, { "ponies", "poni" }, { "agreed", "agre" }, { "plastered", "plaster" },
		{ "bled", "bled" }, { "motoring", "motor" }, { "conflated", "conflat" }, { "hopping", "hop" },
		{ "falling", "fall" }, { "hissing", "hiss" }, { "filing", "file" }, { "happy", "happi" },
		{ "relational", "relat" }, { "vietnamization", "vietnam" }, { "hopefulness", "hope" },
		{ "triplicate", "triplic" }, { "electrical", "electr" }, { "adjustment", "adjust" },
		{ "adoption", "adopt" }, { "controlling", "control" }, { "rate", "rate" }, { "cease", "ceas" },
		{ "skies", "sky" }, { "dying", "die" }, { "innings", "inning" }, { "succeed", "succeed" },
		{ "dies", "die" }, { "flies", "fli" }, { "spied", "spi" }, { "died", "die" }, { "enjoy", "enjoy" },
		{ "says", "say" }, { "geology", "geolog" }, { "rationally", "ration" }, { "hopefully", "hope" },
		{ "syzygy", "syzygi" }, { "yyyyyy", "yyyyyi" }, { "oed", "o" }, { "ssss", "ssss" }, { "1990s", "1990" }
	};
	char word[32];
	size_t i, n, bad = 0;

	for (i = 0; i < sizeof stems / sizeof *stems; i++) {
		strcpy(word, stems[i][0]);
		n = porter_stem(word, strlen(word));
		word[n] = '\0';
		if (strcmp(word, stems[i][1])) {
			printf("# %s became %s, not %s\n", stems[i][0], word, stems[i][1]);
			bad++;
		}
	}
	ok(!bad, "%zu words have their stems", i);
}

static void
test_google(struct rouge *rouge)
{
	ok(is(score(rouge, "the cat sat", "the cat lay down"), 2. / 3, 2. / 4), "precision, recall and F of a small pair");
	ok(is(score(rouge, "Runs, RUNNING!", "run ran"), 1. / 2, 1. / 2), "case and punctuation are ignored, words stemmed");
	ok(is(score(rouge, "us", "u"), 0, 0), "words of up to 3 letters are not stemmed");
	ok(is(score(rouge, "snake_case", "snake case"), 1, 1), "an underscore separates");
	ok(is(score(rouge, "poblaci\xc3\xb3n", "poblaci n"), 1, 1), "a letter outside of ASCII separates");
	ok(is(score(rouge, "\xc4\xb0stanbul \xe2\x84\xaa" "elvin", "i stanbul kelvin"), 1, 1),
	    "U+0130 and U+212A have lower case in ASCII");
	ok(is(score(rouge, "\xe2\x84", "\xc4"), 0, 0), "a cut character separates");
	ok(is(score(rouge, "", "a"), 0, 0) && is(score(rouge, "a", "..."), 0, 0), "without words there is no score");
	ok(is(rouge_pair(rouge, "a\0b", 3, "b", 1), 1. / 2, 1), "a NUL byte separates");
}

static void
test_unicode(struct rouge *rouge)
{
	ok(is(score(rouge, "poblaci\xc3\xb3n", "poblacio\xcc\x81n"), 1, 1), "texts are composed");
	ok(is(score(rouge, "\xe6\x9d\xb1\xe4\xba\xac a", "\xe6\x9d\xb1 a"), 2. / 3, 1), "a Han character is a word");
	ok(is(score(rouge, "\xce\xa3\xce\x91\xce\xa3", "\xcf\x83\xce\xb1\xcf\x83"), 1, 1), "lower case is one to one");
	ok(is(score(rouge, "runs", "run"), 0, 0), "nothing is stemmed");
	ok(is(score(rouge, "a\xff" "b", "a b"), 1, 1), "a byte that is not UTF-8 separates");
	ok(is(score(rouge, "\xc3\xb3\xe2\x84", "\xc3\xb3"), 1, 1), "a cut character separates, beside others");
}

static void
test_best(struct rouge *rouge)
{
	json_t *prediction = json_string("a b c d"), *references = json_pack("[s, s, s]", "x", "a", "b z z z z z z");
	struct rouge_score s = rouge_best(rouge, prediction, references);

	ok(is(s, 1. / 4, 1), "the best reference gives all three numbers");
	json_array_clear(references);
	ok(is(rouge_best(rouge, prediction, references), 0, 0), "no reference, no score");
	ok(is(rouge_best(rouge, prediction, prediction), 1, 1), "one reference may be a plain string");
	json_decref(prediction);
	json_decref(references);
}

/* More words than are kept: the tables start anew between two pairs. */
static void
test_forgetting(struct rouge *rouge)
{
	size_t n = 1100000, i, size = 0;
	char *text = mem_alloc(n * 9);
	struct rouge_score s;

	for (i = 0; i < n; i++)
		size += (size_t)sprintf(text + size, "w%zu ", i);
	s = rouge_pair(rouge, text, size, "w7 w1099999 w8", 14);
	ok(is(s, 2. / (double)n, 2. / 3) && is(score(rouge, "new words", "old word"), 1. / 2, 1. / 2) &&
	    is(score(rouge, text + size - 9, "w1099999"), 1, 1), "a million words are compared and forgotten");
	free(text);
}

static int
match(const char *a, const char *b)
{
	json_t *prediction = json_string(a), *references = json_pack("[s, s]", "nothing like it", b);
	int equal = match_any(prediction, references);

	json_decref(prediction);
	json_decref(references);
	return equal;
}

static void
test_match(void)
{
	ok(match(" A  well-known\n\xc3\x81rbol. ", "a wellknown \xc3\xa1rbol"), "case, punctuation and spacing do not matter");
	ok(match("a\xe2\x80\x83" "b", "a b") && match("", "..."), "white space is Unicode's, and nothing equals nothing");
	ok(!match("an apple", "apple") && !match("a\xe2\x80\x94" "b", "ab") && !match("e\xcc\x81", "\xc3\xa9"),
	    "articles, other punctuation and composition matter");
}

int
main(void)
{
	struct rouge *google = rouge_new(ROUGE_GOOGLE), *unicode = rouge_new(ROUGE_UNICODE);

	test_lcs(google);
	test_stems();
	test_google(google);
	test_unicode(unicode);
	test_best(google);
	test_forgetting(google);
	test_match();
	rouge_free(google);
	rouge_free(unicode);
	return done();
}
