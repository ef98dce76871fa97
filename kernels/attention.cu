/* SPDX-License-Identifier: MIT */
/*
 * attention - bf16 heads of 64 and 128 channels on tensor cores; the rest goes to attention_plain
 *
 * Four warps have 16 queries each and meet keys 64 at a time while the next come: scores in f32, their
 * exponentials in bf16 to the product with the values, the running maximum and sum of Milakov and
 * Gimelshein (2018). Tiles begin at multiples of 64 of the sequence. The backward has two passes, as in
 * attention_plain: by queries for dq, by keys for dk and dv.
 *
 * Sums begin anew with every CHUNK of keys, and what chunks give is joined in their order. So decode runs the same
 * code, the heads that share keys being the 16 queries of one warp, with a block for each chunk (Dao et al. 2023,
 * flash-decoding), and a row has the same bytes in a sequence and from pages, by one block or many.
 */
#include <math.h>

#include "kernels/attention.cuh"
#include "kernels/mma.cuh"

enum { SIDE = 64, THREADS = 128, CHUNK = 256 };

/* Blocks of a forward that a multiprocessor has registers for. */
static constexpr int
blocks_at_once(int d)
{
	return d == 64 ? 3 : 2;
}

static const float log2e = 1.44269504f;

/* n rows of D numbers to shared memory; row(j) is NULL where there is none, which leaves zeros. */
template<int D, typename ROW>
static __device__ inline void
fetch_rows(bf16 *to, int n, const bf16 *any, ROW row)
{
	for (int e = (int)threadIdx.x; e < n * (D / 8); e += THREADS) {
		int j = e / (D / 8), i = e % (D / 8) * 8;
		const bf16 *from = row(j);

		fetch_16(to + j * (D + PAD) + i, from ? from + i : any, from != NULL);
	}
}

/* Values weighed by exponentials, these relative to 2^max. */
template<int D>
struct sums {
	float o[D / 8][4];
	float max[2], sum[2];
};

/* Of 16 queries: C's layout of kernels/mma.cuh, rows g and g + 8 of each lane. */
template<int D>
struct queries {
	unsigned q[D / 16][4];
	struct sums<D> now, all;	/* of the chunk, sum of this lane's columns; of those before it */
	int limit[2];			/* keys that are seen, no fewer by one row than by those before it */
	uint64_t at[2];			/* of dropout */
};

template<int D>
static __device__ inline void
sums_init(struct sums<D> *s)
{
	#pragma unroll
	for (int j = 0; j < D / 8; j++)
		#pragma unroll
		for (int i = 0; i < 4; i++)
			s->o[j][i] = 0;
	s->max[0] = s->max[1] = -INFINITY;
	s->sum[0] = s->sum[1] = 0;
}

template<int D>
static __device__ inline void
queries_init(struct queries<D> *s, const bf16 *q, int lane)
{
	#pragma unroll
	for (int k = 0; k < D / 16; k++)
		load_a(s->q[k], q + 16 * k, D + PAD, lane);
	sums_init(&s->now);
	sums_init(&s->all);
}

/* What makes sums of two maxima relative to the larger one. */
struct joint {
	float one, other;
};

static __device__ inline struct joint
join(float *max, float other)
{
	float top = fmaxf(*max, other), zero = top == -INFINITY ? 0 : top;
	struct joint j = { exp2f(__fsub_rn(*max, zero)), exp2f(__fsub_rn(other, zero)) };

	*max = top;
	return j;
}

static __device__ inline float
join_sums(struct joint j, float one, float other)
{
	return __fadd_rn(__fmul_rn(j.one, one), __fmul_rn(j.other, other));
}

template<int D>
static __device__ inline float
sum_of(const struct sums<D> *s, int r)
{
	float sum = s->sum[r];

	sum += __shfl_xor_sync(~0u, sum, 1);
	return sum + __shfl_xor_sync(~0u, sum, 2);
}

/* The end of a chunk. */
template<int D>
static __device__ inline void
close_chunk(struct queries<D> *s)
{
	#pragma unroll
	for (int r = 0; r < 2; r++) {
		struct joint joint = join(&s->all.max[r], s->now.max[r]);

		s->all.sum[r] = join_sums(joint, s->all.sum[r], sum_of(&s->now, r));
		#pragma unroll
		for (int j = 0; j < D / 8; j++)
			#pragma unroll
			for (int i = 2 * r; i < 2 * r + 2; i++)
				s->all.o[j][i] = join_sums(joint, s->all.o[j][i], s->now.o[j][i]);
	}
	sums_init(&s->now);
}

/* c[N / 8] = the products of 16 rows in registers with N rows at y. */
template<int D, int N>
static __device__ inline void
scores(float c[N / 8][4], const unsigned a[D / 16][4], const bf16 *y, int lane)
{
	#pragma unroll
	for (int j = 0; j < N / 8; j++)
		#pragma unroll
		for (int i = 0; i < 4; i++)
			c[j][i] = 0;
	#pragma unroll
	for (int k = 0; k < D / 16; k++)
		#pragma unroll
		for (int j = 0; j < N / 16; j++) {
			unsigned b[4];

			load_b(b, y + j * 16 * (D + PAD) + 16 * k, D + PAD, lane);
			multiply(c[2 * j], a[k], b);
			multiply(c[2 * j + 1], a[k], b + 2);
		}
}

/* The same with the 16 rows in shared memory: fewer registers. */
template<int D, int N>
static __device__ inline void
scores_shared(float c[N / 8][4], const bf16 *x, const bf16 *y, int lane)
{
	unsigned a[D / 16][4];

	#pragma unroll
	for (int k = 0; k < D / 16; k++)
		load_a(a[k], x + 16 * k, D + PAD, lane);
	scores<D, N>(c, a, y, lane);
}

/* o[D / 8] += P [16, N] Y [N, D], P in C's layout. */
template<int D, int N>
static __device__ inline void
add_products(float o[D / 8][4], const float p[N / 8][4], const bf16 *y, int lane)
{
	#pragma unroll
	for (int k = 0; k < N / 16; k++) {
		const unsigned a[4] = { pair(p[2 * k][0], p[2 * k][1]), pair(p[2 * k][2], p[2 * k][3]),
			pair(p[2 * k + 1][0], p[2 * k + 1][1]), pair(p[2 * k + 1][2], p[2 * k + 1][3]) };

		#pragma unroll
		for (int j = 0; j < D / 16; j++) {
			unsigned b[4];

			load_b_transposed(b, y + k * 16 * (D + PAD) + 16 * j, D + PAD, lane);
			multiply(o[2 * j], a, b);
			multiply(o[2 * j + 1], a, b + 2);
		}
	}
}

/* Zeros in the place of numbers that are not finite; whether there were any. */
static __device__ inline int
take_odd(unsigned b[4])
{
	int found = 0;

	#pragma unroll
	for (int i = 0; i < 8; i++) {
		unsigned exponent = 0x7f80u << 16 * (i % 2);

		if ((b[i / 2] & exponent) == exponent) {
			b[i / 2] &= ~(0xffffu << 16 * (i % 2));
			found = 1;
		}
	}
	return found;
}

/* Values that are not finite, of 16 keys from j0 on, to the rows that see them. */
template<int D>
static __device__ void
add_odd(struct queries<D> *s, const bf16 *v, int j0, int lane)
{
	#pragma unroll 1
	for (int key = 0; key < 16; key++)
		#pragma unroll
		for (int j = 0; j < D / 8; j++)
			#pragma unroll
			for (int i = 0; i < 4; i++) {
				float x = up(v[key * (D + PAD) + j * 8 + lane % 4 * 2 + i % 2]);

				s->now.o[j][i] += j0 + key < s->limit[i / 2] && !isfinite(x) ? x : 0;
			}
}

/* add_products() of values. Where not all rows see all keys 0 times a value must be 0, whatever the value. */
template<int D>
static __device__ inline void
add_values(struct queries<D> *s, const float p[SIDE / 8][4], const bf16 *v, int j0, int lane)
{
	int least = __shfl_sync(~0u, s->limit[0], 0);

	if (j0 + SIDE <= least) {
		add_products<D, SIDE>(s->now.o, p, v, lane);
		return;
	}
	#pragma unroll
	for (int k = 0; k < SIDE / 16; k++) {
		const unsigned a[4] = { pair(p[2 * k][0], p[2 * k][1]), pair(p[2 * k][2], p[2 * k][3]),
			pair(p[2 * k + 1][0], p[2 * k + 1][1]), pair(p[2 * k + 1][2], p[2 * k + 1][3]) };
		int odd = 0;

		#pragma unroll
		for (int j = 0; j < D / 16; j++) {
			unsigned b[4];

			load_b_transposed(b, v + k * 16 * (D + PAD) + 16 * j, D + PAD, lane);
			odd |= take_odd(b);
			multiply(s->now.o[2 * j], a, b);
			multiply(s->now.o[2 * j + 1], a, b + 2);
		}
		if (__ballot_sync(~0u, odd))
			add_odd(s, v + k * 16 * (D + PAD), j0 + 16 * k, lane);
	}
}

/* 64 keys from j0 on. */
template<int D>
static __device__ inline void
attend(struct queries<D> *s, const bf16 *k, const bf16 *v, int j0, const struct call *c, int lane)
{
	float p[SIDE / 8][4], factor = c->scale * log2e;
	struct sums<D> *sums = &s->now;

	scores<D, SIDE>(p, s->q, k, lane);
	#pragma unroll
	for (int r = 0; r < 2; r++) {
		float top = -INFINITY, shrink, zero;

		#pragma unroll
		for (int j = 0; j < SIDE / 8; j++)
			#pragma unroll
			for (int i = 0; i < 2; i++) {
				float *x = &p[j][2 * r + i];

				*x = j0 + j * 8 + lane % 4 * 2 + i < s->limit[r] ? __fmul_rn(*x, factor) : -INFINITY;
				top = fmaxf(top, *x);
			}
		top = fmaxf(top, __shfl_xor_sync(~0u, top, 1));
		top = fmaxf(top, __shfl_xor_sync(~0u, top, 2));
		top = fmaxf(top, sums->max[r]);
		zero = top == -INFINITY ? 0 : top;
		shrink = exp2f(__fsub_rn(sums->max[r], zero));
		sums->max[r] = top;
		sums->sum[r] = __fmul_rn(sums->sum[r], shrink);
		#pragma unroll
		for (int j = 0; j < SIDE / 8; j++)
			#pragma unroll
			for (int i = 0; i < 2; i++) {
				float *x = &p[j][2 * r + i];

				*x = exp2f(__fsub_rn(*x, zero));
				sums->sum[r] = __fadd_rn(sums->sum[r], *x);
			}
		#pragma unroll
		for (int j = 0; j < D / 8; j++) {
			sums->o[j][2 * r] = __fmul_rn(sums->o[j][2 * r], shrink);
			sums->o[j][2 * r + 1] = __fmul_rn(sums->o[j][2 * r + 1], shrink);
		}
		#pragma unroll
		for (int j = 0; j < SIDE / 8 && c->threshold; j++) {
			float keep[2];

			keep_two(keep, c, s->at[r] + (uint64_t)(j0 + j * 8 + lane % 4 * 2));
			p[j][2 * r] *= keep[0];
			p[j][2 * r + 1] *= keep[1];
		}
	}
	add_values(s, p, v, j0, lane);
}

/* Rows r = 0 (g) and 1 (g + 8) to out. */
template<int D>
static __device__ inline void
put_half(bf16 *out, const float o[D / 8][4], int r, float factor, int lane)
{
	#pragma unroll
	for (int j = 0; j < D / 8; j++)
		*(unsigned *)(out + j * 8 + lane % 4 * 2) = pair(o[j][2 * r] * factor, o[j][2 * r + 1] * factor);
}

/* Keys and values of tile j0 to one of two stages. */
template<int D, typename KEYS>
static __device__ inline void
fetch_keys(bf16 *stage, int side, KEYS keys, const bf16 *any, int j0, int n)
{
	fetch_rows<D>(stage, side, any, [=](int j) { return j0 + j < n ? keys.key(j0 + j) : NULL; });
	fetch_rows<D>(stage + side * (D + PAD), side, any, [=](int j) { return j0 + j < n ? keys.value(j0 + j) : NULL; });
}

/* Keys from .. n - 1; the last chunk stays open. */
template<int D, typename KEYS>
static __device__ inline void
attend_all(struct queries<D> *s, bf16 *q, bf16 *stages, KEYS keys, const bf16 *any, int from, int n,
    const struct call *c, int works, int lane)
{
	const int size = 2 * SIDE * (D + PAD);

	fetch_keys<D>(stages, SIDE, keys, any, from, n);
	fetch_commit();
	for (int j0 = from, stage = 0; j0 < n; j0 += SIDE, stage ^= 1) {
		bf16 *k = stages + stage * size;

		if (j0 + SIDE < n)
			fetch_keys<D>(stages + (stage ^ 1) * size, SIDE, keys, any, j0 + SIDE, n);
		fetch_commit();
		fetch_wait<1>();
		__syncthreads();
		if (works && j0 == from)
			queries_init<D>(s, q, lane);
		else if (works && j0 % CHUNK == 0)
			close_chunk(s);
		if (works)
			attend<D>(s, k, k + SIDE * (D + PAD), j0, c, lane);
		__syncthreads();
	}
}

template<int D>
static __global__ void
__launch_bounds__(THREADS, blocks_at_once(D))
forward(bf16 *out, float *lse, const bf16 *qkv, const int *offsets, struct call c)
{
	LAUNCHED_SHARED(uint4, shared);
	/* long tiles first */
	struct tile t = tile_of((int)(gridDim.x - 1 - blockIdx.x), offsets, c.nseq, SIDE);
	int head = (int)blockIdx.y, lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
	size_t width = (size_t)(c.heads + 2 * c.kv_heads) * D;
	int n = t.from + SIDE < t.n ? t.from + SIDE : t.n;
	bf16 *q = (bf16 *)shared;
	struct queries<D> s;

	if (t.from >= t.n)
		return;
	fetch_rows<D>(q, SIDE, qkv, [=](int j) {
		return t.from + j < t.n ? qkv + (t.first + t.from + j) * width + (size_t)head * D : NULL;
	});
	for (int r = 0; r < 2; r++) {
		int position = t.from + warp * 16 + lane / 4 + 8 * r;

		s.limit[r] = position + 1;
		s.at[r] = keep_attention(t.first + position, c.heads, head);
	}
	attend_all<D>(&s, q + warp * 16 * (D + PAD), q + SIDE * (D + PAD),
	    packed_of(qkv, &c, t.first, head / (c.heads / c.kv_heads)), qkv, 0, n, &c, 1, lane);
	close_chunk(&s);
	for (int r = 0; r < 2; r++) {
		int position = t.from + warp * 16 + lane / 4 + 8 * r;
		size_t row = (size_t)(t.first + position) * c.heads + head;

		if (position >= t.n)
			continue;
		put_half<D>(out + row * D, s.all.o, r, 1 / s.all.sum[r], lane);
		if (lse && lane % 4 == 0)
			lse[row] = (s.all.max[r] + log2f(s.all.sum[r])) / log2e;
	}
}

/* What one chunk gave, of every chunk of a head of a row: D sums of values, the maximum, the sum. */
template<int D>
static __device__ inline void
leave_part(float *part, const struct sums<D> *s, int r, float sum, int lane)
{
	#pragma unroll
	for (int j = 0; j < D / 8; j++)
		#pragma unroll
		for (int i = 0; i < 2; i++)
			part[j * 8 + lane % 4 * 2 + i] = s->o[j][2 * r + i];
	if (lane % 4 == 0) {
		part[D] = s->max[r];
		part[D + 1] = sum;
	}
}

/* A chunk of keys a block, to parts, or to out where there is but one. One warp computes, all fetch. */
template<int D>
static __global__ void
__launch_bounds__(THREADS, blocks_at_once(D))
forward_paged(bf16 *out, float *parts, const bf16 *qkv, struct kv kv, int layer, const int *tables, int ntables,
    const int *length, struct call c)
{
	LAUNCHED_SHARED(uint4, shared);
	int group = c.heads / c.kv_heads, tiles = blocks_of(group, 16), kv_head = (int)blockIdx.y / tiles;
	int row = (int)blockIdx.x, first = (int)blockIdx.y % tiles * 16, from = (int)blockIdx.z * CHUNK;
	int lane = (int)threadIdx.x % WARP, works = threadIdx.x < WARP, n = length[row];
	size_t width = (size_t)(c.heads + 2 * c.kv_heads) * D;
	bf16 *q = (bf16 *)shared;
	struct queries<D> s;

	if (from >= n)
		return;
	n = parts && from + CHUNK < n ? from + CHUNK : n;
	fetch_rows<D>(q, 16, qkv, [=](int j) {
		return first + j < group ? qkv + row * width + (size_t)(kv_head * group + first + j) * D : NULL;
	});
	s.limit[0] = s.limit[1] = n;
	s.at[0] = s.at[1] = 0;
	attend_all<D>(&s, q, q + 16 * (D + PAD), paged_of<bf16>(&kv, layer, tables + (size_t)row * ntables, kv_head),
	    qkv, from, n, &c, works, lane);
	if (!works)
		return;
	for (int r = 0; r < 2 && parts; r++) {
		size_t head = (size_t)row * c.heads + kv_head * group + first + lane / 4 + 8 * r;
		float sum = sum_of(&s.now, r);

		if (first + lane / 4 + 8 * r < group)
			leave_part(parts + (head * gridDim.z + blockIdx.z) * (D + 2), &s.now, r, sum, lane);
	}
	if (parts)
		return;
	close_chunk(&s);
	for (int r = 0; r < 2; r++) {
		size_t head = (size_t)row * c.heads + kv_head * group + first + lane / 4 + 8 * r;

		if (first + lane / 4 + 8 * r < group)
			put_half<D>(out + head * D, s.all.o, r, 1 / s.all.sum[r], lane);
	}
}

/* A head of a row from its chunks, as close_chunk() does it; a channel a thread. */
template<int D>
static __global__ void
join_parts(bf16 *out, const float *parts, int chunks, const int *length)
{
	size_t head = (size_t)blockIdx.x * gridDim.y + blockIdx.y;
	const float *part = parts + head * chunks * (D + 2);
	float max = -INFINITY, sum = 0, o = 0;

	for (int from = 0; from < length[blockIdx.x]; from += CHUNK, part += D + 2) {
		struct joint joint = join(&max, part[D]);

		sum = join_sums(joint, sum, part[D + 1]);
		o = join_sums(joint, o, part[threadIdx.x]);
	}
	if (length[blockIdx.x])
		out[head * D + threadIdx.x] = down<bf16>(o * (1 / sum));
}

/* Rows of a tile, of the backward: queries, or gradients of the output. */
struct rows {
	const bf16 *first;	/* of the sequence */
	size_t pitch;
	int n;
};

template<int D>
static __device__ inline void
fetch_tile(bf16 *to, int side, struct rows rows, int from)
{
	fetch_rows<D>(to, side, rows.first, [=](int j) {
		return from + j < rows.n ? rows.first + (from + j) * rows.pitch : NULL;
	});
}

/* N keys at a time. */
template<int D, int N>
static __global__ void
__launch_bounds__(THREADS)
backward_queries(bf16 *dqkv, const bf16 *dout, const float *lse, const float *delta, const bf16 *qkv,
    const int *offsets, struct call c)
{
	LAUNCHED_SHARED(uint4, shared);
	struct tile t = tile_of((int)(gridDim.x - 1 - blockIdx.x), offsets, c.nseq, SIDE);
	int head = (int)blockIdx.y, lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
	size_t width = (size_t)(c.heads + 2 * c.kv_heads) * D;
	const int size = 2 * N * (D + PAD), n = t.from + SIDE < t.n ? t.from + SIDE : t.n;
	bf16 *q = (bf16 *)shared, *g = q + SIDE * (D + PAD), *stages = g + SIDE * (D + PAD);
	float dq[D / 8][4] = {}, row_lse[2], row_delta[2];
	struct packed<bf16> keys;

	if (t.from >= t.n)
		return;
	keys = packed_of(qkv, &c, t.first, head / (c.heads / c.kv_heads));
	fetch_tile<D>(q, SIDE, (struct rows){ qkv + t.first * width + (size_t)head * D, width, t.n }, t.from);
	fetch_tile<D>(g, SIDE, (struct rows){ dout + ((size_t)t.first * c.heads + head) * D, (size_t)c.heads * D, t.n },
	    t.from);
	fetch_keys<D>(stages, N, keys, qkv, 0, n);
	fetch_commit();
	for (int r = 0; r < 2; r++) {
		int position = t.from + warp * 16 + lane / 4 + 8 * r;
		size_t row = (size_t)(t.first + position) * c.heads + head;

		row_lse[r] = position < t.n ? lse[row] * log2e : 0;
		row_delta[r] = position < t.n ? delta[row] : 0;
	}
	for (int j0 = 0, stage = 0; j0 < n; j0 += N, stage ^= 1) {
		const bf16 *k = stages + stage * size, *v = k + N * (D + PAD);
		float p[N / 8][4], dp[N / 8][4];

		if (j0 + N < n)
			fetch_keys<D>(stages + (stage ^ 1) * size, N, keys, qkv, j0 + N, n);
		fetch_commit();
		fetch_wait<1>();
		__syncthreads();
		scores_shared<D, N>(p, q + warp * 16 * (D + PAD), k, lane);
		scores_shared<D, N>(dp, g + warp * 16 * (D + PAD), v, lane);
		#pragma unroll
		for (int j = 0; j < N / 8; j++)
			#pragma unroll
			for (int r = 0; r < 2; r++) {
				int position = t.from + warp * 16 + lane / 4 + 8 * r, key = j0 + j * 8 + lane % 4 * 2;
				float keep[2] = { 1, 1 };

				if (c.threshold)
					keep_two(keep, &c, keep_attention(t.first + position, c.heads, head) + (uint64_t)key);
				#pragma unroll
				for (int i = 0; i < 2; i++) {
					float *x = &p[j][2 * r + i];

					*x = key + i <= position && position < t.n ?
					    exp2f(*x * c.scale * log2e - row_lse[r]) : 0;
					*x *= keep[i] * dp[j][2 * r + i] - row_delta[r];
				}
			}
		add_products<D, N>(dq, p, k, lane);
		__syncthreads();
	}
	for (int r = 0; r < 2; r++) {
		int position = t.from + warp * 16 + lane / 4 + 8 * r;

		if (position < t.n)
			put_half<D>(dqkv + (t.first + position) * width + (size_t)head * D, dq, r, c.scale, lane);
	}
}

/* N queries at a time of each head that reads the 64 keys; 16 keys a warp are the rows here. */
template<int D, int N>
static __global__ void
__launch_bounds__(THREADS)
backward_keys(bf16 *dqkv, const bf16 *dout, const float *lse, const float *delta, const bf16 *qkv, const int *offsets,
    struct call c)
{
	LAUNCHED_SHARED(uint4, shared);
	struct tile t = tile_of((int)blockIdx.x, offsets, c.nseq, SIDE);
	int kv_head = (int)blockIdx.y, group = c.heads / c.kv_heads;
	int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
	size_t width = (size_t)(c.heads + 2 * c.kv_heads) * D;
	const int size = 2 * N * (D + PAD), tiles = blocks_of(t.n - t.from, N), turns = group * tiles;
	bf16 *k = (bf16 *)shared, *v = k + SIDE * (D + PAD), *stages = v + SIDE * (D + PAD);
	float dk[D / 8][4] = {}, dv[D / 8][4] = {};
	struct packed<bf16> keys;

	if (t.from >= t.n)
		return;
	keys = packed_of(qkv, &c, t.first, kv_head);
	fetch_tile<D>(k, SIDE, (struct rows){ keys.k, keys.pitch, t.n }, t.from);
	fetch_tile<D>(v, SIDE, (struct rows){ keys.v, keys.pitch, t.n }, t.from);
	for (int turn = -1, stage = 1; turn < turns; turn++, stage ^= 1) {
		const bf16 *q = stages + stage * size, *g = q + N * (D + PAD);
		int head = kv_head * group + turn / tiles, i0 = t.from + turn % tiles * N;
		float p[N / 8][4], dp[N / 8][4];

		if (turn + 1 < turns) {
			int next = kv_head * group + (turn + 1) / tiles, from = t.from + (turn + 1) % tiles * N;
			bf16 *to = stages + (stage ^ 1) * size;

			fetch_tile<D>(to, N, (struct rows){ qkv + t.first * width + (size_t)next * D, width, t.n }, from);
			fetch_tile<D>(to + N * (D + PAD), N, (struct rows){ dout + ((size_t)t.first * c.heads + next) * D,
			    (size_t)c.heads * D, t.n }, from);
		}
		fetch_commit();
		if (turn < 0)
			continue;
		fetch_wait<1>();
		__syncthreads();
		scores_shared<D, N>(p, k + warp * 16 * (D + PAD), q, lane);
		scores_shared<D, N>(dp, v + warp * 16 * (D + PAD), g, lane);
		/* p f and ds of the same place; the first goes to the values at once */
		#pragma unroll
		for (int j = 0; j < N / 8; j++)
			#pragma unroll
			for (int i = 0; i < 2; i++) {
				int position = i0 + j * 8 + lane % 4 * 2 + i;
				size_t row = (size_t)(t.first + position) * c.heads + head;
				float of_lse = position < t.n ? lse[row] * log2e : 0, of_delta = position < t.n ? delta[row] : 0;

				#pragma unroll
				for (int r = 0; r < 2; r++) {
					int key = t.from + warp * 16 + lane / 4 + 8 * r;
					float *x = &p[j][2 * r + i], *y = &dp[j][2 * r + i], f = 1;

					if (c.threshold)
						f = keep_one(&c, keep_attention(t.first + position, c.heads, head) + (uint64_t)key);
					*x = key <= position && position < t.n ? exp2f(*x * c.scale * log2e - of_lse) : 0;
					*y = *x * (f * *y - of_delta);
					*x *= f;
				}
			}
		add_products<D, N>(dv, p, g, lane);
		add_products<D, N>(dk, dp, q, lane);
		__syncthreads();
	}
	for (int r = 0; r < 2; r++) {
		int key = t.from + warp * 16 + lane / 4 + 8 * r;
		bf16 *to = dqkv + (t.first + key) * width + (size_t)(c.heads + kv_head) * D;

		if (key >= t.n)
			continue;
		put_half<D>(to, dk, r, c.scale, lane);
		put_half<D>(to + (size_t)c.kv_heads * D, dv, r, 1, lane);
	}
}

/* Bytes of `rows` rows of D numbers in shared memory. */
template<int D>
static size_t
shared_rows(int rows)
{
	return (size_t)rows * (D + PAD) * sizeof(bf16);
}

template<int D>
static void
launch_forward(void *out, float *lse, const void *qkv, const struct ragged *seq, const struct call *c)
{
	allow_shared(forward<D>, shared_rows<D>(5 * SIDE));
	LAUNCH(forward<D>, dim3(tiles_of(seq, SIDE), (unsigned)c->heads), THREADS, shared_rows<D>(5 * SIDE), (bf16 *)out,
	    lse, (const bf16 *)qkv, seq->offsets, *c);
}

template<int D>
static void
launch_paged(void *out, const void *qkv, const struct kv *kv, int layer, const int *tables, int ntables,
    const int *length, int m, const struct call *c)
{
	unsigned tiles = (unsigned)blocks_of(c->heads / c->kv_heads, 16);
	int chunks = blocks_of(ntables * KV_PAGE, CHUNK);
	float *parts = chunks > 1 ? (float *)scratch(SCRATCH_PARTS,
	    (size_t)m * c->heads * chunks * (D + 2) * sizeof *parts) : NULL;

	allow_shared(forward_paged<D>, shared_rows<D>(16 + 4 * SIDE));
	LAUNCH(forward_paged<D>, dim3((unsigned)m, (unsigned)c->kv_heads * tiles, (unsigned)chunks), THREADS,
	    shared_rows<D>(16 + 4 * SIDE), (bf16 *)out, parts, (const bf16 *)qkv, *kv, layer, tables, ntables, length, *c);
	if (parts)
		LAUNCH(join_parts<D>, dim3((unsigned)m, (unsigned)c->heads), D, 0, (bf16 *)out, parts, chunks, length);
}

template<int D>
static void
launch_backward(void *dqkv, const void *dout, const float *lse, const float *delta, const void *qkv,
    const struct ragged *seq, const struct call *c)
{
	enum { N = D == 64 ? 64 : 32 };		/* what registers hold */
	size_t bytes = shared_rows<D>(2 * SIDE + 4 * N);
	unsigned tiles = tiles_of(seq, SIDE);

	allow_shared(backward_queries<D, N>, bytes);
	allow_shared(backward_keys<D, N>, bytes);
	LAUNCH((backward_queries<D, N>), dim3(tiles, (unsigned)c->heads), THREADS, bytes, (bf16 *)dqkv, (const bf16 *)dout,
	    lse, delta, (const bf16 *)qkv, seq->offsets, *c);
	LAUNCH((backward_keys<D, N>), dim3(tiles, (unsigned)c->kv_heads), THREADS, bytes, (bf16 *)dqkv, (const bf16 *)dout,
	    lse, delta, (const bf16 *)qkv, seq->offsets, *c);
}

static int
fits(enum dtype type, int d)
{
	return type == DT_BF16 && (d == 64 || d == 128);
}

void
attention_cuda(void *out, float *lse, const void *qkv, enum dtype type, const struct ragged *seq,
    const struct heads *h, const struct dropout *drop)
{
	struct call c = call_of(h, seq->nseq, drop);

	if (!seq->m)
		return;
	if (!fits(type, h->d))
		attention_plain(out, lse, qkv, type, seq, &c);
	else if (h->d == 64)
		launch_forward<64>(out, lse, qkv, seq, &c);
	else
		launch_forward<128>(out, lse, qkv, seq, &c);
}

void
attention_backward_cuda(void *dqkv, const void *dout, const void *out, const float *lse, const void *qkv,
    enum dtype type, const struct ragged *seq, const struct heads *h, const struct dropout *drop)
{
	struct call c = call_of(h, seq->nseq, drop);
	size_t n = (size_t)seq->m * h->heads;
	float *delta = (float *)scratch(SCRATCH_PARTS, n * sizeof *delta);

	if (!n)
		return;
	WITH_TYPE(T, type, LAUNCH(attention_delta<T>, (unsigned)blocks_of(n, 256 / WARP), 256, 0, delta, (const T *)dout,
	    (const T *)out, n, h->d));
	if (!fits(type, h->d))
		attention_plain_backward(dqkv, dout, lse, delta, qkv, type, seq, &c);
	else if (h->d == 64)
		launch_backward<64>(dqkv, dout, lse, delta, qkv, seq, &c);
	else
		launch_backward<128>(dqkv, dout, lse, delta, qkv, seq, &c);
}

void
attention_paged_cuda(void *out, const void *qkv, enum dtype type, const struct kv *kv, int layer, const int *tables,
    int ntables, const int *length, int m, const struct heads *h)
{
	struct call c = call_of(h, 0, NULL);

	if (!m)
		return;
	if (!fits(type, h->d) || kv->type != DT_BF16)
		attention_plain_paged(out, qkv, type, kv, layer, tables, ntables, length, m, &c);
	else if (h->d == 64)
		launch_paged<64>(out, qkv, kv, layer, tables, ntables, length, m, &c);
	else
		launch_paged<128>(out, qkv, kv, layer, tables, ntables, length, m, &c);
}
