/* SPDX-License-Identifier: MIT */
/* code: what share of its tests a completion's program passes */
#include <stdlib.h>
#include <string.h>

#include "lib/reward/fence.h"
#include "lib/reward/kinds.h"
#include "lib/reward/output.h"

#define NO_PROGRAM (-1.0)
#define NO_COMPILE (-0.1)

enum { COMPILE_SECONDS = 10, COMPILED_BYTES = 64 << 20, OUTPUT_LEAST = 1 << 20 };
static const size_t compile_memory = (size_t)1 << 30;

static const char *const python[] = { "python3", "/program/main.py", NULL };
static const char *const compiled[] = { "/program/main", NULL };
static const char *const check_python[] = { "python3", "-c",
	"compile(open('/program/main.py', 'rb').read(), 'main.py', 'exec')", NULL };
static const char *const compile_cpp[] = { "sh", "-c",
	"g++ -O2 -std=c++17 -o main /program/main.cpp && cat main", NULL };
static const char *const check_output[] = { "/program/checker", "/program/input", "/program/output", NULL };

struct program {
	enum language language;
	struct text source;
	struct sandbox_job job;
};

/* The last line of what a program said, for people. */
static struct part
last_line(const struct text *errors)
{
	const char *p, *newline;
	size_t n = errors->n;

	while (n && strchr(" \r\n", errors->s[n - 1]))
		n--;
	newline = n ? memrchr(errors->s, '\n', n) : NULL;
	p = newline ? newline + 1 : errors->s;
	n -= newline ? (size_t)(p - errors->s) : 0;
	return (struct part){ n ? p : "", n < 200 ? n : 200 };
}

/* Returns 1 if the source compiles; for C++, the job runs what it was compiled to. */
static int
compiles(struct program *p, struct judge *judge)
{
	struct sandbox_result *made = &judge->compiled;
	struct sandbox_job job = { .argv = check_python, .seconds = COMPILE_SECONDS, .memory = compile_memory,
	    .output = COMPILED_BYTES, .errors = 1 };

	job.files[0] = (struct sandbox_file){ "main.py", p->source.s, p->source.n };
	if (p->language == LANGUAGE_CPP) {
		job.argv = compile_cpp;
		job.files[0].name = "main.cpp";
	}
	sandbox_run(&job, made);
	p->job.files[0] = (struct sandbox_file){ "main", made->output.s, made->output.n };
	return made->end == SANDBOX_ENDED && !made->status;
}

/* How a program ended that did not end well. */
static void
describe_end(const struct sandbox_result *ran, char *why)
{
	static const char *const limits[] = { "", "takes too long", "takes more memory or files than it may",
	    "prints too much" };
	struct part said = last_line(&ran->errors);

	if (ran->end != SANDBOX_ENDED)
		reason(why, "%s", limits[ran->end]);
	else
		reason(why, "ends with status %d%s%.*s", ran->status, said.n ? ": " : "", (int)said.n, said.s);
}

static void
no_compile(const struct judge *judge, struct score *score)
{
	char why[REASON_MAX];

	describe_end(&judge->compiled, why);
	score_is(score, NO_COMPILE, "does not compile: the compiler %.*s", REASON_MAX - 64, why);
}

/* What the checker says of the output: it ends with 0 where it is right, 1 where it is not. */
static int
checker_agrees(const struct reward *r, const json_t *input, const json_t *output, struct judge *judge)
{
	const struct text *printed = &judge->ran.output;
	const struct sandbox_job job = { .argv = check_output, .input = printed->s, .input_size = printed->n,
	    .seconds = COMPILE_SECONDS, .memory = compile_memory, .output = OUTPUT_LEAST, .errors = 1, .files = {
		{ "checker", r->checker, r->checker_size }, { "input", json_string_value(input), json_string_length(input) },
		{ "output", json_string_value(output), json_string_length(output) } } };
	struct sandbox_result *checked = &judge->checked;
	char why[REASON_MAX];

	sandbox_run(&job, checked);
	if (checked->end != SANDBOX_ENDED || checked->status > 1) {
		describe_end(checked, why);
		die("the checker of programs %s", why);
	}
	return !checked->status;
}

/* 1 if it passes; else `why` says how it fails. */
static int
passes(struct program *p, const struct reward *r, const json_t *test, struct judge *judge, char *why)
{
	const json_t *input = json_object_get(test, "input"), *output = json_object_get(test, "output");
	struct sandbox_result *ran = &judge->ran;
	size_t line;

	p->job.input = json_string_value(input);
	p->job.input_size = json_string_length(input);
	p->job.output = 2 * json_string_length(output) > OUTPUT_LEAST ? 2 * json_string_length(output) : OUTPUT_LEAST;
	sandbox_run(&p->job, ran);
	if (ran->end != SANDBOX_ENDED || ran->status)
		describe_end(ran, why);
	else if (r->checker) {
		if (checker_agrees(r, input, output, judge))
			return 1;
		reason(why, "the checker says no");
	} else {
		line = output_differs(ran->output.s, ran->output.n, json_string_value(output), json_string_length(output));
		if (!line)
			return 1;
		reason(why, "line %zu of its output is wrong", line);
	}
	return 0;
}

static int
are_tests(const json_t *tests)
{
	const json_t *test;
	size_t i;

	json_array_foreach(tests, i, test)
		if (!json_is_string(json_object_get(test, "input")) || !json_is_string(json_object_get(test, "output")))
			return 0;
	return json_array_size(tests) > 0;
}

/* Each run of Python compiles; whether that was what failed is asked only where the first test fails. */
static void
test_all(struct program *p, const struct reward *r, const json_t *tests, struct judge *judge, struct score *score)
{
	char why[REASON_MAX], first[REASON_MAX] = "";
	size_t i, passed = 0, n = json_array_size(tests);
	const json_t *test;

	json_array_foreach(tests, i, test) {
		if (passes(p, r, test, judge, why)) {
			passed++;
			continue;
		}
		if (!*first)
			reason(first, "; test %zu %.*s", i + 1, REASON_MAX - 64, why);
		if (!i && p->language == LANGUAGE_PYTHON && judge->ran.end == SANDBOX_ENDED && judge->ran.status &&
		    !compiles(p, judge)) {
			no_compile(judge, score);
			return;
		}
	}
	score_is(score, (double)passed / (double)n, "%zu of %zu tests%.*s", passed, n, REASON_MAX - 64, first);
}

void
judge_code(const struct reward *r, const struct candidate *c, struct judge *judge, struct score *score)
{
	const char *language = reward_text(r, "language");
	struct program p = { .source = { .n = 0 } };

	if (!are_tests(c->tests)) {
		score_none(score, "no tests");
		return;
	}
	p.language = fence_last(c->text, c->size, language_named(language, strlen(language)), &p.source);
	p.job = (struct sandbox_job){ .argv = python, .seconds = reward_number(r, "time_limit"),
	    .memory = (size_t)reward_number(r, "memory") << 20, .errors = 1 };
	if (p.language == LANGUAGE_NONE) {
		score_is(score, NO_PROGRAM, "no program");
	} else if (p.language == LANGUAGE_CPP && !compiles(&p, judge)) {
		no_compile(judge, score);
	} else {
		if (p.language == LANGUAGE_CPP)
			p.job.argv = compiled;
		else
			p.job.files[0] = (struct sandbox_file){ "main.py", p.source.s, p.source.n };
		test_all(&p, r, c->tests, judge, score);
	}
	free(p.source.s);
}
