/* SPDX-License-Identifier: MIT */
/*
 * gram_blocks - sums of products of columns, in whole numbers
 *
 * Included after kernels/quant_blocks.h. Each column's cut of 2 CUT_WORDS rows becomes integers of 12 bits under a power
 * of two of its own, so that a cut's sum fits 32 bits; what that takes off a number is no more than bf16's rounding
 * takes off the cut's largest. A Gram matrix of such columns is one of real columns, so it stays semidefinite.
 * The columns lie in panels, words of two rows each [rows / 2][PANEL], before their scales [cuts][columns]; what fills
 * up panels and words is zero. A panel is used as it lies.
 */
enum {
	CUT_WORDS = 64,
	SLACK = ROWS + PANEL,		/* words that tiles read beyond the last column */
};

/* Words of m rows, an even number. */
static inline int
gram_words(int m)
{
	return (m + 3) / 4 * 2;
}

static inline int
gram_cuts(int m)
{
	return (gram_words(m) + CUT_WORDS - 1) / CUT_WORDS;
}

static inline int
gram_columns(int k)
{
	return (k + PANEL - 1) / PANEL * PANEL;
}

static size_t
gram_bytes_of(int m, int k)
{
	return ((size_t)(gram_words(m) + gram_cuts(m)) * (size_t)gram_columns(k) + 2 * SLACK) * sizeof(uint32_t);
}

static inline uint32_t *
gram_word(const struct gram *g, int column, int word)
{
	size_t panel = (size_t)(column / PANEL) * (size_t)gram_words(g->m);

	return (uint32_t *)g->data + (panel + (size_t)word) * PANEL + column % PANEL;
}

static inline float *
gram_scale(const struct gram *g, int column, int cut)
{
	return (float *)gram_word(g, gram_columns(g->k), 0) + SLACK + (size_t)cut * (size_t)gram_columns(g->k) +
	    (size_t)column;
}

/* Two rows of a panel's columns. */
static inline void
gram_pair(uint32_t to[PANEL], const uint16_t low[PANEL], const uint16_t high[PANEL], const float up[PANEL])
{
	const float shift = 0x1.8p23f;
	int j;

	for (j = 0; j < PANEL; j++) {
		float y = bf16_to_f32(low[j]) * up[j] + shift, z = bf16_to_f32(high[j]) * up[j] + shift;
		uint32_t a, b;

		memcpy(&a, &y, sizeof a);
		memcpy(&b, &z, sizeof b);
		to[j] = (a & 0xffff) | b << 16;
	}
}

static void
gram_pack_cut(const struct gram *g, const uint16_t *x, int column, int cut)
{
	enum { LEAST = 16, CUT_ROWS = 2 * CUT_WORDS };
	uint16_t rows[CUT_ROWS][PANEL] = { { 0 } };
	uint32_t most[PANEL] = { 0 }, power[2][PANEL];
	int first = cut * CUT_ROWS, words = min(CUT_WORDS, gram_words(g->m) - cut * CUT_WORDS), r, j;
	float *scale = gram_scale(g, column, cut), up[PANEL];

	for (r = 0; r < CUT_ROWS && first + r < g->m; r++) {
		memcpy(rows[r], x + (size_t)(first + r) * (size_t)g->k + (size_t)column,
		    (size_t)min(PANEL, g->k - column) * sizeof **rows);
		for (j = 0; j < PANEL; j++)
			most[j] = (rows[r][j] & 0x7fffu) > most[j] ? rows[r][j] & 0x7fffu : most[j];
	}
	for (j = 0; j < PANEL; j++) {
		uint32_t exponent = most[j] >> 7 < LEAST ? LEAST : most[j] >> 7;

		power[0][j] = (264 - exponent) << 23;
		power[1][j] = exponent == 255 ? 0x7fc00000 : (exponent - 10) << 23;
	}
	memcpy(up, power[0], sizeof up);
	memcpy(scale, power[1], sizeof up);
	for (r = 0; r < words; r++)
		gram_pair(gram_word(g, column, cut * CUT_WORDS + r), rows[2 * r], rows[2 * r + 1], up);
}

static void
gram_pack(struct gram *g, const void *x, int m, int k)
{
	int panels = gram_columns(k) / PANEL, i;

	g->m = m;
	g->k = k;
	memset(gram_word(g, gram_columns(k), 0), 0, SLACK * sizeof(uint32_t));
	memset(gram_scale(g, 0, gram_cuts(m)), 0, SLACK * sizeof(float));
	#pragma omp parallel for
	for (i = 0; i < gram_cuts(m) * panels; i++)
		gram_pack_cut(g, x, i % panels * PANEL, i / panels);
}

/* A strip of columns, which may lie in two panels. */
static void
pack_gram(uint32_t *a, const struct product *p, int row, int rows, int word, int words, int stride)
{
	int at, n, i;

	(void)rows;
	for (at = 0; at < stride; at += n) {
		const uint32_t *from = gram_word(p->inputs, p->input + row + at, word);

		n = min(min(stride - at, LANES), PANEL - (p->input + row + at) % PANEL);
		for (i = 0; i < words; i++)
			vec_store_few(a + i * stride + at, vec_load(from + i * PANEL), n);
	}
}

static const uint32_t *
panel_gram(uint32_t *b, const struct product *p, int col, int word, int words)
{
	(void)b;
	(void)words;
	return gram_word(p->outputs, p->output + col, word);
}

static void
multiply_gram(const struct product *p, float *total, const uint32_t *a, const uint32_t *b, int row, int rows, int col,
    int word, int words, const struct ahead *next)
{
	struct ahead ahead = *next;
	int end = word + words, n;

	if (word == 0)
		memset(total, 0, TILE * sizeof *total);
	for (; word < end; word += n, a += n * shape_rows(rows), b += n * PANEL) {
		struct cut k = {
			.scale = gram_scale(p->inputs, p->input + row, word / CUT_WORDS),
			.outputs = gram_scale(p->outputs, p->output + col, word / CUT_WORDS),
		};

		n = min(CUT_WORDS, end - word);
		whole_kernel(rows)->tile(total, a, b, n, &k, &ahead);
		ahead.words += (size_t)n * ahead.words_step;
	}
}

static void
gram(float *dw, const struct weight *w, const struct gram *dy, int output, const struct gram *x, int input)
{
	int words = gram_words(x->m);
	struct product p = {
		.rows = w->k, .cols = w->n, .sum = words, .words = words, .cut = CUT_WORDS, .pack_rows = pack_gram,
		.pack_cols = panel_gram, .multiply = multiply_gram, .finish = finish_gradient, .w = w, .inputs = x,
		.input = input, .outputs = dy, .output = output, .y = dw,
	};

	product_run(&p, product_part);
}
