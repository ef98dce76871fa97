/* SPDX-License-Identifier: MIT */
/*
 * export - a model directory as one GGUF file, weights, tokenizer and chat template, for llama.cpp
 *
 * Names, order of rows and metadata as its own converter has them. Vectors and
 * learned positions are f32, matrices of the type that is asked for; of Q4_0 only
 * quantised layers are, exactly as they were quantised, and all else is f16.
 */
#ifndef QUANT_EXPORT_H
#define QUANT_EXPORT_H

#include "lib/model/gguf.h"

enum export_type { EXPORT_STORED, EXPORT_F16, EXPORT_BF16, EXPORT_Q8_0, EXPORT_Q4_0 };

/*
 * Write it; EXPORT_STORED is q4_0 of a quantised model, bf16 of one in bf16, f16 else. Returns 0; 1 where
 * the directory has no tokenizer, and so the file has none; -1 with a reason where the model cannot be read, or the
 * type cannot hold it. Dies where the file cannot be written.
 */
int export_gguf(const char *directory, const char *path, enum export_type type, char *why);

#endif
