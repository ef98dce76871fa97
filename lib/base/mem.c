/* SPDX-License-Identifier: MIT */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"

static void *
checked(void *p, size_t size)
{
	if (!p)
		die("out of memory, asking for %zu bytes", size);
	return p;
}

void *
mem_alloc(size_t size)
{
	return checked(malloc(size ? size : 1), size);
}

void *
mem_zero(size_t n, size_t size)
{
	size_t bytes = mem_mul(n, size);

	return checked(calloc(1, bytes ? bytes : 1), bytes);
}

void *
mem_grow(void *p, size_t n, size_t size)
{
	size_t bytes = mem_mul(n, size);

	return checked(realloc(p, bytes ? bytes : 1), bytes);
}

void *
mem_copy(const void *p, size_t size)
{
	void *copy = mem_alloc(size);

	return size ? memcpy(copy, p, size) : copy;
}

char *
mem_string(const char *s)
{
	return mem_copy(s, strlen(s) + 1);
}

char *
mem_format(const char *fmt, ...)
{
	char *s;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&s, fmt, ap) < 0)
		die("out of memory");
	va_end(ap);
	return s;
}

size_t
mem_mul(size_t a, size_t b)
{
	size_t product;

	if (__builtin_mul_overflow(a, b, &product))
		die("a size of %zu x %zu bytes overflows", a, b);
	return product;
}
