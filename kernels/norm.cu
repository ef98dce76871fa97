/* SPDX-License-Identifier: MIT */
/*
 * norm - norms, and all sums down the rows: of their gradients, of biases, of embeddings, of squares
 *
 * A warp per row; lane l takes the chunks l, l + 32, ... of 16 bytes, the same where they must be read
 * element by element. Sums down the rows are cut in slabs of rows, a thread per column and slab; the
 * slabs' sums are added in order. What rows of one id give to an embedding is added by the block of
 * the id's first row, in the order of rows.
 */
#include "kernels/device.cuh"

enum { THREADS = 256, WARPS = THREADS / WARP, SLAB = 64 };

/* Elements i .. i+N-1 of n, zeros beyond. */
template<typename T, int N, bool ALIGNED>
static __device__ void
load(float out[N], const T *x, int i, int n)
{
	if (ALIGNED && i + N <= n) {
		pack<T, N> v = *(const pack<T, N> *)(x + i);

		#pragma unroll
		for (int j = 0; j < N; j++)
			out[j] = up(v.v[j]);
	} else {
		#pragma unroll
		for (int j = 0; j < N; j++)
			out[j] = i + j < n ? up(x[i + j]) : 0;
	}
}

/* The same of weights, 16 bytes at a time whatever the type of the rows. */
template<int N, bool ALIGNED>
static __device__ void
load_weights(float out[N], const float *w, int i, int n)
{
	#pragma unroll
	for (int j = 0; j < N; j += 4)
		load<float, 4, ALIGNED>(out + j, w, i + j, n);
}

template<typename T, int N, bool ALIGNED>
static __device__ void
store(T *x, const float in[N], int i, int n)
{
	if (ALIGNED && i + N <= n) {
		pack<T, N> v;

		#pragma unroll
		for (int j = 0; j < N; j++)
			v.v[j] = down<T>(in[j]);
		*(pack<T, N> *)(x + i) = v;
	} else {
		#pragma unroll
		for (int j = 0; j < N; j++)
			if (i + j < n)
				x[i + j] = down<T>(in[j]);
	}
}

template<typename T, bool ALIGNED>
static __global__ void
norm_rows(T *y, const T *x, const float *w, const float *b, float eps, float *stats, int m, int c)
{
	enum { N = 16 / sizeof(T) };
	int row = (int)blockIdx.x * WARPS + (int)threadIdx.x / WARP, first = (int)threadIdx.x % WARP * N, i;
	float v[N], weight[N], shift[N] = {}, mean = 0, square = 0, r;

	if (row >= m)
		return;
	x += (size_t)row * c;
	y += (size_t)row * c;
	if (b) {
		for (i = first; i < c; i += WARP * N) {
			load<T, N, ALIGNED>(v, x, i, c);
			#pragma unroll
			for (int j = 0; j < N; j++)
				mean += v[j];
		}
		mean = warp_reduce(mean, plus()) / (float)c;
	}
	for (i = first; i < c; i += WARP * N) {
		load<T, N, ALIGNED>(v, x, i, c);
		#pragma unroll
		for (int j = 0; j < N; j++)
			square = i + j < c ? fmaf(v[j] - mean, v[j] - mean, square) : square;
	}
	r = 1 / sqrtf(warp_reduce(square, plus()) / (float)c + eps);
	for (i = first; i < c; i += WARP * N) {
		load<T, N, ALIGNED>(v, x, i, c);
		load_weights<N, ALIGNED>(weight, w, i, c);
		if (b)
			load_weights<N, ALIGNED>(shift, b, i, c);
		#pragma unroll
		for (int j = 0; j < N; j++)
			v[j] = fmaf((v[j] - mean) * r, weight[j], shift[j]);
		store<T, N, ALIGNED>(y, v, i, c);
	}
	if (stats && first == 0) {
		stats[2 * (size_t)row] = mean;
		stats[2 * (size_t)row + 1] = r;
	}
}

void
norm_cuda(void *y, const void *x, enum dtype type, const float *w, const float *b, float eps, float *stats,
    int m, int c)
{
	unsigned grid = (unsigned)blocks_of(m, WARPS);

	if (!m)
		return;
	WITH_TYPE(T, type,
		if (c % (16 / (int)sizeof(T)) == 0 && aligned(y) && aligned(x) && aligned(w) && aligned(b))
			LAUNCH((norm_rows<T, true>), grid, THREADS, 0, (T *)y, (const T *)x, w, b, eps, stats, m, c);
		else
			LAUNCH((norm_rows<T, false>), grid, THREADS, 0, (T *)y, (const T *)x, w, b, eps, stats, m, c));
}

template<typename T, bool ALIGNED>
static __global__ void
norm_back_rows(T *dx, const T *dy, const T *x, const float *w, const float *stats, int centred, int m, int c)
{
	enum { N = 16 / sizeof(T) };
	int row = (int)blockIdx.x * WARPS + (int)threadIdx.x / WARP, first = (int)threadIdx.x % WARP * N, i;
	float d[N], v[N], weight[N], old[N], mean, r, sum = 0, dot = 0;

	if (row >= m)
		return;
	dx += (size_t)row * c;
	dy += (size_t)row * c;
	x += (size_t)row * c;
	mean = stats[2 * (size_t)row];
	r = stats[2 * (size_t)row + 1];
	for (i = first; i < c; i += WARP * N) {
		load<T, N, ALIGNED>(d, dy, i, c);
		load<T, N, ALIGNED>(v, x, i, c);
		load_weights<N, ALIGNED>(weight, w, i, c);
		#pragma unroll
		for (int j = 0; j < N; j++) {
			float g = d[j] * weight[j];

			sum += g;
			dot = fmaf(g, (v[j] - mean) * r, dot);
		}
	}
	sum = centred ? warp_reduce(sum, plus()) / (float)c : 0;
	dot = warp_reduce(dot, plus()) / (float)c;
	for (i = first; i < c; i += WARP * N) {
		load<T, N, ALIGNED>(d, dy, i, c);
		load<T, N, ALIGNED>(v, x, i, c);
		load<T, N, ALIGNED>(old, dx, i, c);
		load_weights<N, ALIGNED>(weight, w, i, c);
		#pragma unroll
		for (int j = 0; j < N; j++)
			old[j] += r * (d[j] * weight[j] - sum - (v[j] - mean) * r * dot);
		store<T, N, ALIGNED>(dx, old, i, c);
	}
}

/*
 * parts[slab][c] = sum over the slab's rows of dy, and with x parts2 of dy n, n = (x - mean) r. A column a
 * thread: neighbours read neighbours.
 */
template<typename T>
static __global__ void
slab_sums(float *parts, float *parts2, const T *dy, const T *x, const float *stats, int m, int c)
{
	int column = (int)(blockIdx.y * THREADS + threadIdx.x), first = (int)blockIdx.x * SLAB;
	int last = m - first < SLAB ? m : first + SLAB;
	float sum = 0, sum2 = 0;

	if (column >= c)
		return;
	for (int row = first; row < last; row++) {
		size_t at = (size_t)row * c + column;
		float d = up(dy[at]);

		sum += d;
		if (x)
			sum2 = fmaf(d, (up(x[at]) - stats[2 * (size_t)row]) * stats[2 * (size_t)row + 1], sum2);
	}
	parts[(size_t)blockIdx.x * c + column] = sum;
	if (x)
		parts2[(size_t)blockIdx.x * c + column] = sum2;
}

/* out[c] += the sum of the slabs, a warp's lane every 32nd of them. */
static __global__ void
add_slabs(float *out, const float *parts, int slabs, int c)
{
	int column = (int)(blockIdx.x * WARPS + threadIdx.x / WARP);
	float sum = 0;

	if (column >= c)
		return;
	for (int i = (int)threadIdx.x % WARP; i < slabs; i += WARP)
		sum += parts[(size_t)i * c + column];
	sum = warp_reduce(sum, plus());
	if (threadIdx.x % WARP == 0)
		out[column] += sum;
}

/* db (may be NULL) += sums of dy; dw (where x is not NULL) += sums of dy n. */
static void
column_sums(float *dw, float *db, const void *dy, const void *x, enum dtype type, const float *stats, int m, int c)
{
	int slabs = blocks_of(m, SLAB);
	size_t n = (size_t)slabs * c;
	float *parts;

	if (!m || !c)
		return;
	parts = (float *)scratch(SCRATCH_PARTS, 2 * n * sizeof *parts);
	WITH_TYPE(T, type, LAUNCH(slab_sums<T>, dim3((unsigned)slabs, (unsigned)blocks_of(c, THREADS)), THREADS, 0,
	    parts, parts + n, (const T *)dy, (const T *)x, stats, m, c));
	if (db)
		LAUNCH(add_slabs, (unsigned)blocks_of(c, WARPS), THREADS, 0, db, parts, slabs, c);
	if (x)
		LAUNCH(add_slabs, (unsigned)blocks_of(c, WARPS), THREADS, 0, dw, parts + n, slabs, c);
}

void
norm_backward_cuda(void *dx, float *dw, float *db, const void *dy, const void *x, enum dtype type, const float *w,
    const float *stats, int m, int c)
{
	unsigned grid = (unsigned)blocks_of(m, WARPS);

	if (!m)
		return;
	WITH_TYPE(T, type,
		if (c % (16 / (int)sizeof(T)) == 0 && aligned(dx) && aligned(dy) && aligned(x) && aligned(w))
			LAUNCH((norm_back_rows<T, true>), grid, THREADS, 0, (T *)dx, (const T *)dy, (const T *)x, w, stats,
			    db != NULL, m, c);
		else
			LAUNCH((norm_back_rows<T, false>), grid, THREADS, 0, (T *)dx, (const T *)dy, (const T *)x, w, stats,
			    db != NULL, m, c));
	column_sums(dw, db, dy, x, type, stats, m, c);
}

void
bias_backward_cuda(float *db, const void *dy, enum dtype type, int m, int n)
{
	column_sums(NULL, db, dy, NULL, type, NULL, m, n);
}

/* dw[ids[r]] += dy[r] for all rows r of this block's id, where this block's row is the first of them. */
template<typename T>
static __global__ void
add_rows(float *dw, const T *dy, const int *ids, int m, int k, int pitch)
{
	__shared__ unsigned found[WARPS];
	int row = (int)blockIdx.x, id = ids[row], earlier = 0, warp = (int)threadIdx.x / WARP;

	for (int r = (int)threadIdx.x; r < row; r += THREADS)
		earlier |= ids[r] == id;
	if (__syncthreads_or(earlier))
		return;
	dw += (size_t)id * pitch;
	for (int base = row; base < m; base += THREADS) {
		int r = base + (int)threadIdx.x;
		unsigned vote = __ballot_sync(~0u, r < m && ids[r] == id);

		__syncthreads();
		if (threadIdx.x % WARP == 0)
			found[warp] = vote;
		__syncthreads();
		for (int i = 0; i < WARPS; i++)
			for (unsigned bits = found[i]; bits; bits &= bits - 1) {
				const T *from = dy + (size_t)(base + i * WARP + __ffs((int)bits) - 1) * k;

				for (int c = (int)threadIdx.x; c < k; c += THREADS)
					dw[c] += up(from[c]);
			}
	}
}

void
embed_backward_cuda(float *dw, const struct weight *w, float *dp, const struct weight *p, const void *dy,
    enum dtype type, const int *ids, const int *positions, int m)
{
	if (!m)
		return;
	WITH_TYPE(T, type, LAUNCH(add_rows<T>, (unsigned)m, THREADS, 0, dw, (const T *)dy, ids, m, w->k,
	    pitch_cuda(w->k)));
	if (p)
		WITH_TYPE(T, type, LAUNCH(add_rows<T>, (unsigned)m, THREADS, 0, dp, (const T *)dy, positions, m, p->k,
		    pitch_cuda(p->k)));
}

enum { PARTS = 1024 };

static __global__ void
square_parts(double *parts, const float *x, size_t n)
{
	double sum = 0;

	for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += (size_t)PARTS * THREADS)
		sum = fma((double)x[i], (double)x[i], sum);
	sum = block_reduce(sum, plus());
	if (threadIdx.x == 0)
		parts[blockIdx.x] = sum;
}

static __global__ void
add_parts(double *out, const double *parts)
{
	double sum = 0;

	for (int i = (int)threadIdx.x; i < PARTS; i += THREADS)
		sum += parts[i];
	sum = block_reduce(sum, plus());
	if (threadIdx.x == 0)
		*out += sum;
}

void
sum_squares_cuda(double *sum, const float *x, size_t n)
{
	double *parts = (double *)scratch(SCRATCH_PARTS, PARTS * sizeof *parts);

	LAUNCH(square_parts, PARTS, THREADS, 0, parts, x, n);
	LAUNCH(add_parts, 1, THREADS, 0, sum, parts);
}
