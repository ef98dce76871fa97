/* SPDX-License-Identifier: MIT */
/*
 * cuda - the row `cuda`, or another that is named, beside ceilings that it measures itself
 *
 * Ceilings: a copy of 1 GiB, read and written, and the product of three square matrices of bf16. Kernels are
 * given as shares of the copy, or of the product; training as model FLOPs (6 per parameter and token, and
 * attention's) over the product's rate; decode of one stream as the weights' bytes over the copy's rate. Qwen2.5's
 * shapes, random weights, bf16; each figure is the median of RUNS. `small` makes everything small, to try it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/clock.h"
#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/model/session.h"
#include "lib/train/head.h"
#include "lib/train/optimizer.h"

enum { RUNS = 7, ROWS = 256, MOST_STREAMS = 256 };

struct size {
	const char *name;
	int hidden, layers, heads, kv_heads, ffn;
};

static const struct size sizes[] = {
	{ "0.5B", 896, 24, 14, 2, 4864 }, { "1.5B", 1536, 28, 12, 2, 8960 }, { "tiny", 64, 2, 2, 1, 192 },
};

static const struct backend *be;
static double copy_rate, product_rate;
static int small, vocab = 151936, tokens = 8192, length = 1024;

/* Arguments of the kernels: arrays that are large enough for any. */
static char *a, *b, *c, *d;
static float *w, *stats, *table, *zeros;
static int *positions, *offsets, *targets, *pages, *lengths, *reversed;
static struct weight wide, words, coded;	/* of the gate and what it gates; of the vocabulary, the same in 4 bits */
static struct ragged seq;
static struct size shape;
static int qkv;			/* columns */

static int
ascending(const void *x, const void *y)
{
	double i = *(const double *)x, j = *(const double *)y;

	return (i > j) - (i < j);
}

/* Seconds of a call, after one that is not counted. */
static double
seconds_of(void (*call)(void *), void *user)
{
	double seconds[RUNS], t;
	int i, k, many = 1;

	call(user);
	be->sync();
	t = clock_now();
	call(user);
	be->sync();
	while (many < 100 && many * (clock_now() - t) < 0.02)
		many *= 2;
	for (i = 0; i < RUNS; i++) {
		t = clock_now();
		for (k = 0; k < many; k++)
			call(user);
		be->sync();
		seconds[i] = (clock_now() - t) / many;
	}
	qsort(seconds, RUNS, sizeof *seconds, ascending);
	return seconds[RUNS / 2];
}

static void *
allocate(size_t bytes)
{
	void *p = be->alloc(bytes);

	if (!p)
		die("no memory for %zu bytes", bytes);
	return p;
}

/* n numbers of bf16 or f32 in [-scale, scale). */
static void
fill(void *to, enum dtype type, size_t n, float scale)
{
	enum { BLOCK = 1 << 16 };
	float x[BLOCK];
	uint16_t narrow[BLOCK];
	size_t at, m;
	int i;

	for (i = 0; i < BLOCK; i++)
		x[i] = scale * ((float)((unsigned)i * 2654435761u % 65536) / 32768 - 1);
	dtype_convert(narrow, DT_BF16, x, DT_F32, BLOCK);
	for (at = 0; at < n; at += m) {
		m = n - at < BLOCK ? n - at : BLOCK;
		be->upload((char *)to + at * dtype_size(type), type == DT_BF16 ? (void *)narrow : (void *)x,
		    m * dtype_size(type));
	}
}

static struct weight
matrix(enum dtype type, int n, int k)
{
	struct weight m = { .type = type, .n = n, .k = k, .quant = { .bits = 4, .group = 128 } };
	size_t bytes;

	m.elements = type == DT_U8 ? be->quant_bytes(&m.quant, n, k) : be->weight_elements(type, n, k);
	bytes = m.elements * dtype_size(type);
	m.data = allocate(bytes);
	fill(m.data, DT_BF16, bytes / 2, 0.1f);
	return m;
}

/* Ceilings */

static size_t copied;

static void
copy(void *user)
{
	(void)user;
	be->copy(a, b, copied);
}

static struct weight square;

static void
product(void *user)
{
	(void)user;
	be->matmul(a, DT_BF16, b, DT_BF16, &square, NULL, square.n, square.n, 0);
}

static void
ceilings(void)
{
	int n = small ? 1024 : 8192;

	copied = small ? 16 << 20 : (size_t)1 << 30;
	copy_rate = 2 * (double)copied / seconds_of(copy, NULL);
	square = matrix(DT_BF16, n, n);
	product_rate = 2.0 * n * n * n / seconds_of(product, NULL);
	be->free(square.data);
	printf("%s: copies %.0f GB/s, multiplies %.1f TFLOP/s\n", be->name, copy_rate * 1e-9, product_rate * 1e-12);
}

/* Kernels */

static struct heads
heads(void)
{
	return (struct heads){ shape.heads, shape.kv_heads, shape.hidden / shape.heads, 0.125f };
}

static void norm(void *u) { (void)u; be->norm(a, b, DT_BF16, w, NULL, 1e-6f, stats, tokens, shape.hidden); }
static void add(void *u) { (void)u; be->add(a, 1, b, DT_BF16, (size_t)tokens * shape.ffn); }
static void swiglu(void *u) { (void)u; be->swiglu(a, b, DT_BF16, tokens, shape.ffn); }
static void swiglu_back(void *u) { (void)u; be->swiglu_backward(a, c, b, DT_BF16, tokens, shape.ffn); }
static void squares(void *u) { (void)u; be->sum_squares((double *)stats, (float *)b, (size_t)tokens * shape.ffn); }

static void gelu(void *u) { (void)u; be->gelu(a, b, DT_BF16, (size_t)tokens * shape.ffn); }
static void gelu_back(void *u) { (void)u; be->gelu_backward(a, c, b, DT_BF16, (size_t)tokens * shape.ffn); }
static void convert(void *u) { (void)u; be->convert(a, DT_F32, b, DT_BF16, (size_t)tokens * shape.ffn); }
static void gather(void *u) { (void)u; be->gather(a, b, DT_BF16, positions, tokens, shape.hidden); }
static void scatter(void *u) { (void)u; be->scatter(a, b, DT_BF16, reversed, tokens, shape.hidden); }
static void bias_back(void *u) { (void)u; be->bias_backward((float *)d, b, DT_BF16, tokens, qkv); }
static void embed(void *u) { (void)u; be->embed(a, DT_BF16, &words, NULL, targets, positions, tokens); }

static void
embed_back(void *u)
{
	(void)u;
	be->embed_backward((float *)d, &words, NULL, NULL, b, DT_BF16, targets, positions, tokens);
}

static void
dropout(void *u)
{
	const struct dropout drop = { 0.1f, 1, 1 };

	(void)u;
	be->dropout(a, b, DT_BF16, (size_t)tokens * shape.ffn, &drop);
}

static void
norm_back(void *u)
{
	(void)u;
	be->norm_backward(a, (float *)d, NULL, c, b, DT_BF16, w, stats, tokens, shape.hidden);
}

static void
rope(void *u)
{
	struct heads h = heads();

	be->rope(a, DT_BF16, table, positions, tokens, qkv, h.heads + h.kv_heads, h.d, *(int *)u);
}

static void
adamw(void *u)
{
	const struct adamw h = { 1e-5, 0.9, 0.999, 1e-8, 0.01, 0.1, 0.001, 1, 0, 0 };
	size_t n = (size_t)tokens * shape.ffn;

	(void)u;
	be->adamw(a, DT_BF16, (int16_t *)(a + 2 * n), (float *)b, (float *)c, (float *)d, n, &h);
}

static void
loss(void *u)
{
	const struct divergence way = { *(enum divergence_kind *)u, 0.5f, 1, 0.1f, 0.5f };
	const struct teacher_rows t = { .form = way.kind == LOSS_CE ? TEACHER_NONE : TEACHER_DENSE, .dense = (float *)b,
	    .ld = (size_t)vocab };

	be->loss((float *)a, (size_t)vocab, targets, &t, &way, 1e-3f, stats, stats + ROWS, ROWS, vocab);
}

static void
policy(void *u)
{
	const struct teacher_rows t = { .form = TEACHER_DENSE, .dense = (float *)b, .ld = (size_t)vocab };

	(void)u;
	be->policy((float *)a, (size_t)vocab, targets, zeros, &t, 0.1f, 1, stats, ROWS, vocab);
}

static void
logprob(void *u)
{
	(void)u;
	be->logprob(stats, stats + ROWS, (float *)b, (size_t)vocab, targets, 1, ROWS, vocab);
}

static void
topk(void *u)
{
	enum { K = 100 };

	(void)u;
	be->topk((int32_t *)a, (float *)d, stats, (float *)b, (size_t)vocab, K, ROWS, vocab);
}

static void
sample(void *u)
{
	be->sample((int *)stats, stats + ROWS, stats + 2 * ROWS, (float *)a, (size_t)vocab, u, zeros, ROWS, vocab);
}

static void
mix(void *u)
{
	(void)u;
	be->mix((int *)stats, stats + ROWS, (float *)a, (float *)b, (size_t)vocab, 0.5f, zeros, ROWS, vocab);
}

static void log_softmax(void *u) { (void)u; be->log_softmax((float *)a, (size_t)vocab, ROWS, vocab); }

static void products(void *u) { (void)u; be->matmul(a, DT_BF16, b, DT_BF16, &wide, NULL, tokens, wide.n, 0); }
static void products_dx(void *u) { (void)u; be->matmul_dx(a, DT_BF16, b, DT_BF16, &wide, tokens, wide.n, 0); }
static void products_dw(void *u) { (void)u; be->matmul_dw((float *)d, &wide, c, DT_BF16, b, DT_BF16, tokens, wide.n); }
static void one_row(void *u) { be->matmul(a, DT_F32, b, DT_BF16, u, NULL, 1, vocab, 0); }

/* Pages of a sequence. */
static int
each(void)
{
	return (length + KV_PAGE - 1) / KV_PAGE;
}

/* Every stream has all positions of a sequence. */
static void
attention_paged(void *u)
{
	struct heads h = heads();
	const struct kv kv = { c, DT_BF16, 1, MOST_STREAMS * each(), h.kv_heads, h.d };

	be->attention_paged(a, b, DT_BF16, &kv, 0, pages, each(), lengths, *(int *)u, &h);
}

/* The tokens of a prefill; the numbers of rows are those of pages, too. */
static void
store(void *u)
{
	struct heads h = heads();
	struct kv kv = { a, DT_BF16, 1, tokens, h.kv_heads, h.d };

	(void)u;
	be->kv_store(&kv, 0, b, DT_BF16, reversed, positions, tokens, &h);
}

static void gptq(void *u) { be->gptq(u); }

/* A matrix of hidden by hidden, 4 bits by groups of 32, scales taken first and searched for. Host memory. */
static struct gptq
layer_new(void)
{
	enum { GROUP = 32 };
	int n = shape.hidden, i, *order = mem_alloc((size_t)n * sizeof *order), *group = mem_alloc((size_t)n * sizeof *group);
	size_t cells = (size_t)n * (size_t)n, heads_of = (size_t)(n / GROUP) * (size_t)n, j;
	float *x = mem_alloc(cells * sizeof *x), *u = mem_zero(cells, sizeof *u);

	for (j = 0; j < cells; j++)
		x[j] = (float)((unsigned)j * 2654435761u % 65536) / 65536 - 0.5f;
	for (i = 0; i < n; i++) {
		order[i] = i;
		group[i] = i / GROUP;
		for (j = (size_t)i; j < (size_t)n; j++)
			u[(size_t)i * (size_t)n + j] = j == (size_t)i ? 1 : 0.01f * x[j];
	}
	return (struct gptq){ .w = x, .u = u, .order = order, .group = group, .n = n, .k = n, .groups = n / GROUP, .bits = 4,
	    .sym = 1, .signs = 1, .mse = 2.4f, .ahead = 1, .rounded = 1, .stride = n, .q = mem_alloc(cells),
	    .scales = mem_alloc(heads_of * sizeof(float)), .zeros = mem_alloc(heads_of),
	    .error = mem_alloc((size_t)n * sizeof(double)) };
}

static void
layer_free(struct gptq *g)
{
	void *const all[] = { (void *)g->w, (void *)g->u, (void *)g->order, (void *)g->group, g->q, g->scales, g->zeros,
	    g->error };
	size_t i;

	for (i = 0; i < sizeof all / sizeof *all; i++)
		free(all[i]);
}

static void
attention(void *u)
{
	struct heads h = heads();

	(void)u;
	be->attention(a, stats, b, DT_BF16, &seq, &h, NULL);
}

static void
attention_back(void *u)
{
	struct heads h = heads();

	(void)u;
	be->attention_backward(d, c, a, stats, b, DT_BF16, &seq, &h, NULL);
}

static void
share(const char *name, void (*call)(void *), void *user, double work, double rate, const char *of)
{
	double t = seconds_of(call, user);

	printf("  %-28s %9.3f ms  %3.0f %% of the %s\n", name, 1e3 * t, 100 * work / t / rate, of);
}

static void
kernels(void)
{
	static enum divergence_kind ce = LOSS_CE, kl = LOSS_FORWARD_KL, jsd = LOSS_JSD;
	static struct sampling plain = { .temperature = 1 }, nucleus = { .temperature = 1, .top_k = 1000, .top_p = 0.95f };
	double x = (double)tokens * shape.hidden, f = (double)tokens * shape.ffn, v = (double)ROWS * vocab;
	struct heads h = heads();
	double pairs = (double)tokens * (length + 1) / 2 * h.heads * h.d;
	double cached = 4.0 * length * h.kv_heads * h.d, hidden = shape.hidden;
	static int forwards = 0, backwards = 1, one = 1, many = MOST_STREAMS;
	struct gptq layer = layer_new();

	share("norm", norm, NULL, 4 * x, copy_rate, "copy");
	share("norm backward", norm_back, NULL, 8 * x, copy_rate, "copy");
	share("rope", rope, &forwards, 4.0 * tokens * (h.heads + h.kv_heads) * h.d, copy_rate, "copy");
	share("rope backward", rope, &backwards, 4.0 * tokens * (h.heads + h.kv_heads) * h.d, copy_rate, "copy");
	share("embedding", embed, NULL, 4 * x, copy_rate, "copy");
	share("embedding backward", embed_back, NULL, 2 * x + 8.0 * length * shape.hidden, copy_rate, "copy");
	share("gather", gather, NULL, 4 * x, copy_rate, "copy");
	share("scatter", scatter, NULL, 4 * x, copy_rate, "copy");
	share("keys and values to pages", store, NULL, 8.0 * tokens * h.kv_heads * h.d, copy_rate, "copy");
	share("bias backward", bias_back, NULL, 2.0 * tokens * qkv, copy_rate, "copy");
	share("add", add, NULL, 6 * f, copy_rate, "copy");
	share("swiglu", swiglu, NULL, 6 * f, copy_rate, "copy");
	share("swiglu backward", swiglu_back, NULL, 10 * f, copy_rate, "copy");
	share("gelu", gelu, NULL, 4 * f, copy_rate, "copy");
	share("gelu backward", gelu_back, NULL, 6 * f, copy_rate, "copy");
	share("dropout", dropout, NULL, 4 * f, copy_rate, "copy");
	share("bf16 to f32", convert, NULL, 6 * f, copy_rate, "copy");
	share("adamw, bf16", adamw, NULL, 32 * f, copy_rate, "copy");
	share("sum of squares", squares, NULL, 4 * f, copy_rate, "copy");
	share("cross-entropy, 256 rows", loss, &ce, 8 * v, copy_rate, "copy");
	share("forward KL, 256 rows", loss, &kl, 12 * v, copy_rate, "copy");
	share("JSD, 256 rows", loss, &jsd, 12 * v, copy_rate, "copy");
	share("policy, 256 rows", policy, NULL, 12 * v, copy_rate, "copy");
	share("log-probability, 256 rows", logprob, NULL, 4 * v, copy_rate, "copy");
	share("the best 100, 256 rows", topk, NULL, 4 * v, copy_rate, "copy");
	share("log softmax, 256 rows", log_softmax, NULL, 8 * v, copy_rate, "copy");
	share("draw, 256 rows", sample, &plain, 8 * v, copy_rate, "copy");
	share("draw, top-k and top-p", sample, &nucleus, 8 * v, copy_rate, "copy");
	share("draw from a mixture", mix, NULL, 12 * v, copy_rate, "copy");
	share("one row, bf16", one_row, &words, 2.0 * (double)words.elements, copy_rate, "copy");
	share("one row, 4 bits", one_row, &coded, (double)coded.elements, copy_rate, "copy");
	share("attention of 1 stream", attention_paged, &one, cached, copy_rate, "copy");
	share("attention of 256 streams", attention_paged, &many, many * cached, copy_rate, "copy");
	share("gate and up", products, NULL, 4 * f * shape.hidden, product_rate, "product");
	share("gate and up, dx", products_dx, NULL, 4 * f * shape.hidden, product_rate, "product");
	share("gate and up, dw", products_dw, NULL, 4 * f * shape.hidden, product_rate, "product");
	share("attention", attention, NULL, 4 * pairs, product_rate, "product");
	share("attention backward", attention_back, NULL, 10 * pairs, product_rate, "product");
	share("gptq of hidden x hidden", gptq, &layer, hidden * hidden * hidden, product_rate, "product");
	layer_free(&layer);
}

/* To the device, where `room` ints are. */
static int *
numbers(const int *host, int n, int room)
{
	int *p = allocate((size_t)room * sizeof *p);

	be->upload(p, host, (size_t)n * sizeof *p);
	return p;
}

static void
streams(void)
{
	int n = MOST_STREAMS * each(), i;
	int *host = mem_alloc((size_t)n * sizeof *host);

	for (i = 0; i < n; i++)
		host[i] = i;
	pages = numbers(host, n, n);
	for (i = 0; i < MOST_STREAMS; i++)
		host[i] = length;
	lengths = numbers(host, MOST_STREAMS, MOST_STREAMS);
	free(host);
}

static void
arrays(void)
{
	size_t most = (size_t)ROWS * vocab * 4, other = (size_t)tokens * shape.ffn * 4;
	int *host = mem_alloc((size_t)tokens * sizeof *host), i;

	qkv = (shape.heads + 2 * shape.kv_heads) * (shape.hidden / shape.heads);
	most = most > other ? most : other;
	most = most > copied ? most : copied;
	a = allocate(most);
	b = allocate(most);
	c = allocate(most);
	d = allocate(most);
	w = allocate((size_t)shape.ffn * 4);
	stats = allocate((size_t)tokens * shape.heads * 4 + 8 * ROWS);
	table = allocate((size_t)length * (size_t)(shape.hidden / shape.heads) * 4);
	fill(b, DT_BF16, most / 2, 1);
	fill(c, DT_BF16, most / 2, 1);
	fill(w, DT_F32, (size_t)shape.ffn, 1);
	for (i = 0; i < tokens; i++)
		host[i] = i % length;
	positions = numbers(host, tokens, tokens);
	targets = numbers(host, tokens, tokens);
	for (i = 0; i < tokens; i++)
		host[i] = tokens - 1 - i;
	reversed = numbers(host, tokens, tokens);
	for (i = 0; i <= tokens / length; i++)
		host[i] = i * length;
	offsets = numbers(host, tokens / length + 1, tokens / length + 1);
	seq = (struct ragged){ tokens, tokens / length, offsets, positions, host };
	streams();
	zeros = allocate(ROWS * sizeof *zeros);
	wide = matrix(DT_BF16, 2 * shape.ffn, shape.hidden);
	words = matrix(DT_BF16, vocab, shape.hidden);
	coded = matrix(DT_U8, vocab, shape.hidden);
}

static void
arrays_free(void)
{
	void *const all[] = { a, b, c, d, w, stats, table, zeros, positions, targets, offsets, pages, lengths, reversed,
	    wide.data, words.data, coded.data };
	size_t i;

	for (i = 0; i < sizeof all / sizeof *all; i++)
		be->free(all[i]);
	free((void *)seq.host_offsets);
}

/* Models */

static struct model *
make(const struct size *s)
{
	json_t *json = json_pack("{ss si si si si si si si sf sf ss sb}", "model_type", "qwen2", "vocab_size", vocab,
	    "hidden_size", s->hidden, "num_hidden_layers", s->layers, "num_attention_heads", s->heads,
	    "num_key_value_heads", s->kv_heads, "intermediate_size", s->ffn, "max_position_embeddings", 32768, "rms_norm_eps",
	    1e-6, "rope_theta", 1e6, "hidden_act", "silu", "tie_word_embeddings", 1);
	char why[REASON_MAX];
	struct config config;
	struct model *m;
	int i;

	if (config_parse(&config, json, why))
		die("%s", why);
	m = model_new(&config, be, DT_BF16);
	for (i = 0; i < m->nstorage; i++)
		if (m->storage[i].matrix)
			fill(m->storage[i].matrix->data, DT_BF16, m->storage[i].n, 0.03f);
		else
			fill(*m->storage[i].vector, DT_F32, m->storage[i].n, 1);
	return m;
}

static double
parameters(const struct model *m)
{
	double n = 0;
	int i;

	for (i = 0; i < m->nstorage; i++)
		n += m->storage[i].matrix ? (double)m->storage[i].n : 0;
	return n;
}

struct step {
	struct model *m, *teacher;	/* teacher: its head, or NULL */
	struct forward *forward;
	struct head *head;
	struct optimizer optimizer;
	struct batch batch;
	void *states;			/* of the teacher, [tokens, hidden] */
	float *logits;
};

/* As teacher_rows() does with stored states. */
static void
teach(struct teacher_rows *rows, int first, int count, void *user)
{
	struct step *s = user;
	size_t row = (size_t)s->teacher->config.hidden * 2;

	be->matmul(s->logits, DT_F32, (char *)s->states + (size_t)first * row, DT_BF16, &s->teacher->head, NULL, count,
	    vocab, 0);
	*rows = (struct teacher_rows){ .form = TEACHER_DENSE, .dense = s->logits, .ld = (size_t)vocab };
}

static void
step(void *user)
{
	struct step *s = user;
	const struct divergence way = { s->teacher ? LOSS_FORWARD_KL : LOSS_CE, 0.5f, 1, 0, 0 };
	const void *hidden = forward_run(s->forward, &s->batch, NULL, FOR_TRAINING, 1, 1);
	void *dhidden = head_run(s->head, &s->batch, hidden, &way, s->teacher ? teach : NULL, s, 1, &s->optimizer.gradients);

	forward_backward(s->forward, &s->batch, dhidden, &s->optimizer.gradients);
	optimizer_step(&s->optimizer, 1e-6, s->batch.p, optimizer_norm(&s->optimizer, s->batch.p));
}

/* All tokens but the first of each sequence are supervised. */
static void
train(const struct size *size, const struct size *teacher)
{
	const struct adamw_options options = { 0.9, 0.999, 1e-8, 0.01, 1, 0, 0 };
	struct step s = { .m = make(size), .teacher = teacher ? make(teacher) : NULL };
	int32_t *ids = mem_alloc((size_t)length * sizeof *ids), span[2] = { 0, length };
	double flops, t;
	int i;

	for (i = 0; i < length; i++)
		ids[i] = i * 31 % vocab;
	model_rope(s.m, length);
	s.forward = forward_new(s.m, tokens, KEEP_ALL);
	s.head = head_new(s.m, vocab, ROWS);
	optimizer_init(&s.optimizer, s.m, &options);
	batch_init(&s.batch, be);
	for (i = 0; i < tokens / length; i++)
		batch_add(&s.batch, ids, length, span, 1, 0);
	batch_upload(&s.batch);
	if (teacher) {
		s.states = allocate((size_t)tokens * (size_t)teacher->hidden * 2);
		s.logits = allocate((size_t)ROWS * (size_t)vocab * sizeof *s.logits);
		fill(s.states, DT_BF16, (size_t)tokens * (size_t)teacher->hidden, 1);
	}
	t = seconds_of(step, &s);
	flops = 6.0 * parameters(s.m) * tokens + 6.0 * tokens * length * size->layers * size->hidden +
	    (teacher ? 2.0 * tokens * teacher->hidden * vocab : 0);
	printf("  %s%s%s: %.3f s for %d tokens, %.0f tokens/s, %.0f %% of the product\n", teacher ? "distill " : "train ",
	    size->name, teacher ? " from stored states" : "", t, tokens, tokens / t, 100 * flops / t / product_rate);
	optimizer_free(&s.optimizer);
	head_free(s.head);
	forward_free(s.forward);
	batch_free(&s.batch);
	be->free(s.states);
	be->free(s.logits);
	if (s.teacher)
		model_free(s.teacher);
	model_free(s.m);
	free(ids);
}

/* Tokens of so many streams, from prompts of 64; the time of a step is a median. */
static void
decode(struct model *m, int streams)
{
	enum { PROMPT = 64, STEPS = 31 };
	const struct sampling plain = { .temperature = 1, .top_p = 1 };
	static struct request requests[MOST_STREAMS];
	static struct reply replies[MOST_STREAMS];
	struct session *s = session_new(m, streams, 512, &plain);
	int32_t prompt[PROMPT];
	double seconds[STEPS], t;
	int i, began;

	for (i = 0; i < PROMPT; i++)
		prompt[i] = i * 17 % vocab;
	for (i = 0; i < streams; i++) {
		replies[i] = (struct reply){ .seed = 1 };
		requests[i] = (struct request){ .prompt = prompt, .n = PROMPT, .key = (uint64_t)i, .max_tokens = STEPS + 200,
		    .replies = &replies[i], .nreplies = 1 };
		session_add(s, &requests[i]);
	}
	do
		began = session_step(s);
	while (began < streams);
	for (i = 0; i < STEPS; i++) {
		t = clock_now();
		session_step(s);
		seconds[i] = clock_now() - t;
	}
	qsort(seconds, STEPS, sizeof *seconds, ascending);
	t = seconds[STEPS / 2];
	printf("  decode of %3d: %.0f tokens/s, %.2f ms a step, weights at %.0f %% of the copy\n", streams, streams / t,
	    1e3 * t, 100 * 2 * parameters(m) / t / copy_rate);
	while (session_step(s))
		;
	for (i = 0; i < streams; i++)
		reply_free(&replies[i]);
	session_free(s);
}

/* cuda [ROW [small]] */
int
main(int argc, char **argv)
{
	const char *name = argc > 1 ? argv[1] : "cuda";
	struct model *m;
	int i;

	progname = "bench-cuda";
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (!(be = backend_pick(name))) {
		printf("skip %s: %s\n", name, backend_why(name));
		return 0;
	}
	small = argc > 2;
	if (small)
		vocab = 1000, tokens = 640, length = 64;
	for (i = small ? 2 : 0; i < (small ? 3 : 2); i++) {
		shape = sizes[i];
		copied = small ? 16 << 20 : (size_t)1 << 30;
		arrays();
		if (i != 1)
			ceilings();
		printf("%s, %d tokens in sequences of %d\n", shape.name, tokens, length);
		kernels();
		arrays_free();
		train(&sizes[i], NULL);
		if (i != 1)
			train(&sizes[i], &sizes[small ? 2 : 1]);
		m = make(&sizes[i]);
		decode(m, 1);
		decode(m, 16);
		decode(m, MOST_STREAMS);
		model_free(m);
	}
	return 0;
}
