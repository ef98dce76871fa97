/* SPDX-License-Identifier: MIT */
/*
 * quant_blocks - products with quantised weights
 *
 * Included after kernels/matmul_blocks.h by machines whose words are f32. What f32 has to stay f32 is multiplied by the
 * weights that the codes stand for, which f32 holds exactly, in the order of any f32 product: one row by weights
 * that never leave the registers, more by a block of them at a time.
 *
 * All else is multiplied in whole numbers. The sum is cut into at most CUT inputs of one group. Activations become
 * integers of 16 bits under a power of two that is the cut's: all bits of a bf16 that is not 128 times smaller than
 * the cut's largest, and of others more than rounding takes off the largest. Sums of whole numbers
 * (kernels/whole_blocks.h) have one order for any number of rows. A word is two integers. Where there are many rows,
 * codes are expanded to words of a panel, less their zeros; a few rows use them from registers, while they stream in
 * from memory, and start from what the zeros take off the sum.
 */
#include <math.h>
#include <string.h>

#include "kernels/quant.h"
#include "kernels/shared.h"

enum {
	CUT = 128,			/* inputs; and those of a block of weights for a few rows */
	ONCE = NARROW,			/* rows that use the codes as they stream in */
	CHAINS = 4,			/* sums of one row, which hide each other's latency */
	FETCH = 4096,			/* bytes ahead */
	FEW = 1 << 11,			/* activations that one thread makes whole numbers of */
};

/* Activations in whole numbers: x[r, i] = scale x integer. */
struct whole {
	uint32_t *x;			/* [rows][words], pairs of 16 bits */
	float *scale;			/* [cuts][stride] */
	int32_t *sum;			/* [cuts][stride]: of the integers */
	int words, cut, stride;		/* cut: words of one */
};

/* The widest cut of whole groups: groups are cut evenly, a single one may leave a rest. */
static int
cut_inputs(const struct quant *q, int k)
{
	int n = CUT;

	if (q->group < k)
		for (n = min(CUT, q->group); q->group % n; )
			n -= QUANT_WORD;
	return n;
}

/* The integers of a cut, zeros behind its end, and their sum. Of what is not finite the scale is NaN. */
static void
whole_cut(const float x[CUT], int16_t to[CUT], float *scale, int32_t *sum)
{
	uint32_t bits[CUT], most = 0, power[3];
	float factor[3];			/* of x, of the integers, and the magic */
	int32_t total = 0;
	int i;

	memcpy(bits, x, sizeof bits);
	for (i = 0; i < CUT; i++)
		most = (bits[i] & 0x7fffffff) > most ? bits[i] & 0x7fffffff : most;
	most >>= 23;
	*scale = most == 255 ? NAN : 0;
	most = most < LEAST ? LEAST : most;
	power[0] = (268 - most) << 23;
	power[1] = (most - 14) << 23;
	power[2] = MAGIC;
	memcpy(factor, power, sizeof factor);
	for (i = 0; i < CUT; i++) {
		float y = x[i] * factor[0] + factor[2], top = factor[2] + INT16_MAX;
		uint32_t integer;

		y = y < top ? y : top;
		memcpy(&integer, &y, sizeof y);
		to[i] = (int16_t)integer;
		total += (int32_t)(integer - MAGIC);
	}
	*scale += factor[1];
	*sum = total;
}

static void
whole_row(const struct whole *h, int row, const void *x, enum dtype type, const struct weight *w)
{
	const int *order = w->quant.order;
	uint32_t *to = h->x + (size_t)row * (size_t)h->words;
	size_t from = (size_t)row * (size_t)w->k, out = (size_t)row;
	const float *f = (const float *)x + from;
	const uint16_t *half = (const uint16_t *)x + from;
	int16_t integers[CUT];
	float line[CUT];
	int at, i, n;

	for (at = 0; at < h->words; at += h->cut, out += (size_t)h->stride, f += n, half += n) {
		n = min(2 * h->cut, w->k - 2 * at);
		for (i = n; i < CUT; i++)
			line[i] = 0;
		for (i = 0; i < n && order; i++)
			line[i] = type == DT_BF16 ? bf16_to_f32(((const uint16_t *)x)[from + (size_t)order[2 * at + i]]) :
			    ((const float *)x)[from + (size_t)order[2 * at + i]];
		for (i = 0; i < n && !order; i++)
			line[i] = type == DT_BF16 ? bf16_to_f32(half[i]) : f[i];
		whole_cut(line, integers, &h->scale[out], &h->sum[out]);
		memcpy(to + at, integers, (size_t)min(h->cut, h->words - at) * sizeof *to);
	}
}

/* All rows of x. The scales of rows that only tiles have are zeros. */
static struct whole
whole_of(const void *x, enum dtype type, const struct weight *w, int rows)
{
	int words = quant_padded(w->k) / 2, cut = cut_inputs(&w->quant, w->k) / 2, cuts = (words + cut - 1) / cut, r;
	struct whole h = { .words = words, .cut = cut, .stride = rows + ROWS };
	size_t scales = (size_t)cuts * (size_t)h.stride, all = (size_t)rows * (size_t)words;

	h.x = scratch(OF_PRODUCT, (all + 2 * scales) * sizeof *h.x);
	h.scale = (float *)(h.x + all);
	h.sum = (int32_t *)(h.scale + scales);
	memset(h.scale, 0, 2 * scales * sizeof *h.scale);
	SHARED((size_t)rows * (size_t)w->k > FEW,
	    for (r = 0; r < rows; r++)
		whole_row(&h, r, x, type, w);
	);
	return h;
}

/* A cut of a panel and of rows: the group, whose scales come first, and codes; the rows' scales and sums. */
struct cut {
	const char *group, *codes;
	const float *scale;
	const int32_t *sum;
	int left;			/* words of the group from here on */
};

static inline struct cut
cut_at(const struct product *p, int row, int col, int word)
{
	const struct quant *q = &p->w->quant;
	size_t at = (size_t)(word / p->cut) * (size_t)p->whole->stride + (size_t)row;
	const char *group = quant_group(p->w, col, word * 2 / q->group);
	int within = word * 2 % q->group;

	return (struct cut){ group, group + quant_head(q) + quant_codes(q, within), p->whole->scale + at,
	    p->whole->sum + at, (q->group - within) / 2 };
}

static inline struct scales
cut_scales(const struct cut *k)
{
	return (struct scales){ k->scale, NULL, (const uint16_t *)k->group };
}

static inline void
cut_next(struct cut *k, const struct product *p)
{
	const struct quant *q = &p->w->quant;

	k->codes += quant_codes(q, p->cut * 2);
	k->scale += p->whole->stride;
	k->sum += p->whole->stride;
	k->left -= p->cut;
	if (k->left <= 0) {
		k->group = k->codes;
		k->codes += quant_head(q);
		k->left = q->group / 2;
	}
}

/* Pair number `pair` of LANES words of codes. */
static inline __attribute__((always_inline)) vec
code_pair(vec codes, int bits, int pair)
{
	vec x = pair ? vec_right(codes, bits * pair) : codes;

	return bits * (pair + 1) == 16 ? x : vec_and(x, bits == 4 ? 0x000f000f : 0x00ff00ff);
}

/* Zeros of LANES outputs from h on, as integers of the codes that lie there. */
static inline __attribute__((always_inline)) vec
code_zeros(const char *group, int h, int bits, int asymmetric)
{
	const uint32_t middle = 1u << (bits - 1);
	vec zero = vec_word(&middle);

	if (asymmetric)
		zero = vec_plus(zero, vec_integer(vec_half((const uint16_t *)group + PANEL + h)));
	return zero;
}

static inline __attribute__((always_inline)) void
expand(uint32_t *b, const char *group, const char *codes, int words, int bits, int asymmetric)
{
	const int pairs = 16 / bits;
	const uint32_t both = 0x10001;
	int i, j, h;

	for (h = 0; h < PANEL; h += LANES) {
		vec zero = vec_times(code_zeros(group, h, bits, asymmetric), vec_word(&both));
		const char *from = codes + h * 4;

		for (i = 0; i < words; i += pairs, from += PANEL * 4)
			#pragma GCC unroll 4
			for (j = 0; j < pairs; j++)
				vec_store(b + (i + j) * PANEL + h, vec_minus_halves(code_pair(vec_load(from), bits, j), zero));
	}
}

static const uint32_t *
panel_codes(uint32_t *b, const struct product *p, int col, int word, int words)
{
	const struct quant *q = &p->w->quant;
	struct cut k = cut_at(p, 0, col, word);
	int at, n;

	for (at = 0; at < words; at += n, cut_next(&k, p)) {
		n = min(p->cut, words - at);
		if (q->bits == 4)
			expand(b + at * PANEL, k.group, k.codes, n, 4, q->asymmetric);
		else
			expand(b + at * PANEL, k.group, k.codes, n, 8, q->asymmetric);
	}
	return b;
}

/* A strip of rows times a cut of codes, from memory. One row has a sum for every CHAINS-th word. */
static inline __attribute__((always_inline)) void
whole_stream(float *total, const uint32_t *x, int words, const struct cut *k, int bits, int asymmetric, int rows,
    int fused)
{
	const int pairs = 16 / bits, chains = rows == 1 ? CHAINS : 1;
	struct scales scales = cut_scales(k);
	vec sum[ROWS][2];
	int h, i, j, r, v;

	for (h = 0; h < PANEL; h += 2 * LANES) {
		const char *from = k->codes + h * 4;
		const uint32_t *xi = x;

		#pragma GCC unroll 2
		for (v = 0; v < 2; v++) {
			vec zero = code_zeros(k->group, h + v * LANES, bits, asymmetric);

			#pragma GCC unroll 12
			for (r = 0; r < rows; r++)
				sum[r][v] = vec_minus((vec){ 0 }, vec_times(zero, vec_word((const uint32_t *)k->sum + r)));
			#pragma GCC unroll 4
			for (r = 1; r < chains; r++)
				sum[r][v] = (vec){ 0 };
		}
		for (i = 0; i < words; i += CHAINS, from += CHAINS / pairs * PANEL * 4)
			#pragma GCC unroll 4
			for (j = 0; j < CHAINS; j++, xi += rows) {
				const char *line = from + j / pairs * PANEL * 4;
				vec b0 = code_pair(vec_load(line), bits, j % pairs);
				vec b1 = code_pair(vec_load(line + LANES * 4), bits, j % pairs);

				if (j % pairs == 0) {
					_mm_prefetch(line + FETCH, _MM_HINT_T0);
					if (2 * LANES == PANEL)
						_mm_prefetch(line + FETCH + LINE, _MM_HINT_T0);
				}
				#pragma GCC unroll 12
				for (r = 0; r < rows; r++) {
					vec xr = vec_word(xi + r);

					sum[r + j % chains][0] = dot_whole(sum[r + j % chains][0], xr, b0, fused);
					sum[r + j % chains][1] = dot_whole(sum[r + j % chains][1], xr, b1, fused);
				}
			}
		#pragma GCC unroll 4
		for (r = 1; r < chains; r++)
			#pragma GCC unroll 2
			for (v = 0; v < 2; v++)
				sum[0][v] = vec_plus(sum[0][v], sum[r][v]);
		settle(total, 1, sum, &scales, h, rows);
	}
}

typedef void stream_function(float *total, const uint32_t *x, int words, const struct cut *k, const struct quant *q);
#define WHOLE_STREAM(name, rows, fused) \
	static void \
	name(float *total, const uint32_t *x, int words, const struct cut *k, const struct quant *q) \
	{ \
		if (q->bits == 4 && !q->asymmetric) \
			whole_stream(total, x, words, k, 4, 0, rows, fused); \
		else if (q->bits == 4) \
			whole_stream(total, x, words, k, 4, 1, rows, fused); \
		else \
			whole_stream(total, x, words, k, 8, q->asymmetric, rows, fused); \
	}
WHOLE_STREAM(stream_one, 1, 0)
WHOLE_STREAM(stream_1, ROW_UNIT, 0)
WHOLE_STREAM(stream_2, 2 * ROW_UNIT, 0)
WHOLE_STREAM(stream_3, 3 * ROW_UNIT, 0)
WHOLE_STREAM(fused_stream_one, 1, 1)
WHOLE_STREAM(fused_stream_1, ROW_UNIT, 1)
WHOLE_STREAM(fused_stream_2, 2 * ROW_UNIT, 1)
WHOLE_STREAM(fused_stream_3, 3 * ROW_UNIT, 1)

static stream_function *
stream_of(int rows)
{
	static stream_function *const apart[] = { stream_one, stream_1, stream_2, stream_3 };
	static stream_function *const fused[] = { fused_stream_one, fused_stream_1, fused_stream_2, fused_stream_3 };

	return (dot_fuses() ? fused : apart)[shape(rows)];
}

/* A tile, cut by cut. */
static void
multiply_whole(const struct product *p, float *total, const uint32_t *a, const uint32_t *b, int row, int rows, int col,
    int word, int words, struct ahead *next)
{
	struct cut k = cut_at(p, row, col, word);
	int end = word + words, n;

	for (; word < end; word += n, a += n * shape_rows(rows), b += n * PANEL, cut_next(&k, p)) {
		struct scales scales = cut_scales(&k);

		n = min(p->cut, end - word);
		multiply_cut(total, word > 0, a, b, rows, n, &scales, next);
	}
}

/* A thread's share of the panels: the strips take turns at each cut, which the first brings from memory. */
static void
stream_part(const struct product *p, const struct part *part, int strip)
{
	const uint32_t *x = narrow_pack(p, strip);
	_Alignas(LINE) float total[ONCE * PANEL];
	int row, col, word, words;

	for (col = part->col; col < part->col_end; col += PANEL) {
		struct cut k = cut_at(p, 0, col, 0);

		memset(total, 0, (size_t)(p->rows * PANEL) * sizeof *total);
		for (word = 0; word < p->words; word += words, cut_next(&k, p)) {
			words = min(p->cut, p->words - word);
			for (row = 0; row < p->rows; row += strip) {
				int rows = min(strip, p->rows - row);
				struct cut of = k;

				of.scale += row;
				of.sum += row;
				stream_of(rows)(total + row * PANEL, x + (size_t)row * (size_t)p->words +
				    (size_t)(word * shape_rows(rows)), words, &of, &p->w->quant);
			}
		}
		p->finish(p, total, 0, p->rows, col);
	}
}

/* Codes of n inputs of one group. */
struct run {
	const char *group, *codes;
	int n;
};

/* The first of a panel's inputs i .. end-1. */
static inline struct run
run_at(const struct weight *w, int col, int i, int end)
{
	const char *group = quant_group(w, col, i / w->quant.group);
	int within = i % w->quant.group;

	return (struct run){ group, group + quant_head(&w->quant) + quant_codes(&w->quant, within),
	    min(w->quant.group - within, end - i) };
}

/* What a code's weight is more than its product with the scale. */
static inline __attribute__((always_inline)) vec
offset(const char *group, int h, vec scale, int bits, int asymmetric)
{
	return (vec){ 0 } - vec_float(code_zeros(group, h, bits, asymmetric)) * scale;
}

/* Weights of LANES outputs, of input number j of a word of codes. */
static inline __attribute__((always_inline)) vec
weight_of(vec codes, vec scale, vec least, int bits, int j)
{
	return vec_fma(least, vec_digit(codes, bits, 16 * (j % 2) + bits * (j / 2)), scale);
}

static inline __attribute__((always_inline)) void
weigh(uint32_t *b, const struct run *r, int bits, int asymmetric)
{
	int i, j, h;

	for (h = 0; h < PANEL; h += LANES) {
		vec scale = vec_half((const uint16_t *)r->group + h), least = offset(r->group, h, scale, bits, asymmetric);
		const char *from = r->codes + h * 4;

		for (i = 0; i < r->n; i += 32 / bits, from += PANEL * 4) {
			vec codes = vec_load(from);

			_mm_prefetch(from + FETCH, _MM_HINT_T0);
			#pragma GCC unroll 8
			for (j = 0; j < 32 / bits; j++)
				vec_store(b + (i + j) * PANEL + h, weight_of(codes, scale, least, bits, j));
		}
	}
}

static const uint32_t *
panel_weights(uint32_t *b, const struct product *p, int col, int word, int words)
{
	const struct quant *q = &p->w->quant;
	struct run r;
	int at;

	for (at = 0; at < words; at += r.n) {
		r = run_at(p->w, col, word + at, word + words);
		if (q->bits == 4 && !q->asymmetric)
			weigh(b + at * PANEL, &r, 4, 0);
		else if (q->bits == 4)
			weigh(b + at * PANEL, &r, 4, 1);
		else
			weigh(b + at * PANEL, &r, 8, q->asymmetric);
	}
	return b;
}

/* The sums of one row go on. */
static inline __attribute__((always_inline)) void
weigh_row(float sums[PANEL], const uint32_t *x, const struct run *r, int bits, int asymmetric)
{
	int i, j, h, v;

	for (h = 0; h < PANEL; h += 2 * LANES) {
		const char *from = r->codes + h * 4;
		vec sum[2], scale[2], least[2], codes[2];

		for (v = 0; v < 2; v++) {
			scale[v] = vec_half((const uint16_t *)r->group + h + v * LANES);
			least[v] = offset(r->group, h + v * LANES, scale[v], bits, asymmetric);
			sum[v] = vec_load(sums + h + v * LANES);
		}
		for (i = 0; i < r->n; i += 32 / bits, from += PANEL * 4) {
			for (v = 0; v < 2; v++) {
				codes[v] = vec_load(from + v * LANES * 4);
				_mm_prefetch(from + v * LANES * 4 + FETCH, _MM_HINT_T0);
			}
			#pragma GCC unroll 8
			for (j = 0; j < 32 / bits; j++)
				#pragma GCC unroll 2
				for (v = 0; v < 2; v++)
					sum[v] = vec_fma(sum[v], vec_word(x + i + j), weight_of(codes[v], scale[v], least[v], bits, j));
		}
		for (v = 0; v < 2; v++)
			vec_store(sums + h + v * LANES, sum[v]);
	}
}

static void
weights_row(const struct product *p, const struct part *part, int strip)
{
	const struct quant *q = &p->w->quant;
	const uint32_t *x = narrow_pack(p, strip);
	_Alignas(LINE) float sums[PANEL];
	struct run r;
	int col, at;

	for (col = part->col; col < part->col_end; col += PANEL) {
		memset(sums, 0, sizeof sums);
		for (at = 0; at < p->words; at += r.n) {
			r = run_at(p->w, col, at, p->words);
			if (q->bits == 4 && !q->asymmetric)
				weigh_row(sums, x + at, &r, 4, 0);
			else if (q->bits == 4)
				weigh_row(sums, x + at, &r, 4, 1);
			else
				weigh_row(sums, x + at, &r, 8, q->asymmetric);
		}
		p->finish(p, sums, 0, 1, col);
	}
}

static void
pack_scattered(uint32_t *a, const struct product *p, int row, int rows, int word, int words, int stride)
{
	const int *order = p->w->quant.order;
	int i, r;

	for (i = word; i < word + words; i++)
		for (r = 0; r < stride; r++, a++)
			if (i < p->w->k)
				memcpy(a, matrix_at(&p->x, row + min(r, rows - 1), order[i]), sizeof *a);
			else
				*a = 0;
}

/* A thread's share of the panels: each block of weights serves all strips. */
static void
weights_part(const struct product *p, const struct part *part, int strip)
{
	const uint32_t *a = narrow_pack(p, strip);
	_Alignas(LINE) uint32_t b[CUT * PANEL];
	_Alignas(LINE) float c[NARROW * PANEL];
	struct ahead none = { .words = (char *)b, .sums = (char *)c };
	int col, word, words, row;

	for (col = part->col; col < part->col_end; col += PANEL) {
		for (word = 0; word < p->words; word += words) {
			words = min(CUT, p->words - word);
			panel_weights(b, p, col, word, words);
			for (row = 0; row < p->rows; row += strip) {
				int rows = min(strip, p->rows - row);

				tiles[shape(rows)](c + row * PANEL, a + (size_t)row * (size_t)p->words +
				    (size_t)(word * shape_rows(rows)), b, words, word > 0, &none);
			}
		}
		p->finish(p, c, 0, p->rows, col);
	}
}

static void
forward_f32(float *y, const float *x, const struct weight *w, const float *b, int m, int n, int accumulate)
{
	struct product p = {
		.rows = m, .cols = n, .sum = w->k, .words = quant_padded(w->k),
		.pack_rows = w->quant.order ? pack_scattered : pack_turned, .pack_cols = panel_weights,
		.multiply = multiply_words, .finish = finish_rows,
		.x = { x, DT_F32, w->k }, .w = w, .b = b, .y = y, .ytype = DT_F32, .accumulate = accumulate,
	};

	product_run(&p, m == 1 ? weights_row : m <= NARROW ? weights_part : product_part);
}

static void
forward_whole(void *y, enum dtype ytype, const void *x, enum dtype xtype, const struct weight *w, const float *b,
    int m, int n, int accumulate)
{
	struct whole whole = whole_of(x, xtype, w, m);
	struct product p = {
		.rows = m, .cols = n, .sum = whole.words, .words = whole.words, .cut = whole.cut, .pack_rows = pack_turned,
		.pack_cols = panel_codes, .multiply = multiply_whole, .finish = finish_rows,
		.x = { whole.x, DT_F32, whole.words }, .w = w, .whole = &whole, .b = b, .y = y,
		.ytype = ytype, .accumulate = accumulate,
	};

	product_run(&p, m <= ONCE ? stream_part : product_part);
}

static void
forward_quantised(void *y, enum dtype ytype, const void *x, enum dtype xtype, const struct weight *w, const float *b,
    int m, int n, int accumulate)
{
	if (xtype == DT_F32 && ytype == DT_F32)
		forward_f32(y, x, w, b, m, n, accumulate);
	else
		forward_whole(y, ytype, x, xtype, w, b, m, n, accumulate);
}
