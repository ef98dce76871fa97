/* SPDX-License-Identifier: MIT */
/* kinds - the functions behind the names of rewards, each in the file of its like */
#ifndef REWARD_KINDS_H
#define REWARD_KINDS_H

#include "lib/reward/parts.h"
#include "lib/reward/reward.h"
#include "lib/sandbox/sandbox.h"
#include "lib/score/rouge.h"

struct judge {
	struct rouge *rouge;
	struct sandbox_result compiled, ran, checked;
};

typedef void judge_fn(const struct reward *r, const struct candidate *c, struct judge *judge, struct score *score);

judge_fn judge_format, judge_tags, judge_steps;		/* shape.c */
judge_fn judge_keywords, judge_repetition;		/* words.c */
judge_fn judge_length, judge_cosine, judge_overlong;	/* length.c */
judge_fn judge_answer, judge_rouge;			/* answer.c */
judge_fn judge_code;					/* code.c */

double reward_number(const struct reward *r, const char *param);
const char *reward_text(const struct reward *r, const char *param);
double reward_pair(const struct reward *r, const char *param, int i);	/* one of two numbers */

/* Whether there is a string to compare with. */
int has_reference(const struct candidate *c);
/* 1 if the answer part is right. */
int answer_right(const struct candidate *c, double tolerance);

__attribute__((format(printf, 3, 4))) void score_is(struct score *score, double value, const char *why, ...);
void score_none(struct score *score, const char *why);	/* it cannot be judged */

#endif
