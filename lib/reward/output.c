/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "lib/reward/output.h"

static size_t
without_space(const char *s, size_t n, const char *space)
{
	while (n && s[n - 1] && strchr(space, s[n - 1]))
		n--;
	return n;
}

/* The size of the next line at *p, which moves behind it. */
static size_t
line(const char **p, size_t *left)
{
	const char *begin = *p, *newline = memchr(begin, '\n', *left);
	size_t n = newline ? (size_t)(newline - begin) : *left, all = newline ? n + 1 : n;

	*p += all;
	*left -= all;
	return without_space(begin, n, " \t\r\f\v");
}

size_t
output_differs(const char *got, size_t n, const char *want, size_t m)
{
	size_t number, size;
	const char *g = got, *w = want, *a, *b;

	n = without_space(got, n, " \t\r\f\v\n");
	m = without_space(want, m, " \t\r\f\v\n");
	for (number = 1; n && m; number++) {
		a = g;
		b = w;
		size = line(&g, &n);
		if (line(&w, &m) != size || memcmp(a, b, size))
			return number;
	}
	return n || m ? number : 0;
}
