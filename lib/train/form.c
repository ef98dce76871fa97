/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "kernels/philox.h"
#include "lib/base/mem.h"
#include "lib/train/form.h"

enum { CHUNK = 128 };	/* rows of logits at a time: 78 MB at Qwen2's vocabulary */

const char *const form_names[] = { "hidden", "topk", "sample", "full", NULL };

struct form {
	struct model *m;
	const struct backend *be;
	enum stored kind;
	int vocab, count;
	uint64_t seed;
	/* a chunk, backend memory */
	void *x;			/* [CHUNK, hidden] states */
	void *states;			/* [CHUNK, hidden] bf16 */
	float *logits;			/* [CHUNK, vocab] */
	int32_t *d_ids;			/* [CHUNK, count] */
	float *d_logprobs, *d_log_tail;	/* [CHUNK, count], [CHUNK] */
	float *d_uniform;		/* [CHUNK] zeros */
	/* the batch, host memory */
	int cap;			/* rows */
	uint16_t *rows;			/* [p, hidden] bf16 or [p, vocab] f16 */
	int32_t *ids;			/* [p, count]; sample: as many of them as are distinct */
	float *logprobs, *log_tail;	/* [p, count], [p] */
	uint16_t *counts;		/* [p, count] */
	int *distinct;			/* [p] */
	/* a chunk or a record, host memory */
	float *wide;			/* [CHUNK, vocab] */
	int32_t *record_ids, *offsets;	/* [entries], [targets + 1] */
	uint16_t *record_counts;	/* [entries] */
};

struct form *
form_new(struct model *m, enum stored kind, int vocab, int count, uint64_t seed)
{
	struct form *f = mem_zero(1, sizeof *f);
	size_t hidden = (size_t)m->config.hidden, wide = mem_mul((size_t)vocab, CHUNK), n = (size_t)count * CHUNK;

	f->m = m;
	f->be = m->be;
	f->kind = kind;
	f->vocab = vocab;
	f->count = count;
	f->seed = seed;
	f->x = backend_alloc(f->be, CHUNK * hidden, dtype_size(m->type), "the teacher's distribution");
	if (kind == STORED_HIDDEN) {
		f->states = backend_alloc(f->be, CHUNK * hidden, sizeof *f->rows, "the teacher's distribution");
		return f;
	}
	f->logits = backend_alloc(f->be, wide, sizeof *f->logits, "the teacher's distribution");
	if (kind == STORED_TOPK || kind == STORED_SAMPLE) {
		f->d_ids = backend_alloc(f->be, n, sizeof *f->d_ids, "the teacher's distribution");
		f->d_logprobs = backend_alloc(f->be, n, sizeof *f->d_logprobs, "the teacher's distribution");
		f->d_log_tail = backend_alloc(f->be, CHUNK, sizeof *f->d_log_tail, "the teacher's distribution");
		f->d_uniform = backend_alloc(f->be, CHUNK, sizeof *f->d_uniform, "the teacher's distribution");
	}
	if (kind != STORED_TOPK)
		f->wide = mem_alloc(mem_mul(wide, sizeof *f->wide));
	return f;
}

void
form_free(struct form *f)
{
	void *const device[] = { f->x, f->states, f->logits, f->d_ids, f->d_logprobs, f->d_log_tail,
	    f->d_uniform };
	void *const host[] = { f->rows, f->ids, f->logprobs, f->log_tail, f->counts, f->distinct, f->wide,
	    f->record_ids, f->offsets, f->record_counts };
	size_t i;

	for (i = 0; i < sizeof device / sizeof *device; i++)
		f->be->free(device[i]);
	for (i = 0; i < sizeof host / sizeof *host; i++)
		free(host[i]);
	free(f);
}

void
form_header(const struct form *f, json_t *header)
{
	uint64_t hidden = (uint64_t)f->m->config.hidden, vocab = (uint64_t)f->vocab, count = (uint64_t)f->count;

	json_object_set_new(header, "form", json_string(form_names[f->kind]));
	json_object_set_new(header, "vocab", json_integer(f->vocab));
	switch (f->kind) {
	case STORED_HIDDEN:
		header_field(header, "hidden", DT_BF16, 1, &hidden);
		break;
	case STORED_TOPK:
		header_field(header, "topk_ids", DT_I32, 1, &count);
		header_field(header, "topk_logprobs", DT_F32, 1, &count);
		header_field(header, "log_tail", DT_F32, 0, NULL);
		break;
	case STORED_SAMPLE:
		json_object_set_new(header, "draws", json_integer(f->count));
		json_object_set_new(header, "seed", json_integer((json_int_t)f->seed));
		header_field(header, "sample_ids", DT_I32, 0, NULL);
		header_field(header, "sample_counts", DT_U16, 0, NULL);
		header_field(header, "sample_offsets", DT_I32, 0, NULL);
		break;
	case STORED_FULL:
		header_field(header, "logprobs", DT_F16, 1, &vocab);
	}
}

static void
reserve(struct form *f, int p)
{
	size_t n = (size_t)p + 1, entries = mem_mul(n, (size_t)f->count);

	if (p < f->cap)
		return;
	f->cap = p + 1;
	if (f->kind == STORED_HIDDEN || f->kind == STORED_FULL) {
		size_t width = (size_t)(f->kind == STORED_FULL ? f->vocab : f->m->config.hidden);

		f->rows = mem_grow(f->rows, mem_mul(n, width), sizeof *f->rows);
		return;
	}
	f->ids = mem_grow(f->ids, entries, sizeof *f->ids);
	if (f->kind == STORED_TOPK) {
		f->logprobs = mem_grow(f->logprobs, entries, sizeof *f->logprobs);
		f->log_tail = mem_grow(f->log_tail, n, sizeof *f->log_tail);
		return;
	}
	f->counts = mem_grow(f->counts, entries, sizeof *f->counts);
	f->distinct = mem_grow(f->distinct, n, sizeof *f->distinct);
	f->record_ids = mem_grow(f->record_ids, entries, sizeof *f->record_ids);
	f->record_counts = mem_grow(f->record_counts, entries, sizeof *f->record_counts);
	f->offsets = mem_grow(f->offsets, n + 1, sizeof *f->offsets);
}

static void
hidden_chunk(struct form *f, int first, int n)
{
	size_t width = (size_t)f->m->config.hidden;

	f->be->convert(f->states, DT_BF16, f->x, f->m->type, (size_t)n * width);
	f->be->download(f->rows + (size_t)first * width, f->states, (size_t)n * width * sizeof *f->rows);
}

static void
topk_chunk(struct form *f, int first, int n)
{
	size_t at = (size_t)first * (size_t)f->count, entries = (size_t)n * (size_t)f->count;

	f->be->topk(f->d_ids, f->d_logprobs, f->d_log_tail, f->logits, (size_t)f->vocab, f->count, n, f->vocab);
	f->be->download(f->ids + at, f->d_ids, entries * sizeof *f->ids);
	f->be->download(f->logprobs + at, f->d_logprobs, entries * sizeof *f->logprobs);
	f->be->download(f->log_tail + first, f->d_log_tail, (size_t)n * sizeof *f->log_tail);
}

static void
full_chunk(struct form *f, int first, int n)
{
	size_t vocab = (size_t)f->vocab;

	f->be->log_softmax(f->logits, vocab, n, f->vocab);
	f->be->download(f->wide, f->logits, (size_t)n * vocab * sizeof *f->wide);
	dtype_convert(f->rows + (size_t)first * vocab, DT_F16, f->wide, DT_F32, (size_t)n * vocab);
}

static int
ascending(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;

	return (x > y) - (x < y);
}

/* The uniforms of a position's draws, in ascending order. */
static void
uniforms(const struct form *f, float *u, uint64_t key, int target)
{
	const uint32_t seed[2] = { (uint32_t)f->seed, (uint32_t)(f->seed >> 32) };
	int i;

	for (i = 0; i < f->count; i++) {
		const uint32_t counter[4] = { (uint32_t)i / 4, (uint32_t)target, (uint32_t)key, (uint32_t)(key >> 32) };
		uint32_t out[4];

		philox(out, counter, seed);
		u[i] = philox_uniform(out[i % 4]);
	}
	qsort(u, (size_t)f->count, sizeof *u, ascending);
}

/* Draw from probabilities: each uniform takes the first id whose cumulated probability exceeds it. Distinct ids. */
static int
draw(const float *p, int vocab, const float *u, int n, int32_t *ids, uint16_t *counts)
{
	double sum = 0;
	int id, last = 0, done = 0, distinct = 0;

	for (id = 0; id < vocab && done < n; id++) {
		int before = done;

		sum += p[id];
		while (done < n && u[done] < sum)
			done++;
		if (done > before) {
			ids[distinct] = id;
			counts[distinct++] = (uint16_t)(done - before);
		}
		if (p[id] > 0)
			last = id;
	}
	if (done < n) {
		/* rounding left the sum below one */
		if (!distinct || ids[distinct - 1] != last) {
			ids[distinct] = last;
			counts[distinct++] = 0;
		}
		counts[distinct - 1] = (uint16_t)(counts[distinct - 1] + n - done);
	}
	return distinct;
}

/* The record that supervised row `row` of the batch is of. */
static const struct packed *
owner(const struct pack *p, int row)
{
	int low = 0, high = p->n - 1;

	while (low < high) {
		int middle = (low + high + 1) / 2;

		if (p->records[middle].first <= row)
			low = middle;
		else
			high = middle - 1;
	}
	return &p->records[low];
}

static void
sample_chunk(struct form *f, const struct pack *p, int first, int n)
{
	const struct sampling plain = { .temperature = 1, .top_p = 1 };
	size_t vocab = (size_t)f->vocab, count = (size_t)f->count;
	int i;

	/* what it draws is of no use, the probabilities that it leaves are */
	f->be->sample(f->d_ids, f->d_logprobs, f->d_log_tail, f->logits, vocab, &plain, f->d_uniform, n, f->vocab);
	f->be->download(f->wide, f->logits, (size_t)n * vocab * sizeof *f->wide);
	#pragma omp parallel for
	for (i = 0; i < n; i++) {
		const struct packed *r = owner(p, first + i);
		float *u = mem_alloc(count * sizeof *u);

		uniforms(f, u, example_key(&r->example, r->example.n), first + i - r->first);
		f->distinct[first + i] = draw(f->wide + (size_t)i * vocab, f->vocab, u, f->count,
		    f->ids + (size_t)(first + i) * count, f->counts + (size_t)(first + i) * count);
		free(u);
	}
}

void
form_compute(struct form *f, const struct pack *p, const void *hidden)
{
	const struct batch *b = &p->batch;
	int first, n;

	reserve(f, b->p);
	for (first = 0; first < b->p; first += n) {
		n = b->p - first < CHUNK ? b->p - first : CHUNK;
		f->be->gather(f->x, hidden, f->m->type, b->d_rows + first, n, f->m->config.hidden);
		if (f->kind != STORED_HIDDEN)
			f->be->matmul(f->logits, DT_F32, f->x, f->m->type, &f->m->head, NULL, n, f->vocab, 0);
		switch (f->kind) {
		case STORED_HIDDEN:
			hidden_chunk(f, first, n);
			break;
		case STORED_TOPK:
			topk_chunk(f, first, n);
			break;
		case STORED_SAMPLE:
			sample_chunk(f, p, first, n);
			break;
		case STORED_FULL:
			full_chunk(f, first, n);
		}
	}
}

static void
add_draws(struct form *f, const struct packed *r, struct record *out)
{
	uint64_t shape[2] = { (uint64_t)r->example.targets + 1, 0 };
	int i, n = 0;

	for (i = 0; i < r->example.targets; i++) {
		size_t from = (size_t)(r->first + i) * (size_t)f->count, distinct = (size_t)f->distinct[r->first + i];

		f->offsets[i] = n;
		memcpy(f->record_ids + n, f->ids + from, distinct * sizeof *f->ids);
		memcpy(f->record_counts + n, f->counts + from, distinct * sizeof *f->counts);
		n += (int)distinct;
	}
	f->offsets[i] = n;
	record_add(out, "sample_offsets", DT_I32, 1, shape, f->offsets);
	shape[0] = (uint64_t)n;
	record_add(out, "sample_ids", DT_I32, 1, shape, f->record_ids);
	record_add(out, "sample_counts", DT_U16, 1, shape, f->record_counts);
}

void
form_add(struct form *f, const struct packed *r, struct record *out)
{
	uint64_t shape[2] = { (uint64_t)r->example.targets, (uint64_t)f->count };
	size_t at = (size_t)r->first;

	switch (f->kind) {
	case STORED_HIDDEN:
		shape[1] = (uint64_t)f->m->config.hidden;
		record_add(out, "hidden", DT_BF16, 2, shape, f->rows + at * shape[1]);
		break;
	case STORED_TOPK:
		record_add(out, "topk_ids", DT_I32, 2, shape, f->ids + at * shape[1]);
		record_add(out, "topk_logprobs", DT_F32, 2, shape, f->logprobs + at * shape[1]);
		record_add(out, "log_tail", DT_F32, 1, shape, f->log_tail + at);
		break;
	case STORED_SAMPLE:
		add_draws(f, r, out);
		break;
	case STORED_FULL:
		shape[1] = (uint64_t)f->vocab;
		record_add(out, "logprobs", DT_F16, 2, shape, f->rows + at * shape[1]);
	}
}
