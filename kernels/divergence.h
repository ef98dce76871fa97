/* SPDX-License-Identifier: MIT */
/*
 * divergence - the D(p, q) of the loss, outcome by outcome, in double
 *
 *   kd               -p log q                             h = -p
 *   forward KL       p (log p - log q)                    h = -p
 *   reverse KL       q (log q - log p)                    h = q (log q - log p)
 *   JSD              t p (log p - log m) + (1 - t) q (log q - log m),  m = t p + (1 - t) q
 *                                                         h = (1 - t) q (log q - log m)
 *   skew KL          p (log p - log m),  m = s p + (1 - s) q
 *                                                         h = -(1 - s) p q / m
 *   skew reverse KL  q (log q - log m),  m = s q + (1 - s) p
 *                                                         h = q (log q - log m - s q / m)
 *   alpha-beta       -(p^A q^B - A/(A+B) p^(A+B) - B/(A+B) q^(A+B)) / (A B)
 *                                                         h = q^B (q^A - p^A) / A
 * t is beta, s alpha, A and B alpha and beta. Limits of alpha-beta: Cichocki, Cruces and Amari
 * (2011). Sources: Hinton et al. 2015; GKD, arXiv 2306.13649; DistiLLM, 2402.03898; ABKD,
 * 2505.04560.
 */
#ifndef KERNELS_DIVERGENCE_H
#define KERNELS_DIVERGENCE_H

#include <math.h>

#include "kernels/device.h"
#include "kernels/op.h"

/* p log(p / m) where p = exp(a). */
DEVICE static inline double
divergence_relative(double p, double a, double m)
{
	return p > 0 ? p * (a - log(m)) : 0;
}

/* exp(x)^power */
DEVICE static inline double
divergence_power(double x, double exponent)
{
	return exponent == 0 ? 1 : exp(x * exponent);
}

DEVICE static inline double
divergence_alpha_beta(double alpha, double beta, double a, double b, double *h)
{
	double s = alpha + beta, pa = divergence_power(a, alpha), qa = divergence_power(b, alpha), pb = divergence_power(a, beta),
	    qb = divergence_power(b, beta);
	double apart = a == b ? 0 : a - b;

	*h = alpha != 0 ? qb * (qa - pa) / alpha : qb > 0 ? -qb * apart : 0;
	if (alpha == 0 && beta == 0)
		return apart * apart / 2;
	if (beta == 0)
		return ((pa > 0 ? pa * (alpha * apart - 1) : 0) + qa) / (alpha * alpha);
	if (alpha == 0)
		return ((qb > 0 ? -qb * (beta * apart + 1) : 0) + pb) / (beta * beta);
	if (s == 0)
		return (exp(alpha * apart) - alpha * apart - 1) / (alpha * alpha);
	return -(pa * qb - alpha / s * divergence_power(a, s) - beta / s * divergence_power(b, s)) / (alpha * beta);
}

/*
 * a = log p, b = log q of one outcome. The term f(a, b) of D is returned, and h = df/db, up to a
 * multiple of q: since the q sum to one, D's gradient on the student's logits is h_k - q_k sum h
 * whatever the multiple. Terms of probability zero are exactly zero.
 */
DEVICE static inline double
divergence_term(const struct divergence *d, double a, double b, double *h)
{
	double p = exp(a), q = exp(b), m, t = d->beta, s = d->alpha;

	switch (d->kind) {
	case LOSS_CE:
		*h = 0;
		return 0;
	case LOSS_KD:
		*h = -p;
		return p > 0 ? -p * b : 0;
	case LOSS_FORWARD_KL:
		*h = -p;
		return p > 0 ? p * (a - b) : 0;
	case LOSS_REVERSE_KL:
		*h = q > 0 ? q * (b - a) : 0;
		return *h;
	case LOSS_JSD:
		m = t * p + (1 - t) * q;
		*h = (1 - t) * divergence_relative(q, b, m);
		return t * divergence_relative(p, a, m) + *h;
	case LOSS_SKEW_KL:
		m = s * p + (1 - s) * q;
		*h = m > 0 ? -(1 - s) * p * q / m : 0;
		return divergence_relative(p, a, m);
	case LOSS_SKEW_RKL:
		m = s * q + (1 - s) * p;
		*h = m > 0 ? divergence_relative(q, b, m) - s * q * q / m : 0;
		return divergence_relative(q, b, m);
	case LOSS_ALPHA_BETA:
		return divergence_alpha_beta(d->alpha, d->beta, a, b, h);
	}
	return NAN;
}

/*
 * D of a row with a top-k teacher whose tail is one outcome more, from the student's
 * log-probabilities b[ids[.]] given as `own` and the logarithm `rest` of its mass outside the ids.
 * h receives k + 1 numbers.
 */
DEVICE static inline double
divergence_bucket(const struct divergence *d, const float *logprobs, double log_tail,
    const double *own, double rest, int k, double *h)
{
	double sum = 0;
	int j;

	for (j = 0; j < k; j++)
		sum += divergence_term(d, logprobs[j], own[j], &h[j]);
	return sum + divergence_term(d, log_tail, rest, &h[k]);
}

#endif
