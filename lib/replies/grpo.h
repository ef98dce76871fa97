/* SPDX-License-Identifier: MIT */
/*
 * grpo - group relative policy optimization: advantages, loss and its gradient (paper, eq. 5-7)
 *
 * Of a step's replies, which come in groups to one prompt:
 *
 *   A_i = (t_i - mean) / (std + 1e-4),   t_i the weighted sum of the rewards of reply i, over its group;
 *         exactly 0 where all of a group are equal, or fewer than two are judged
 *   rho = pi / pi_old                    of a token, or of a reply: exp(mean of log pi - log pi_old)
 *   K   = exp(d) - d - 1,                d = log pi_ref - log pi
 *   loss = sum over tokens of c (w P + beta K),   P = -min(min(rho, delta) A, clip(rho, 1 - low, 1 + high) A)
 *
 * The names are the published ones: c is 1 / (B n_i) for grpo and sapo, 1 / N for dapo and cispo, 1 / (B max)
 * for dr-grpo, 1 / B for luspo, with B the replies and N the tokens of the whole step: how the step is cut into
 * micro-batches does not matter. cispo has P = -min(rho, max) A log pi with a weight that carries no gradient,
 * sapo P = -(4 / tau) sigmoid(tau (rho - 1)) A. w = min(pi_old / pi_sampler, cap) corrects a sampler that
 * computes otherwise than the trainer.
 *
 * Sources: Shao et al. 2024 (GRPO), Yu et al. 2025 (DAPO), Liu et al. 2025 (Dr. GRPO), Zheng et al. 2025 (GSPO),
 * MiniMax 2025 (CISPO). All of it is computed in double, on the host.
 */
#ifndef REPLIES_GRPO_H
#define REPLIES_GRPO_H

#include <stdint.h>

enum grpo_loss { GRPO_GRPO, GRPO_DAPO, GRPO_DR_GRPO, GRPO_LUSPO, GRPO_CISPO, GRPO_SAPO };
enum grpo_ratio { RATIO_TOKEN, RATIO_SEQUENCE };
enum grpo_scale { SCALE_GROUP, SCALE_BATCH, SCALE_NONE };
enum grpo_kl { KL_K3, KL_K3_RATIO, KL_K2 };	/* K; rho K, with rho's gradient; d^2 / 2 */
enum grpo_tis { TIS_TOKEN_TRUNCATE, TIS_TOKEN_MASK, TIS_SEQUENCE_TRUNCATE, TIS_SEQUENCE_MASK };

struct grpo {
	enum grpo_loss loss;
	enum grpo_ratio ratio;
	enum grpo_scale scale;
	double low, high;		/* of the clip */
	double delta;			/* INFINITY: none */
	double cispo_max, sapo_pos, sapo_neg;
	double beta;			/* 0: no reference */
	enum grpo_kl kl;
	double tis_cap;			/* INFINITY: no correction */
	enum grpo_tis tis;
	int max_completion;		/* dr-grpo's constant */
	int drop_truncated;		/* replies without an end leave the loss, but not their group */
	int skip_zero_std;		/* groups without an advantage leave the step */
};

/* A reply, with what is known of its tokens. */
struct sample {
	int n;				/* tokens */
	int group;			/* from 0, in the order of their first reply */
	int terminated;			/* by its own end, not cut */
	const double *rewards;		/* by reward; NAN: not judged */
	const float *old;		/* [n] log pi_old; NULL: pi itself, without gradient */
	const float *ref;		/* [n], NULL: no KL */
	const float *sampled;		/* [n] of the sampler; NULL: no correction */
	/* grpo_judge() */
	double total;			/* NAN: no reward could judge */
	double advantage;
	int in_batch;			/* counts in B */
	int counts;			/* its tokens count, in N and in the loss */
};

struct mean_std { double mean, std; };	/* NAN where there are none, or for std less than two */

/* A step's replies as a whole. */
struct judged {
	long replies, tokens;		/* B and N */
	int groups, zero_std;
	struct mean_std total, *rewards;	/* of those judged; rewards [nrewards] */
	double advantage;		/* mean |A| over all replies */
	double mean_length, terminated;	/* over all replies; a share */
	int min_length, max_length;
};

/* Advantages of n replies, and what of them counts. */
void grpo_judge(const struct grpo *g, struct sample *samples, int n, const double *weights, int nrewards,
    struct judged *j);
void judged_free(struct judged *j);

/* Sums over replies, to be shared out at the end. */
struct grpo_sums {
	double loss, magnitude;		/* sums of c l and |c l| */
	double kl;			/* over tokens that count */
	long tokens, samples;		/* that count */
	long low, high;			/* clipped: tokens, or replies where the ratio is theirs */
};

/*
 * One reply whose tokens have logp [n] under the model: fills dlogp [n] with the gradient of the step's loss, and
 * `terms` [n], where not NULL, with w P + beta K. Returns 0 where the loss is not finite.
 */
int grpo_sample(const struct grpo *g, const struct judged *j, const struct sample *r, const float *logp,
    float *dlogp, double *terms, struct grpo_sums *sums);

#endif
