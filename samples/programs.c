/* SPDX-License-Identifier: MIT */
/*
 * programs - short Python programs with tests, right and wrong
 *
 *	programs PYTHON-TRAIN PYTHON-DEV BUGS-TRAIN BUGS-DEV THOUGHTS-TRAIN THOUGHTS-DEV
 *
 * A program is a few choices: a family, and numbers that say which of its
 * members this is. From them follow what the program is asked to do, the steps of a
 * thought about it, its text, and, computed here, what it prints. A wrong program is a right one with one
 * choice changed, so that some test tells them apart, or with a slip that
 * Python refuses. The same seed gives the same bytes.
 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "samples/output.h"

enum { CHOICES = 4, TESTS = 3, ITEMS = 8, DEV_PERCENT = 8, PYTHON = 1100, BUGS = 1100, THOUGHTS = 1600 };

typedef const int choice[CHOICES];

struct family {
	int options[CHOICES];			/* how many there are for each choice; 0: no such choice */
	const char *input;			/* "a line of integers" */
	void (*ask)(FILE *f, choice c);		/* "the sum of the even ones" */
	void (*think)(FILE *f, choice c);	/* "keep the even ones, then print their sum" */
	void (*text)(FILE *f, choice c);
	void (*make)(FILE *f);			/* an input */
	void (*run)(FILE *f, choice c, const char *input);
};

struct program {
	const struct family *family;
	int choices[CHOICES];
};

static const char *const letters[] = { "a", "e", "o", "s", "t", "p", "c", "m" };

/* Conditions on a number: option 0 is none; an option's number counts from 2. */
enum { CONDITIONS = 1 + 2 + 3 * 8 };

static int
condition_number(int option)
{
	return (option - 3) % 8 + 2;
}

static void
condition_say(FILE *f, int option, const char *before, const char *after)
{
	static const char *const kinds[] = { "greater than", "less than", "divisible by" };

	if (option < 3)
		fprintf(f, "%s%s%s", before, option == 1 ? "even" : "odd", after);
	else
		fprintf(f, "%s%s %d%s", before, kinds[(option - 3) / 8], condition_number(option), after);
}

static void
condition_text(FILE *f, int option, const char *x)
{
	int kind = (option - 3) / 8, k = condition_number(option);

	if (option < 3)
		fprintf(f, "%s %% 2 == %d", x, option - 1);
	else if (kind < 2)
		fprintf(f, "%s %c %d", x, kind ? '<' : '>', k);
	else
		fprintf(f, "%s %% %d == 0", x, k);
}

static int
condition_holds(int option, long x)
{
	int kind = (option - 3) / 8, k = condition_number(option);

	if (option < 3)
		return !option || x % 2 == option - 1;
	return kind == 0 ? x > k : kind == 1 ? x < k : x % k == 0;
}

/* A line of integers: which of them, and what to do with them. */

static void
numbers_ask(FILE *f, choice c)
{
	static const char *const what[] = {
		"the sum of", "the count of", "the largest of", "the smallest of",
		"in ascending order", "the squares of"
	};

	fprintf(f, "%s ", what[c[1]]);
	if (c[0])
		condition_say(f, c[0], "those that are ", "");
	else
		fprintf(f, "all of them");
}

static void
numbers_think(FILE *f, choice c)
{
	static const char *const what[] = {
		"add them up", "count them", "take the largest", "take the smallest", "sort them", "square each"
	};

	fprintf(f, "Step 1: split the line into integers.\n");
	if (c[0])
		condition_say(f, c[0], "Step 2: keep those that are ", ".\n");
	fprintf(f, "Step %d: %s and print.\n", c[0] ? 3 : 2, what[c[1]]);
}

static void
numbers_text(FILE *f, choice c)
{
	static const char *const how[] = {
		"sum(%s)", "len(%s)", "max(%s, default=0)", "min(%s, default=0)",
		"*sorted(%s)", "*[x * x for x in %s]"
	};
	const char *at = strchr(how[c[1]], '%'), *list = c[0] ? "chosen" : "numbers";

	fprintf(f, "numbers = [int(x) for x in input().split()]\n");
	if (c[0]) {
		fprintf(f, "chosen = [x for x in numbers if ");
		condition_text(f, c[0], "x");
		fprintf(f, "]\n");
	}
	fprintf(f, "print(%.*s%s%s)\n", (int)(at - how[c[1]]), how[c[1]], list, at + 2);
}

static void
numbers_make(FILE *f)
{
	size_t i, n = 4 + draw(ITEMS - 3);

	for (i = 0; i < n; i++)
		fprintf(f, "%s%zu", i ? " " : "", draw(21));
}

static int
ascending(const void *a, const void *b)
{
	const long *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static void
numbers_run(FILE *f, choice c, const char *input)
{
	long x[ITEMS + 1], sum = 0;
	char *end;
	int n = 0, i;

	while (x[n] = strtol(input, &end, 10), end > input) {
		input = end;
		sum += condition_holds(c[0], x[n]) ? x[n] : 0;
		n += condition_holds(c[0], x[n]);
	}
	if (c[1] >= 2 && c[1] <= 4)
		qsort(x, (size_t)n, sizeof *x, ascending);
	if (c[1] < 4)
		fprintf(f, "%ld", c[1] == 0 ? sum : c[1] == 1 ? n : !n ? 0 : c[1] == 2 ? x[n - 1] : x[0]);
	for (i = 0; i < n && c[1] >= 4; i++)
		fprintf(f, "%s%ld", i ? " " : "", c[1] == 4 ? x[i] : x[i] * x[i]);
}

/* A line of words: the same. Option 0 takes all; then by length, first letter, any letter. */
enum { PICKS = 1 + 4 + 2 * 8 };

static void
words_ask(FILE *f, choice c)
{
	static const char *const what[] = {
		"the count of", "in capitals", "in reverse order", "in alphabetical order",
		"the last letters of", "each one backwards,"
	};

	fprintf(f, "%s ", what[c[1]]);
	if (!c[0])
		fprintf(f, "all of them");
	else if (c[0] < 5)
		fprintf(f, "those longer than %d letters", c[0] + 2);
	else
		fprintf(f, "those that %s %s", c[0] < 13 ? "start with" : "contain", letters[(c[0] - 5) % 8]);
}

static void
words_think(FILE *f, choice c)
{
	static const char *const what[] = {
		"count them", "write them in capitals", "turn their order around", "sort them", "take their last letters",
		"turn each around"
	};

	fprintf(f, "Step 1: split the line into words.\n");
	if (c[0] && c[0] < 5)
		fprintf(f, "Step 2: keep those with more than %d letters.\n", c[0] + 2);
	else if (c[0])
		fprintf(f, "Step 2: keep those %s %s.\n", c[0] < 13 ? "that start with" : "with", letters[(c[0] - 5) % 8]);
	fprintf(f, "Step %d: %s and print.\n", c[0] ? 3 : 2, what[c[1]]);
}

static void
words_text(FILE *f, choice c)
{
	static const char *const how[] = {
		"len(%s)", "*[w.upper() for w in %s]", "*reversed(%s)", "*sorted(%s)",
		"*[w[-1] for w in %s]", "*[w[::-1] for w in %s]"
	};
	const char *at = strchr(how[c[1]], '%'), *list = c[0] ? "chosen" : "words";

	fprintf(f, "words = input().split()\n");
	if (c[0] && c[0] < 5)
		fprintf(f, "chosen = [w for w in words if len(w) > %d]\n", c[0] + 2);
	else if (c[0])
		fprintf(f, c[0] < 13 ? "chosen = [w for w in words if w.startswith(\"%s\")]\n" :
		    "chosen = [w for w in words if \"%s\" in w]\n", letters[(c[0] - 5) % 8]);
	fprintf(f, "print(%.*s%s%s)\n", (int)(at - how[c[1]]), how[c[1]], list, at + 2);
}

static void
words_make(FILE *f)
{
	static const char *const words[] = {
		"apple", "sea", "top", "pen", "cat", "melon", "orange", "east", "table", "paper", "moon",
		"castle", "egg", "olive", "stone", "arm", "map", "cup", "tea", "summer", "ant", "owl",
		"train", "post", "carpet", "mouse", "elm", "oak", "silver", "pocket"
	};
	size_t i, n = 4 + draw(ITEMS - 3);

	for (i = 0; i < n; i++)
		fprintf(f, "%s%s", i ? " " : "", words[draw(sizeof words / sizeof *words)]);
}

static int
picked(int option, const char *word)
{
	const char *letter = letters[(option + 3) % 8];

	if (option < 5)
		return !option || strlen(word) > (size_t)option + 2;
	return option < 13 ? *word == *letter : strchr(word, *letter) != NULL;
}

static int
alphabetical(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void
word_print(FILE *f, int how, const char *word)
{
	size_t i, n = strlen(word);

	if (how == 4)
		word += n - 1, n = 1;
	for (i = 0; i < n; i++)
		fputc(how == 1 ? word[i] - 'a' + 'A' : word[how == 5 ? n - 1 - i : i], f);
}

static void
words_run(FILE *f, choice c, const char *input)
{
	char *copy = mem_string(input), *rest = copy, *word, *words[ITEMS];
	int n = 0, i;

	while ((word = strsep(&rest, " \n")))
		if (*word && picked(c[0], word))
			words[n++] = word;
	if (c[1] == 3)
		qsort(words, (size_t)n, sizeof *words, alphabetical);
	if (c[1] == 0)
		fprintf(f, "%d", n);
	for (i = 0; i < n && c[1]; i++) {
		fputs(i ? " " : "", f);
		word_print(f, c[1], words[c[1] == 2 ? n - 1 - i : i]);
	}
	free(copy);
}

/* One number through two operations. */

static void
chain_ask(FILE *f, choice c)
{
	static const char *const what[] = { "plus", "minus", "times", "divided without rest by", "modulo" };

	fprintf(f, "it %s %d, then %s %d", what[c[0]], c[1] + 2, what[c[2]], c[3] + 2);
}

static void
chain_think(FILE *f, choice c)
{
	static const char *const what[] = { "add", "subtract", "multiply by", "divide by", "take the rest by" };

	fprintf(f, "Step 1: read the number.\nStep 2: %s %d.\nStep 3: %s %d and print.\n", what[c[0]], c[1] + 2,
	    what[c[2]], c[3] + 2);
}

static void
chain_text(FILE *f, choice c)
{
	static const char *const signs[] = { "+", "-", "*", "//", "%" };

	fprintf(f, "n = int(input())\nn = n %s %d\nn = n %s %d\nprint(n)\n",
	    signs[c[0]], c[1] + 2, signs[c[2]], c[3] + 2);
}

static void
number_make(FILE *f)
{
	fprintf(f, "%zu", draw(30) + 1);
}

/* As Python divides: down, not towards zero. */
static long
operate(int operation, long x, long k)
{
	long down = x / k - (x % k < 0);

	return operation == 0 ? x + k : operation == 1 ? x - k : operation == 2 ? x * k :
	    operation == 3 ? down : x - down * k;
}

static void
chain_run(FILE *f, choice c, const char *input)
{
	fprintf(f, "%ld", operate(c[2], operate(c[0], atol(input), c[1] + 2), c[3] + 2));
}

/* Counting up to a number. */

static void
count_ask(FILE *f, choice c)
{
	fprintf(f, "the numbers from %d %s it", c[0], c[2] ? "up to and including" : "up to, but not including");
	if (c[1])
		fprintf(f, ", in steps of %d", c[1] + 1);
}

static void
count_think(FILE *f, choice c)
{
	fprintf(f, "Step 1: read the number.\nStep 2: count from %d by %d, the end %s.\nStep 3: print each.\n", c[0],
	    c[1] + 1, c[2] ? "included" : "left out");
}

static void
count_text(FILE *f, choice c)
{
	fprintf(f, "n = int(input())\nfor i in range(%d, n%s", c[0], c[2] ? " + 1" : "");
	if (c[1])
		fprintf(f, ", %d", c[1] + 1);
	fprintf(f, "):\n    print(i)\n");
}

static void
count_run(FILE *f, choice c, const char *input)
{
	long i, n = atol(input) + c[2];

	for (i = c[0]; i < n; i += c[1] + 1)
		fprintf(f, "%s%ld", i > c[0] ? "\n" : "", i);
}

/* One of two words, by a condition. */

static const char *const answers[][2] = {
	{ "yes", "no" }, { "true", "false" }, { "in", "out" }, { "good", "bad" }, { "left", "right" }
};

static void
decide_ask(FILE *f, choice c)
{
	fprintf(f, "%s if it is ", answers[c[1]][c[2]]);
	condition_say(f, c[0] + 1, "", "");
	fprintf(f, ", else %s", answers[c[1]][!c[2]]);
}

static void
decide_think(FILE *f, choice c)
{
	fprintf(f, "Step 1: read the number.\nStep 2: ask if it is ");
	condition_say(f, c[0] + 1, "", ".\n");
	fprintf(f, "Step 3: print %s, else %s.\n", answers[c[1]][c[2]], answers[c[1]][!c[2]]);
}

static void
decide_text(FILE *f, choice c)
{
	fprintf(f, "n = int(input())\nif ");
	condition_text(f, c[0] + 1, "n");
	fprintf(f, ":\n    print(\"%s\")\nelse:\n    print(\"%s\")\n",
	    answers[c[1]][c[2]], answers[c[1]][!c[2]]);
}

static void
decide_run(FILE *f, choice c, const char *input)
{
	fputs(answers[c[1]][condition_holds(c[0] + 1, atol(input)) ? c[2] : !c[2]], f);
}

static const struct family families[] = {
	{ { CONDITIONS, 6 }, "a line of integers", numbers_ask, numbers_think, numbers_text, numbers_make, numbers_run },
	{ { PICKS, 6 }, "a line of words", words_ask, words_think, words_text, words_make, words_run },
	{ { 5, 8, 5, 8 }, "a number", chain_ask, chain_think, chain_text, number_make, chain_run },
	{ { 6, 5, 2 }, "a number", count_ask, count_think, count_text, number_make, count_run },
	{ { CONDITIONS - 1, 5, 2 }, "a number", decide_ask, decide_think, decide_text, number_make, decide_run }
};

static struct program
any_program(void)
{
	struct program p = { &families[draw(sizeof families / sizeof *families)], { 0 } };
	int i;

	for (i = 0; i < CHOICES && p.family->options[i]; i++)
		p.choices[i] = (int)draw((size_t)p.family->options[i]);
	return p;
}

/* What a family's function prints about a program. */
static char *
printed(const struct program *p, void (*function)(FILE *, choice))
{
	char *s;
	size_t size;
	FILE *f = open_memstream(&s, &size);

	function(f, p->choices);
	fclose(f);
	return s;
}

static char *
output_of(const struct program *p, const char *input)
{
	char *s;
	size_t size;
	FILE *f = open_memstream(&s, &size);

	p->family->run(f, p->choices, input);
	fputc('\n', f);
	fclose(f);
	return s;
}

static char *
any_input(const struct program *p)
{
	char *s;
	size_t size;
	FILE *f = open_memstream(&s, &size);

	p->family->make(f);
	fclose(f);
	return s;
}

static json_t *
tests_of(const struct program *p)
{
	json_t *tests = json_array();
	char *input, *output;
	int i;

	for (i = 0; i < TESTS; i++) {
		input = any_input(p);
		output = output_of(p, input);
		json_array_append_new(tests, json_pack("{s:s+, s:s}", "input", input, "\n", "output", output));
		free(input);
		free(output);
	}
	return tests;
}

static char *
summary_of(const struct program *p, size_t phrasing)
{
	char *what = printed(p, p->family->ask), *s;

	switch (phrasing) {
	case 0: s = mem_format("Read %s and print %s.", p->family->input, what); break;
	case 1: s = mem_format("Write a program that reads %s and prints %s.", p->family->input, what); break;
	default: s = mem_format("Given %s, print %s.", p->family->input, what);
	}
	free(what);
	return s;
}

/* One choice made anew. */
static struct program
mutant(struct program p)
{
	size_t i, n = 0;

	while (n < CHOICES && p.family->options[n])
		n++;
	i = draw(n);
	p.choices[i] = (int)draw((size_t)p.family->options[i]);
	return p;
}

static int
passes(const struct program *p, const json_t *tests)
{
	const json_t *test;
	char *output;
	size_t i;
	int same = 1;

	json_array_foreach(tests, i, test) {
		output = output_of(p, json_string_value(json_object_get(test, "input")));
		same = same && !strcmp(output, json_string_value(json_object_get(test, "output")));
		free(output);
	}
	return same;
}

static const struct slip {
	const char *right, *wrong, *error, *change;
} slips[] = {
	{ "\nprint(", "\npirnt(", "NameError: name 'pirnt' is not defined", "replace" },
	{ "input()", "imput()", "NameError: name 'imput' is not defined", "replace" },
	{ "sorted(", "sort(", "NameError: name 'sort' is not defined", "replace" },
	{ "range(", "rang(", "NameError: name 'rang' is not defined", "replace" },
	{ "\nnumbers", "\nnumber", "NameError: name 'numbers' is not defined", "replace" },
	{ ".split()", ".spilt()", "AttributeError: 'str' object has no attribute 'spilt'", "replace" },
	{ "else:", "else", "SyntaxError: expected ':'", "delete" },
	{ "):\n", ")\n", "SyntaxError: expected ':'", "delete" },
	{ "int(input())", "int(input()", "SyntaxError: '(' was never closed", "delete" },
	{ ":\n    ", ":\n", "IndentationError: expected an indented block", "delete" }
};

/* The text with a slip in it, or NULL if there is no place for that slip. */
static char *
slipped(const char *text, const struct slip *slip)
{
	const char *at = strstr(text, slip->right);

	return at ? mem_format("%.*s%s%s", (int)(at - text), text, slip->wrong,
	    at + strlen(slip->right)) : NULL;
}

static json_t *
bug(void)
{
	static const struct slip changed = { NULL, NULL, "", "replace" };
	struct program p = any_program(), q = mutant(p);
	const struct slip *slip = draw(2) ? &slips[draw(sizeof slips / sizeof *slips)] : &changed;
	char *text = printed(&p, p.family->text), *task = summary_of(&p, 0);
	char *pass = mem_format("# %s\n%s", task, text), *wrong, *fail;
	json_t *tests = tests_of(&p), *example = NULL;

	wrong = slip->error[0] ? slipped(pass, slip) : passes(&q, tests) ? NULL : printed(&q, q.family->text);
	if (wrong) {
		fail = slip->error[0] ? mem_string(wrong) : mem_format("# %s\n%s", task, wrong);
		example = json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:O}", "fail", fail, "pass", pass,
		    "error", slip->error, "original_status", slip->error[0] ? "Runtime Error" : "Wrong Answer",
		    "change", slip->change, "language", "Python", "tests", tests);
		free(fail);
	}
	json_decref(tests);
	free(text);
	free(task);
	free(pass);
	free(wrong);
	return example;
}

static json_t *
python(void)
{
	struct program p = any_program();
	char *summary = summary_of(&p, draw(3)), *text = printed(&p, p.family->text);
	json_t *example = json_pack("{s:s, s:s, s:o}", "summary", summary, "original_string", text,
	    "tests", tests_of(&p));

	free(summary);
	free(text);
	return example;
}

static json_t *
thought(void)
{
	struct program p = any_program();
	char *task = summary_of(&p, draw(3)), *text = printed(&p, p.family->text), *steps = printed(&p, p.family->think);
	char *reply = mem_format("<think>\n%s</think>\n<answer>\n```python\n%s```\n</answer>", steps, text);
	json_t *example = json_pack("{s:s, s:s, s:o}", "prompt", task, "generation", reply, "tests", tests_of(&p));

	free(task);
	free(text);
	free(steps);
	free(reply);
	return example;
}

/* `count` examples that differ in `key`, in two files. */
static void
write_all(json_t *(*make)(void), size_t count, const char *key, const char *train_path, const char *dev_path)
{
	struct output train = { 0 }, dev = { 0 };
	json_t *seen = json_object(), *example;
	const char *name;

	while (train.n + dev.n < count) {
		if (!(example = make()))
			continue;
		name = json_string_value(json_object_get(example, key));
		if (json_object_get(seen, name)) {
			json_decref(example);
			continue;
		}
		json_object_set_new(seen, name, json_true());
		output_add(draw(100) < DEV_PERCENT ? &dev : &train, example);
	}
	json_decref(seen);
	output_write(&train, train_path);
	output_write(&dev, dev_path);
}

int
main(int argc, char **argv)
{
	progname = "programs";
	if (argc != 7)
		die_usage("it takes six files to write");
	write_all(python, PYTHON, "summary", argv[1], argv[2]);
	write_all(bug, BUGS, "fail", argv[3], argv[4]);
	write_all(thought, THOUGHTS, "prompt", argv[5], argv[6]);
	return 0;
}
