/* SPDX-License-Identifier: MIT */
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/train/teacher.h"

/* A buffer of the backend that grows; what it holds stays. */
struct table {
	void *data;
	size_t size, cap;
};

struct teacher {
	const struct backend *be;
	struct teacher_source source;
	struct model *model;		/* hidden: the head alone; computed: all of it */
	struct forward *forward;	/* computed */
	int max_rows, chunk;
	int rows;			/* added so far */
	enum dtype type;		/* of states */
	void *states;			/* [max_rows, hidden of the teacher] */
	float *logits;			/* [chunk, vocab] */
	uint16_t *full;			/* host [max_rows, vocab] f16 */
	float *wide;			/* host [chunk, vocab] */
	int k;				/* top-K: of the stream */
	struct table ids, logprobs, log_tail, counts;
	struct table offsets;		/* sample: [rows + 1] into ids and counts */
};

static const struct { const char *name; int form; } forms[] = {
	{ "hidden", FORM_HIDDEN }, { "full", FORM_FULL }, { "topk", FORM_TOPK }, { "sample", FORM_SAMPLE },
};

static int
form_of(const struct stream_in *in)
{
	const char *name = json_string_value(json_object_get(stream_header(in), "form"));
	size_t i;

	for (i = 0; i < sizeof forms / sizeof *forms; i++)
		if (name && !strcmp(forms[i].name, name))
			return forms[i].form;
	die("%s has logits of the form '%s'; known are hidden, full, topk and sample", stream_name(in),
	    name ? name : "");
}

/* The states were made for one head only. */
static void
check_head(const struct stream_in *in, const char *directory)
{
	const char *named = json_string_value(json_object_get(stream_header(in), "head"));
	char *head = named ? model_head_digest(directory) : NULL;

	if (head && strcmp(named, head))
		die("%s has hidden states of another teacher than '%s'", stream_name(in), directory);
	free(head);
}

struct teacher_source
teacher_source(const struct stream_in *in, const char *directory, int vocab)
{
	struct teacher_source s = { .form = FORM_COMPUTED, .directory = directory, .vocab = vocab };
	const json_t *stated = json_object_get(stream_header(in), "vocab");

	if (!strcmp(stream_type(in), "logits"))
		s.form = form_of(in);
	if (s.form == FORM_HIDDEN && !directory)
		die("%s has hidden states: --teacher must name the model whose head reads them", stream_name(in));
	if (s.form == FORM_COMPUTED && !directory)
		die("%s has no teacher's logits: --teacher must name the model that makes them", stream_name(in));
	if (s.form == FORM_HIDDEN)
		check_head(in, directory);
	if (stated && (json_integer_value(stated) < 1 || json_integer_value(stated) > INT_MAX))
		die("%s has a header with an impossible 'vocab'", stream_name(in));
	if (stated)
		s.vocab = (int)json_integer_value(stated);
	if (!s.vocab)
		die("%s does not say how many ids its tokenizer has ('vocab' in the header)", stream_name(in));
	return s;
}

void
teacher_check(const struct teacher_source *s, const struct divergence *d)
{
	const char *form = s->form == FORM_TOPK ? "topk" : "sample";

	if (s->form != FORM_TOPK && s->form != FORM_SAMPLE)
		return;
	if (fabsf(d->tau - 1) > 0)
		die("logits of the form %s cannot be softened: --tau must be 1, or the form hidden or full", form);
	if (s->form == FORM_SAMPLE && d->kind != LOSS_KD)
		die("logits of the form sample hold draws, not probabilities: only --divergence kd is free of bias");
	if (s->renormalise && d->kind != LOSS_KD && d->kind != LOSS_FORWARD_KL)
		die("a teacher of probability zero beyond its top ids fits --divergence kd and forward-kl alone: "
		    "take --tail bucket");
}

static void
append(struct teacher *t, struct table *table, const void *data, size_t bytes)
{
	void *larger;

	if (table->size + bytes > table->cap) {
		larger = backend_alloc(t->be, 2 * (table->size + bytes), 1, "the teacher's distribution");
		if (table->size)
			t->be->copy(larger, table->data, table->size);
		t->be->free(table->data);
		table->data = larger;
		table->cap = 2 * (table->size + bytes);
	}
	t->be->upload((char *)table->data + table->size, data, bytes);
	table->size += bytes;
}

/* The model whose head makes logits of states. */
static void
load(struct teacher *t)
{
	const struct teacher_source *s = &t->source;

	if (s->form == FORM_COMPUTED) {
		t->model = model_load(s->directory, t->be, s->type);
		t->forward = forward_new(t->model, t->max_rows, KEEP_NONE);
		model_rope(t->model, t->max_rows);
	} else
		t->model = model_load_head(s->directory, t->be, s->type);
	if (t->model->config.vocab < s->vocab)
		die("the head of '%s' has %d columns, the tokenizer %d ids", s->directory, t->model->config.vocab,
		    s->vocab);
}

struct teacher *
teacher_new(const struct teacher_source *s, const struct backend *be, int max_rows, int chunk)
{
	struct teacher *t = mem_zero(1, sizeof *t);
	size_t vocab = (size_t)s->vocab;

	t->be = be;
	t->source = *s;
	t->max_rows = max_rows;
	t->chunk = chunk;
	if (s->form == FORM_COMPUTED || s->form == FORM_HIDDEN)
		load(t);
	if (s->form == FORM_COMPUTED)
		t->type = t->model->type;
	if (s->form == FORM_FULL) {
		t->full = mem_alloc(mem_mul((size_t)max_rows * vocab, sizeof *t->full));
		t->wide = mem_alloc(mem_mul((size_t)chunk * vocab, sizeof *t->wide));
	}
	if (t->model || t->full)
		t->logits = backend_alloc(be, (size_t)chunk * vocab, sizeof *t->logits, "the teacher's distribution");
	return t;
}

void
teacher_free(struct teacher *t)
{
	struct table *tables[] = { &t->ids, &t->logprobs, &t->log_tail, &t->counts, &t->offsets };
	size_t i;

	for (i = 0; i < sizeof tables / sizeof *tables; i++)
		t->be->free(tables[i]->data);
	t->be->free(t->states);
	t->be->free(t->logits);
	free(t->full);
	free(t->wide);
	forward_free(t->forward);
	if (t->model)
		model_free(t->model);
	free(t);
}

static size_t
weights_bytes(const struct teacher *t)
{
	const struct model *m = t->model;
	size_t bytes = 0;
	int i;

	if (!m)
		return 0;
	if (t->source.form == FORM_HIDDEN)
		return m->head.elements * dtype_size(m->head.type);
	for (i = 0; i < m->nstorage; i++)
		bytes += m->storage[i].n * (m->storage[i].matrix ? dtype_size(m->storage[i].matrix->type) : sizeof(float));
	return bytes + forward_bytes(m, t->max_rows, KEEP_NONE);
}

size_t
teacher_bytes(const struct teacher *t)
{
	size_t rows = (size_t)t->max_rows, chunk = (size_t)t->chunk, vocab = (size_t)t->source.vocab;

	return weights_bytes(t) +
	    (t->model ? rows * (size_t)t->model->config.hidden * sizeof(float) : 0) +
	    (t->full ? rows * vocab * sizeof *t->full + chunk * vocab * sizeof *t->wide : 0) +
	    (t->logits ? chunk * vocab * sizeof *t->logits : 0);
}

void
teacher_clear(struct teacher *t)
{
	const int32_t zero = 0;

	t->rows = 0;
	t->ids.size = t->logprobs.size = t->log_tail.size = t->counts.size = t->offsets.size = 0;
	if (t->source.form == FORM_SAMPLE)
		append(t, &t->offsets, &zero, sizeof zero);
}

/* The tensor `name` with a row for each target. */
static const struct tensor *
rows_of(const char *stream, const struct record *r, const struct example *e, const char *name,
    enum dtype type, int rank)
{
	const struct tensor *x = record_need(r, name, type);

	if (x->rank != rank || x->shape[0] != (uint64_t)e->targets)
		die("%s: record '%s' has %d targets, but not that many rows of '%s'", stream, e->id, e->targets, name);
	return x;
}

static void
add_states(struct teacher *t, const char *stream, const struct record *r, const struct example *e)
{
	const struct tensor *x = record_tensor(r, "hidden");
	size_t row;

	x = rows_of(stream, r, e, "hidden", x ? x->type : DT_BF16, 2);
	if (x->shape[1] != (uint64_t)t->model->config.hidden)
		die("%s holds states of %llu channels, the head of '%s' takes %d", stream,
		    (unsigned long long)x->shape[1], t->source.directory, t->model->config.hidden);
	t->type = x->type;
	row = (size_t)x->shape[1] * dtype_size(x->type);
	if (!t->states)
		t->states = backend_alloc(t->be, (size_t)t->max_rows, row, "the teacher's distribution");
	t->be->upload((char *)t->states + (size_t)t->rows * row, x->data, (size_t)e->targets * row);
}

static void
add_full(struct teacher *t, const char *stream, const struct record *r, const struct example *e)
{
	const struct tensor *x = rows_of(stream, r, e, "logprobs", DT_F16, 2);
	size_t vocab = (size_t)t->source.vocab;

	if (x->shape[1] != vocab)
		die("%s: record '%s' has %llu columns, the header says %zu", stream, e->id,
		    (unsigned long long)x->shape[1], vocab);
	memcpy(t->full + (size_t)t->rows * vocab, x->data, (size_t)e->targets * vocab * sizeof *t->full);
}

static void
check_ids(const struct teacher *t, const char *stream, const struct example *e, const int32_t *ids, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
		if (ids[i] < 0 || ids[i] >= t->source.vocab)
			die("%s: record '%s' has the teacher's id %d, the tokenizer %d", stream, e->id, ids[i],
			    t->source.vocab);
}

static void
add_topk(struct teacher *t, const char *stream, const struct record *r, const struct example *e)
{
	const struct tensor *ids = rows_of(stream, r, e, "topk_ids", DT_I32, 2);
	const struct tensor *logprobs = rows_of(stream, r, e, "topk_logprobs", DT_F32, 2);
	const struct tensor *tail = rows_of(stream, r, e, "log_tail", DT_F32, 1);
	size_t n = (size_t)e->targets * (size_t)ids->shape[1];

	if (ids->shape[1] != logprobs->shape[1] || ids->shape[1] > (uint64_t)t->source.vocab)
		die("%s: record '%s' has %llu ids but %llu log-probabilities", stream, e->id,
		    (unsigned long long)ids->shape[1], (unsigned long long)logprobs->shape[1]);
	check_ids(t, stream, e, ids->data, n);
	t->k = (int)ids->shape[1];
	append(t, &t->ids, ids->data, n * sizeof(int32_t));
	append(t, &t->logprobs, logprobs->data, n * sizeof(float));
	append(t, &t->log_tail, tail->data, (size_t)e->targets * sizeof(float));
}

static void
add_sample(struct teacher *t, const char *stream, const struct record *r, const struct example *e)
{
	const struct tensor *ids = record_need(r, "sample_ids", DT_I32);
	const struct tensor *counts = record_need(r, "sample_counts", DT_U16);
	const struct tensor *offsets = record_need(r, "sample_offsets", DT_I32);
	const int32_t *from = offsets->data;
	int32_t base = (int32_t)(t->ids.size / sizeof(int32_t)), end;
	int i, good = offsets->shape[0] == (uint64_t)e->targets + 1 && !from[0] && ids->shape[0] <= INT32_MAX / 4;

	for (i = 0; good && i < e->targets; i++)
		good = from[i] < from[i + 1];
	if (!good || (uint64_t)from[e->targets] != ids->shape[0] || counts->shape[0] != ids->shape[0])
		die("%s: record '%s' has draws that do not belong to its %d targets", stream, e->id, e->targets);
	check_ids(t, stream, e, ids->data, (size_t)ids->shape[0]);
	append(t, &t->ids, ids->data, (size_t)ids->shape[0] * sizeof(int32_t));
	append(t, &t->counts, counts->data, (size_t)ids->shape[0] * sizeof(uint16_t));
	for (i = 1; i <= e->targets; i++) {
		end = base + from[i];
		append(t, &t->offsets, &end, sizeof end);
	}
}

void
teacher_add(struct teacher *t, const char *stream, const struct record *r, const struct example *e)
{
	static void (*const add[])(struct teacher *, const char *, const struct record *, const struct example *) = {
		[FORM_HIDDEN] = add_states, [FORM_FULL] = add_full, [FORM_TOPK] = add_topk, [FORM_SAMPLE] = add_sample,
	};

	if (t->source.form != FORM_COMPUTED)
		add[t->source.form](t, stream, r, e);
	else if (t->model->config.family == FAMILY_GPT2 && e->rows > t->model->config.positions)
		die("%s: record '%s' needs %d positions, the teacher has %d", stream, e->id, e->rows,
		    t->model->config.positions);
	t->rows += e->targets;
}

/* The teacher runs on the same sequences; its states at supervised rows are kept. */
void
teacher_begin(struct teacher *t, const struct batch *b)
{
	const struct model *m = t->model;
	const void *hidden;

	if (t->source.form != FORM_COMPUTED)
		return;
	if (!t->states)
		t->states = backend_alloc(t->be, (size_t)t->max_rows * (size_t)m->config.hidden, dtype_size(m->type),
		    "the teacher's distribution");
	hidden = forward_run(t->forward, b, NULL, FOR_SCORES, 0, 0);
	t->be->gather(t->states, hidden, m->type, b->d_rows, b->p, m->config.hidden);
}

static void
dense_rows(struct teacher_rows *rows, const struct teacher *t)
{
	rows->form = TEACHER_DENSE;
	rows->dense = t->logits;
	rows->ld = (size_t)t->source.vocab;
}

void
teacher_rows(struct teacher_rows *rows, int first, int count, void *user)
{
	struct teacher *t = user;
	size_t vocab = (size_t)t->source.vocab, n = (size_t)count * vocab, k = (size_t)t->k;
	const char *states = t->states;

	*rows = (struct teacher_rows){ .form = TEACHER_NONE };
	switch (t->source.form) {
	case FORM_COMPUTED:
	case FORM_HIDDEN:
		states += (size_t)first * (size_t)t->model->config.hidden * dtype_size(t->type);
		t->be->matmul_train(t->logits, DT_F32, states, t->type, &t->model->head, NULL, count, t->source.vocab, 0);
		dense_rows(rows, t);
		break;
	case FORM_FULL:
		dtype_convert(t->wide, DT_F32, t->full + (size_t)first * vocab, DT_F16, n);
		t->be->upload(t->logits, t->wide, n * sizeof *t->wide);
		dense_rows(rows, t);
		break;
	case FORM_TOPK:
		rows->form = t->source.renormalise ? TEACHER_TOPK_RENORMALISE : TEACHER_TOPK_BUCKET;
		rows->ids = (const int32_t *)t->ids.data + (size_t)first * k;
		rows->logprobs = (const float *)t->logprobs.data + (size_t)first * k;
		rows->log_tail = (const float *)t->log_tail.data + first;
		rows->k = t->k;
		break;
	case FORM_SAMPLE:
		rows->form = TEACHER_SAMPLE;
		rows->ids = t->ids.data;
		rows->counts = t->counts.data;
		rows->offsets = (const int32_t *)t->offsets.data + first;
		break;
	}
}
