/* SPDX-License-Identifier: MIT */
/*
 * elementwise - what has no sums: gates, dropout, changes of type, angles, rows moved and copied, AdamW
 *
 * 16 bytes a thread where all addresses allow it, else element by element; in f32 like the other
 * fast rows. One Philox call serves the four elements of its counter.
 */
#include <math.h>

#include "kernels/device.cuh"
#include "kernels/keep.h"
#include "kernels/page.h"

enum { THREADS = 256 };

/* y[i] = f(a[i], b[i]) */
template<typename Y, typename T, int N, typename F>
static __global__ void
zip(Y *y, const T *a, const T *b, size_t n, F f)
{
	size_t i = ((size_t)blockIdx.x * THREADS + threadIdx.x) * N;

	if (i + N <= n) {
		pack<T, N> u = *(const pack<T, N> *)(a + i), v = *(const pack<T, N> *)(b + i);
		pack<Y, N> out;

		#pragma unroll
		for (int j = 0; j < N; j++)
			out.v[j] = down<Y>(f(up(u.v[j]), up(v.v[j])));
		*(pack<Y, N> *)(y + i) = out;
	} else {
		for (; i < n; i++)
			y[i] = down<Y>(f(up(a[i]), up(b[i])));
	}
}

template<typename Y, typename T, typename F>
static void
zip_all(void *y, const void *a, const void *b, size_t n, F f)
{
	enum { N = 16 / (sizeof(T) > sizeof(Y) ? sizeof(T) : sizeof(Y)) };

	if (!n)
		return;
	if (aligned(y) && aligned(a) && aligned(b))
		LAUNCH((zip<Y, T, N, F>), (unsigned)blocks_of(n, THREADS * N), THREADS, 0, (Y *)y, (const T *)a,
		    (const T *)b, n, f);
	else
		LAUNCH((zip<Y, T, 1, F>), (unsigned)blocks_of(n, THREADS), THREADS, 0, (Y *)y, (const T *)a,
		    (const T *)b, n, f);
}

struct sum {
	float a;

	__device__ float operator()(float y, float x) const { return fmaf(a, x, y); }
};

struct same {
	__device__ float operator()(float a, float) const { return a; }
};

void
add_cuda(void *y, float a, const void *x, enum dtype type, size_t n)
{
	WITH_TYPE(T, type, zip_all<T, T>(y, y, x, n, sum{ a }));
}

void
convert_cuda(void *y, enum dtype ytype, const void *x, enum dtype xtype, size_t n)
{
	WITH_TYPE(Y, ytype, WITH_TYPE(T, xtype, zip_all<Y, T>(y, x, x, n, same())));
}

/* gelu_new and its slope, kernels/gelu.c: (1 + tanh u) / 2 = 1 / (1 + exp(-2 u)), which does not cancel. */
struct gelu {
	__device__ float
	operator()(float x, float) const
	{
		return x / (1 + expf(-1.5957691216f * (x + 0.044715f * x * x * x)));
	}
};

struct gelu_slope {
	__device__ float
	operator()(float dy, float x) const
	{
		float u = 1.5957691216f * (x + 0.044715f * x * x * x), s = 1 / (1 + expf(-u)), rest = 1 / (1 + expf(u));

		return dy * s * (1 + x * rest * 1.5957691216f * (1 + 0.134145f * x * x));
	}
};

void
gelu_cuda(void *y, const void *x, enum dtype type, size_t n)
{
	WITH_TYPE(T, type, zip_all<T, T>(y, x, x, n, gelu()));
}

void
gelu_backward_cuda(void *dx, const void *dy, const void *x, enum dtype type, size_t n)
{
	WITH_TYPE(T, type, zip_all<T, T>(dx, dy, x, n, gelu_slope()));
}

/* Rows of blocks in x, columns in y: a row of 2^31 is allowed, 65535 blocks of columns are enough. */
static dim3
by_row(int m, int columns)
{
	return dim3((unsigned)m, (unsigned)blocks_of(columns, THREADS));
}

template<typename T, int N>
static __global__ void
swiglu_rows(T *y, const T *gu, int f)
{
	int c = (int)(blockIdx.y * THREADS + threadIdx.x) * N;
	const T *gate = gu + (size_t)blockIdx.x * 2 * f + c;
	pack<T, N> g, u, out;

	if (c >= f)
		return;
	g = *(const pack<T, N> *)gate;
	u = *(const pack<T, N> *)(gate + f);
	#pragma unroll
	for (int j = 0; j < N; j++)
		out.v[j] = down<T>(up(g.v[j]) / (1 + expf(-up(g.v[j]))) * up(u.v[j]));
	*(pack<T, N> *)(y + (size_t)blockIdx.x * f + c) = out;
}

template<typename T, int N>
static __global__ void
swiglu_back(T *dgu, const T *dy, const T *gu, int f)
{
	int c = (int)(blockIdx.y * THREADS + threadIdx.x) * N;
	size_t at = (size_t)blockIdx.x * 2 * f + c;
	pack<T, N> g, u, d, dg, du;

	if (c >= f)
		return;
	g = *(const pack<T, N> *)(gu + at);
	u = *(const pack<T, N> *)(gu + at + f);
	d = *(const pack<T, N> *)(dy + (size_t)blockIdx.x * f + c);
	#pragma unroll
	for (int j = 0; j < N; j++) {
		float x = up(g.v[j]), s = 1 / (1 + expf(-x)), dyj = up(d.v[j]);

		dg.v[j] = down<T>(dyj * up(u.v[j]) * s * (1 + x * (1 - s)));
		du.v[j] = down<T>(dyj * x * s);
	}
	*(pack<T, N> *)(dgu + at) = dg;
	*(pack<T, N> *)(dgu + at + f) = du;
}

void
swiglu_cuda(void *y, const void *gu, enum dtype type, int m, int f)
{
	if (!m || !f)
		return;
	WITH_TYPE(T, type,
		enum { N = 16 / sizeof(T) };
		if (f % N == 0 && aligned(y) && aligned(gu))
			LAUNCH((swiglu_rows<T, N>), by_row(m, f / N), THREADS, 0, (T *)y, (const T *)gu, f);
		else
			LAUNCH((swiglu_rows<T, 1>), by_row(m, f), THREADS, 0, (T *)y, (const T *)gu, f));
}

void
swiglu_backward_cuda(void *dgu, const void *dy, const void *gu, enum dtype type, int m, int f)
{
	if (!m || !f)
		return;
	WITH_TYPE(T, type,
		enum { N = 16 / sizeof(T) };
		if (f % N == 0 && aligned(dgu) && aligned(dy) && aligned(gu))
			LAUNCH((swiglu_back<T, N>), by_row(m, f / N), THREADS, 0, (T *)dgu, (const T *)dy,
			    (const T *)gu, f);
		else
			LAUNCH((swiglu_back<T, 1>), by_row(m, f), THREADS, 0, (T *)dgu, (const T *)dy,
			    (const T *)gu, f));
}

/* The factors of elements 4 i .. 4 i + 3. */
static __device__ void
keep_four(float factor[4], uint64_t i, uint64_t threshold, float scale, uint64_t seed, uint32_t stream)
{
	const uint32_t counter[4] = { (uint32_t)i, (uint32_t)(i >> 32), stream, 0 };
	const uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
	uint32_t words[4];

	philox(words, counter, key);
	#pragma unroll
	for (int j = 0; j < 4; j++)
		factor[j] = words[j] >= threshold ? scale : 0;
}

template<typename T>
static __global__ void
drop_fours(T *y, const T *x, size_t n, uint64_t threshold, float scale, uint64_t seed, uint32_t stream)
{
	size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x;
	float factor[4];

	if (4 * i >= n)
		return;
	keep_four(factor, i, threshold, scale, seed, stream);
	if (4 * i + 4 <= n) {
		pack<T, 4> v = *(const pack<T, 4> *)(x + 4 * i);

		#pragma unroll
		for (int j = 0; j < 4; j++)
			v.v[j] = down<T>(up(v.v[j]) * factor[j]);
		*(pack<T, 4> *)(y + 4 * i) = v;
	} else {
		#pragma unroll
		for (int j = 0; j < 4; j++)
			if (4 * i + j < n)
				y[4 * i + j] = down<T>(up(x[4 * i + j]) * factor[j]);
	}
}

void
dropout_cuda(void *y, const void *x, enum dtype type, size_t n, const struct dropout *drop)
{
	if (!n)
		return;
	if (keep_all(drop)) {
		if (y != x)
			copy_cuda(y, x, n * dtype_size(type));
		return;
	}
	if (!aligned(y) || !aligned(x))
		die("cuda: dropout of memory that is not aligned to 16 bytes");
	WITH_TYPE(T, type, LAUNCH(drop_fours<T>, (unsigned)blocks_of(n, 4 * THREADS), THREADS, 0, (T *)y,
	    (const T *)x, n, keep_threshold(drop), 1 / (1 - drop->p), drop->seed, drop->stream));
}

/* N pairs (c, c + pairs) of a head a thread. */
template<typename T, int N>
static __global__ void
rope_rows(T *x, const float *table, const int *positions, int stride, int heads, int pairs, float sign)
{
	int i = (int)(blockIdx.y * THREADS + threadIdx.x) * N, head = i / pairs, c = i % pairs;
	T *low = x + (size_t)blockIdx.x * stride + (size_t)head * 2 * pairs + c;
	pack<float, 2 * N> angle;
	pack<T, N> a, b;

	if (head >= heads)
		return;
	angle = *(const pack<float, 2 * N> *)(table + 2 * ((size_t)positions[blockIdx.x] * pairs + c));
	a = *(const pack<T, N> *)low;
	b = *(const pack<T, N> *)(low + pairs);
	#pragma unroll
	for (int j = 0; j < N; j++) {
		float cosine = angle.v[2 * j], sine = sign * angle.v[2 * j + 1], u = up(a.v[j]), v = up(b.v[j]);

		a.v[j] = down<T>(u * cosine - v * sine);
		b.v[j] = down<T>(u * sine + v * cosine);
	}
	*(pack<T, N> *)low = a;
	*(pack<T, N> *)(low + pairs) = b;
}

void
rope_cuda(void *x, enum dtype type, const float *table, const int *positions, int m, int stride, int heads,
    int d, int inverse)
{
	int pairs = d / 2;

	if (!m || !pairs)
		return;
	WITH_TYPE(T, type,
		enum { N = 16 / sizeof(T) };
		if (pairs % N == 0 && stride % N == 0 && aligned(x) && aligned(table))
			LAUNCH((rope_rows<T, N>), by_row(m, heads * pairs / N), THREADS, 0, (T *)x, table, positions,
			    stride, heads, pairs, inverse ? -1.0f : 1.0f);
		else
			LAUNCH((rope_rows<T, 1>), by_row(m, heads * pairs), THREADS, 0, (T *)x, table, positions,
			    stride, heads, pairs, inverse ? -1.0f : 1.0f));
}

/* Rows of N units of U: y[to ? to[i] : i] = x[from ? from[i] : i]. */
template<typename U>
static __global__ void
move_rows(U *y, const U *x, const int *to, const int *from, int n)
{
	size_t row = blockIdx.x;
	U *out = y + (size_t)(to ? to[row] : (int)row) * n;
	const U *in = x + (size_t)(from ? from[row] : (int)row) * n;

	for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x)
		out[i] = in[i];
}

static void
move_all(void *y, const void *x, enum dtype type, const int *to, const int *from, int m, int c)
{
	size_t bytes = (size_t)c * dtype_size(type);

	if (!m || !c)
		return;
	if (bytes % 16 == 0 && aligned(y) && aligned(x))
		LAUNCH(move_rows<uint4>, (unsigned)m, 128, 0, (uint4 *)y, (const uint4 *)x, to, from, (int)(bytes / 16));
	else
		LAUNCH(move_rows<uint16_t>, (unsigned)m, 128, 0, (uint16_t *)y, (const uint16_t *)x, to, from,
		    (int)(bytes / 2));
}

void
gather_cuda(void *y, const void *x, enum dtype type, const int *rows, int m, int c)
{
	move_all(y, x, type, NULL, rows, m, c);
}

void
scatter_cuda(void *dx, const void *dy, enum dtype type, const int *rows, int m, int c)
{
	move_all(dx, dy, type, rows, NULL, m, c);
}

/* Rows of n units of U; pitches in units. */
template<typename U>
static __global__ void
copy_rows(U *y, size_t to, const U *x, size_t from, size_t n)
{
	for (size_t i = (size_t)blockIdx.y * THREADS + threadIdx.x; i < n; i += (size_t)gridDim.y * THREADS)
		y[blockIdx.x * to + i] = x[blockIdx.x * from + i];
}

template<typename U>
static void
copy_units(void *dst, size_t to, const void *src, size_t from, size_t bytes, int m)
{
	size_t n = bytes / sizeof(U), blocks = blocks_of(n, THREADS);

	LAUNCH(copy_rows<U>, dim3((unsigned)m, (unsigned)(blocks < 1024 ? blocks : 1024)), THREADS, 0, (U *)dst,
	    to / sizeof(U), (const U *)src, from / sizeof(U), n);
}

void
copy_rows_cuda(void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t bytes, int m)
{
	if (!m || !bytes)
		return;
	if ((bytes | dst_pitch | src_pitch) % 16 == 0 && aligned(dst) && aligned(src))
		copy_units<uint4>(dst, dst_pitch, src, src_pitch, bytes, m);
	else
		copy_units<char>(dst, dst_pitch, src, src_pitch, bytes, m);
}

/* A thread per element of the row: rows of weights are padded, rows of y are not. */
template<typename Y, typename T>
static __global__ void
embed_rows(Y *y, const T *w, const T *p, const int *ids, const int *positions, int k, int pitch)
{
	size_t row = blockIdx.x;
	const T *word = w + (size_t)ids[row] * pitch, *place = p ? p + (size_t)positions[row] * pitch : NULL;

	for (int i = (int)threadIdx.x; i < k; i += (int)blockDim.x)
		y[row * k + i] = down<Y>(up(word[i]) + (place ? up(place[i]) : 0));
}

void
embed_cuda(void *y, enum dtype type, const struct weight *w, const struct weight *p, const int *ids,
    const int *positions, int m)
{
	if (!m)
		return;
	WITH_TYPE(Y, type, WITH_TYPE(T, w->type, LAUNCH((embed_rows<Y, T>), (unsigned)m, THREADS, 0, (Y *)y,
	    (const T *)w->data, p ? (const T *)p->data : NULL, ids, positions, w->k, pitch_cuda(w->k))));
}

/* A block per row: keys and values of every head to their page. */
template<typename T, typename K>
static __global__ void
store_rows(struct kv kv, int layer, const T *qkv, const int *page, const int *place, int heads)
{
	size_t row = blockIdx.x;
	int width = kv.kv_heads * kv.d;

	qkv += row * (heads * kv.d + 2 * width) + heads * kv.d;
	for (int i = (int)threadIdx.x; i < 2 * width; i += (int)blockDim.x) {
		int values = i / width, head = i % width / kv.d, c = i % kv.d;
		size_t at = page_at(&kv, layer, page[row], values, head);

		((K *)kv.data)[at + place[row] % KV_PAGE * kv.d + c] = down<K>(up(qkv[i]));
	}
}

void
kv_store_cuda(struct kv *kv, int layer, const void *qkv, enum dtype type, const int *page, const int *place,
    int m, const struct heads *h)
{
	if (!m)
		return;
	WITH_TYPE(T, type, WITH_TYPE(K, kv->type, LAUNCH((store_rows<T, K>), (unsigned)m, THREADS, 0, *kv, layer,
	    (const T *)qkv, page, place, h->heads)));
}

/* The numbers of struct adamw as a step takes them. */
struct rates {
	float scale, beta1, rest1, beta2, rest2, decay, rate, root2, eps;
};

/* No operation here may be joined with another but where it says fmaf: both types of weights take the same steps. */
static __device__ float
adamw_step(float weight, float *m, float *v, float g, const struct rates *r)
{
	float grad = __fmul_rn(r->scale, g);

	*m = __fmaf_rn(r->rest1, grad, __fmul_rn(r->beta1, *m));
	*v = __fmaf_rn(r->rest2, __fmul_rn(grad, grad), __fmul_rn(r->beta2, *v));
	weight = __fmaf_rn(r->decay, weight, weight);
	return __fsub_rn(weight, __fdiv_rn(__fmul_rn(r->rate, *m), __fmaf_rn(__fsqrt_rn(*v), r->root2, r->eps)));
}

template<int N>
static __global__ void
adamw_f32(float *w, float *m, float *v, float *g, size_t n, struct rates r)
{
	size_t i = ((size_t)blockIdx.x * THREADS + threadIdx.x) * N;
	pack<float, N> weight, mean, square, grad;

	if (i >= n)
		return;
	weight = *(pack<float, N> *)(w + i);
	mean = *(pack<float, N> *)(m + i);
	square = *(pack<float, N> *)(v + i);
	grad = *(pack<float, N> *)(g + i);
	#pragma unroll
	for (int j = 0; j < N; j++) {
		weight.v[j] = adamw_step(weight.v[j], &mean.v[j], &square.v[j], grad.v[j], &r);
		grad.v[j] = 0;
	}
	*(pack<float, N> *)(w + i) = weight;
	*(pack<float, N> *)(m + i) = mean;
	*(pack<float, N> *)(v + i) = square;
	*(pack<float, N> *)(g + i) = grad;
}

/* lo: read where there is a MASTER; else words of Philox say how weights are rounded. */
template<int N, bool MASTER>
static __global__ void
adamw_bf16(uint16_t *w, int16_t *lo, float *m, float *v, float *g, size_t n, struct rates r, uint64_t seed,
    uint32_t stream)
{
	size_t i = ((size_t)blockIdx.x * THREADS + threadIdx.x) * N;
	const uint32_t counter[4] = { (uint32_t)(i / 4), (uint32_t)(i / 4 >> 32), stream, 1 };
	const uint32_t key[2] = { (uint32_t)seed, (uint32_t)(seed >> 32) };
	pack<uint16_t, N> high;
	pack<int16_t, N> low = {};
	pack<float, N> mean, square, grad;
	uint32_t words[4] = {};

	if (i >= n)
		return;
	high = *(pack<uint16_t, N> *)(w + i);
	if (MASTER)
		low = *(pack<int16_t, N> *)(lo + i);
	else
		philox(words, counter, key);
	mean = *(pack<float, N> *)(m + i);
	square = *(pack<float, N> *)(v + i);
	grad = *(pack<float, N> *)(g + i);
	#pragma unroll
	for (int j = 0; j < N; j++) {
		uint32_t bits = ((uint32_t)high.v[j] << 16) + (uint32_t)(int32_t)low.v[j];

		bits = __float_as_uint(adamw_step(__uint_as_float(bits), &mean.v[j], &square.v[j], grad.v[j], &r));
		high.v[j] = (uint16_t)((bits + (MASTER ? 0x8000 : words[(i + j) % 4] & 0xffff)) >> 16);
		low.v[j] = (int16_t)bits;
		grad.v[j] = 0;
	}
	*(pack<uint16_t, N> *)(w + i) = high;
	if (MASTER)
		*(pack<int16_t, N> *)(lo + i) = low;
	*(pack<float, N> *)(m + i) = mean;
	*(pack<float, N> *)(v + i) = square;
	*(pack<float, N> *)(g + i) = grad;
}

template<int N>
static void
adamw_all(void *w, enum dtype type, int16_t *lo, float *m, float *v, float *g, size_t n, const struct rates *r,
    const struct adamw *h)
{
	unsigned grid = (unsigned)blocks_of(n, N * THREADS);

	if (type != DT_BF16)
		LAUNCH(adamw_f32<N>, grid, THREADS, 0, (float *)w, m, v, g, n, *r);
	else if (lo)
		LAUNCH((adamw_bf16<N, true>), grid, THREADS, 0, (uint16_t *)w, lo, m, v, g, n, *r, h->seed, h->stream);
	else
		LAUNCH((adamw_bf16<N, false>), grid, THREADS, 0, (uint16_t *)w, lo, m, v, g, n, *r, h->seed, h->stream);
}

void
adamw_cuda(void *w, enum dtype type, int16_t *lo, float *m, float *v, float *g, size_t n, const struct adamw *h)
{
	const struct rates r = {
		(float)h->scale, (float)h->beta1, (float)(1 - h->beta1), (float)h->beta2, (float)(1 - h->beta2),
		(float)(-h->lr * h->decay), (float)(h->lr / h->correction1), (float)(1 / sqrt(h->correction2)),
		(float)h->eps,
	};

	if (!n)
		return;
	if (n % 4 == 0 && aligned(w) && aligned(lo) && aligned(m) && aligned(v) && aligned(g))
		adamw_all<4>(w, type, lo, m, v, g, n, &r, h);
	else
		adamw_all<1>(w, type, lo, m, v, g, n, &r, h);
}
