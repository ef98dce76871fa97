/* SPDX-License-Identifier: MIT */
/* elementwise - sums, dropout (Srivastava et al. 2014), changes of type, rows taken and put back */
#include <string.h>

#include "kernels/cpu.h"
#include "kernels/keep.h"
#include "kernels/value.h"

void
add_ref(void *y, float a, const void *x, enum dtype type, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
		value_put(y, type, i, value_get(y, type, i) + a * value_get(x, type, i));
}

void
dropout_ref(void *y, const void *x, enum dtype type, size_t n, const struct dropout *drop)
{
	size_t i;

	for (i = 0; i < n; i++)
		value_put(y, type, i, value_get(x, type, i) *
		    (keep_all(drop) ? 1 : keep_factor(drop, i)));
}

void
convert_ref(void *y, enum dtype ytype, const void *x, enum dtype xtype, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
		value_put(y, ytype, i, value_get(x, xtype, i));
}

void
gather_ref(void *y, const void *x, enum dtype type, const int *rows, int m, int c)
{
	size_t bytes = (size_t)c * (type == DT_BF16 ? 2 : 4);
	int i;

	for (i = 0; i < m; i++)
		memcpy((char *)y + (size_t)i * bytes, (const char *)x + (size_t)rows[i] * bytes,
		    bytes);
}

void
scatter_ref(void *dx, const void *dy, enum dtype type, const int *rows, int m, int c)
{
	size_t bytes = (size_t)c * (type == DT_BF16 ? 2 : 4);
	int i;

	for (i = 0; i < m; i++)
		memcpy((char *)dx + (size_t)rows[i] * bytes, (const char *)dy + (size_t)i * bytes,
		    bytes);
}
