/* SPDX-License-Identifier: MIT */
/*
 * batch - sequences packed one behind the other, without padding
 *
 * Built on the host, then handed to the backend whole. Row r of the batch is one
 * token; a supervised row predicts the token that follows it.
 */
#ifndef MODEL_BATCH_H
#define MODEL_BATCH_H

#include <stdint.h>

#include "kernels/op.h"

struct batch {
	const struct backend *be;
	int m, nseq;			/* rows, sequences */
	int p;				/* supervised rows */
	/* host */
	int *ids, *positions;		/* [m] */
	int *offsets;			/* [nseq + 1] */
	int *rows, *targets;		/* [p]: the row, and the id that it must predict */
	/* the same, of the backend; valid after batch_upload() */
	int *d_ids, *d_positions, *d_offsets, *d_rows, *d_targets;
	int cap_m, cap_seq, cap_p;	/* of the host arrays */
	int d_cap_m, d_cap_seq, d_cap_p;
};

void batch_init(struct batch *b, const struct backend *be);
void batch_free(struct batch *b);
void batch_clear(struct batch *b);

/*
 * Append a sequence. Targets are ids[a] .. ids[b-1] of each of `nspans` spans
 * {a, b}; the id at place 0 has no row before it and is no target. With
 * `trim`, rows behind the one that predicts the last target are left out: no
 * target sees them. Returns the number of targets.
 */
int batch_add(struct batch *b, const int32_t *ids, int n, const int32_t *spans, int nspans, int trim);
/* Append one row by itself, at a position: a step of decoding. */
void batch_add_row(struct batch *b, int32_t id, int position);
void batch_upload(struct batch *b);
/* As the attention wants it. */
struct ragged batch_ragged(const struct batch *b);

#endif
