/* SPDX-License-Identifier: MIT */
/*
 * data - the order in which training reads the records of a stream
 *
 * A file with an index is read epoch by epoch, each epoch in an order of its own:
 * a permutation drawn from Philox, keyed by seed and epoch. A pipe is read once,
 * as it comes, and nothing of it is kept. Either way the n-th record of a run is
 * the same record whenever it is asked for, so a run goes on from a number.
 */
#ifndef TRAIN_DATA_H
#define TRAIN_DATA_H

#include "lib/stream/stream.h"

struct data {
	struct stream_in *in;
	int seekable, shuffled;
	uint64_t seed;
	uint64_t count;			/* records of an epoch; 0: unknown, a pipe */
	uint64_t next;			/* number of the record at hand, over all epochs */
	uint64_t end;			/* records of all epochs */
	uint32_t *order;		/* [count] of the epoch in use */
	uint64_t epoch;			/* that `order` is of */
	int held;			/* the record at hand has been read */
	struct record record;
};

/* `in` stays the caller's. `epochs` 0: without end. A pipe has one epoch. */
void data_open(struct data *d, struct stream_in *in, int shuffled, uint64_t seed, uint64_t epochs);
void data_close(struct data *d);
/* The record at hand, valid until data_take(); NULL at the end. */
const struct record *data_peek(struct data *d);
void data_take(struct data *d);
/* Go to record `n` of the run: what came before it was used already. Dies if a pipe ends before. */
void data_seek(struct data *d, uint64_t n);

/* What training needs of a record, checked: ids in the vocabulary, spans ascending and inside. */
struct example {
	const char *id;
	const int32_t *ids;
	int n;				/* ids */
	const int32_t *spans;		/* [nspans, 2] half-open */
	int nspans;
	int targets;			/* supervised ids that have one before them */
	int rows;			/* that the last target needs; 0 without targets */
};

/* Dies with stream and record. */
void example_read(struct example *e, const struct record *r, const struct stream_in *in, int vocab);

#endif
