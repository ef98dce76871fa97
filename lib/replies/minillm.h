/* SPDX-License-Identifier: MIT */
/*
 * minillm - what a reply's tokens are worth to a student whose judge is the teacher (Gu et al. 2024)
 *
 * p the teacher, o the student that drew the reply, q the student as it is, y the tokens, N those of the step:
 *
 *   r_t = (log p(y_t) - log o(y_t)) / scale, cut to [-bound, bound]
 *   w_t = o(y_t) / ((1 - alpha) o(y_t) + alpha p(y_t))     where a share alpha was drawn from p
 *   G_t = sum of gamma^(j-t) r_j over j >= t, divided by n - t, the remaining length
 *   A_t = (G_t - mean) / sqrt(variance + 1e-8)              over the step's tokens
 *   x_t = w_t q(y_t) / o(y_t)
 *   loss = (1/N) sum -min(x A, clip(x, 1 - clip, 1 + clip) A)  +  (1/N) sum KL(q, p)
 *
 * gamma 0, alpha 0, nothing divided, whitened or clipped, and no KL: A_t = r_t, the plain form known as
 * on-policy distillation. The gradient is op.h's policy.
 */
#ifndef REPLIES_MINILLM_H
#define REPLIES_MINILLM_H

struct minillm {
	double alpha, gamma;
	int length_norm, whiten;
	double clip;			/* 0: none */
	double reward_scale;
	double reward_clip;		/* 0: none */
};

struct token_value {
	float reward, weight, total, advantage;	/* r, w, G, A */
};

/* The tokens of `n` sequences, offsets[s] .. offsets[s + 1] - 1 of sequence s, from log p and log o of each. */
void minillm_values(struct token_value *values, const struct minillm *m, const float *teacher, const float *old,
    const int *offsets, int n);
/* A token's loss; *factor is minus its derivative by log q, not divided by N. */
double minillm_loss(double *factor, const struct minillm *m, const struct token_value *value, double old, double logp);

#endif
