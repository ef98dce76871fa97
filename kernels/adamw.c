/* SPDX-License-Identifier: MIT */
/*
 * adamw - Adam with decoupled weight decay (Loshchilov and Hutter 2019), and the norm of a gradient
 *
 *   w -= lr decay w;  m = b1 m + (1 - b1) g;  v = b2 v + (1 - b2) g^2
 *   w -= lr (m / (1 - b1^t)) / (sqrt(v / (1 - b2^t)) + eps)
 *
 * The master of a bf16 weight is cut in two, (w << 16) + lo with lo in [-2^15, 2^15): the weight is
 * the master rounded to nearest, and no bit of it is stored twice. Without a master, what is cut off
 * says how likely the weight is rounded up.
 */
#include <math.h>
#include <string.h>

#include "kernels/cpu.h"
#include "kernels/philox.h"

static float
master_get(const void *w, enum dtype type, const int16_t *lo, size_t i)
{
	uint32_t bits;
	float value;

	if (type != DT_BF16)
		return ((const float *)w)[i];
	bits = ((uint32_t)((const uint16_t *)w)[i] << 16) + (lo ? (uint32_t)lo[i] : 0);
	memcpy(&value, &bits, sizeof value);
	return value;
}

static uint32_t
word_of(const struct adamw *h, uint64_t i)
{
	const uint32_t counter[4] = { (uint32_t)(i / 4), (uint32_t)(i / 4 >> 32), h->stream, 1 };
	const uint32_t key[2] = { (uint32_t)h->seed, (uint32_t)(h->seed >> 32) };
	uint32_t words[4];

	philox(words, counter, key);
	return words[i % 4];
}

static void
master_put(void *w, enum dtype type, int16_t *lo, size_t i, float value, const struct adamw *h)
{
	uint32_t bits;

	if (type != DT_BF16) {
		((float *)w)[i] = value;
		return;
	}
	memcpy(&bits, &value, sizeof bits);
	((uint16_t *)w)[i] = (uint16_t)((bits + (lo ? 0x8000 : word_of(h, i) & 0xffff)) >> 16);
	if (lo)
		lo[i] = (int16_t)bits;
}

void
adamw_ref(void *w, enum dtype type, int16_t *lo, float *m, float *v, float *g, size_t n,
    const struct adamw *h)
{
	size_t i;

	for (i = 0; i < n; i++) {
		double grad = h->scale * g[i], weight = master_get(w, type, lo, i);

		m[i] = (float)(h->beta1 * m[i] + (1 - h->beta1) * grad);
		v[i] = (float)(h->beta2 * v[i] + (1 - h->beta2) * grad * grad);
		weight -= h->lr * h->decay * weight;
		weight -= h->lr * (m[i] / h->correction1) / (sqrt(v[i] / h->correction2) + h->eps);
		master_put(w, type, lo, i, (float)weight, h);
		g[i] = 0;
	}
}

void
sum_squares_ref(double *sum, const float *x, size_t n)
{
	double total = 0;
	size_t i;

	for (i = 0; i < n; i++)
		total += (double)x[i] * x[i];
	*sum += total;
}
