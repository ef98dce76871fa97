/* SPDX-License-Identifier: MIT */
/*
 * pack - the records of a stream in batches, for tools that read in order and do not train
 *
 * A batch holds as many records as fit into its rows, and at least one. It ends
 * where the writer of the stream handed over what it had: so nobody waits for a
 * batch to fill, and the batches depend on the stream's bytes alone.
 */
#ifndef TRAIN_PACK_H
#define TRAIN_PACK_H

#include "lib/model/forward.h"
#include "lib/train/data.h"

struct packed {
	struct record record;		/* owned by the pack */
	struct example example;		/* of it */
	int first;			/* of its targets among the batch's supervised rows */
};

struct pack {
	struct stream_in *in;
	struct model *m;
	int rows;
	struct batch batch;		/* uploaded; the rows of all records that predict something */
	struct packed *records;		/* [n] */
	int n, cap;
	int held;			/* the next record is read and did not fit */
	struct record next;
	struct forward *forward;
	int forward_rows;		/* that it is made for */
};

void pack_init(struct pack *p, struct stream_in *in, struct model *m, int rows);
void pack_free(struct pack *p);
/* The next batch; 0 at the end. Dies where a record does not fit the model. */
int pack_fill(struct pack *p);
/* The states of the batch's rows after the final norm, valid until the next call; NULL when it has no rows. */
const void *pack_run(struct pack *p);

/* What keys the random draws of a record: a hash of its id and its first n ids. */
uint64_t example_key(const struct example *e, int n);

#endif
