/* SPDX-License-Identifier: MIT */
/*
 * op - every numerical operation, stated once; struct backend is the table of who does it
 *
 * Letters: m rows (tokens of all sequences of a batch, packed without padding),
 * c channels, n outputs and k inputs of a matrix, v vocabulary, h heads, d head
 * size. dx is the gradient of the loss on x. Matrices are row-major and dense.
 * Activations are of one type, DT_F32 or DT_BF16, given as `type`; sums, norms,
 * softmaxes and losses are computed in f32 or better whatever the type.
 *
 * All pointers but those marked "host" are memory of the backend, 64-byte
 * aligned at allocation. A CUDA backend may run asynchronously: only sync() and
 * download() wait. Outputs may not overlap inputs unless an operation says "in
 * place". Same arguments, same bytes, whatever the number of threads; and the
 * result of a row does not depend on which other rows are in the call; of cuda's
 * matmul, as long as these are 512 at most (kernels/matmul.cu).
 *
 * kernels/NAME.c is the definition (row `ref`); everything else is tested
 * against it by tests/unit/kernels.c within the tolerance that stands here:
 * relative to the largest absolute value of the reference output,
 *   f32 2e-6 x sqrt(length of the sum), bf16 8e-3, unless an operation says otherwise.
 */
#ifndef KERNELS_OP_H
#define KERNELS_OP_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/dtype.h"

/*
 * How a weight is quantised (kernels/quant.h for CPUs): W[o, i] = scale (code - zero), where code is a signed
 * integer of so many bits, and scale, an f16, and zero are of output o and the group of input i. Such a weight
 * can be multiplied by and read, not trained.
 */
struct quant {
	int bits;		/* 4 or 8 */
	int group;		/* inputs of a group, a multiple of 8; the last may have fewer */
	int asymmetric;		/* zeros are kept; without, all are 0 */
	int *order;		/* [k]: the input that stands at each place, backend memory; NULL: as they come */
};

/*
 * A matrix of weights W [n, k] in the backend's own layout (kernels/panel.h for
 * CPUs): one layout for training, prefill and decode. Its elements have an
 * order; gradient and optimizer state use the same order, so that elementwise
 * work needs no shape. Padding elements are zero and stay zero.
 */
struct weight {
	void *data;
	enum dtype type;	/* DT_F32 or DT_BF16; DT_U8: quantised */
	int n, k;		/* outputs, inputs */
	size_t elements;	/* of data, padding included: weight_elements(), quant_bytes() */
	struct quant quant;	/* where type is DT_U8 */
};

/* The columns of m rows [m, k] as the row's gram() takes them. */
struct gram {
	void *data;
	int m, k;
};

/* Packed sequences: rows offsets[s] .. offsets[s+1]-1 are sequence s, positions from 0. */
struct ragged {
	int m;			/* rows: offsets[nseq] */
	int nseq;
	const int *offsets;	/* [nseq + 1] */
	const int *positions;	/* [m], place of each row in its sequence */
	const int *host_offsets;/* the same as offsets, host memory */
};

struct heads {
	int heads, kv_heads, d;	/* query head h reads key head h / (heads / kv_heads) */
	float scale;		/* of the scores: 1 / sqrt(d) */
};

/*
 * Dropout with probability p: element i is kept where uniform(key, i) >= p and
 * scaled by 1 / (1 - p). The uniform is word i % 4 of Philox4x32-10 with counter
 * {i / 4 low, i / 4 high, stream, 0} and key {seed low, seed high}, times 2^-32.
 * p = 0: none. Attention numbers its probabilities (row * heads + head) * 2^20 + column.
 */
struct dropout {
	float p;
	uint64_t seed;
	uint32_t stream;	/* step, layer and place, mixed by the caller */
};

/*
 * Keys and values of many sequences in pages of KV_PAGE positions, so that the
 * samples of a prompt can share its pages. data is [layers][pages][2][kv_heads][KV_PAGE][d].
 */
enum { KV_PAGE = 32 };
struct kv {
	void *data;
	enum dtype type;
	int layers, pages, kv_heads, d;
};

enum divergence_kind {
	LOSS_CE,		/* none: loss is the cross-entropy */
	LOSS_KD,		/* -sum p log q (paper, eq. 3) */
	LOSS_FORWARD_KL,	/* KL(p, q) (eq. 4) */
	LOSS_REVERSE_KL,	/* KL(q, p) (MiniLLM) */
	LOSS_JSD,		/* beta KL(p, m) + (1 - beta) KL(q, m), m = beta p + (1 - beta) q (GKD) */
	LOSS_SKEW_KL,		/* KL(p, alpha p + (1 - alpha) q) (DistiLLM) */
	LOSS_SKEW_RKL,		/* KL(q, alpha q + (1 - alpha) p) */
	LOSS_ALPHA_BETA,	/* ABKD's D(alpha, beta), all limits included */
};

struct divergence {
	enum divergence_kind kind;
	float kd_ratio;		/* k: loss = (1 - k) ce + k tau^2 D(p_tau, q_tau) */
	float tau;
	float alpha, beta;
};

enum teacher_form { TEACHER_NONE, TEACHER_DENSE, TEACHER_TOPK_BUCKET, TEACHER_TOPK_RENORMALISE, TEACHER_SAMPLE };

/* The teacher's distribution at the m rows of a chunk. */
struct teacher_rows {
	enum teacher_form form;
	const float *dense;	/* [m, ld] logits or log-probabilities: softmax over the first v is taken either way */
	size_t ld;
	const int32_t *ids;	/* topk [m, k]; sample [entries] */
	const float *logprobs;	/* topk [m, k] */
	const float *log_tail;	/* topk bucket [m] */
	int k;
	const uint16_t *counts;	/* sample [entries] */
	const int32_t *offsets;	/* sample [m + 1], relative to ids and counts */
};

struct adamw {
	double lr, beta1, beta2, eps;	/* double: 1 - beta2 of a float beta2 is wrong by 1e-5 */
	double decay;		/* 0 for norms and biases */
	double correction1;	/* 1 - beta1^t */
	double correction2;	/* 1 - beta2^t */
	double scale;		/* of the gradient: the clip, 1 for none */
	uint64_t seed;		/* of the rounding of weights without a master */
	uint32_t stream;	/* step and storage, mixed by the caller */
};

/* How to draw from logits; filters in this order, 0 (temperature 1, top_p 1) means off (conformance, sampling). */
struct sampling {
	int greedy;		/* the largest logit, the lowest id of equals; its probability is 1 */
	float temperature;
	int top_k;		/* everything equal to the k-th largest stays */
	float top_p;		/* keeps j while the probability before it is < top_p; lower ids first among equals */
	float min_p;
};

/*
 * A linear layer W [n, k] and how its codes are found (GPTQ; conformance, gptq 3.1). Columns are
 * quantised in `order`; what column j loses is made up for by those that follow it in the order, as
 * u tells: the upper triangle of U^T U = (H permuted)^-1.
 *
 *   q = clamp(round(w / s) + z, 0, 2^bits - 1),  e_j = (w - s (q - z)) / u[j, j],  w_i -= e_j u[j, i]
 *
 * Scales of a group come from its columns, with lo = min(w, 0), hi = max(w, 0):
 *   sym:     s = 2 max(-lo, hi) / (2^bits - 1), z = 2^(bits-1)
 *   signs:   s = -(entry of largest magnitude) / 2^(bits-1), which that entry's code 0 meets exactly
 *   else:    s = (hi - lo) / (2^bits - 1), z = round(-lo / s); where that is less than least_zero,
 *            z = least_zero and s = hi / (2^bits - 1 - z)
 * mse > 0: of 1 s, 0.99 s, ..., 0.21 s the first with the least sum |w - Q(w)|^mse.
 */
struct gptq {
	const float *w;		/* [n, k] */
	const float *u;		/* [k, k] in the order */
	const int *order;	/* [k]: the j-th column to be quantised */
	const int *group;	/* [k] of each column of w */
	int n, k, groups, bits;
	int sym, signs;
	int least_zero;		/* 1 where a zero of 0 cannot be stored */
	float mse;
	int ahead;		/* scales are taken before the first column changes; else a group's columns follow one another */
	int rounded;		/* scales are what f16 holds, finite and not 0, before they are used */
	int stale;		/* a group that begins inside of a block of GPTQ_BLOCK does not see its updates (GPTQModel) */
	int stride;		/* of the results, which may be part of a wider layer's */
	uint8_t *q;		/* [k, stride], rows in the order of w's columns */
	float *scales;		/* [groups, stride] */
	uint8_t *zeros;		/* [groups, stride] */
	double *error;		/* [n]: sum e^2 = (w - Q) H (w - Q)^T */
};
enum { GPTQ_BLOCK = 128 };

enum { VISIT_MOST = 8 << 20 };

struct backend {
	const char *name;
	int (*usable)(void);
	const char *(*why)(void);	/* usable() says no; NULL in a CPU row: the CPU lacks it */

	/*
	 * Bytes that alloc may give in all; 0, as at first: what there is. Before the first alloc. room() is how many
	 * it could give, with those that it gave.
	 */
	void (*limit)(size_t bytes);
	size_t (*room)(void);
	/* Memory. alloc returns zeroed memory, NULL when there is none. src of upload and dst of download: host. */
	void *(*alloc)(size_t bytes);
	void (*free)(void *p);
	void (*upload)(void *dst, const void *src, size_t bytes);
	void (*download)(void *dst, const void *src, size_t bytes);
	void (*copy)(void *dst, const void *src, size_t bytes);
	/* m rows of `bytes`; a pitch is bytes from one row to the next. */
	void (*copy_rows)(void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t bytes, int m);
	void (*zero)(void *p, size_t bytes);
	void (*sync)(void);
	/*
	 * p's bytes visit the host: f gets a copy of them when their turn comes in the order of this row's work, and what
	 * it leaves there is p's. The caller does not wait. f may run in another thread, one after the other, and has run
	 * when the next sync() or download() returns; it calls nothing of the row. Up to VISIT_MOST bytes.
	 */
	void (*visit)(void *p, size_t bytes, void (*f)(void *host, size_t bytes, void *user), void *user);
	/*
	 * work(user), which calls this row's operations and nothing of it that waits, allocates, or moves from or to the
	 * host. When its key comes again its arguments are the same, unless memory was freed since; what lies behind its
	 * pointers may differ. In *kept, NULL at first, a row may keep what was launched, to launch that again.
	 */
	void (*repeat)(void **kept, uint64_t key, void (*work)(void *user), void *user);
	void (*forget)(void *kept);

	/* Number of elements of a weight [n, k] in this backend's layout. */
	size_t (*weight_elements)(enum dtype type, int n, int k);
	/*
	 * Rows row .. row+rows-1 of w from (to) row-major [rows, k] of any float
	 * type in host memory; transposed: from (to) [k, rows], as GPT-2's Conv1D.
	 */
	void (*weight_put)(struct weight *w, int row, int rows, const void *src, enum dtype from, int transposed);
	void (*weight_get)(void *dst, enum dtype to, const struct weight *w, int row, int rows, int transposed);
	/* Bytes of a quantised weight [n, k]. */
	size_t (*quant_bytes)(const struct quant *q, int n, int k);
	/*
	 * Rows row .. row+rows-1 of a quantised w from host memory: codes [k, rows] in the order of their places,
	 * scales (f16) and zeros [groups, rows]; zeros NULL where w is symmetric.
	 */
	void (*quant_put)(struct weight *w, int row, int rows, const int8_t *codes, const uint16_t *scales,
	    const int16_t *zeros);

	/*
	 * y[m, n] = x[m, k] W^T + b, over the first n <= w->n rows of W. b may be
	 * NULL; accumulate adds to y. ytype and xtype are free of each other and of
	 * W's. Products of bf16 x and bf16 W may be taken by bf16 instructions with
	 * f32 sums; where W is bf16 and x f32, x may be rounded to bf16 first. Where W is quantised, x may be rounded to
	 * 16 bits under a power of two that up to 128 inputs share, unless x and y are f32.
	 */
	void (*matmul)(void *y, enum dtype ytype, const void *x, enum dtype xtype, const struct weight *w,
	    const float *b, int m, int n, int accumulate);
	/*
	 * matmul() for a training. Where W is bf16, x may be rounded to bf16 first, and each number then count 12 bits and
	 * its sign, under a power of two that it shares with up to 127 others along the sum: all of its bits, unless it
	 * is 16 times smaller than the largest of these; then it loses less than rounding to bf16 may have taken off
	 * that one. So in the gradients below. Tolerance 2e-4. With any other W it is matmul().
	 */
	void (*matmul_train)(void *y, enum dtype ytype, const void *x, enum dtype xtype, const struct weight *w,
	    const float *b, int m, int n, int accumulate);
	/* dx[m, k] = dy[m, n] W (+ dx), the first n rows of W. */
	void (*matmul_dx)(void *dx, enum dtype dxtype, const void *dy, enum dtype dytype, const struct weight *w,
	    int m, int n, int accumulate);
	/* dw += dy[m, n]^T x[m, k] into the first n rows; dw has w's shape and element order, f32. */
	void (*matmul_dw)(float *dw, const struct weight *w, const void *dy, enum dtype dytype, const void *x,
	    enum dtype xtype, int m, int n);
	/*
	 * matmul_dw of columns of bf16 that were packed before: of x from `input` on, of dy from `output` on,
	 * multiples of 32. Numbers are rounded as in matmul_train(). NULL: the row has no such thing.
	 * gram_pack(): g->data has gram_bytes() of the most m and k.
	 */
	size_t (*gram_bytes)(int m, int k);
	void (*gram_pack)(struct gram *g, const void *x, int m, int k);
	void (*gram)(float *dw, const struct weight *w, const struct gram *dy, int output, const struct gram *x, int input);
	/* db[n] += column sums of dy[m, n]. */
	void (*bias_backward)(float *db, const void *dy, enum dtype type, int m, int n);

	/* y[m, k] = W[ids], plus P[positions] when p is not NULL. And dw[ids] += dy, dp[positions] += dy. */
	void (*embed)(void *y, enum dtype type, const struct weight *w, const struct weight *p, const int *ids,
	    const int *positions, int m);
	void (*embed_backward)(float *dw, const struct weight *w, float *dp, const struct weight *p, const void *dy,
	    enum dtype type, const int *ids, const int *positions, int m);

	/*
	 * RMSNorm (b NULL): y = x / sqrt(mean(x^2) + eps) * w. LayerNorm: y = (x - mean) / sqrt(var + eps) * w + b,
	 * biased variance. stats [m, 2] receives mean and 1/root for the backward; NULL when not needed.
	 * Backward: dx += gradient, dw += , db += (b's presence as in the forward).
	 */
	void (*norm)(void *y, const void *x, enum dtype type, const float *w, const float *b, float eps,
	    float *stats, int m, int c);
	void (*norm_backward)(void *dx, float *dw, float *db, const void *dy, const void *x, enum dtype type,
	    const float *w, const float *stats, int m, int c);

	/*
	 * Rotate the first `heads` heads of each row of x [m, stride] in place: pairs (i, i + d/2) by the angle of
	 * table[position][i] = {cos, sin}, f32 [positions][d/2][2]; inverse rotates back (the backward).
	 */
	void (*rope)(void *x, enum dtype type, const float *table, const int *positions, int m, int stride,
	    int heads, int d, int inverse);

	/*
	 * Causal attention inside each sequence. qkv [m, (heads + 2 kv_heads) d]: queries, keys, values. out
	 * [m, heads d]. lse [m, heads] f32 receives log sum exp of the scores, for the backward; NULL when not needed.
	 * No [t, t] matrix is kept. Backward writes dqkv (all of it). Keys and values that are not finite reach the rows
	 * that see them; in avx2, avx512 and backwards also those a little before, which multiply them by 0.
	 */
	void (*attention)(void *out, float *lse, const void *qkv, enum dtype type, const struct ragged *seq,
	    const struct heads *h, const struct dropout *drop);
	void (*attention_backward)(void *dqkv, const void *dout, const void *out, const float *lse, const void *qkv,
	    enum dtype type, const struct ragged *seq, const struct heads *h, const struct dropout *drop);

	/*
	 * Write keys and values of qkv's m rows to layer's pages: row i to position place[i] % KV_PAGE of page
	 * page[i]. attention_paged: row i of qkv (queries used only) attends the first length[i] positions of the
	 * pages tables[i * ntables ...]. Row i gives the same bytes as any other split of the same work.
	 */
	void (*kv_store)(struct kv *kv, int layer, const void *qkv, enum dtype type, const int *page, const int *place,
	    int m, const struct heads *h);
	void (*attention_paged)(void *out, const void *qkv, enum dtype type, const struct kv *kv, int layer,
	    const int *tables, int ntables, const int *length, int m, const struct heads *h);

	/* gu [m, 2 f] = gate then up: y[m, f] = silu(gate) up. silu x = x / (1 + exp(-x)). */
	void (*swiglu)(void *y, const void *gu, enum dtype type, int m, int f);
	void (*swiglu_backward)(void *dgu, const void *dy, const void *gu, enum dtype type, int m, int f);
	/* gelu_new: 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))). In place allowed in the backward: dx over dy. */
	void (*gelu)(void *y, const void *x, enum dtype type, size_t n);
	void (*gelu_backward)(void *dx, const void *dy, const void *x, enum dtype type, size_t n);

	/* y += a x; y = x through dropout (in place allowed; its own backward); y[i] = x[i] of another type. */
	void (*add)(void *y, float a, const void *x, enum dtype type, size_t n);
	void (*dropout)(void *y, const void *x, enum dtype type, size_t n, const struct dropout *drop);
	void (*convert)(void *y, enum dtype ytype, const void *x, enum dtype xtype, size_t n);
	/* y[i] = x[rows[i]] for i < m; and dx[rows[i]] = dy[i] (rows are distinct; others are left alone). */
	void (*gather)(void *y, const void *x, enum dtype type, const int *rows, int m, int c);
	void (*scatter)(void *dx, const void *dy, enum dtype type, const int *rows, int m, int c);

	/*
	 * The one loss (conformance, loss). logits [m, ld] f32, softmax over the first v columns for student and
	 * teacher; targets [m]. On return logits hold the gradient of
	 *   inv_count ((1 - k) ce + k tau^2 D), columns v .. ld-1 zero,
	 * and ce[m], div[m] the rows' cross-entropy and tau^2 D (0 without a teacher), not divided. Tolerance 1e-6, of
	 * gradients relative to inv_count, of ce and div to 1 at least.
	 */
	void (*loss)(float *logits, size_t ld, const int *targets, const struct teacher_rows *teacher,
	    const struct divergence *d, float inv_count, float *ce, float *div, int m, int v);
	/*
	 * The gradient of a policy (conformance, grpo and minillm). logits [m, ld] f32; q = softmax(logits /
	 * temperature) over the first v columns, p the same of a dense teacher. On return logits hold the gradient of
	 *   sum over rows of  kl_weight KL(q, p) - weight[row] log q(ids[row]),
	 * columns v .. ld-1 zero, and kl[m] the rows' KL(q, p): 0 without a teacher. Tolerance 2e-6 for gradients, 1e-6
	 * for kl, relative to 1 at least.
	 */
	void (*policy)(float *logits, size_t ld, const int *ids, const float *weight, const struct teacher_rows *teacher,
	    float kl_weight, float temperature, float *kl, int m, int v);
	/*
	 * logp[m] = log softmax(logits / temperature)[ids] over v columns; entropy[m] of the same, may be NULL.
	 */
	void (*logprob)(float *logp, float *entropy, const float *logits, size_t ld, const int *ids,
	    float temperature, int m, int v);

	/*
	 * Draw ids[m] from logits [m, ld], which become the probabilities after temperature and filters (0 for the
	 * removed). uniform [m] in [0, 1): the first id whose cumulated probability exceeds it, in id order. logp: log
	 * of that probability; model_logp: log softmax of the raw logits there.
	 */
	void (*sample)(int *ids, float *logp, float *model_logp, float *logits, size_t ld, const struct sampling *s,
	    const float *uniform, int m, int v);

	/*
	 * Draw ids[m] from a mixture: probabilities p [m, ld], as sample leaves them, become (1 - share) p + share other;
	 * ids and logp are as sample's.
	 */
	void (*mix)(int *ids, float *logp, float *p, const float *other, size_t ld, float share, const float *uniform,
	    int m, int v);

	/* The k largest of softmax(logits / tau) by row, descending, lower ids first: ids, log-probabilities, log of the rest. */
	void (*topk)(int32_t *ids, float *logprobs, float *log_tail, const float *logits, size_t ld, int k, int m, int v);

	/* log softmax over v columns in place: logits become log-probabilities. */
	void (*log_softmax)(float *logits, size_t ld, int m, int v);

	/*
	 * Decoupled weight decay (Loshchilov and Hutter): w -= lr decay w; m, v moments; w -= lr (m / correction1) /
	 * (sqrt(v / correction2) + eps). f32 weights: lo NULL. bf16 weights: the f32 master is the bits (w << 16) +
	 * (int16) lo, so w is always the master rounded to nearest. bf16 weights without lo are rounded at random, right
	 * in the mean: the new weight's bits are (bits + word % 2^16) >> 16, where word is the element's as dropout has
	 * it, but with 1 as the last word of the counter. g is zeroed.
	 */
	void (*adamw)(void *w, enum dtype type, int16_t *lo, float *m, float *v, float *g, size_t n,
	    const struct adamw *h);
	/*
	 * Rows are independent. Sums are f64 in the definition; codes differ where rounding decides a tie. All arrays
	 * are host memory, and the call waits: LAPACK is before it, and files behind.
	 */
	void (*gptq)(const struct gptq *g);
	/* *sum += sum of squares of x[n] (double, backend memory), in an order fixed by n alone. */
	void (*sum_squares)(double *sum, const float *x, size_t n);
};

extern const struct backend backend_ref, backend_avx2, backend_avx512;
extern const struct backend backend_cuda;	/* kernels/cuda_row.c or kernels/cuda_none.c: chosen when linking */

/* The row called `name`, or the fastest usable one for NULL; NULL if there is none or it cannot run here. */
const struct backend *backend_pick(const char *name);
/* Why backend_pick() returned NULL: the end of a sentence about `name`. */
const char *backend_why(const char *name);
/* n elements of `size` bytes in its memory, zeroed. Dies when there is none for `what`. */
void *backend_alloc(const struct backend *be, size_t n, size_t size, const char *what);
/* All rows, fastest first, NULL-terminated. */
extern const struct backend *const backends[];

#endif
