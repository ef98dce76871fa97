/* SPDX-License-Identifier: MIT */
/*
 * quant_blocks - products with quantised weights, in the terms of kernels/matmul_blocks.h
 *
 * Included after it. The codes less their zeros are whole numbers, exact in f32 and bf16, and take the place of
 * weights: the products of a group are one chain of multiply-adds from 0, and groups are added up in their
 * order, each multiplied by its scale:
 *
 *	total = scale x sum + total
 *
 * That is the order for any number of rows. Where there are many, codes are expanded to words of a panel in L1
 * and go through the tiles; a few rows use them from registers, while the codes stream in from memory. The
 * machine says how words are made: code4_word() of symmetric codes of 4 bits, word_of() of WORD numbers.
 */
#include "kernels/quant.h"

enum {
	UNIT = QUANT_WORD / WORD,	/* words of the inputs that lie together */
	STREAMS = 4 * LANES / PANEL,	/* panels at once for one row */
	FETCH = 2048,			/* bytes ahead */
};

/* Word `word` of the unit of codes at p, of LANES outputs from h on; zero NULL: symmetric. */
static inline __attribute__((always_inline)) vec
code_word(const char *p, int bits, int word, int h, const vec *zero)
{
	vec x[WORD];
	int i;

	if (bits == 4 && !zero)
		return code4_word(p + h * 4, word);
	#pragma GCC unroll 2
	for (i = 0; i < WORD; i++) {
		int input = word * WORD + i;

		x[i] = bits == 4 ? vec_code4(p + h * 4, 16 * (input % 2) + 4 * (input / 2)) :
		    vec_code8(p + input * PANEL + h);
		if (zero)
			x[i] -= *zero;
	}
	return word_of(x);
}

/* Where the group of a word begins. */
static inline const char *
group_at(const struct product *p, int col, int word)
{
	return quant_group(p->w, col, word / p->group);
}

/* The codes of a word, which is the first of a unit. */
static inline const char *
codes_at(const struct product *p, int col, int word)
{
	return group_at(p, col, word) + quant_head(&p->w->quant) +
	    quant_codes(&p->w->quant, word % p->group * WORD);
}

static inline __attribute__((always_inline)) void
expand(uint32_t *b, const struct product *p, int col, int word, int words, int bits, int asymmetric)
{
	const char *codes = codes_at(p, col, word);
	const uint16_t *zeros = (const uint16_t *)group_at(p, col, word) + PANEL;
	int i, j, h;

	for (h = 0; h < PANEL; h += LANES) {
		vec zero = asymmetric ? vec_half(zeros + h) : (vec){ 0 };
		const char *unit = codes;

		for (i = 0; i < words; i += UNIT, unit += UNIT * WORD * PANEL * bits / 8)
			#pragma GCC unroll 8
			for (j = 0; j < UNIT; j++)
				vec_store(b + (i + j) * PANEL + h, code_word(unit, bits, j, h, asymmetric ? &zero : NULL));
	}
}

static const uint32_t *
panel_codes(uint32_t *b, const struct product *p, int col, int word, int words)
{
	const struct quant *q = &p->w->quant;

	if (q->bits == 4 && !q->asymmetric)
		expand(b, p, col, word, words, 4, 0);
	else
		expand(b, p, col, word, words, q->bits, q->asymmetric);
	return b;
}

/* total = scale sum + total, of the group of a word. */
static void
fold_group(const struct product *p, float *total, const float *sum, int rows, int col, int word)
{
	const uint16_t *scales = (const uint16_t *)group_at(p, col, word);
	int r, h;

	for (h = 0; h < PANEL; h += LANES) {
		vec scale = vec_half(scales + h);

		for (r = 0; r < rows; r++)
			vec_store(total + r * PANEL + h, vec_fma(vec_load(total + r * PANEL + h), scale,
			    vec_load(sum + r * PANEL + h)));
	}
}

/* Codes of a group in `panels` panels, from column h of the first on, and where they lie. */
struct codes {
	const char *group;
	size_t panel;			/* bytes from panel to panel */
	int h;
};

static inline __attribute__((always_inline)) const char *
panel_of(const struct codes *k, int v)
{
	return k->group + (size_t)((k->h + v * LANES) / PANEL) * k->panel;
}

static inline __attribute__((always_inline)) int
lane_of(const struct codes *k, int v)
{
	return (k->h + v * LANES) % PANEL;
}

/* A strip of rows, x [words][rows], times a group of so many vectors of outputs: total [panels][rows][PANEL]. */
static inline __attribute__((always_inline)) void
stream_group(float *total, const uint32_t *x, const struct codes *k, int words, int bits, int asymmetric, int rows,
    int vectors)
{
	size_t head = (size_t)PANEL * 2 * (asymmetric ? 2 : 1), unit = (size_t)QUANT_WORD * PANEL * (size_t)bits / 8;
	vec sum[ROWS][4], zero[4], scale;
	int word, i, v, r;

	#pragma GCC unroll 4
	for (v = 0; v < vectors; v++) {
		zero[v] = asymmetric ? vec_half((const uint16_t *)panel_of(k, v) + PANEL + lane_of(k, v)) : (vec){ 0 };
		#pragma GCC unroll 12
		for (r = 0; r < rows; r++)
			sum[r][v] = (vec){ 0 };
	}
	for (word = 0; word < words; word += UNIT, head += unit, x += UNIT * rows) {
		#pragma GCC unroll 8
		for (i = 0; i < vectors * LANES * bits; i += LINE)
			_mm_prefetch(panel_of(k, i / (LANES * bits)) + head + k->h % PANEL * bits + i % (PANEL * bits) + FETCH,
			    _MM_HINT_T0);
		#pragma GCC unroll 8
		for (i = 0; i < UNIT; i++) {
			vec w[4], xi;

			#pragma GCC unroll 4
			for (v = 0; v < vectors; v++)
				w[v] = code_word(panel_of(k, v) + head, bits, i, lane_of(k, v), asymmetric ? &zero[v] : NULL);
			#pragma GCC unroll 12
			for (r = 0; r < rows; r++) {
				xi = vec_word(x + i * rows + r);
				#pragma GCC unroll 4
				for (v = 0; v < vectors; v++)
					sum[r][v] = dot(sum[r][v], xi, w[v]);
			}
		}
	}
	#pragma GCC unroll 4
	for (v = 0; v < vectors; v++) {
		float *to = total + (k->h + v * LANES) / PANEL * rows * PANEL + lane_of(k, v);

		scale = vec_half((const uint16_t *)panel_of(k, v) + lane_of(k, v));
		#pragma GCC unroll 12
		for (r = 0; r < rows; r++)
			vec_store(to + r * PANEL, vec_fma(vec_load(to + r * PANEL), scale, sum[r][v]));
	}
}

/* All groups of the panels from col on. Four chains hide the latency of one row; of more, two vectors fill the registers. */
static inline __attribute__((always_inline)) void
stream(float *c, const struct product *p, const uint32_t *x, int col, int bits, int asymmetric, int rows,
    int panels)
{
	const int vectors = rows == 1 && panels * PANEL >= 4 * LANES ? 4 : 2;
	struct codes k = { group_at(p, col, 0), quant_panel_bytes(&p->w->quant, p->w->k), 0 };
	int word;

	memset(c, 0, (size_t)(panels * rows * PANEL) * sizeof *c);
	for (word = 0; word < p->words; word += p->group) {
		int words = min(p->group, p->words - word);

		#pragma GCC unroll 4
		for (k.h = 0; k.h < panels * PANEL; k.h += vectors * LANES)
			stream_group(c, x + word * rows, &k, words, bits, asymmetric, rows, vectors);
		k.group += quant_head(&p->w->quant) + quant_codes(&p->w->quant, words * WORD);
	}
}

typedef void stream_function(float *c, const struct product *p, const uint32_t *x, int col);
#define STREAM(name, ...) \
	static void \
	name(float *c, const struct product *p, const uint32_t *x, int col) \
	{ \
		const struct quant *q = &p->w->quant; \
		\
		if (q->bits == 4 && !q->asymmetric) \
			stream(c, p, x, col, 4, 0, __VA_ARGS__); \
		else if (q->bits == 8 && !q->asymmetric) \
			stream(c, p, x, col, 8, 0, __VA_ARGS__); \
		else \
			stream(c, p, x, col, q->bits, q->asymmetric, __VA_ARGS__); \
	}
STREAM(stream_one, 1, 1)
STREAM(stream_side_by_side, 1, STREAMS)
STREAM(stream_1, ROW_UNIT, 1)
STREAM(stream_2, 2 * ROW_UNIT, 1)
STREAM(stream_3, 3 * ROW_UNIT, 1)
static stream_function *const streams[] = { stream_one, stream_1, stream_2, stream_3 };

/* A thread's share of the panels: one row takes STREAMS at once, and each strip reads the codes again, from the cache. */
static void
stream_part(const struct product *p, const struct part *part, int strip)
{
	const uint32_t *x = narrow_pack(p, strip);
	float c[ROWS * PANEL];		/* ROWS > STREAMS */
	int i, row, col, side;

	for (col = part->col; col < part->col_end; col += side * PANEL) {
		side = p->rows == 1 && col + STREAMS * PANEL <= part->col_end ? STREAMS : 1;
		for (row = 0; row < p->rows; row += strip) {
			int rows = min(strip, p->rows - row);

			(side > 1 ? stream_side_by_side : streams[shape(rows)])(c, p, x + (size_t)row * (size_t)p->words, col);
			for (i = 0; i < side; i++)
				p->finish(p, c + i * rows * PANEL, row, rows, col + i * PANEL);
		}
	}
}

/* x with its columns in the order of the weight's places; to be freed. */
static void *
ordered(const void *x, size_t size, const struct weight *w, int m)
{
	char *y = alloc_cpu((size_t)m * (size_t)w->k * size);
	const char *from = x;
	int r, i;

	if (!y)
		die("no memory for a matrix product");
	for (r = 0; r < m; r++, from += (size_t)w->k * size)
		for (i = 0; i < w->k; i++)
			memcpy(y + ((size_t)r * (size_t)w->k + (size_t)i) * size, from + (size_t)w->quant.order[i] * size, size);
	return y;
}

static void
forward_quantised(void *y, enum dtype ytype, const void *x, enum dtype xtype, const struct weight *w, const float *b,
    int m, int n, int accumulate)
{
	void *turned = w->quant.order ? ordered(x, xtype == DT_BF16 ? 2 : 4, w, m) : NULL;
	struct product p = {
		.rows = m, .cols = n, .sum = w->k, .words = quant_padded(w->k) / WORD, .group = w->quant.group / WORD,
		.pack_rows = pack_turned, .pack_cols = panel_codes, .finish = finish_rows, .fold = fold_group,
		.x = { turned ? turned : x, xtype, w->k }, .w = w, .b = b, .y = y, .ytype = ytype,
		.accumulate = accumulate,
	};

	product_run(&p, m <= NARROW ? stream_part : product_part);
	free_cpu(turned);
}
