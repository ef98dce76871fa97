/* SPDX-License-Identifier: MIT */
/*
 * mem - allocation that dies, and a growing array
 *
 * Memory from here is freed with free(). Sizes that come from outside go
 * through mem_mul(), which dies on overflow.
 */
#ifndef BASE_MEM_H
#define BASE_MEM_H

#include <stddef.h>

void *mem_alloc(size_t size);			/* dies when there is none; size 0 is allowed */
void *mem_zero(size_t n, size_t size);		/* n * size zero bytes */
void *mem_grow(void *p, size_t n, size_t size);	/* realloc to n * size bytes */
void *mem_copy(const void *p, size_t size);	/* a copy of size bytes */
char *mem_string(const char *s);		/* a copy of s */
char *mem_format(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
size_t mem_mul(size_t a, size_t b);		/* a * b, or dies */

/* Append one element to the array p of n elements whose capacity is cap. */
#define MEM_PUSH(p, n, cap, x) do { \
	if ((n) == (cap)) { \
		(cap) = (cap) ? 2 * (cap) : 16; \
		(p) = mem_grow((p), (size_t)(cap), sizeof *(p)); \
	} \
	(p)[(n)++] = (x); \
} while (0)

#endif
