/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "lib/reward/parts.h"

enum { THINK, THINK_END, ANSWER, ANSWER_END };

const char *const part_tags[4] = { "<think>", "</think>", "<answer>", "</answer>" };

const char *
part_tag(const char *p, const char *end, int tag)
{
	return memmem(p, (size_t)(end - p), part_tags[tag], strlen(part_tags[tag]));
}

static const char *
last_tag(const char *p, const char *end, int tag)
{
	const char *last = NULL;

	while ((p = part_tag(p, end, tag)))
		last = p++;
	return last;
}

struct part
part_think(const char *text, size_t n)
{
	const char *begin = part_tag(text, text + n, THINK), *end = NULL;

	if (begin) {
		begin += strlen(part_tags[THINK]);
		end = part_tag(begin, text + n, THINK_END);
	}
	return end ? (struct part){ begin, (size_t)(end - begin) } : (struct part){ NULL, 0 };
}

struct part
part_answer(const char *text, size_t n)
{
	const char *end = last_tag(text, text + n, ANSWER_END);
	const char *begin = end ? last_tag(text, end, ANSWER) : NULL;

	if (!begin)
		return (struct part){ NULL, 0 };
	begin += strlen(part_tags[ANSWER]);
	return (struct part){ begin, (size_t)(end - begin) };
}
