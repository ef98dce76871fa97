/* SPDX-License-Identifier: MIT */
/* parts - the tags of a completion and what stands between them */
#ifndef REWARD_PARTS_H
#define REWARD_PARTS_H

#include <stddef.h>

struct part {
	const char *s;		/* NULL: absent */
	size_t n;
};

extern const char *const part_tags[4];	/* in their order */

struct part part_think(const char *text, size_t n);
struct part part_answer(const char *text, size_t n);

/* The first of a tag in [p, end), or NULL. */
const char *part_tag(const char *p, const char *end, int tag);

#endif
