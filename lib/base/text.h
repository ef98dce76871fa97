/* SPDX-License-Identifier: MIT */
/* text - a growing text, which may hold NUL; start it with zeros, free() its s */
#ifndef BASE_TEXT_H
#define BASE_TEXT_H

#include <stddef.h>
#include <string.h>

#include "lib/base/mem.h"

struct text {
	char *s;
	size_t n, cap;
};

static inline void
text_add(struct text *t, const char *s, size_t n)
{
	if (t->cap - t->n < n)
		t->s = mem_grow(t->s, t->cap = 2 * (t->n + n), 1);
	if (n)
		memcpy(t->s + t->n, s, n);
	t->n += n;
}

static inline void
text_puts(struct text *t, const char *s)
{
	text_add(t, s, strlen(s));
}

#endif
