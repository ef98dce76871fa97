/* SPDX-License-Identifier: MIT */
/* value - element i of an array of f32 or bf16, for the definitions */
#ifndef KERNELS_VALUE_H
#define KERNELS_VALUE_H

#include "kernels/dtype.h"

static inline double
value_get(const void *x, enum dtype type, size_t i)
{
	return type == DT_BF16 ? bf16_to_f32(((const uint16_t *)x)[i]) : ((const float *)x)[i];
}

static inline void
value_put(void *x, enum dtype type, size_t i, double value)
{
	if (type == DT_BF16)
		((uint16_t *)x)[i] = f32_to_bf16((float)value);
	else
		((float *)x)[i] = (float)value;
}

#endif
