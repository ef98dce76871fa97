/* SPDX-License-Identifier: MIT */
/*
 * attention_plain - attention in f32 arithmetic, for f32 and for heads that tensor cores do not take
 *
 * A block has 32 queries, four of each warp, and meets 32 keys at a time: a lane has a key while scores
 * are taken, and every 32nd channel while values are added up. The backward has two passes, one by
 * queries for dq and one by keys for dk and dv, and takes the scores again in each; so each sum
 * belongs to one block. Heads of up to 256 channels.
 */
#include <math.h>

#include "kernels/attention.cuh"

enum { SIDE = 32, THREADS = 256, EACH = SIDE / (THREADS / WARP), MOST = 256 / WARP };

/* Rows of d numbers to shared memory; row(j) is NULL where there is none. */
template<typename ROW>
static __device__ void
load_rows(float *to, int pitch, int d, ROW row)
{
	for (int e = (int)threadIdx.x; e < SIDE * d; e += THREADS) {
		int j = e / d, c = e % d;
		auto *from = row(j);

		to[j * pitch + c] = from ? up(from[c]) : 0;
	}
}

/* The larger of two, and the same to all lanes where one is a NaN. */
struct larger {
	__device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

static __device__ inline float
dot(const float *x, const float *y, int d)
{
	float sum = 0;

	for (int c = 0; c < d; c++)
		sum = fmaf(x[c], y[c], sum);
	return sum;
}

/* sum[i] += the first n lanes' weights times rows of y, in channels lane, lane + 32, ... */
static __device__ inline void
add_weighted(float sum[MOST], float weight, const float *y, int n, int pitch, int d, int lane)
{
	for (int j = 0; j < n; j++) {
		float w = __shfl_sync(~0u, weight, j);

		#pragma unroll
		for (int i = 0; i < MOST; i++)
			if (lane + i * WARP < d)
				sum[i] = fmaf(w, y[j * pitch + lane + i * WARP], sum[i]);
	}
}

/*
 * What the block's queries see of `keys`, tile by tile. limit[i]: how many keys this warp's query i sees.
 * Leaves sums, maxima and sums of exponentials.
 */
template<typename KEYS>
static __device__ void
attend(float o[EACH][MOST], float max[EACH], float sum[EACH], const float *q, float *ks, float *vs, KEYS keys, int n,
    const int limit[EACH], const struct call *c, const uint64_t at[EACH])
{
	int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP, pitch = c->d | 1;

	for (int j0 = 0; j0 < n; j0 += SIDE) {
		__syncthreads();
		load_rows(ks, pitch, c->d, [=](int j) { return j0 + j < n ? keys.key(j0 + j) : NULL; });
		load_rows(vs, pitch, c->d, [=](int j) { return j0 + j < n ? keys.value(j0 + j) : NULL; });
		__syncthreads();
		#pragma unroll
		for (int i = 0; i < EACH; i++) {
			float s = c->scale * dot(q + (warp * EACH + i) * pitch, ks + lane * pitch, c->d), p, top, zero, shrink;

			if (limit[i] <= j0)
				continue;
			s = j0 + lane < limit[i] ? s : -INFINITY;
			top = fmaxf(max[i], warp_reduce(s, larger()));
			zero = top == -INFINITY ? 0 : top;
			shrink = expf(max[i] - zero);
			p = expf(s - zero);
			max[i] = top;
			sum[i] = fmaf(sum[i], shrink, warp_reduce(p, plus()));
			if (c->threshold)
				p *= keep_one(c, at[i] + j0 + lane);
			#pragma unroll
			for (int k = 0; k < MOST; k++)
				o[i][k] *= shrink;
			add_weighted(o[i], p, vs, limit[i] - j0 < SIDE ? limit[i] - j0 : SIDE, pitch, c->d, lane);
		}
	}
}

template<typename T>
static __device__ void
put_row(T *to, const float x[MOST], float factor, int d, int lane)
{
	#pragma unroll
	for (int i = 0; i < MOST; i++)
		if (lane + i * WARP < d)
			to[lane + i * WARP] = down<T>(x[i] * factor);
}

template<typename T>
static __global__ void
__launch_bounds__(THREADS)
forward(T *out, float *lse, const T *qkv, const int *offsets, struct call c)
{
	LAUNCHED_SHARED(float, shared);
	struct tile t = tile_of((int)blockIdx.x, offsets, c.nseq, SIDE);
	int head = (int)blockIdx.y, lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP, pitch = c.d | 1;
	size_t width = (size_t)(c.heads + 2 * c.kv_heads) * c.d;
	float *q = shared, *ks = q + SIDE * pitch, *vs = ks + SIDE * pitch;
	float o[EACH][MOST] = {}, max[EACH], sum[EACH] = {};
	int limit[EACH], n = t.from + SIDE < t.n ? t.from + SIDE : t.n;
	uint64_t at[EACH];

	if (t.from >= t.n)
		return;
	load_rows(q, pitch, c.d, [=](int j) {
		return t.from + j < t.n ? qkv + (t.first + t.from + j) * width + (size_t)head * c.d : NULL;
	});
	for (int i = 0; i < EACH; i++) {
		int position = t.from + warp * EACH + i;

		max[i] = -INFINITY;
		limit[i] = position < t.n ? position + 1 : 0;
		at[i] = keep_attention(t.first + position, c.heads, head);
	}
	attend(o, max, sum, q, ks, vs, packed_of(qkv, &c, t.first, head / (c.heads / c.kv_heads)), n, limit, &c, at);
	for (int i = 0; i < EACH; i++) {
		size_t row = (size_t)(t.first + t.from + warp * EACH + i) * c.heads + head;

		if (!limit[i])
			continue;
		put_row(out + row * c.d, o[i], 1 / sum[i], c.d, lane);
		if (lse && lane == 0)
			lse[row] = max[i] + logf(sum[i]);
	}
}

/* The heads that share keys are the queries. */
template<typename T, typename K>
static __global__ void
__launch_bounds__(THREADS)
forward_paged(T *out, const T *qkv, struct kv kv, int layer, const int *tables, int ntables, const int *length,
    struct call c)
{
	LAUNCHED_SHARED(float, shared);
	int row = (int)blockIdx.x, kv_head = (int)blockIdx.y, group = c.heads / c.kv_heads, from = (int)blockIdx.z * SIDE;
	int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP, pitch = c.d | 1;
	size_t width = (size_t)(c.heads + 2 * c.kv_heads) * c.d;
	float *q = shared, *ks = q + SIDE * pitch, *vs = ks + SIDE * pitch;
	float o[EACH][MOST] = {}, max[EACH], sum[EACH] = {};
	int limit[EACH], n = length[row];
	uint64_t at[EACH] = {};

	load_rows(q, pitch, c.d, [=](int j) {
		return from + j < group ? qkv + row * width + (size_t)(kv_head * group + from + j) * c.d : NULL;
	});
	for (int i = 0; i < EACH; i++) {
		max[i] = -INFINITY;
		limit[i] = from + warp * EACH + i < group ? n : 0;
	}
	attend(o, max, sum, q, ks, vs, paged_of<K>(&kv, layer, tables + (size_t)row * ntables, kv_head), n, limit, &c, at);
	for (int i = 0; i < EACH; i++)
		if (limit[i])
			put_row(out + ((size_t)row * c.heads + kv_head * group + from + warp * EACH + i) * c.d, o[i],
			    1 / sum[i], c.d, lane);
}

/* dq of 32 queries of a head. */
template<typename T>
static __global__ void
__launch_bounds__(THREADS)
backward_queries(T *dqkv, const T *dout, const float *lse, const float *delta, const T *qkv, const int *offsets,
    struct call c)
{
	LAUNCHED_SHARED(float, shared);
	struct tile t = tile_of((int)blockIdx.x, offsets, c.nseq, SIDE);
	int head = (int)blockIdx.y, lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP, pitch = c.d | 1;
	size_t width = (size_t)(c.heads + 2 * c.kv_heads) * c.d;
	float *q = shared, *g = q + SIDE * pitch, *ks = g + SIDE * pitch, *vs = ks + SIDE * pitch, dq[EACH][MOST] = {};
	int n = t.from + SIDE < t.n ? t.from + SIDE : t.n;
	struct packed<T> keys;

	if (t.from >= t.n)
		return;
	keys = packed_of(qkv, &c, t.first, head / (c.heads / c.kv_heads));
	load_rows(q, pitch, c.d, [=](int j) {
		return t.from + j < t.n ? qkv + (t.first + t.from + j) * width + (size_t)head * c.d : NULL;
	});
	load_rows(g, pitch, c.d, [=](int j) {
		return t.from + j < t.n ? dout + ((size_t)(t.first + t.from + j) * c.heads + head) * c.d : NULL;
	});
	for (int j0 = 0; j0 < n; j0 += SIDE) {
		__syncthreads();
		load_rows(ks, pitch, c.d, [=](int j) { return j0 + j < n ? keys.key(j0 + j) : NULL; });
		load_rows(vs, pitch, c.d, [=](int j) { return j0 + j < n ? keys.value(j0 + j) : NULL; });
		__syncthreads();
		#pragma unroll
		for (int i = 0; i < EACH; i++) {
			int slot = warp * EACH + i, position = t.from + slot, j = j0 + lane;
			size_t row = (size_t)(t.first + position) * c.heads + head;
			float ds = 0;

			if (j <= position && position < t.n) {
				float p = expf(c.scale * dot(q + slot * pitch, ks + lane * pitch, c.d) - lse[row]);
				float f = c.threshold ? keep_one(&c, keep_attention(t.first + position, c.heads, head) + j) : 1;

				ds = c.scale * p * (f * dot(g + slot * pitch, vs + lane * pitch, c.d) - delta[row]);
			}
			add_weighted(dq[i], ds, ks, SIDE, pitch, c.d, lane);
		}
	}
	for (int i = 0; i < EACH; i++) {
		int position = t.from + warp * EACH + i;

		if (position < t.n)
			put_row(dqkv + (t.first + position) * width + (size_t)head * c.d, dq[i], 1, c.d, lane);
	}
}

/* dk and dv of 32 keys of a head: a lane has a query of one of the heads that read them. */
template<typename T>
static __global__ void
__launch_bounds__(THREADS)
backward_keys(T *dqkv, const T *dout, const float *lse, const float *delta, const T *qkv, const int *offsets,
    struct call c)
{
	LAUNCHED_SHARED(float, shared);
	struct tile t = tile_of((int)blockIdx.x, offsets, c.nseq, SIDE);
	int kv_head = (int)blockIdx.y, group = c.heads / c.kv_heads, pitch = c.d | 1;
	int lane = (int)threadIdx.x % WARP, warp = (int)threadIdx.x / WARP;
	size_t width = (size_t)(c.heads + 2 * c.kv_heads) * c.d;
	float *q = shared, *g = q + SIDE * pitch, *ks = g + SIDE * pitch, *vs = ks + SIDE * pitch;
	float dk[EACH][MOST] = {}, dv[EACH][MOST] = {};
	struct packed<T> keys;

	if (t.from >= t.n)
		return;
	keys = packed_of(qkv, &c, t.first, kv_head);
	load_rows(ks, pitch, c.d, [=](int j) { return t.from + j < t.n ? keys.key(t.from + j) : NULL; });
	load_rows(vs, pitch, c.d, [=](int j) { return t.from + j < t.n ? keys.value(t.from + j) : NULL; });
	for (int head = kv_head * group; head < (kv_head + 1) * group; head++)
		for (int i0 = t.from; i0 < t.n; i0 += SIDE) {
			__syncthreads();
			load_rows(q, pitch, c.d, [=](int j) {
				return i0 + j < t.n ? qkv + (t.first + i0 + j) * width + (size_t)head * c.d : NULL;
			});
			load_rows(g, pitch, c.d, [=](int j) {
				return i0 + j < t.n ? dout + ((size_t)(t.first + i0 + j) * c.heads + head) * c.d : NULL;
			});
			__syncthreads();
			#pragma unroll
			for (int i = 0; i < EACH; i++) {
				int slot = warp * EACH + i, key = t.from + slot, position = i0 + lane;
				size_t row = (size_t)(t.first + position) * c.heads + head;
				float p = 0, f = 1, ds = 0;

				if (key <= position && position < t.n) {
					p = expf(c.scale * dot(q + lane * pitch, ks + slot * pitch, c.d) - lse[row]);
					if (c.threshold)
						f = keep_one(&c, keep_attention(t.first + position, c.heads, head) + key);
					ds = c.scale * p *
					    (f * dot(g + lane * pitch, vs + slot * pitch, c.d) - delta[row]);
				}
				add_weighted(dv[i], p * f, g, SIDE, pitch, c.d, lane);
				add_weighted(dk[i], ds, q, SIDE, pitch, c.d, lane);
			}
		}
	for (int i = 0; i < EACH; i++) {
		int key = t.from + warp * EACH + i;
		T *to = dqkv + (t.first + key) * width + (size_t)(c.heads + kv_head) * c.d;

		if (key < t.n) {
			put_row(to, dk[i], 1, c.d, lane);
			put_row(to + (size_t)c.kv_heads * c.d, dv[i], 1, c.d, lane);
		}
	}
}

static size_t
shared_bytes(const struct call *c, int tiles)
{
	if (c->d > MOST * WARP)
		die("cuda: heads of %d channels, where %d are the most", c->d, MOST * WARP);
	return (size_t)tiles * SIDE * (c->d | 1) * sizeof(float);
}

void
attention_plain(void *out, float *lse, const void *qkv, enum dtype type, const struct ragged *seq,
    const struct call *c)
{
	dim3 grid(tiles_of(seq, SIDE), (unsigned)c->heads);
	size_t bytes = shared_bytes(c, 3);

	WITH_TYPE(T, type,
		allow_shared(forward<T>, bytes);
		LAUNCH(forward<T>, grid, THREADS, bytes, (T *)out, lse, (const T *)qkv, seq->offsets, *c));
}

void
attention_plain_paged(void *out, const void *qkv, enum dtype type, const struct kv *kv, int layer, const int *tables,
    int ntables, const int *length, int m, const struct call *c)
{
	dim3 grid((unsigned)m, (unsigned)c->kv_heads, (unsigned)blocks_of(c->heads / c->kv_heads, SIDE));
	size_t bytes = shared_bytes(c, 3);

	WITH_TYPE(T, type, WITH_TYPE(K, kv->type,
		allow_shared(forward_paged<T, K>, bytes);
		LAUNCH((forward_paged<T, K>), grid, THREADS, bytes, (T *)out, (const T *)qkv, *kv, layer, tables, ntables,
		    length, *c)));
}

void
attention_plain_backward(void *dqkv, const void *dout, const float *lse, const float *delta, const void *qkv,
    enum dtype type, const struct ragged *seq, const struct call *c)
{
	unsigned tiles = tiles_of(seq, SIDE);
	size_t bytes = shared_bytes(c, 4);

	WITH_TYPE(T, type,
		allow_shared(backward_queries<T>, bytes);
		allow_shared(backward_keys<T>, bytes);
		LAUNCH(backward_queries<T>, dim3(tiles, (unsigned)c->heads), THREADS, bytes, (T *)dqkv, (const T *)dout, lse,
		    delta, (const T *)qkv, seq->offsets, *c);
		LAUNCH(backward_keys<T>, dim3(tiles, (unsigned)c->kv_heads), THREADS, bytes, (T *)dqkv, (const T *)dout, lse,
		    delta, (const T *)qkv, seq->offsets, *c));
}
