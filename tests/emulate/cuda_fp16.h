/* SPDX-License-Identifier: MIT */
/* cuda_fp16 - the type, by kernels/dtype.h */
#ifndef EMULATE_CUDA_FP16_H
#define EMULATE_CUDA_FP16_H

extern "C" {
#include "kernels/dtype.h"
}

struct __half { uint16_t bits; };

static inline float __half2float(__half x) { return f16_to_f32(x.bits); }
static inline __half __float2half_rn(float x) { return (__half){ f32_to_f16(x) }; }

#endif
