/* SPDX-License-Identifier: MIT */
/* grpo - advantages by hand, gradients against finite differences, what leaves the batch and what does not */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/mem.h"
#include "lib/replies/grpo.h"
#include "tests/unit/tap.h"

enum { REPLIES = 6, LONGEST = 7 };

static const struct grpo plain = {
	.loss = GRPO_GRPO, .low = 0.2, .high = 0.2, .delta = INFINITY, .cispo_max = 5, .sapo_pos = 1, .sapo_neg = 1.05,
	.beta = 0.04, .tis_cap = INFINITY, .max_completion = 16,
};

static uint64_t state = 88172645463325252ull;

static double
uniform(void)
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return (double)(state >> 11) * 0x1p-53;
}

/* Two groups of three replies of different lengths. */
struct batch {
	struct sample samples[REPLIES];
	double rewards[REPLIES];
	float logp[REPLIES][LONGEST], old[REPLIES][LONGEST], ref[REPLIES][LONGEST], sampled[REPLIES][LONGEST];
};

static void
batch_make(struct batch *b)
{
	static const double rewards[REPLIES] = { 1, 0, 0.5, 0, 1, 1 };
	int i, t;

	memset(b, 0, sizeof *b);
	memcpy(b->rewards, rewards, sizeof rewards);
	for (i = 0; i < REPLIES; i++) {
		for (t = 0; t < LONGEST; t++) {
			b->logp[i][t] = (float)(-4 * uniform());
			b->old[i][t] = b->logp[i][t] + (float)(0.6 * uniform() - 0.3);
			b->ref[i][t] = b->logp[i][t] + (float)(uniform() - 0.5);
			b->sampled[i][t] = b->old[i][t] + (float)(0.4 * uniform() - 0.2);
		}
		b->samples[i] = (struct sample){
			.n = LONGEST - i, .group = i / 3, .terminated = i % 2, .rewards = &b->rewards[i],
			.old = b->old[i], .ref = b->ref[i], .sampled = b->sampled[i],
		};
	}
}

static struct judged
judge(const struct grpo *g, struct batch *b)
{
	static const double weight = 1;
	struct judged j;

	grpo_judge(g, b->samples, REPLIES, &weight, 1, &j);
	return j;
}

static double
loss(const struct grpo *g, const struct judged *j, const struct batch *b)
{
	struct grpo_sums sums = { 0 };
	float dlogp[LONGEST];
	int i;

	for (i = 0; i < REPLIES; i++)
		grpo_sample(g, j, &b->samples[i], b->logp[i], dlogp, NULL, &sums);
	return sums.loss;
}

/* The largest difference to central differences of the loss, relative to the largest gradient. */
static double
gradient_error(const struct grpo *g, struct batch *b)
{
	struct judged j = judge(g, b);
	struct grpo_sums sums = { 0 };
	double largest = 0, error = 0, up, numeric, step;
	float dlogp[LONGEST], kept;
	int i, t;

	for (i = 0; i < REPLIES; i++) {
		grpo_sample(g, &j, &b->samples[i], b->logp[i], dlogp, NULL, &sums);
		for (t = 0; t < b->samples[i].n; t++) {
			kept = b->logp[i][t];
			b->logp[i][t] = kept + 0x1p-9f;
			step = b->logp[i][t];
			up = loss(g, &j, b);
			b->logp[i][t] = kept - 0x1p-9f;
			step -= b->logp[i][t];
			numeric = (up - loss(g, &j, b)) / step;
			b->logp[i][t] = kept;
			largest = fmax(largest, fabs(dlogp[t]));
			error = fmax(error, fabs(numeric - dlogp[t]));
		}
	}
	judged_free(&j);
	return error / largest;
}

static void
test_gradients(void)
{
	static const struct { const char *name; enum grpo_loss loss; } losses[] = {
		{ "grpo", GRPO_GRPO }, { "dapo", GRPO_DAPO }, { "dr-grpo", GRPO_DR_GRPO }, { "luspo", GRPO_LUSPO },
		{ "sapo", GRPO_SAPO },
	};
	static const char *const ratios[] = { "token", "sequence" }, *const kls[] = { "k3", "k3 times rho", "k2" };
	struct batch b;
	size_t i, r, k;
	double error;

	for (i = 0; i < sizeof losses / sizeof *losses; i++)
		for (r = 0; r < 2; r++)
			for (k = 0; k < 3; k++) {
				struct grpo g = plain;

				g.loss = losses[i].loss;
				g.ratio = (enum grpo_ratio)r;
				g.kl = (enum grpo_kl)k;
				/* far from what the differences would step over */
				g.low = g.high = g.ratio == RATIO_TOKEN ? 0.9 : 0.01;
				batch_make(&b);
				error = gradient_error(&g, &b);
				ok(error < 2e-4, "the gradient of %s, ratio by %s, KL %s, is its difference quotient",
				    losses[i].name, ratios[r], kls[k]);
				if (error >= 2e-4)
					printf("# %g\n", error);
			}
}

static void
test_advantages(void)
{
	struct grpo g = plain;
	struct batch b;
	struct judged j;

	batch_make(&b);
	j = judge(&g, &b);
	/* 1, 0, 0.5: mean 0.5, std 0.5. 0, 1, 1: mean 2/3, std sqrt(1/3) */
	ok(fabs(b.samples[0].advantage - 0.5 / 0.5001) < 1e-12 && fabs(b.samples[2].advantage) < 1e-12 &&
	    fabs(b.samples[3].advantage + 2. / 3 / (sqrt(1. / 3) + 1e-4)) < 1e-12, "advantages are those of paper and pencil");
	judged_free(&j);
	g.scale = SCALE_NONE;
	j = judge(&g, &b);
	ok(fabs(b.samples[3].advantage + 2. / 3) < 1e-12, "and without the deviation");
	judged_free(&j);
	b.rewards[0] = b.rewards[1] = b.rewards[2] = 0.1;
	j = judge(&plain, &b);
	ok(j.zero_std == 1 && !(fabs(b.samples[0].advantage) > 0) && j.replies == REPLIES, "equal rewards: exactly no advantage");
	judged_free(&j);
	b.rewards[1] = b.rewards[2] = NAN;
	j = judge(&plain, &b);
	ok(j.zero_std == 1 && !(fabs(b.samples[0].advantage) > 0), "one that is judged has nothing to be compared with");
	judged_free(&j);
	g = plain;
	g.skip_zero_std = 1;
	j = judge(&g, &b);
	ok(j.replies == 3 && j.tokens == 4 + 3 + 2, "such a group leaves the batch where that is asked for");
	judged_free(&j);
	g = plain;
	g.drop_truncated = 1;
	batch_make(&b);
	j = judge(&g, &b);
	ok(j.replies == REPLIES && j.tokens == 6 + 4 + 2 && fabs(b.samples[1].advantage + 0.5 / 0.5001) < 1e-12,
	    "replies that were cut stay in their group and in B, and out of the loss");
	judged_free(&j);
}

static void
test_correction(void)
{
	struct grpo g = plain;
	struct batch b;
	struct judged j;
	struct grpo_sums sums = { 0 };
	double terms[LONGEST], w, sum = 0;
	float dlogp[LONGEST];
	int t, wrong = 0;

	g.beta = 0;
	g.tis_cap = 1.05;
	batch_make(&b);
	memcpy(b.old, b.logp, sizeof b.old);
	j = judge(&g, &b);
	grpo_sample(&g, &j, &b.samples[0], b.logp[0], dlogp, terms, &sums);
	for (t = 0; t < b.samples[0].n; t++) {
		w = fmin(exp((double)b.old[0][t] - b.sampled[0][t]), 1.05);
		sum += (double)b.old[0][t] - b.sampled[0][t];
		wrong += fabs(terms[t] + w * b.samples[0].advantage) > 1e-12;
	}
	ok(!wrong, "importance weights of tokens are truncated at the cap");
	g.tis = TIS_SEQUENCE_MASK;
	g.tis_cap = exp(sum) * 0.99;
	grpo_sample(&g, &j, &b.samples[0], b.logp[0], dlogp, terms, &sums);
	ok(!(fabs(terms[0]) > 0), "and those of a whole sequence mask it");
	judged_free(&j);
}

static void
test_cispo(void)
{
	struct grpo g = plain;
	struct batch b;
	struct judged j;
	struct grpo_sums sums = { 0 };
	float dlogp[LONGEST];
	int t, wrong = 0;

	g.loss = GRPO_CISPO;
	g.beta = 0;
	g.cispo_max = 1.1;
	batch_make(&b);
	j = judge(&g, &b);
	grpo_sample(&g, &j, &b.samples[0], b.logp[0], dlogp, NULL, &sums);
	for (t = 0; t < b.samples[0].n; t++) {
		double rho = fmin(exp((double)b.logp[0][t] - b.old[0][t]), 1.1);

		wrong += fabs(dlogp[t] + rho * b.samples[0].advantage / (double)j.tokens) > 1e-6;
	}
	ok(!wrong, "cispo's gradient is the cut ratio times the advantage, for every token");
	judged_free(&j);
}

static void
test_nothing(void)
{
	struct batch b;
	struct judged j;
	struct grpo_sums sums = { 0 };
	float dlogp[LONGEST];

	batch_make(&b);
	b.samples[0].n = 0;
	j = judge(&plain, &b);
	ok(grpo_sample(&plain, &j, &b.samples[0], b.logp[0], dlogp, NULL, &sums) && !sums.tokens && isfinite(sums.loss),
	    "an empty reply adds nothing");
	b.old[1][0] = -INFINITY;
	ok(!grpo_sample(&plain, &j, &b.samples[1], b.logp[1], dlogp, NULL, &sums), "a loss that is not finite is told");
	judged_free(&j);
}

int
main(void)
{
	test_advantages();
	test_gradients();
	test_correction();
	test_cispo();
	test_nothing();
	return done();
}
