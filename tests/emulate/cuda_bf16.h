/* SPDX-License-Identifier: MIT */
/* cuda_bf16 - the type, by kernels/dtype.h */
#ifndef EMULATE_CUDA_BF16_H
#define EMULATE_CUDA_BF16_H

extern "C" {
#include "kernels/dtype.h"
}

struct __nv_bfloat16 { uint16_t bits; };
struct __nv_bfloat162 { __nv_bfloat16 x, y; };

static inline float __bfloat162float(__nv_bfloat16 x) { return bf16_to_f32(x.bits); }
static inline __nv_bfloat16 __float2bfloat16_rn(float x) { return (__nv_bfloat16){ f32_to_bf16(x) }; }
static inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return (__nv_bfloat162){ __float2bfloat16_rn(x), __float2bfloat16_rn(y) }; }

#endif
