/* SPDX-License-Identifier: MIT */
/* ids - a growing array of token ids; start it with zeros, free() its id */
#ifndef BPE_IDS_H
#define BPE_IDS_H

#include <stddef.h>
#include <stdint.h>

#include "lib/base/mem.h"

struct ids {
	int32_t *id;
	size_t n, cap;
};

/* Room for `more` ids beyond n. */
static inline void
ids_reserve(struct ids *ids, size_t more)
{
	if (ids->cap - ids->n >= more)
		return;
	ids->cap = 2 * ids->cap > ids->n + more ? 2 * ids->cap : ids->n + more;
	ids->id = mem_grow(ids->id, ids->cap, sizeof *ids->id);
}

static inline void
ids_add(struct ids *ids, int32_t id)
{
	ids_reserve(ids, 1);
	ids->id[ids->n++] = id;
}

#endif
