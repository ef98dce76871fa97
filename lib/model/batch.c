/* SPDX-License-Identifier: MIT */
#include <stdlib.h>

#include "lib/base/mem.h"
#include "lib/model/batch.h"

void
batch_init(struct batch *b, const struct backend *be)
{
	*b = (struct batch){ .be = be };
	batch_clear(b);
}

void
batch_free(struct batch *b)
{
	free(b->ids);
	free(b->positions);
	free(b->offsets);
	free(b->rows);
	free(b->targets);
	b->be->free(b->d_ids);
	b->be->free(b->d_positions);
	b->be->free(b->d_offsets);
	b->be->free(b->d_rows);
	b->be->free(b->d_targets);
}

void
batch_clear(struct batch *b)
{
	b->m = b->nseq = b->p = 0;
	if (!b->offsets) {
		b->cap_seq = 64;
		b->offsets = mem_zero((size_t)b->cap_seq + 1, sizeof *b->offsets);
	}
}

static void
grow_rows(struct batch *b, int n)
{
	if (b->m + n <= b->cap_m)
		return;
	b->cap_m = 2 * (b->m + n);
	b->ids = mem_grow(b->ids, (size_t)b->cap_m, sizeof *b->ids);
	b->positions = mem_grow(b->positions, (size_t)b->cap_m, sizeof *b->positions);
}

static void
end_sequence(struct batch *b)
{
	if (b->nseq == b->cap_seq) {
		b->cap_seq *= 2;
		b->offsets = mem_grow(b->offsets, (size_t)b->cap_seq + 1, sizeof *b->offsets);
	}
	b->offsets[++b->nseq] = b->m;
}

static void
add_target(struct batch *b, int row, int id)
{
	if (b->p == b->cap_p) {
		b->cap_p = b->cap_p ? 2 * b->cap_p : 256;
		b->rows = mem_grow(b->rows, (size_t)b->cap_p, sizeof *b->rows);
		b->targets = mem_grow(b->targets, (size_t)b->cap_p, sizeof *b->targets);
	}
	b->rows[b->p] = row;
	b->targets[b->p++] = id;
}

int
batch_add(struct batch *b, const int32_t *ids, int n, const int32_t *spans, int nspans, int trim)
{
	int first = b->m, before = b->p, last = 0, i, t;

	for (i = 0; i < nspans; i++)
		for (t = spans[2 * i] > 1 ? spans[2 * i] : 1; t < spans[2 * i + 1]; t++) {
			add_target(b, first + t - 1, ids[t]);
			last = t > last ? t : last;
		}
	if (trim)
		n = last;
	grow_rows(b, n);
	for (t = 0; t < n; t++) {
		b->ids[b->m] = ids[t];
		b->positions[b->m++] = t;
	}
	end_sequence(b);
	return b->p - before;
}

void
batch_add_row(struct batch *b, int32_t id, int position)
{
	grow_rows(b, 1);
	b->ids[b->m] = id;
	b->positions[b->m++] = position;
	end_sequence(b);
}

static void
upload(const struct backend *be, int **device, int *cap, const int *host, int n)
{
	if (n > *cap) {
		be->free(*device);
		*cap = 2 * n;
		*device = backend_alloc(be, (size_t)*cap, sizeof **device, "a batch");
	}
	if (n)
		be->upload(*device, host, (size_t)n * sizeof **device);
}

void
batch_upload(struct batch *b)
{
	int cap_m = b->d_cap_m, cap_p = b->d_cap_p;

	upload(b->be, &b->d_ids, &cap_m, b->ids, b->m);
	upload(b->be, &b->d_positions, &b->d_cap_m, b->positions, b->m);
	upload(b->be, &b->d_offsets, &b->d_cap_seq, b->offsets, b->nseq + 1);
	upload(b->be, &b->d_rows, &cap_p, b->rows, b->p);
	upload(b->be, &b->d_targets, &b->d_cap_p, b->targets, b->p);
}

struct ragged
batch_ragged(const struct batch *b)
{
	return (struct ragged){
		.m = b->m, .nseq = b->nseq, .offsets = b->d_offsets, .positions = b->d_positions,
		.host_offsets = b->offsets,
	};
}
