/* SPDX-License-Identifier: MIT */
/*
 * generate - prefill and decode at Qwen2.5-0.5B's shape, as shares of what the machine can do
 *
 * Weights are random, bf16. Prefill of 512 tokens: its arithmetic over the rate
 * of multiply-adds on registers. Decode of 1, 8 and 16 streams: bytes of all
 * weights, once per step, over the rate at which memory is read. The machine is
 * probed between runs; each figure is the median of the ratios. Then the same with the layers in 4 bits by
 * groups of 128 and the head in 8.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/base/die.h"
#include "lib/base/mem.h"
#include "lib/model/session.h"
#include "lib/quant/weight.h"
#include "tests/bench/peak.h"

enum { RUNS = 5, PREFILL = 512, PROMPT = 64, STEPS = 11, STREAMS = 16 };

static const char config[] =
    "{\"model_type\": \"qwen2\", \"vocab_size\": 151936, \"hidden_size\": 896, \"num_hidden_layers\": 24,"
    "\"num_attention_heads\": 14, \"num_key_value_heads\": 2, \"intermediate_size\": 4864,"
    "\"max_position_embeddings\": 32768, \"rms_norm_eps\": 1e-6, \"rope_theta\": 1000000.0,"
    "\"hidden_act\": \"silu\", \"tie_word_embeddings\": true}";

static const struct sampling sampling = { .temperature = 1, .top_p = 1 };
static int32_t prompt[PREFILL];

/* The time of a step does not depend on the values; model_randomise() would take longer than all steps. */
static void
fill(struct model *m)
{
	enum { BLOCK = 1 << 16 };
	uint16_t random[BLOCK];
	float ones[BLOCK];
	size_t at, n;
	int i;

	for (i = 0; i < BLOCK; i++) {
		random[i] = f32_to_bf16((float)(rand() % 2001 - 1000) * 3e-5f);
		ones[i] = 1;
	}
	for (i = 0; i < m->nstorage; i++)
		for (at = 0; at < m->storage[i].n; at += n) {
			const struct storage *s = &m->storage[i];

			n = s->n - at < BLOCK ? s->n - at : BLOCK;
			if (s->matrix)
				m->be->upload((uint16_t *)s->matrix->data + at, random, n * sizeof *random);
			else
				m->be->upload(*s->vector + at, ones, n * sizeof *ones);
		}
}

/* The fastest row whose memory the yardstick can read; GPUs have tests/bench/cuda.c. */
static const struct backend *
cpu(void)
{
	const struct backend *const *row = backends;

	while (*row == &backend_cuda || !(*row)->usable())
		row++;
	return *row;
}

static struct model *
make(void)
{
	struct config c;
	char why[REASON_MAX];
	json_t *json = json_loads(config, 0, NULL);
	struct model *m;

	if (config_parse(&c, json, why))
		die("%s", why);
	m = model_new(&c, cpu(), DT_BF16);
	fill(m);
	return m;
}

/* Weights and bytes that a token reads: of the blocks and the head. */
static size_t
read_for_token(const struct model *m, size_t *bytes)
{
	size_t weights = (size_t)m->head.n * (size_t)m->head.k;
	int l, i;

	*bytes = m->head.elements * dtype_size(m->head.type);
	for (l = 0; l < m->config.layers; l++) {
		const struct block *b = &m->blocks[l];
		const struct weight *const w[] = { &b->qkv.w, &b->o.w, &b->up.w, &b->down.w };

		for (i = 0; i < 4; i++) {
			weights += (size_t)w[i]->n * (size_t)w[i]->k;
			*bytes += w[i]->elements * dtype_size(w[i]->type);
		}
	}
	return weights;
}

static size_t
token_bytes(const struct model *m)
{
	size_t bytes;

	read_for_token(m, &bytes);
	return bytes;
}

/* Random codes in the place of a matrix, which is freed. */
static void
quantise_matrix(const struct model *m, struct weight *w)
{
	size_t count = (size_t)w->n * (size_t)w->k, i;
	int8_t *codes = mem_alloc(count);
	uint16_t *scales = mem_alloc(count / 128 * sizeof *scales);

	for (i = 0; i < count; i++)
		codes[i] = (int8_t)((i * 2654435761u >> 13) % 16) - 8;
	for (i = 0; i < count / 128; i++)
		scales[i] = f32_to_f16(0.005f);
	weight_release(w, m->be);
	w->type = DT_U8;
	w->quant = (struct quant){ .bits = 4, .group = 128 };
	w->elements = m->be->quant_bytes(&w->quant, w->n, w->k);
	w->data = m->be->alloc(w->elements);
	m->be->quant_put(w, 0, w->n, codes, scales, NULL);
	free(codes);
	free(scales);
}

static void
quantise(struct model *m)
{
	int l;

	for (l = 0; l < m->config.layers; l++) {
		quantise_matrix(m, &m->blocks[l].qkv.w);
		quantise_matrix(m, &m->blocks[l].o.w);
		quantise_matrix(m, &m->blocks[l].up.w);
		quantise_matrix(m, &m->blocks[l].down.w);
	}
	model_round_head(m, 0);
}

static double
read_rate(const struct model *m)
{
	return peak_read(m->head.data, m->head.elements * dtype_size(m->head.type) >> 20 << 20);
}

static double
peak(void)
{
	return peak_flops(peak_usable(2) ? 2 : peak_usable(1) ? 1 : 0);
}

static int
ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

static double
median(double *x, int n)
{
	qsort(x, (size_t)n, sizeof *x, ascending);
	return x[n / 2];
}

static void
request_init(struct request *q, struct reply *reply, int n, int max_tokens, int key)
{
	*reply = (struct reply){ .seed = 1 };
	*q = (struct request){ .prompt = prompt, .n = n, .key = (uint64_t)key, .max_tokens = max_tokens,
	    .replies = reply, .nreplies = 1 };
}

/* The head's one row is left out: its matrix is read, hardly computed with. */
static void
prefill(struct model *m)
{
	struct session *s = session_new(m, 1, PREFILL, &sampling);
	size_t bytes, weights = read_for_token(m, &bytes);
	double flops = 2. * PREFILL * ((double)weights - (double)m->head.n * m->head.k);
	double share[RUNS], rate[RUNS];
	struct request q;
	struct reply reply;
	int i;

	for (i = 0; i < RUNS; i++) {
		double before = peak(), t;

		request_init(&q, &reply, PREFILL, 1, 0);
		session_add(s, &q);
		t = peak_now();
		session_step(s);
		rate[i] = 1 / (peak_now() - t);
		share[i] = flops * rate[i] / ((before + peak()) / 2);
		reply_free(&reply);
	}
	printf("prefill of %d tokens: %.0f tokens/s, %.0f %% of arithmetic\n", PREFILL, PREFILL * median(rate, RUNS),
	    100 * median(share, RUNS));
	session_free(s);
}

/* Seconds of a step, the median. */
static double
decode(struct model *m, int streams)
{
	struct session *s = session_new(m, streams, PREFILL, &sampling);
	struct request q[STREAMS];
	struct reply replies[STREAMS];
	double share[STEPS], seconds[STEPS];
	int i;

	for (i = 0; i < streams; i++) {
		request_init(&q[i], &replies[i], PROMPT, STEPS + 1, i);
		session_add(s, &q[i]);
	}
	session_step(s);
	for (i = 0; i < STEPS; i++) {
		double before = read_rate(m), t = peak_now();

		session_step(s);
		seconds[i] = peak_now() - t;
		share[i] = (double)token_bytes(m) / seconds[i] / ((before + read_rate(m)) / 2);
	}
	seconds[0] = median(seconds, STEPS);
	printf("decode of %2d streams: %5.1f tokens/s, %.1f ms a step, %.0f %% of reading all weights once\n", streams,
	    streams / seconds[0], 1e3 * seconds[0], 100 * median(share, STEPS));
	for (i = 0; i < streams; i++)
		reply_free(&replies[i]);
	session_free(s);
	return seconds[0];
}

static void
measure(struct model *m, const char *only)
{
	double one;

	printf("%s, %d threads, %.0f MB of weights, read at %.1f GB/s\n", m->be->name, omp_get_max_threads(),
	    (double)token_bytes(m) * 1e-6, read_rate(m) * 1e-9);
	if (!only || !strcmp(only, "prefill"))
		prefill(m);
	if (!only || !strcmp(only, "decode")) {
		one = decode(m, 1);
		decode(m, 8);
		printf("16 streams are %.1f times one\n", 16 * one / decode(m, 16));
	}
}

/* generate [prefill|decode|all [bf16|four]] */
int
main(int argc, char **argv)
{
	const char *only = argc > 1 && strcmp(argv[1], "all") ? argv[1] : NULL;
	struct model *m = make();
	int i;

	for (i = 0; i < PREFILL; i++)
		prompt[i] = 1000 + 13 * i;
	setlinebuf(stdout);
	if (argc < 3 || strcmp(argv[2], "four"))
		measure(m, only);
	if (argc < 3 || strcmp(argv[2], "bf16")) {
		quantise(m);
		measure(m, only);
	}
	model_free(m);
	return 0;
}
