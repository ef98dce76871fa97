/* SPDX-License-Identifier: MIT */
/*
 * vmath - exp, log and the logistic function of vectors
 *
 * vec_exp: within 1.1 units in the last place; 0 below -87.33 (where the result would be denormal),
 * exp(88.37) above that, NaN for NaN. vec_log: within 0.8 units, of positive normal numbers.
 * Coefficients: Cephes (Moshier).
 */
#ifndef KERNELS_VMATH_H
#define KERNELS_VMATH_H

#include <math.h>

#include "kernels/vec.h"

INLINE vec
vec_exp(vec x)
{
	const vec low = vec_set(-87.33654f), high = vec_set(88.37626f), magic = vec_set(0x1.8p23f);
	vec y = vec_min(high, vec_max(low, x));
	vec t = vec_fma(y, vec_set(1.44269504f), magic);	/* its low bits are the exponent */
	vec n = t - magic, p = vec_set(1.9875691500e-4f);
	vec r = vec_fma(n, vec_set(2.12194440e-4f), vec_fma(n, vec_set(-0.693359375f), y));

	p = vec_fma(p, r, vec_set(1.3981999507e-3f));
	p = vec_fma(p, r, vec_set(8.3334519073e-3f));
	p = vec_fma(p, r, vec_set(4.1665795894e-2f));
	p = vec_fma(p, r, vec_set(1.6666665459e-1f));
	p = vec_fma(p, r, vec_set(5.0000001201e-1f));
	p = vec_fma(p, r, vec_set(1));
	p = vec_fma(p, r, vec_set(1));
	p *= vec_from_bits((vec_bits(t) << 23) + 0x3f800000);
	return vec_less(x, low, vec_set(0), p);
}

INLINE vec
vec_log(vec x)
{
	veci exponent = (vec_bits(x) - 0x3f3504f3) >> 23;	/* mantissa in [sqrt 1/2, sqrt 2) */
	vec e = __builtin_convertvector(exponent, vec);
	vec r = vec_from_bits(vec_bits(x) - (exponent << 23)) - 1.0f, z = r * r;
	vec p = vec_set(7.0376836292e-2f);

	p = vec_fma(p, r, vec_set(-1.1514610310e-1f));
	p = vec_fma(p, r, vec_set(1.1676998740e-1f));
	p = vec_fma(p, r, vec_set(-1.2420140846e-1f));
	p = vec_fma(p, r, vec_set(1.4249322787e-1f));
	p = vec_fma(p, r, vec_set(-1.6668057665e-1f));
	p = vec_fma(p, r, vec_set(2.0000714765e-1f));
	p = vec_fma(p, r, vec_set(-2.4999993993e-1f));
	p = vec_fma(p, r, vec_set(3.3333331174e-1f));
	p = vec_fma(e, vec_set(-2.12194440e-4f), p * r * z);
	p = vec_fma(z, vec_set(-0.5f), p);
	return vec_fma(e, vec_set(0.693359375f), r + p);
}

INLINE vec
vec_logistic(vec x)
{
	return vec_inverse(1.0f + vec_exp(-x));
}

#endif
