/* SPDX-License-Identifier: MIT */
#include <string.h>
#include <strings.h>

#include "lib/reward/fence.h"

struct fence {
	size_t indent, ticks;
	const char *info;
	size_t info_size;
};

static size_t
span(const char *p, const char *end, char c)
{
	const char *q = p;

	while (q < end && *q == c)
		q++;
	return (size_t)(q - p);
}

/* Behind the line's end; *text_end is where the line's own text ends. */
static const char *
next_line(const char *p, const char *end, const char **text_end)
{
	const char *newline = memchr(p, '\n', (size_t)(end - p));

	*text_end = newline ? newline : end;
	if (*text_end > p && (*text_end)[-1] == '\r')
		--*text_end;
	return newline ? newline + 1 : end;
}

static int
opens(const char *p, const char *end, struct fence *f)
{
	f->indent = span(p, end, ' ');
	f->ticks = span(p + f->indent, end, '`');
	f->info = p + f->indent + f->ticks;
	f->info_size = (size_t)(end - f->info);
	return f->ticks >= 3 && !memchr(f->info, '`', f->info_size);
}

static int
closes(const char *p, const char *end, const struct fence *f)
{
	size_t ticks;

	p += span(p, end, ' ');
	ticks = span(p, end, '`');
	p += ticks;
	return ticks >= f->ticks && p + span(p, end, ' ') == end;
}

/* Behind the line that closes the fence; *last is where that line begins. NULL: it is never closed. */
static const char *
find_close(const char *p, const char *end, const struct fence *f, const char **last)
{
	const char *next, *text_end;

	for (; p < end; p = next) {
		next = next_line(p, end, &text_end);
		*last = p;
		if (closes(p, text_end, f))
			return next;
	}
	return NULL;
}

enum language
language_named(const char *name, size_t n)
{
	static const struct { const char *name; enum language language; } names[] = {
		{ "python", LANGUAGE_PYTHON }, { "py", LANGUAGE_PYTHON }, { "python3", LANGUAGE_PYTHON },
		{ "cpp", LANGUAGE_CPP }, { "c++", LANGUAGE_CPP }, { "cc", LANGUAGE_CPP }, { "cxx", LANGUAGE_CPP }
	};
	size_t i;

	for (i = 0; i < sizeof names / sizeof *names; i++)
		if (strlen(names[i].name) == n && !strncasecmp(names[i].name, name, n))
			return names[i].language;
	return LANGUAGE_NONE;
}

static enum language
language_of(const struct fence *f, enum language unnamed)
{
	const char *p = f->info, *end = p + f->info_size, *q;

	while (p < end && strchr(" \t", *p))
		p++;
	for (q = p; q < end && !strchr(" \t", *q); q++)
		;
	return q == p ? unnamed : language_named(p, (size_t)(q - p));
}

static void
copy_block(const char *p, const char *end, size_t indent, struct text *source)
{
	const char *next, *text_end;
	size_t n;

	for (source->n = 0; p < end; p = next) {
		next = next_line(p, end, &text_end);
		n = span(p, text_end, ' ');
		p += n < indent ? n : indent;
		text_add(source, p, (size_t)(next - p));
	}
}

enum language
fence_last(const char *text, size_t n, enum language unnamed, struct text *source)
{
	enum language found = LANGUAGE_NONE, language;
	const char *p, *end = text + n, *text_end, *next, *behind, *last;
	struct fence f;

	for (p = text; p < end; p = next) {
		next = next_line(p, end, &text_end);
		if (!opens(p, text_end, &f) || !(behind = find_close(next, end, &f, &last)))
			continue;
		language = language_of(&f, unnamed);
		if (language != LANGUAGE_NONE) {
			found = language;
			copy_block(next, last, f.indent, source);
		}
		next = behind;
	}
	return found;
}
