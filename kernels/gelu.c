/* SPDX-License-Identifier: MIT */
/*
 * gelu - gelu_new, the tanh form of Hendrycks and Gimpel (2016) that GPT-2 was trained with
 *
 *   y = x (1 + t) / 2,  t = tanh(u),  u = sqrt(2 / pi) (x + 0.044715 x^3)
 *   dy/dx = (1 + t) / 2 + x (1 - t^2) / 2 u'
 */
#include <math.h>

#include "kernels/cpu.h"
#include "kernels/value.h"

void
gelu_ref(void *y, const void *x, enum dtype type, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++) {
		double a = value_get(x, type, i);

		value_put(y, type, i, 0.5 * a *
		    (1 + tanh(sqrt(M_2_PI) * (a + 0.044715 * a * a * a))));
	}
}

void
gelu_backward_ref(void *dx, const void *dy, const void *x, enum dtype type, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++) {
		double a = value_get(x, type, i),
		    t = tanh(sqrt(M_2_PI) * (a + 0.044715 * a * a * a));
		double slope = sqrt(M_2_PI) * (1 + 3 * 0.044715 * a * a);

		value_put(dx, type, i, value_get(dy, type, i) * 0.5 *
		    (1 + t + a * (1 - t * t) * slope));
	}
}
