/* SPDX-License-Identifier: MIT */
/*
 * matmul_blocks - the three matrix products as one blocked product C = A B
 *
 * Included by kernels/matmul_MACHINE.c after the registers (vec) and dot(), the
 * multiply-add. Everything is in words of 32 bits along the sum: one f32, or where
 * PAIRS is 1 two bf16, whose product dot() adds up; or, where WHOLE is 1 too, what
 * kernels/whole_blocks.h makes of them.
 *
 *	          rows of C    columns of C    sum
 *	forward   tokens       outputs         inputs
 *	dx        tokens       inputs          outputs
 *	dw        inputs       outputs         tokens
 *
 * A (activations) is packed in strips of ROWS rows at most, [word][rows]. B comes in
 * panels of PANEL columns, [word][PANEL]: the weights' own panels as they lie,
 * where their type is the word's; else a block of them is expanded or turned
 * just before its use. A tile of ROWS x PANEL sums stays in registers over a
 * block of words and is carried from block to block as f32. So each element is
 * one chain of multiply-adds in the order of the sum, whatever the tile, the
 * block, the thread and the number of rows: a row's result does not depend on
 * its company. Quantised weights have tiles of their own (kernels/quant_blocks.h).
 *
 * Sizes: a strip's block stays in L1 while the panels' blocks of a group pass by it from
 * L2; the strips, and the sums that are carried, come once a group from farther away.
 * Each thread owns a rectangle of C.
 */
#include <omp.h>
#include <pthread.h>

#include "kernels/cpu.h"
#include "kernels/panel.h"
#include "lib/base/die.h"

enum {
	WORD_BLOCK = 480,		/* words of a strip in L1, a multiple of PANEL: 23 KiB */
	GROUP_WORDS = 10 * WORD_BLOCK,	/* words of panels in L2: 600 KiB */
	GROUP_PANELS = 40,
	WORD_SPAN = 2560,		/* words of strips packed at once */
	ROW_BLOCK = 1032,		/* rows of strips packed at once */
	TILE = ROWS * PANEL,
	WORD = PAIRS ? 2 : 1,		/* elements of a word */
	NARROW = 3 * ROWS,		/* rows that read the weights as one stream */
	NARROW_WORDS = 1024,		/* of which this many at a time serve all strips */
	SOON = 1024,			/* words of weights from where the only strip is */
	PANEL_AHEAD = 16,		/* words of a panel to fetch early from L2 */
	STRIP_AHEAD = 16,		/* words of a strip */
	ROW_UNIT = ROWS / 3,		/* a tile has one, two or three times as many rows */
	LINE = 64,
	SMALL = 1 << 17,		/* multiply-adds that do not pay a second thread */
};

/* Memory to fetch while a tile is computed. Steps are bytes a word, or pair of words. */
struct ahead {
	const char *words;		/* of weights */
	size_t words_step;
	const char *sums;
	size_t sums_step;
};

/* Activations: rows of cols elements. */
struct matrix {
	const void *data;
	enum dtype type;
	int cols;
};

struct product {
	int rows, cols;			/* of C */
	int sum, words;			/* length of the sum, in elements and words */
	int cut;			/* words that no block divides; 0: those of unit_of() */
	int down;			/* the sum runs down x and dy */
	void (*pack_rows)(uint32_t *a, const struct product *p, int row, int rows, int word, int words, int stride);
	/* Returns the words of the panel at col: b, or where they lie already. */
	const uint32_t *(*pack_cols)(uint32_t *b, const struct product *p, int col, int word, int words);
	/* A tile's words a times b, added to the sums where word > 0. */
	void (*multiply)(const struct product *p, float *sums, const uint32_t *a, const uint32_t *b, int row, int rows,
	    int col, int word, int words, struct ahead *next);
	void (*finish)(const struct product *p, const float *c, int row, int rows, int col);
	struct matrix x, dy;		/* rows; and what dw has for columns */
	const struct weight *w;
	const struct whole *whole;	/* x in whole numbers, where weights are */
	const struct gram *inputs, *outputs;	/* or both, from a column on */
	int input, output;
	const float *b;
	void *y;
	enum dtype ytype;
	int accumulate;
};

static inline int
min(int a, int b)
{
	return a < b ? a : b;
}

/* The least multiple of `unit` that cuts n into as many parts as `most` does. */
static inline int
even_cut(int n, int most, int unit)
{
	int parts = (n + most - 1) / most;

	return ((n + parts - 1) / parts + unit - 1) / unit * unit;
}

/* Tiles: c[rows][PANEL] = (c where `carry`) + the sum over words of a[word][rows] b[word][PANEL] */

static inline __attribute__((always_inline)) void
tile_word(vec sum[ROWS][2], const uint32_t *a, vec b0, vec b1, int rows)
{
	int r;

	#pragma GCC unroll 12
	for (r = 0; r < rows; r++) {
		vec x = vec_word(a + r);

		sum[r][0] = dot(sum[r][0], x, b0);
		sum[r][1] = dot(sum[r][1], x, b1);
	}
}

/* halves: b holds pairs of bf16 and a word is one f32; words is even. */
static inline __attribute__((always_inline)) void
tile(float *c, const uint32_t *a, const uint32_t *b, int words, int carry, const struct ahead *next, int rows,
    int halves)
{
	size_t words_step = next->words_step, sums_step = next->sums_step;
	const char *sums = next->sums;
	int h, r, i;

	for (h = 0; h < PANEL; h += 2 * LANES) {
		const char *p = next->words + h * (int)sizeof *b;
		const uint32_t *ai = a, *bi = b + h;
		vec sum[ROWS][2];

		#pragma GCC unroll 12
		for (r = 0; r < rows; r++) {
			sum[r][0] = carry ? vec_load(c + r * PANEL + h) : (vec){ 0 };
			sum[r][1] = carry ? vec_load(c + r * PANEL + h + LANES) : (vec){ 0 };
		}
		#pragma GCC unroll 2
		for (i = 0; i < words; i += 1 + halves, ai += (1 + halves) * rows, bi += PANEL) {
			vec b0 = vec_load(bi), b1 = vec_load(bi + LANES);

			_mm_prefetch(p, _MM_HINT_T0);
			if (2 * LANES == PANEL)
				_mm_prefetch(p + LINE, _MM_HINT_T0);
			_mm_prefetch(ai + STRIP_AHEAD * rows, _MM_HINT_T0);
			_mm_prefetch(sums, _MM_HINT_T0);
			tile_word(sum, ai, halves ? vec_low(b0) : b0, halves ? vec_low(b1) : b1, rows);
			if (halves)
				tile_word(sum, ai + rows, vec_high(b0), vec_high(b1), rows);
			p += words_step;
			sums += sums_step;
		}
		#pragma GCC unroll 12
		for (r = 0; r < rows; r++) {
			vec_store(c + r * PANEL + h, sum[r][0]);
			vec_store(c + r * PANEL + h + LANES, sum[r][1]);
		}
	}
}

typedef void tile_function(float *c, const uint32_t *a, const uint32_t *b, int words, int carry,
    const struct ahead *next);
#define TILE_OF(name, rows, halves) \
	static void \
	name(float *c, const uint32_t *a, const uint32_t *b, int words, int carry, const struct ahead *next) \
	{ \
		tile(c, a, b, words, carry, next, rows, halves); \
	}
TILE_OF(tile_one, 1, 0)
TILE_OF(tile_1, ROW_UNIT, 0)
TILE_OF(tile_2, 2 * ROW_UNIT, 0)
TILE_OF(tile_3, 3 * ROW_UNIT, 0)
TILE_OF(halves_one, 1, 1)
TILE_OF(halves_1, ROW_UNIT, 1)
TILE_OF(halves_2, 2 * ROW_UNIT, 1)
TILE_OF(halves_3, 3 * ROW_UNIT, 1)

static tile_function *const tiles[] = { tile_one, tile_1, tile_2, tile_3 };
static tile_function *const tiles_halves[] = { halves_one, halves_1, halves_2, halves_3 };

/* Which of them serves a strip of so many rows, and the rows that it computes. */
static inline int
shape(int rows)
{
	return rows == 1 ? 0 : (rows + ROW_UNIT - 1) / ROW_UNIT;
}

static inline int
shape_rows(int rows)
{
	return rows == 1 ? 1 : shape(rows) * ROW_UNIT;
}

/* Packing activations */

static inline const void *
matrix_at(const struct matrix *x, int row, int col)
{
	size_t at = (size_t)row * (size_t)x->cols + (size_t)col;

	return x->type == DT_BF16 ? (const void *)((const uint16_t *)x->data + at) :
	    (const void *)((const float *)x->data + at);
}

/* n elements, followed by zeros up to `full`: where they lie if there are as many, else in `copy`. */
static inline const void *
filled(void *copy, const void *src, enum dtype type, int n, int full)
{
	size_t size = type == DT_BF16 ? 2 : 4;

	if (n >= full)
		return src;
	memset(copy, 0, (size_t)full * size);
	if (n > 0)
		memcpy(copy, src, (size_t)n * size);
	return copy;
}

/* LANES words of a row from word on, zero beyond its end: where they lie, or made in `stage`. */
static inline const uint32_t *
row_words(uint32_t stage[LANES], const struct matrix *x, int row, int word)
{
	enum { FULL = LANES * WORD };
	uint32_t copy[FULL];
	const void *src = filled(copy, matrix_at(x, row, word * WORD), x->type, x->cols - word * WORD, FULL);
	uint16_t half[FULL];
	int i;

	_mm_prefetch((const char *)matrix_at(x, row, word * WORD) + 4 * LINE, _MM_HINT_T0);
	if (x->type == (PAIRS ? DT_BF16 : DT_F32))
		return src == copy ? memcpy(stage, copy, LANES * sizeof *stage) : src;
	if (PAIRS)
		for (i = 0; i < FULL; i++)
			half[i] = f32_to_bf16(((const float *)src)[i]);
	else
		for (i = 0; i < LANES; i++)
			stage[i] = (uint32_t)((const uint16_t *)src)[i] << 16;
	return PAIRS ? memcpy(stage, half, sizeof half) : stage;
}

/*
 * Rows turned into a strip: its words run along them. A store of LANES words
 * spills over the strip's width, into what is written next.
 */
static void
pack_turned(uint32_t *a, const struct product *p, int row, int rows, int word, int words, int stride)
{
	uint32_t stage[LANES][LANES];
	const uint32_t *line[LANES];
	int i, r;

	for (i = 0; i < words && stride == 1; i += LANES)
		memcpy(a + i, row_words(stage[0], &p->x, row, word + i), sizeof stage[0]);
	for (i = 0; i < words && stride > 1; i += LANES) {
		for (r = 0; r < LANES; r++)
			line[r] = r < rows ? row_words(stage[r], &p->x, row + r, word + i) : line[rows - 1];
		transpose(a + i * stride, stride, line);
	}
}

/* LANES words, each of the elements that low and, where words are pairs, high point at. */
static inline vec
words_across(enum dtype type, const void *low, const void *high)
{
	uint16_t half[2][LANES];
	int i;

	if (!PAIRS)
		return type == DT_F32 ? vec_load(low) : vec_widened(low);
	for (i = 0; type == DT_F32 && i < LANES; i++) {
		half[0][i] = f32_to_bf16(((const float *)low)[i]);
		half[1][i] = f32_to_bf16(((const float *)high)[i]);
	}
	return type == DT_F32 ? vec_zipped(half[0], half[1]) : vec_zipped(low, high);
}

/* `width` words across columns: of row `word`, or of the rows 2 word and 2 word + 1, the last of which may lack. */
static inline __attribute__((always_inline)) void
across(uint32_t *to, const struct matrix *x, int rows, int col, int word, int width)
{
	int row = word * WORD, paired = row + WORD <= rows, whole = paired && col + width + LANES <= x->cols, h;
	const char *low = matrix_at(x, row, col), *high = matrix_at(x, paired ? row + WORD - 1 : row, col);
	size_t size = x->type == DT_BF16 ? 2 : 4;
	uint32_t copy[2][LANES];

	_mm_prefetch(low + 2 * LINE, _MM_HINT_T0);
	if (PAIRS)
		_mm_prefetch(high + 2 * LINE, _MM_HINT_T0);
	for (h = 0; whole && x->type == DT_BF16 && h < width; h += LANES)
		vec_store_few(to + h, words_across(DT_BF16, low + 2 * h, high + 2 * h), min(width - h, LANES));
	for (; h < width; h += LANES) {
		const void *first = filled(copy[0], low + (size_t)h * size, x->type, x->cols - col - h, LANES);
		const void *second = filled(copy[1], high + (size_t)h * size, x->type, paired ? x->cols - col - h : 0, LANES);

		vec_store_few(to + h, words_across(x->type, first, second), min(width - h, LANES));
	}
}

/* Columns row .. of x as a strip: the words run down them. */
static void
pack_across(uint32_t *a, const struct product *p, int row, int rows, int word, int words, int stride)
{
	int i;

	(void)rows;
	for (i = 0; i < words; i++)
		if (stride == ROWS)
			across(a + i * ROWS, &p->x, p->sum, row, word + i, ROWS);
		else
			across(a + i * stride, &p->x, p->sum, row, word + i, stride);
}

static const uint32_t *
panel_across(uint32_t *b, const struct product *p, int col, int word, int words)
{
	int i;

	for (i = 0; i < words; i++)
		across(b + i * PANEL, &p->dy, p->sum, col, word + i, PANEL);
	return b;
}

/* Packing weights */

/* Panel col / PANEL of w, in words. */
static inline const uint32_t *
panel_words(const struct weight *w, int col)
{
	size_t words = panel_elements(w->type, w->k) / (w->type == DT_BF16 ? 2 : 1);

	return (const uint32_t *)w->data + (size_t)(col / PANEL) * words;
}

static const uint32_t *
panel_as_is(uint32_t *b, const struct product *p, int col, int word, int words)
{
	(void)b;
	(void)words;
	return panel_words(p->w, col) + (size_t)word * PANEL;
}

/* bf16 pairs become f32 words; word and words are even. */
static const uint32_t *
panel_expanded(uint32_t *b, const struct product *p, int col, int word, int words)
{
	const uint32_t *pairs = panel_words(p->w, col) + (size_t)(word / 2) * PANEL;
	uint32_t *to = b;
	int i, o;

	for (i = 0; i < words; i += 2, to += 2 * PANEL, pairs += PANEL)
		for (o = 0; o < PANEL; o++) {
			to[o] = pairs[o] << 16;
			to[PANEL + o] = pairs[o] & 0xffff0000;
		}
	return b;
}

/* PANEL inputs from col on, of f32 weights: the words run along outputs. */
static const uint32_t *
panel_turned(uint32_t *b, const struct product *p, int col, int word, int words)
{
	const uint32_t *line[LANES];
	int i, h, r;

	for (i = 0; i < words; i += LANES) {
		const uint32_t *from = panel_words(p->w, word + i) + (word + i) % PANEL;

		for (h = 0; h < PANEL; h += LANES) {
			for (r = 0; r < LANES; r++)
				line[r] = from + min(col + h + r, p->w->k - 1) * PANEL;
			transpose(b + i * PANEL + h, PANEL, line);
		}
	}
	return b;
}

/* The same of bf16 weights. Turned pairs are rows of W; and again pairs, of outputs, where words are. */
static const uint32_t *
panel_turned_halves(uint32_t *b, const struct product *p, int col, int word, int words)
{
	uint16_t rows[LANES][PANEL];		/* by output */
	const uint32_t *line[LANES];
	uint32_t *to = b;
	int o, h, r, i, out = word * WORD, end = min(out + words * WORD, p->sum);

	for (; out < end; out += LANES) {
		const uint32_t *from = panel_words(p->w, out) + out % PANEL;

		for (h = 0; h < PANEL / 2; h += LANES) {
			for (r = 0; r < LANES; r++)
				line[r] = from + min(col / 2 + h + r, (p->w->k - 1) / 2) * PANEL;
			transpose((uint32_t *)&rows[0][2 * h], PANEL / 2, line);
		}
		for (o = 0; o < min(LANES, end - out); o += WORD, to += PANEL) {
			if (PAIRS && out + o + 1 == end)
				memset(rows[o + 1], 0, sizeof *rows);
			for (i = 0; i < PANEL; i++)
				to[i] = PAIRS ? rows[o][i] | (uint32_t)rows[o + 1][i] << 16 : (uint32_t)rows[o][i] << 16;
		}
	}
	return b;
}

/* Finishing tiles */

static inline __attribute__((always_inline)) void
finish_line(const struct product *p, const float *c, int row, int col, int n)
{
	size_t at = (size_t)row * (size_t)p->cols + (size_t)col;
	uint16_t *h = (uint16_t *)p->y + at;
	float *f = (float *)p->y + at, line[PANEL];
	int i;

	for (i = 0; i < n; i++)
		line[i] = c[i];
	if (p->b)
		for (i = 0; i < n; i++)
			line[i] += p->b[col + i];
	if (p->accumulate)
		for (i = 0; i < n; i++)
			line[i] += p->ytype == DT_BF16 ? bf16_to_f32(h[i]) : f[i];
	if (p->ytype == DT_BF16)
		for (i = 0; i < n; i++)
			h[i] = f32_to_bf16(line[i]);
	else
		for (i = 0; i < n; i++)
			f[i] = line[i];
}

static void
finish_rows(const struct product *p, const float *c, int row, int rows, int col)
{
	int r, n = min(p->cols - col, PANEL);

	for (r = 0; r < rows; r++, c += PANEL)
		if (n == PANEL)
			finish_line(p, c, row + r, col, PANEL);
		else
			finish_line(p, c, row + r, col, n);
}

/* Rows of the tile are inputs: in the order of f32 weights one after the other, in that of bf16 in pairs. */
static inline __attribute__((always_inline)) void
finish_gradient_panel(const struct product *p, const float *c, int row, int rows, int col, int n)
{
	float *dw = (float *)p->y + panel_index(p->w->type, p->w->k, col, row);
	int r, i;

	for (r = 0; r < rows; r++, c += PANEL, dw += PANEL)
		if (p->w->type == DT_F32 || r + 1 == rows)
			for (i = 0; i < n; i++)
				dw[p->w->type == DT_F32 ? i : 2 * i] += c[i];
		else {
			for (i = 0; i < n; i++) {
				dw[2 * i] += c[i];
				dw[2 * i + 1] += c[PANEL + i];
			}
			r++, c += PANEL, dw += PANEL;
		}
}

static void
finish_gradient(const struct product *p, const float *c, int row, int rows, int col)
{
	int n = min(p->cols - col, PANEL);

	if (n == PANEL)
		finish_gradient_panel(p, c, row, rows, col, PANEL);
	else
		finish_gradient_panel(p, c, row, rows, col, n);
}

#include "kernels/whole_blocks.h"

/* The blocked product */

/* A thread's rectangle of C; rows and columns are cut at strips and panels. */
struct part {
	int row, row_end, col, col_end;
};

enum scratch { OF_PART, OF_PRODUCT, SCRATCHES };

static pthread_key_t scratch_keys[SCRATCHES];	/* free it when its thread ends */

static void
scratch_keys_make(void)
{
	int i;

	for (i = 0; i < SCRATCHES; i++)
		if (pthread_key_create(&scratch_keys[i], free_cpu))
			die("too many keys for threads");
}

static void *
scratch(enum scratch of, size_t bytes)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	static _Thread_local struct { void *p; size_t size; } kept[SCRATCHES];

	if (bytes > kept[of].size) {
		free_cpu(kept[of].p);
		kept[of].p = alloc_cpu(bytes);
		kept[of].size = bytes;
		pthread_once(&once, scratch_keys_make);
		if (!kept[of].p || pthread_setspecific(scratch_keys[of], kept[of].p))
			die("no memory for a matrix product");
	}
	return kept[of].p;
}

struct block {
	const struct product *p;
	int row, row_end, strip, strips;	/* strip: rows of one */
	int word, word_end;			/* the span */
	int tile;				/* sums from tile to tile, 0 where none are carried */
	uint32_t *a, *b;
	float *c;
};

/* The strips' words from `word` on lie together, one block of words after the other. */
static inline uint32_t *
strip_at(const struct block *k, int word, int words, int strip)
{
	return k->a + ((size_t)(word - k->word) * (size_t)k->strips + (size_t)words * (size_t)strip) * (size_t)k->strip;
}

/* Blocks and spans are multiples of so many words. */
static inline int
unit_of(const struct product *p)
{
	return p->cut ? p->cut : WHOLE ? CUT_WORDS : PANEL;
}

/* Words of a block of the span, an even part of it. */
static int
block_words(const struct block *k, int word)
{
	int unit = unit_of(k->p);

	return min(even_cut(k->word_end - k->word, WORD_BLOCK / unit * unit, unit), k->word_end - word);
}

/* Words of a sum of so many elements, with what whole numbers add. */
static inline int
words_of(int sum)
{
	int words = (sum + WORD - 1) / WORD;

	return WHOLE ? cut_words(words) : words;
}

/* Where the words from such a one on come from, without that. */
static inline int
word_from(int word)
{
	return WHOLE ? word / CUT_WORDS * CUT_PAIRS : word;
}

static void
multiply_words(const struct product *p, float *sums, const uint32_t *a, const uint32_t *b, int row, int rows, int col,
    int word, int words, struct ahead *next)
{
	if (WHOLE)
		multiply_cuts(p, sums, a, b, row, rows, col, word, words, next);
	else
		tiles[shape(rows)](sums, a, b, words, word > 0, next);
}

/* A tile's words word .. word+words-1. */
static void
block_tile(const struct block *k, float *sums, int s, int col, const uint32_t *b, int word, int words)
{
	const struct product *p = k->p;
	int row = k->row + s * k->strip, rows = min(k->strip, k->row_end - row);
	struct ahead ahead = { (const char *)(b + PANEL_AHEAD * PANEL), PANEL * sizeof *b, (char *)(sums + k->tile),
	    TILE * sizeof *sums / (size_t)words + 1 };

	if (word + words == p->words && p->finish == finish_gradient)
		ahead.sums = (char *)((float *)p->y + panel_index(p->w->type, p->w->k, col, row));
	p->multiply(p, sums, strip_at(k, word, words, s), b, row, rows, col, word, words, &ahead);
	if (word + words == p->words)
		p->finish(p, sums, row, rows, col);
}

/* A block of words of the panels col .. col_end-1: where each lies. */
static void
block_pack_cols(const struct block *k, const uint32_t *panel[GROUP_PANELS], int col, int col_end, int word, int words)
{
	const struct product *p = k->p;
	int step = WHOLE ? CUT_WORDS : p->down ? LANES : words, at, n, i, c;

	for (at = 0; at < words; at += n) {
		n = min(step, words - at);
		for (c = col, i = 0; c < col_end; c += PANEL, i++) {
			uint32_t *to = k->b + (i * words + at) * PANEL;
			const uint32_t *b = p->pack_cols(to, p, c, word_from(word + at), n - WHOLE);

			if (WHOLE)
				cut_numbers(to, b, n - 1, PANEL);
			if (at == 0)
				panel[i] = WHOLE ? to : b;
		}
	}
}

/* All words of the span, of all strips, for the panels col .. col_end-1. */
static void
block_group(const struct block *k, float *sums, int col, int col_end)
{
	const uint32_t *panel[GROUP_PANELS];
	int word, words, s, c, i;

	for (word = k->word; word < k->word_end; word += words) {
		float *tile = sums;

		words = block_words(k, word);
		block_pack_cols(k, panel, col, col_end, word, words);
		for (s = 0; s < k->strips; s++)
			for (c = col, i = 0; c < col_end; c += PANEL, i++, tile += k->tile)
				block_tile(k, tile, s, c, panel[i], word, words);
	}
}

/* Words of a strip, by cuts where they are whole numbers. */
static void
strip_pack(uint32_t *to, const struct product *p, int row, int rows, int word, int words)
{
	int stride = shape_rows(rows), at, n;

	for (at = 0; at < words; at += n, to += n * stride) {
		n = min(WHOLE ? CUT_WORDS : words, words - at);
		p->pack_rows(to, p, row, rows, word_from(word + at), n - WHOLE, stride);
		if (WHOLE && stride == ROWS)
			cut_numbers(to, to, n - 1, ROWS);
		else if (WHOLE)
			cut_numbers(to, to, n - 1, stride);
	}
}

/* Columns are packed a few rows of x at a time for all strips: they lie far apart, and each line serves many. */
static void
block_pack(const struct block *k)
{
	const struct product *p = k->p;
	int at, words, word, s, step;

	for (at = k->word; at < k->word_end; at += words) {
		words = block_words(k, at);
		step = !p->down ? words : WHOLE ? CUT_WORDS : 4 * LANES;
		for (word = 0; word < words; word += step)
			for (s = 0; s < k->strips; s++) {
				int row = k->row + s * k->strip, rows = min(k->strip, k->row_end - row);

				strip_pack(strip_at(k, at, words, s) + word * shape_rows(rows), p, row, rows, at + word,
				    min(step, words - word));
			}
	}
}

static void
product_part(const struct product *p, const struct part *part, int strip)
{
	int span = even_cut(p->words, WORD_SPAN, unit_of(p));
	int step = even_cut(part->row_end - part->row, ROW_BLOCK, strip);
	int panels = (part->col_end - part->col + PANEL - 1) / PANEL, group, c;
	struct block k = { .p = p, .strip = strip, .word_end = min(span, p->words) };
	size_t a, b, sums;

	k.tile = block_words(&k, 0) < p->words ? TILE : 0;
	group = min(min(GROUP_WORDS / block_words(&k, 0), GROUP_PANELS), panels);
	a = ((size_t)(step / strip + 1) * (size_t)span * ROWS + LINE - 1) / LINE * LINE;
	b = (size_t)(group * (min(WORD_BLOCK, span) + LANES) * PANEL);
	sums = (size_t)(step / strip * TILE) * (size_t)(span < p->words ? panels : group);
	k.a = scratch(OF_PART, (a + b + sums) * sizeof *k.a);
	k.b = k.a + a;
	k.c = (float *)(k.b + b);
	for (k.row = part->row; k.row < part->row_end; k.row = k.row_end) {
		k.row_end = min(k.row + step, part->row_end);
		k.strips = (k.row_end - k.row + strip - 1) / strip;
		for (k.word = 0; k.word < p->words; k.word = k.word_end) {
			k.word_end = min(k.word + span, p->words);
			block_pack(&k);
			for (c = part->col; c < part->col_end; c += group * PANEL)
				block_group(&k, k.c + (span < p->words ? (c - part->col) / PANEL * k.strips * k.tile : 0), c,
				    min(c + group * PANEL, part->col_end));
		}
	}
}

/*
 * A few rows: the weights are one stream from memory, fetched early enough to
 * come in while the sums go on, and used as they are.
 */
static void
narrow_panel(const struct product *p, const uint32_t *a, int strip, int col)
{
	int halves = !PAIRS && p->w->type == DT_BF16, strips = (p->rows + strip - 1) / strip;
	int step = strips > 1 ? NARROW_WORDS : p->words, word, words, s;
	const uint32_t *b = panel_words(p->w, col);
	_Alignas(LINE) float c[NARROW * PANEL];

	for (word = 0; word < p->words; word += words) {
		size_t size;

		words = min(step, p->words - word);
		size = (size_t)(halves ? words / 2 : words) * PANEL;
		for (s = 0; s < strips; s++) {
			int rows = min(strip, p->rows - s * strip);
			struct ahead ahead = { .words = (const char *)(b + (strips > 1 ? size + (size_t)s * size /
			    (size_t)strips : SOON)), .sums = (char *)c, .words_step = PANEL * sizeof *b / (size_t)strips };

			(halves ? tiles_halves : tiles)[shape(rows)](c + s * strip * PANEL, a + (size_t)(s * strip) *
			    (size_t)p->words + (size_t)(word * shape_rows(rows)), b, words, word > 0, &ahead);
		}
		b += size;
	}
	p->finish(p, c, 0, p->rows, col);
}

/* All rows in strips. Valid until the thread's next scratch() of a part. */
static uint32_t *
narrow_pack(const struct product *p, int strip)
{
	int strips = (p->rows + strip - 1) / strip, s;
	uint32_t *a = scratch(OF_PART, ((size_t)(strips * strip) * (size_t)p->words + LANES * LANES) * sizeof *a);

	for (s = 0; s < strips; s++) {
		int rows = min(strip, p->rows - s * strip);

		p->pack_rows(a + (size_t)(s * strip) * (size_t)p->words, p, s * strip, rows, 0, p->words, shape_rows(rows));
	}
	return a;
}

static void
narrow_part(const struct product *p, const struct part *part, int strip)
{
	uint32_t *a = narrow_pack(p, strip);
	int col;

	for (col = part->col; col < part->col_end; col += PANEL)
		narrow_panel(p, a, strip, col);
}

/*
 * Of the grids of threads the one with the least work for the busiest. A word
 * costs a tile some 12 cycles, and packing a strip or a panel some 6.
 */
static struct part
part_of(const struct product *p, int strip, int thread, int threads)
{
	int strips = (p->rows + strip - 1) / strip, panels = (p->cols + PANEL - 1) / PANEL;
	int down, best = 1, r, c;
	double cost, least = 0;
	struct part part;

	for (down = 1; down <= threads; down++) {
		r = (strips + down - 1) / down;
		c = (panels + threads / down - 1) / (threads / down);
		cost = 12. * r * c + 6. * r + 6. * c;
		if (threads % down == 0 && (down == 1 || cost < least)) {
			least = cost;
			best = down;
		}
	}
	r = thread % best;
	c = thread / best;
	part.row = (int)((long)strips * r / best) * strip;
	part.row_end = min((int)((long)strips * (r + 1) / best) * strip, p->rows);
	part.col = (int)((long)panels * c / (threads / best)) * PANEL;
	part.col_end = min((int)((long)panels * (c + 1) / (threads / best)) * PANEL, p->cols);
	return part;
}

typedef void part_function(const struct product *p, const struct part *part, int strip);

/* A thread's part, of which small products leave some threads none. */
static void
part_run(const struct product *p, part_function *run, int thread, int threads)
{
	int strip = even_cut(p->rows, ROWS, ROW_UNIT);
	struct part part = part_of(p, run == product_part ? strip : p->rows, thread, threads);

	if (part.row < part.row_end && part.col < part.col_end)
		run(p, &part, strip);
}

static void
product_run(const struct product *p, part_function *run)
{
	if ((double)p->rows * p->cols * p->words <= SMALL) {
		part_run(p, run, 0, 1);
	} else {
		#pragma omp parallel
		part_run(p, run, omp_get_thread_num(), omp_get_num_threads());
	}
}

static void
forward(void *y, enum dtype ytype, const void *x, enum dtype xtype, const struct weight *w, const float *b,
    int m, int n, int accumulate)
{
	int halves = !PAIRS && w->type == DT_BF16;
	struct product p = {
		.rows = m, .cols = n, .sum = w->k, .words = halves ? (w->k + 1) / 2 * 2 : words_of(w->k),
		.pack_rows = pack_turned, .pack_cols = halves ? panel_expanded : panel_as_is, .multiply = multiply_words,
		.finish = finish_rows,
		.x = { x, xtype, w->k }, .w = w, .b = b, .y = y, .ytype = ytype, .accumulate = accumulate,
	};

	product_run(&p, m <= NARROW && !WHOLE ? narrow_part : product_part);
}

static void
backward_x(void *dx, enum dtype dxtype, const void *dy, enum dtype dytype, const struct weight *w, int m, int n,
    int accumulate)
{
	struct product p = {
		.rows = m, .cols = w->k, .sum = n, .words = words_of(n), .pack_rows = pack_turned,
		.pack_cols = w->type == DT_BF16 ? panel_turned_halves : panel_turned, .multiply = multiply_words,
		.finish = finish_rows,
		.x = { dy, dytype, n }, .w = w, .y = dx, .ytype = dxtype, .accumulate = accumulate,
	};

	product_run(&p, product_part);
}

static void
backward_w(float *dw, const struct weight *w, const void *dy, enum dtype dytype, const void *x, enum dtype xtype,
    int m, int n)
{
	int row, step = WORD_SPAN * WORD;
	struct product p = {
		.rows = w->k, .cols = n, .down = 1, .pack_rows = pack_across, .pack_cols = panel_across,
		.multiply = multiply_words, .finish = finish_gradient,
		.x = { x, xtype, w->k }, .dy = { dy, dytype, n }, .w = w, .y = dw,
	};

	for (row = 0; row < m; row += step) {
		p.sum = min(step, m - row);
		p.words = words_of(p.sum);
		p.x.data = matrix_at(&p.x, row ? step : 0, 0);
		p.dy.data = matrix_at(&p.dy, row ? step : 0, 0);
		product_run(&p, product_part);
	}
}
