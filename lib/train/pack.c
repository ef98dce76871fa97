/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/train/pack.h"

void
pack_init(struct pack *p, struct stream_in *in, struct model *m, int rows)
{
	*p = (struct pack){ .in = in, .m = m, .rows = rows };
	batch_init(&p->batch, m->be);
}

static void
forget(struct pack *p)
{
	int i;

	for (i = 0; i < p->n; i++)
		record_free(&p->records[i].record);
	p->n = 0;
	batch_clear(&p->batch);
}

void
pack_free(struct pack *p)
{
	forget(p);
	free(p->records);
	forward_free(p->forward);
	batch_free(&p->batch);
}

/* Put the held record into the batch, unless it must wait for the next one. */
static int
add(struct pack *p)
{
	const struct config *c = &p->m->config;
	struct packed packed;
	struct example e;

	example_read(&e, &p->next, p->in, c->vocab);
	if (c->family == FAMILY_GPT2 && e.n > c->positions)
		die("%s: record '%s' has %d ids, the model only %d positions", stream_name(p->in), e.id, e.n,
		    c->positions);
	if (p->n && p->batch.m + e.rows > p->rows)
		return 0;
	record_copy(&packed.record, &p->next);
	example_read(&packed.example, &packed.record, p->in, c->vocab);
	packed.first = p->batch.p;
	batch_add(&p->batch, e.ids, e.n, e.spans, e.nspans, 1);
	MEM_PUSH(p->records, p->n, p->cap, packed);
	model_rope(p->m, e.rows);
	p->held = 0;
	return 1;
}

int
pack_fill(struct pack *p)
{
	forget(p);
	do {
		if (!p->held && !stream_get(p->in, &p->next))
			break;
		p->held = 1;
	} while (add(p) && stream_more(p->in));
	if (!p->n)
		return 0;
	batch_upload(&p->batch);
	return 1;
}

const void *
pack_run(struct pack *p)
{
	int rows = p->batch.m > p->rows ? p->batch.m : p->rows;

	if (!p->batch.m)
		return NULL;
	if (rows > p->forward_rows) {
		forward_free(p->forward);
		p->forward = forward_new(p->m, rows, KEEP_NONE);
		p->forward_rows = rows;
	}
	return forward_run(p->forward, &p->batch, NULL, FOR_SCORES, 0, 0);
}

uint64_t
example_key(const struct example *e, int n)
{
	return XXH3_64bits_withSeed(e->ids, (size_t)n * sizeof *e->ids, XXH3_64bits(e->id, strlen(e->id)));
}
