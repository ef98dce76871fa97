/* SPDX-License-Identifier: MIT */
/* length, cosine, overlong: how many tokens a completion has */
#include <math.h>

#include "lib/reward/kinds.h"

void
judge_length(const struct reward *r, const struct candidate *c, struct judge *judge, struct score *score)
{
	double min = reward_number(r, "min"), max = reward_number(r, "max");

	(void)judge;
	if (part_think(c->text, c->size).s)
		score_is(score, fmin(fmax((c->think_tokens - min) / (max - min), 0), 1), "%d tokens of thought",
		    c->think_tokens);
	else
		score_is(score, 0, "no think part");
}

void
judge_cosine(const struct reward *r, const struct candidate *c, struct judge *judge, struct score *score)
{
	double x = fmin(c->tokens / reward_number(r, "max_len"), 1), k = (1 + cos(acos(-1) * x)) / 2;
	int right;

	(void)judge;
	if (!has_reference(c)) {
		score_none(score, "no reference");
		return;
	}
	right = answer_right(c, 1e-6);
	if (right)
		score_is(score, reward_pair(r, "correct", 0) + (reward_pair(r, "correct", 1) -
		    reward_pair(r, "correct", 0)) * k, "right, with %d tokens", c->tokens);
	else
		score_is(score, reward_pair(r, "wrong", 1) + (reward_pair(r, "wrong", 0) -
		    reward_pair(r, "wrong", 1)) * k, "wrong, with %d tokens", c->tokens);
}

void
judge_overlong(const struct reward *r, const struct candidate *c, struct judge *judge, struct score *score)
{
	double max = reward_number(r, "max"), cache = reward_number(r, "cache"), value = 0;

	(void)judge;
	if (c->tokens > max)
		value = -1;
	else if (c->tokens > max - cache)
		value = (max - cache - c->tokens) / cache;
	score_is(score, value, "%d tokens", c->tokens);
}
