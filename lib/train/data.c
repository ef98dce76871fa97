/* SPDX-License-Identifier: MIT */
#include <limits.h>
#include <stdlib.h>

#include "kernels/philox.h"
#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/train/data.h"

void
data_open(struct data *d, struct stream_in *in, int shuffled, uint64_t seed, uint64_t epochs)
{
	*d = (struct data){ .in = in, .seekable = stream_seekable(in), .seed = seed, .end = UINT64_MAX };
	if (!d->seekable)
		return;
	d->count = stream_count(in);
	d->epoch = UINT64_MAX;
	d->shuffled = shuffled;
	if (d->count > UINT32_MAX)
		die("%s has more than %u records", stream_name(in), UINT32_MAX);
	if (!d->count)
		d->end = 0;
	else if (epochs)
		d->end = mem_mul(epochs, d->count);
	if (shuffled)
		d->order = mem_alloc(mem_mul(d->count, sizeof *d->order));
}

void
data_close(struct data *d)
{
	free(d->order);
}

/* Uniform in 0 .. n-1, the draw numbered i of this epoch. */
static uint32_t
draw(const struct data *d, uint64_t epoch, uint32_t i, uint32_t n)
{
	uint32_t out[4], counter[4] = { i, 0, (uint32_t)epoch, (uint32_t)(epoch >> 32) };
	uint32_t key[2] = { (uint32_t)d->seed, (uint32_t)(d->seed >> 32) };

	philox(out, counter, key);
	return (uint32_t)((uint64_t)out[0] * n >> 32);
}

/* Fisher and Yates. */
static void
shuffle(struct data *d, uint64_t epoch)
{
	uint32_t i, j, swap;

	for (i = 0; i < d->count; i++)
		d->order[i] = i;
	for (i = (uint32_t)d->count; i > 1; i--) {
		j = draw(d, epoch, i, i);
		swap = d->order[i - 1];
		d->order[i - 1] = d->order[j];
		d->order[j] = swap;
	}
	d->epoch = epoch;
}

static void
read_random(struct data *d)
{
	uint64_t place = d->next % d->count, epoch = d->next / d->count;

	if (d->shuffled && d->epoch != epoch)
		shuffle(d, epoch);
	stream_read(d->in, d->shuffled ? d->order[place] : place, &d->record);
}

const struct record *
data_peek(struct data *d)
{
	if (d->held)
		return &d->record;
	if (d->next >= d->end)
		return NULL;
	if (d->seekable)
		read_random(d);
	else if (!stream_get(d->in, &d->record)) {
		d->end = d->next;
		return NULL;
	}
	d->held = 1;
	return &d->record;
}

void
data_take(struct data *d)
{
	d->next++;
	d->held = 0;
}

void
data_seek(struct data *d, uint64_t n)
{
	if (d->seekable) {
		d->next = n;
		d->held = 0;
		return;
	}
	while (d->next < n) {
		if (!data_peek(d))
			die("%s ends after %llu records, where the run had used %llu", stream_name(d->in),
			    (unsigned long long)d->next, (unsigned long long)n);
		data_take(d);
	}
}

/* Whether the spans are half-open, ascending, apart and inside n ids. */
static int
spans_hold(const int32_t *spans, int nspans, int n)
{
	int i, last = 0;

	for (i = 0; i < nspans; i++) {
		if (spans[2 * i] < last || spans[2 * i + 1] < spans[2 * i] || spans[2 * i + 1] > n)
			return 0;
		last = spans[2 * i + 1];
	}
	return 1;
}

static void
count_targets(struct example *e)
{
	int i, first, last;

	e->targets = e->rows = 0;
	for (i = 0; i < e->nspans; i++) {
		/* nothing stands before the first id, so nothing predicts it */
		first = e->spans[2 * i] ? e->spans[2 * i] : 1;
		last = e->spans[2 * i + 1];
		if (last > first) {
			e->targets += last - first;
			e->rows = last - 1;
		}
	}
}

void
example_read(struct example *e, const struct record *r, const struct stream_in *in, int vocab)
{
	const struct tensor *ids = record_need(r, "ids", DT_I32);
	const struct tensor *spans = record_need(r, "supervised", DT_I32);
	int i;

	*e = (struct example){ .id = record_id(r), .ids = ids->data, .spans = spans->data };
	if (ids->rank != 1 || ids->shape[0] > INT_MAX / 2)
		die("%s: record '%s' has no list of ids", stream_name(in), e->id);
	e->n = (int)ids->shape[0];
	for (i = 0; i < e->n; i++)
		if (e->ids[i] < 0 || e->ids[i] >= vocab)
			die("%s: record '%s' has the id %d, the vocabulary %d", stream_name(in), e->id, e->ids[i], vocab);
	if (spans->rank != 2 || spans->shape[1] != 2 || spans->shape[0] > ids->shape[0] + 1)
		die("%s: record '%s' has no list of supervised spans", stream_name(in), e->id);
	e->nspans = (int)spans->shape[0];
	if (!spans_hold(e->spans, e->nspans, e->n))
		die("%s: record '%s' has supervised spans outside of its %d ids or out of order", stream_name(in),
		    e->id, e->n);
	count_targets(e);
}
