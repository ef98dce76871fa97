/* SPDX-License-Identifier: MIT */
/*
 * gram_blocks - sums of products of columns, in whole numbers
 *
 * Included after kernels/matmul_blocks.h. Rows in pairs become words of whole numbers (kernels/whole_blocks.h), once
 * for all tiles: panels of columns, [words][PANEL], which are used as they lie. A Gram matrix of such columns is one
 * of real columns, so it stays semidefinite. What fills up panels and pairs is zero.
 */
static inline int
gram_words(int m)
{
	return cut_words((m + 1) / 2);
}

static inline size_t
gram_panels(int k)
{
	return (size_t)((k + PANEL - 1) / PANEL);
}

/* With what pack_gram() reads behind the last word, LANES at a time. */
static size_t
gram_bytes_of(int m, int k)
{
	return (gram_panels(k) * (size_t)gram_words(m) * PANEL + LANES) * sizeof(uint32_t);
}

static inline uint32_t *
gram_word(const struct gram *g, int column, int word)
{
	size_t panel = (size_t)(column / PANEL) * (size_t)gram_words(g->m);

	return (uint32_t *)g->data + (panel + (size_t)word) * PANEL + column % PANEL;
}

static void
gram_pack_cut(const struct gram *g, const uint16_t *x, int column, int word)
{
	uint32_t *to = gram_word(g, column, word);
	int first = word / CUT_WORDS * CUT_PAIRS * 2, n = min(CUT_WORDS, gram_words(g->m) - word) - 1, i, j;

	for (i = 0; i < n; i++) {
		uint16_t rows[2][PANEL] = { { 0 } };

		for (j = 0; j < 2 && first + 2 * i + j < g->m; j++)
			memcpy(rows[j], x + (size_t)(first + 2 * i + j) * (size_t)g->k + (size_t)column,
			    (size_t)min(PANEL, g->k - column) * sizeof **rows);
		for (j = 0; j < PANEL; j++)
			to[i * PANEL + j] = rows[0][j] | (uint32_t)rows[1][j] << 16;
	}
	cut_numbers(to, to, n, PANEL);
}

static void
gram_pack(struct gram *g, const void *x, int m, int k)
{
	int cuts = (gram_words(m) + CUT_WORDS - 1) / CUT_WORDS, i;

	g->m = m;
	g->k = k;
	#pragma omp parallel for
	for (i = 0; i < cuts * (int)gram_panels(k); i++)
		gram_pack_cut(g, x, i / cuts * PANEL, i % cuts * CUT_WORDS);
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
gram(float *dw, const struct weight *w, const struct gram *dy, int output, const struct gram *x, int input)
{
	int words = gram_words(x->m);
	struct product p = {
		.rows = w->k, .cols = w->n, .sum = words, .words = words, .cut = CUT_WORDS, .pack_rows = pack_gram,
		.pack_cols = panel_gram, .multiply = multiply_cuts, .finish = finish_gradient, .w = w, .inputs = x,
		.input = input, .outputs = dy, .output = output, .y = dw,
	};

	product_run(&p, product_part);
}
