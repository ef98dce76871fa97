/* SPDX-License-Identifier: MIT */
/*
 * vmath - exp, log and the logistic function of vectors
 *
 * vec_exp: within 1.2 units in the last place; 0 below -87.33 (where the result would be denormal),
 * exp(88.37) above that, NaN for NaN. vec_log: within 0.8 units, of positive normal numbers.
 * Coefficients of log: Cephes (Moshier); of 2^r: least relative error in [-1/2, 1/2].
 */
#ifndef KERNELS_VMATH_H
#define KERNELS_VMATH_H

#include <math.h>

#include "kernels/vec.h"

#define LOG2E 0x1.715476p0f
#define LOG2E_REST 0x1.4ae0cp-26f

/* Added to a number, leaves the exponent of 2 to its nearest integer in the low bits. */
#define EXPONENT (0x1.8p23f + 127)

INLINE vec
vec_exp(vec x)
{
	const vec magic = vec_set(EXPONENT);
	vec y = vec_min(vec_set(88.37626f), x), t = vec_fma(y, vec_set(LOG2E), magic);
	vec r = vec_fma(y, vec_set(LOG2E), magic - t), p = vec_set(1.5353361960e-4f);

	r = vec_fma(y, vec_set(LOG2E_REST), r);
	p = vec_fma(p, r, vec_set(1.3398875017e-3f));
	p = vec_fma(p, r, vec_set(9.6184369177e-3f));
	p = vec_fma(p, r, vec_set(5.5503323674e-2f));
	p = vec_fma(p, r, vec_set(2.4022647738e-1f));
	p = vec_fma(p, r, vec_set(6.9314718246e-1f));
	p = vec_fma(p, r, vec_set(1)) * vec_from_bits(vec_bits(t) << 23);
	return vec_less(y, vec_set(-87.33654f), vec_set(0), p);
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
