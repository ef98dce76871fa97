/* SPDX-License-Identifier: MIT */
/*
 * reward - what a completion earns
 *
 * A reward is a function of a completion and of what its record holds, with
 * parameters. Its score is a number, or it cannot be judged: then the record
 * lacks what it needs, whatever the completion says. What a completion does
 * wrong, even to run for ever, is a score.
 *
 * The think part of a completion reaches from its first <think> to the first
 * </think> behind that, the answer part from the last <answer> before the last
 * </answer>. Parts are not trimmed; a part with a tag missing is absent.
 *
 *	format	1 if all of it is <think>T</think> white space <answer>A</answer>, no tag in T and A
 *	tags	0.25 for each of the four tags that occurs once, behind those before it
 *	keywords	share of the keywords that are words of the think part
 *	steps	min(1, n / 3), n the marks of steps: "Step 1:", "1.", "-", "First,"
 *	length	(think tokens - min) / (max - min), from 0 to 1
 *	cosine	from correct[1] to correct[0], or wrong[0] to wrong[1], as tokens go from 0 to max_len
 *	repetition	-max_penalty (1 - different n-grams / n-grams) of words
 *	overlong	0 up to max - cache tokens, -1 beyond max, linear between
 *	answer	1 if the answer part equals a reference, as text or as a number
 *	rouge	Rouge-L's F of the answer part, or of all, against the references
 *	code	share of the tests that the last program passes; -0.1 if it does not compile, -1 if there is none
 */
#ifndef REWARD_REWARD_H
#define REWARD_REWARD_H

#include <jansson.h>
#include <stddef.h>

#include "lib/base/die.h"

struct candidate {
	const char *text;		/* the completion: UTF-8 */
	size_t size;
	int tokens;			/* of the completion */
	int think_tokens;		/* of its think part */
	const json_t *references;	/* a string or an array of strings, else NULL */
	const json_t *keywords;		/* the record's own, or NULL */
	const json_t *tests;		/* array of {input, output}, or NULL */
};

struct score {
	int judged;
	double value;
	char why[REASON_MAX];
};

struct kind;

struct reward {
	const struct kind *kind;
	double weight;
	json_t *params;			/* all of them, with their defaults */
	char *checker;			/* the program that the parameter of code names, or NULL */
	size_t checker_size;
};

/* Memory to judge in; one per thread. */
struct judge *judge_new(void);
void judge_free(struct judge *judge);

/*
 * A reward of that name; `params` override the defaults, under their names or
 * beginnings of them. NULL and the reason.
 */
struct reward *reward_new(const char *name, double weight, const json_t *params, char *why);
/* From a command line's NAME=WEIGHT[:PARAM=VALUE,...]; lists by naming a parameter again. */
struct reward *reward_parse(const char *spec, char *why);
void reward_free(struct reward *reward);

const char *reward_name(const struct reward *reward);
int reward_counts_thought(const struct reward *reward);	/* it needs think_tokens */
int reward_runs_programs(const struct reward *reward);	/* it needs a sandbox */

void reward_judge(const struct reward *reward, const struct candidate *c, struct judge *judge, struct score *score);

#endif
