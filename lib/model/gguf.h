/* SPDX-License-Identifier: MIT */
/*
 * gguf - a file of metadata and tensors as llama.cpp reads it: GGUF, version 3
 *
 * Say all metadata and tensors first, then hand over the tensors' data in the
 * same order. Dies on failure; the file has its name only when complete.
 */
#ifndef MODEL_GGUF_H
#define MODEL_GGUF_H

#include <stddef.h>
#include <stdint.h>

/* Types of a tensor: GGML's numbers. Blocks of 32 elements: Q4_0 has 18 bytes, Q8_0 34. */
enum gguf_type { GGUF_F32 = 0, GGUF_F16 = 1, GGUF_Q4_0 = 2, GGUF_Q8_0 = 8, GGUF_BF16 = 30 };
enum { GGUF_BLOCK = 32 };

struct gguf;

struct gguf *gguf_create(const char *path);
void gguf_u32(struct gguf *g, const char *key, uint32_t value);
void gguf_f32(struct gguf *g, const char *key, float value);
void gguf_bool(struct gguf *g, const char *key, int value);
void gguf_string(struct gguf *g, const char *key, const char *s, size_t n);
/* An array: its length, then as many items. */
void gguf_strings(struct gguf *g, const char *key, uint64_t count);
void gguf_strings_item(struct gguf *g, const char *s, size_t n);
void gguf_i32s(struct gguf *g, const char *key, uint64_t count);
void gguf_i32s_item(struct gguf *g, int32_t value);
/* `columns` runs fastest; rows 0: one dimension. Blocks must fit. */
void gguf_tensor(struct gguf *g, const char *name, enum gguf_type type, uint64_t columns, uint64_t rows);

/* Data of the tensors, any number of calls; the next tensor begins where one is full. */
void gguf_put(struct gguf *g, const void *data, size_t bytes);
void gguf_finish(struct gguf *g);
void gguf_discard(struct gguf *g);		/* nothing gets the name */

size_t gguf_bytes(enum gguf_type type, size_t elements);
/* n elements as the type has them, n a multiple of GGUF_BLOCK where it has blocks; not of Q4_0. */
void gguf_convert(void *to, enum gguf_type type, const float *x, size_t n);
/* n codes 0..15 and their scale by block to Q4_0: W = scale (code - 8). */
void gguf_q4_0(void *to, const uint8_t *codes, const uint16_t *scales, size_t n);

#endif
