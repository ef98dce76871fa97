/* SPDX-License-Identifier: MIT */
/*
 * whole_blocks - tiles of whole numbers
 *
 * Included by kernels/matmul_blocks.h. A sum is cut; within a cut both sides are integers under powers of two of
 * their own, their products are added up exactly in 32 bits, and each cut's sum counts once:
 *
 *	total = (power of two x sum) x scale + total
 *
 * Pairs of bf16 become integers of 12 bits and a sign, cut by cut of 2 CUT_PAIRS of them: whatever is not 16 times
 * smaller than its cut's largest stays as it is, and of others no more is lost than 1/16 of what bf16's rounding may
 * have taken off the largest. 2 CUT_PAIRS times the square of the largest integer, 255 << 4, fits 32 bits. Behind
 * a cut's words, one for each row or column, lies a word of its scales.
 */
enum {
	CUT_PAIRS = 64,
	CUT_WORDS = CUT_PAIRS + 1,	/* with the scales */
	LEAST = 16,			/* exponent of a cut's largest, so that f32 holds its scale as a normal number */
	MAGIC = 0x4b400000,		/* 1.5 x 2^23: the low bits of a sum with it are the integer */
};

/* Words, and scales, of so many pairs. */
static inline int
cut_words(int pairs)
{
	return pairs + (pairs + CUT_PAIRS - 1) / CUT_PAIRS;
}

/* The scales that integers are multiplied by: of rows; and of columns, in f32, or in f16 where these are not given. */
struct scales {
	const float *rows, *cols;
	const uint16_t *cols_f16;
};

/*
 * Words of a row or column of pairs of bf16 each, [n][width], as integers, and behind them a word of scales. Of what is
 * not finite the scale is NaN. `to` may be `from`; reads LANES words at a time, and the word that comes next before it
 * writes.
 */
static inline __attribute__((always_inline)) void
cut_numbers(uint32_t *to, const uint32_t *from, int n, int width)
{
	const uint32_t magic = MAGIC;
	uint32_t most[LANES], up[LANES], scale[LANES];
	int h, i;

	for (h = 0; h < width; h += LANES, from += LANES, to += LANES) {
		int few = min(width - h, LANES);
		vec top = { 0 }, x, next;

		for (i = 0; i < n; i++)
			top = vec_most_halves(top, vec_and(vec_load(from + i * width), 0x7fff7fff));
		vec_store(most, top);
		for (i = 0; i < LANES; i++) {
			uint32_t low = most[i] << 16, bits = most[i] > low ? most[i] : low, exponent = bits >> 23;

			exponent = exponent < LEAST ? LEAST : exponent;
			up[i] = (265 - exponent) << 23;
			scale[i] = exponent == 255 ? 0x7fc00000 : (exponent - 11) << 23;
		}
		for (i = 0, x = vec_load(from); i < n; i++, x = next) {
			vec low = vec_fma(vec_word(&magic), vec_low(x), vec_load(up));
			vec high = vec_fma(vec_word(&magic), vec_high(x), vec_load(up));

			next = vec_load(from + min(i + 1, n - 1) * width);
			vec_store_few(to + i * width, vec_plus(vec_and(low, 0xffff), vec_low(high)), few);
		}
		vec_store_few(to + n * width, vec_load(scale), few);
	}
}

/* The cut's sums of two vectors of columns from h on go to the total, or are it where nothing is carried. */
static inline __attribute__((always_inline)) void
settle(float *total, int carry, vec sum[][2], const struct scales *s, int h, int rows)
{
	const float *scale = s->rows;
	vec scale0 = s->cols ? vec_load(s->cols + h) : vec_half(s->cols_f16 + h);
	vec scale1 = s->cols ? vec_load(s->cols + h + LANES) : vec_half(s->cols_f16 + h + LANES);
	int r;

	total += h;
	#pragma GCC unroll 12
	for (r = 0; r < rows; r++, total += PANEL) {
		vec old0 = carry ? vec_load(total) : (vec){ 0 }, old1 = carry ? vec_load(total + LANES) : (vec){ 0 };

		vec_store(total, vec_fma(old0, vec_float(sum[r][0]) * scale[r], scale0));
		vec_store(total + LANES, vec_fma(old1, vec_float(sum[r][1]) * scale[r], scale1));
	}
}

static inline __attribute__((always_inline)) void
whole_word(vec sum[][2], const uint32_t *a, const uint32_t *b, int rows, int fused)
{
	vec b0 = vec_load(b), b1 = vec_load(b + LANES);
	int r;

	#pragma GCC unroll 12
	for (r = 0; r < rows; r++) {
		vec x = vec_word(a + r);

		sum[r][0] = dot_whole(sum[r][0], x, b0, fused);
		sum[r][1] = dot_whole(sum[r][1], x, b1, fused);
	}
}

/* total[rows][PANEL] = (total where `carry`) + the sum over the words of a cut, a[word][rows] b[word][PANEL] */
static inline __attribute__((always_inline)) void
whole_tile(float *total, int carry, const uint32_t *a, const uint32_t *b, int words, const struct scales *s,
    const struct ahead *next, int rows, int fused)
{
	size_t words_step = next->words_step;
	int h, r, i, j;

	for (h = 0; h < PANEL; h += 2 * LANES) {
		const char *p = next->words + h * (int)sizeof *b;
		const uint32_t *ai = a, *bi = b + h;
		vec sum[ROWS][2];

		#pragma GCC unroll 12
		for (r = 0; r < rows; r++)
			sum[r][0] = sum[r][1] = (vec){ 0 };
		for (i = 0; i + 2 <= words; i += 2, ai += 2 * rows, bi += 2 * PANEL) {
			#pragma GCC unroll 2
			for (j = 0; j < 2; j++, p += words_step) {
				_mm_prefetch(p, _MM_HINT_T0);
				if (2 * LANES == PANEL)
					_mm_prefetch(p + LINE, _MM_HINT_T0);
				whole_word(sum, ai + j * rows, bi + j * PANEL, rows, fused);
			}
		}
		if (i < words)
			whole_word(sum, ai, bi, rows, fused);
		settle(total, carry, sum, s, h, rows);
	}
}

typedef void whole_function(float *total, int carry, const uint32_t *a, const uint32_t *b, int words,
    const struct scales *s, const struct ahead *next);
#define WHOLE_TILE(name, rows, fused) \
	static void \
	name(float *total, int carry, const uint32_t *a, const uint32_t *b, int words, const struct scales *s, \
	    const struct ahead *next) \
	{ \
		whole_tile(total, carry, a, b, words, s, next, rows, fused); \
	}
WHOLE_TILE(whole_one, 1, 0)
WHOLE_TILE(whole_1, ROW_UNIT, 0)
WHOLE_TILE(whole_2, 2 * ROW_UNIT, 0)
WHOLE_TILE(whole_3, 3 * ROW_UNIT, 0)
WHOLE_TILE(fused_one, 1, 1)
WHOLE_TILE(fused_1, ROW_UNIT, 1)
WHOLE_TILE(fused_2, 2 * ROW_UNIT, 1)
WHOLE_TILE(fused_3, 3 * ROW_UNIT, 1)

/* Of so many rows, for CPUs with and without a fused dot product. */
static inline whole_function *
tile_of(int rows)
{
	static whole_function *const apart[] = { whole_one, whole_1, whole_2, whole_3 };
	static whole_function *const fused[] = { fused_one, fused_1, fused_2, fused_3 };

	return (dot_fuses() ? fused : apart)[shape(rows)];
}

/* A cut of a tile. Its share of the sums is fetched all at once, since the loop over its words has no place for it. */
static inline void
multiply_cut(float *total, int carry, const uint32_t *a, const uint32_t *b, int rows, int words,
    const struct scales *s, struct ahead *next)
{
	const char *end = next->sums + (size_t)words * next->sums_step;

	for (; next->sums < end; next->sums += LINE)
		_mm_prefetch(next->sums, _MM_HINT_T0);
	tile_of(rows)(total, carry, a, b, words, s, next);
	next->words += (size_t)words * next->words_step;
}

/* A tile, cut by cut, with the scales behind each. */
static inline void
multiply_cuts(const struct product *p, float *total, const uint32_t *a, const uint32_t *b, int row, int rows, int col,
    int word, int words, struct ahead *next)
{
	int end = word + words, wide = shape_rows(rows), n;

	(void)p, (void)row, (void)col;
	for (; word < end; word += n + 1, a += (n + 1) * wide, b += (n + 1) * PANEL) {
		struct scales s = { NULL, NULL, NULL };

		n = min(CUT_WORDS, end - word) - 1;
		s.rows = (const float *)(a + n * wide);
		s.cols = (const float *)(b + n * PANEL);
		multiply_cut(total, word > 0, a, b, rows, n, &s, next);
	}
}
