/* SPDX-License-Identifier: MIT */
/* order - ids by value, the largest first, the lower id first among equals */
#ifndef KERNELS_ORDER_H
#define KERNELS_ORDER_H

struct ranked {
	float value;
	int id;
};

/* For qsort(). */
static inline int
ranked_compare(const void *a, const void *b)
{
	const struct ranked *x = a, *y = b;

	if (x->value != y->value)
		return x->value > y->value ? -1 : 1;
	return x->id < y->id ? -1 : 1;
}

#endif
