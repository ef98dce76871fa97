/* SPDX-License-Identifier: MIT */
/*
 * matmul - products with a matrix of weights, three ways
 *
 * phases(): bf16, forward, up to FEW rows, on tensor cores. The inputs are cut in blocks of 16 which eight
 * warps take in turn; each adds up its own, and the eight sums are added as a tree. That order is the
 * same for every size of tile, so a row's result does not depend on how many rows there are.
 * Weights of 4 and 8 bits become bf16 on their way to shared memory.
 * cuBLASLt: larger batches, and the gradients (kernels/library.cu).
 * product(): f32 forward up to FEW rows, and what has odd sizes: plain multiply-adds in the order of the index.
 *
 * Tensor cores read rows that begin at 16 bytes: operands that do not are copied, padded with zeros.
 */
#include "kernels/library.cuh"
#include "kernels/mma.cuh"
#include "kernels/quant.cuh"

enum {
	FEW = 512,		/* rows up to which a row's company cannot matter */
	SMALL = 64,		/* a gradient's sides below which the library is not asked */
	THREADS = 256,
};

/* Plain products */

/* An operand by elements: (i, j) at i * row + j * column. */
struct view {
	const void *p;
	enum dtype type;
	size_t row, column;
};

static __device__ inline float
view_get(const struct view *v, size_t i, size_t j)
{
	size_t at = i * v->row + j * v->column;

	return v->type == DT_BF16 ? up(((const bf16 *)v->p)[at]) : ((const float *)v->p)[at];
}

static __device__ inline void
put(void *y, enum dtype type, size_t at, float x, int accumulate)
{
	if (type == DT_BF16) {
		bf16 *p = (bf16 *)y + at;

		*p = down<bf16>(accumulate ? up(*p) + x : x);
	} else {
		float *p = (float *)y + at;

		*p = accumulate ? *p + x : x;
	}
}

enum { TILE = 64, DEPTH = 16 };

/* c[m, n] (+)= A [m, k] B [k, n] + bias[n]: a tile of 64 x 64 a block, 4 x 4 a thread. */
static __global__ void
product(void *c, enum dtype type, size_t pitch, struct view a, struct view b, const float *bias, int m, int n, int k,
    int accumulate)
{
	__shared__ float as[DEPTH][TILE + 1], bs[DEPTH][TILE + 1];
	int i0 = (int)blockIdx.y * TILE, j0 = (int)blockIdx.x * TILE, ti = (int)threadIdx.x / 16,
	    tj = (int)threadIdx.x % 16;
	float sum[4][4] = {};

	for (int l0 = 0; l0 < k; l0 += DEPTH) {
		for (int e = (int)threadIdx.x; e < TILE * DEPTH; e += THREADS) {
			/* along the side that is dense in memory */
			int i = a.column == 1 ? e / DEPTH : e % TILE, la = a.column == 1 ? e % DEPTH : e / TILE;
			int j = b.row == 1 ? e / DEPTH : e % TILE, lb = b.row == 1 ? e % DEPTH : e / TILE;

			as[la][i] = i0 + i < m && l0 + la < k ? view_get(&a, i0 + i, l0 + la) : 0;
			bs[lb][j] = j0 + j < n && l0 + lb < k ? view_get(&b, l0 + lb, j0 + j) : 0;
		}
		__syncthreads();
		#pragma unroll
		for (int l = 0; l < DEPTH; l++)
			#pragma unroll
			for (int i = 0; i < 4; i++)
				#pragma unroll
				for (int j = 0; j < 4; j++)
					sum[i][j] = fmaf(as[l][ti + 16 * i], bs[l][tj + 16 * j], sum[i][j]);
		__syncthreads();
	}
	#pragma unroll
	for (int i = 0; i < 4; i++)
		#pragma unroll
		for (int j = 0; j < 4; j++) {
			int row = i0 + ti + 16 * i, column = j0 + tj + 16 * j;

			if (row < m && column < n)
				put(c, type, row * pitch + column, sum[i][j] + (bias ? bias[column] : 0), accumulate);
		}
}

static void
plain(void *c, enum dtype type, size_t pitch, struct view a, struct view b, const float *bias, int m, int n, int k,
    int accumulate)
{
	/* the grid's second side ends at 65535 */
	for (int from = 0; from < m; from += 65535 * TILE) {
		int rows = m - from < 65535 * TILE ? m - from : 65535 * TILE;

		LAUNCH(product, dim3((unsigned)blocks_of(n, TILE), (unsigned)blocks_of(rows, TILE)), THREADS, 0,
		    (char *)c + from * pitch * dtype_size(type), type, pitch, a, b, bias, rows, n, k, accumulate);
		a.p = (const char *)a.p + (size_t)rows * a.row * dtype_size(a.type);
	}
}

/* Operands of one type, padded */

/* Column i of y is column order[i] of x. */
template<typename Y, typename X>
static __global__ void
pad_rows(Y *y, const X *x, const int *order, int columns, int pitch)
{
	size_t row = blockIdx.x;

	for (int i = (int)threadIdx.x; i < pitch; i += (int)blockDim.x)
		y[row * pitch + i] = down<Y>(i < columns ? up(x[row * columns + (order ? order[i] : i)]) : 0);
}

/* x [rows, columns] as `type`, in `order`, with rows that begin at 16 bytes: itself, or a copy in scratch. */
static struct operand
padded(const void *x, enum dtype xtype, enum dtype type, const int *order, int rows, int columns, enum scratch purpose)
{
	struct operand o = { x, type, pitch_cuda(columns), 0 };
	void *copy;

	if (xtype == type && !order && o.pitch == columns && aligned(x))
		return o;
	o.data = copy = scratch(purpose, (size_t)rows * o.pitch * dtype_size(type));
	WITH_TYPE(Y, type, WITH_TYPE(X, xtype, LAUNCH((pad_rows<Y, X>), (unsigned)rows, THREADS, 0, (Y *)copy,
	    (const X *)x, order, columns, o.pitch)));
	return o;
}

/* Few rows on tensor cores */

enum { PHASES = THREADS / WARP, SLAB = 16 * PHASES, PITCH = SLAB + PAD };

/* W of a product on tensor cores: bf16, or codes. */
struct side_of_weights {
	const bf16 *w;
	struct coded c;
	int n, pitch;
};

/* Eight weights to shared memory, zeros where not `there`. */
template<bool CODED>
static __device__ inline void
fetch_weights(bf16 *to, const struct side_of_weights *s, int o, int i, bool there)
{
	if (!CODED) {
		fetch_16(to, there ? s->w + (size_t)o * s->pitch + i : s->w, there);
	} else {
		float x[8] = {};
		pack<bf16, 8> eight;

		if (there)
			decode_8(x, &s->c, (size_t)o, i);
		#pragma unroll
		for (int j = 0; j < 8; j++)
			eight.v[j] = down<bf16>(x[j]);
		*(pack<bf16, 8> *)to = eight;
	}
}

/* Slab `from` of W's OUTS outputs and x's ROWS rows, eight numbers a thread and turn. */
template<int OUTS, int ROWS, bool CODED>
static __device__ void
fetch_slab(bf16 *slab, const struct side_of_weights *w, const bf16 *x, int o0, int r0, int m, int from)
{
	for (int e = (int)threadIdx.x; e < (OUTS + ROWS) * (SLAB / 8); e += THREADS) {
		int line = e / (SLAB / 8), i = e % (SLAB / 8) * 8, row = r0 + line - OUTS;
		bool inside = from + i < w->pitch;

		if (line < OUTS) {
			fetch_weights<CODED>(slab + line * PITCH + i, w, o0 + line, from + i, inside && o0 + line < w->n);
		} else {
			bool there = inside && row < m;

			fetch_16(slab + line * PITCH + i, there ? x + (size_t)row * w->pitch + from + i : x, there);
		}
	}
}

/* c[output][row] += the products of this warp's 16 inputs of the slab. */
template<int OUTS, int ROWS>
static __device__ void
multiply_slab(float c[OUTS / 16][ROWS / 8][4], const bf16 *slab, int warp, int lane)
{
	const bf16 *x = slab + OUTS * PITCH + 16 * warp;
	unsigned a[OUTS / 16][4], b[(ROWS + 15) / 16][4];

	#pragma unroll
	for (int i = 0; i < OUTS / 16; i++)
		load_a(a[i], slab + i * 16 * PITCH + 16 * warp, PITCH, lane);
	if (ROWS == 8)
		load_2(b[0], x + lane % 8 * PITCH + lane / 8 % 2 * 8);
	else
		#pragma unroll
		for (int j = 0; j < ROWS / 16; j++)
			load_b(b[j], x + j * 16 * PITCH, PITCH, lane);
	#pragma unroll
	for (int i = 0; i < OUTS / 16; i++)
		#pragma unroll
		for (int j = 0; j < ROWS / 8; j++)
			multiply(c[i][j], a[i], b[j / 2] + j % 2 * 2);
}

/* Sums of the warps to shared memory, [PHASES][ROWS][OUTS + 1]. */
template<int OUTS, int ROWS>
static __device__ void
leave_sums(float *sums, const float c[OUTS / 16][ROWS / 8][4], int warp, int lane)
{
	sums += (size_t)warp * ROWS * (OUTS + 1);
	#pragma unroll
	for (int i = 0; i < OUTS / 16; i++)
		#pragma unroll
		for (int j = 0; j < ROWS / 8; j++)
			#pragma unroll
			for (int q = 0; q < 4; q++) {
				int row = j * 8 + lane % 4 * 2 + q % 2, out = i * 16 + lane / 4 + q / 2 * 8;

				sums[row * (OUTS + 1) + out] = c[i][j][q];
			}
}

template<int OUTS, int ROWS, int STAGES, bool CODED>
static __global__ void
__launch_bounds__(THREADS)
phases(void *y, enum dtype type, struct side_of_weights w, const bf16 *x, const float *bias, int m, int accumulate)
{
	LAUNCHED_SHARED(uint4, shared);
	bf16 *slabs = (bf16 *)shared;
	float *sums = (float *)shared, c[OUTS / 16][ROWS / 8][4] = {};
	int o0 = (int)blockIdx.x * OUTS, r0 = (int)blockIdx.y * ROWS, turns = (w.pitch + SLAB - 1) / SLAB;
	int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP;
	const int size = (OUTS + ROWS) * PITCH;

	for (int s = 0; s < STAGES - 1; s++) {
		if (s < turns)
			fetch_slab<OUTS, ROWS, CODED>(slabs + s * size, &w, x, o0, r0, m, s * SLAB);
		fetch_commit();
	}
	for (int turn = 0; turn < turns; turn++) {
		int ahead = turn + STAGES - 1;

		fetch_wait<STAGES - 2>();
		__syncthreads();
		if (ahead < turns)
			fetch_slab<OUTS, ROWS, CODED>(slabs + ahead % STAGES * size, &w, x, o0, r0, m, ahead * SLAB);
		fetch_commit();
		multiply_slab<OUTS, ROWS>(c, slabs + turn % STAGES * size, warp, lane);
	}
	fetch_wait<0>();
	__syncthreads();
	leave_sums<OUTS, ROWS>(sums, c, warp, lane);
	__syncthreads();
	for (int e = (int)threadIdx.x; e < OUTS * ROWS; e += THREADS) {
		int out = e % OUTS, row = e / OUTS;
		float of[PHASES];

		#pragma unroll
		for (int p = 0; p < PHASES; p++)
			of[p] = sums[(p * ROWS + row) * (OUTS + 1) + out];
		#pragma unroll
		for (int reach = PHASES / 2; reach; reach /= 2)
			#pragma unroll
			for (int p = 0; p < reach; p++)
				of[p] += of[p + reach];
		if (o0 + out < w.n && r0 + row < m)
			put(y, type, (size_t)(r0 + row) * w.n + o0 + out, of[0] + (bias ? bias[o0 + out] : 0), accumulate);
	}
}

template<int OUTS, int ROWS, int STAGES, bool CODED>
static void
launch_phases(void *y, enum dtype type, const struct side_of_weights *w, const bf16 *x, const float *bias, int m,
    int accumulate)
{
	const int slabs = STAGES * (OUTS + ROWS) * PITCH * (int)sizeof(bf16);
	const int sums = PHASES * ROWS * (OUTS + 1) * (int)sizeof(float);
	const int bytes = slabs > sums ? slabs : sums;
	static int allowed;

	if (!allowed)
		CUDA(cudaFuncSetAttribute(phases<OUTS, ROWS, STAGES, CODED>, cudaFuncAttributeMaxDynamicSharedMemorySize,
		    bytes));
	allowed = 1;
	LAUNCH((phases<OUTS, ROWS, STAGES, CODED>), dim3((unsigned)blocks_of(w->n, OUTS), (unsigned)blocks_of(m, ROWS)),
	    THREADS, bytes, y, type, *w, x, bias, m, accumulate);
}

template<bool CODED>
static void
few(void *y, enum dtype type, const struct weight *w, const struct operand *x, const float *bias, int m, int n,
    int accumulate)
{
	struct side_of_weights s = { (const bf16 *)w->data, {}, n, pitch_cuda(w->k) };
	const bf16 *in = (const bf16 *)x->data;

	if (CODED)
		s.c = coded_of(w);
	if (m <= 8)
		launch_phases<16, 8, 8, CODED>(y, type, &s, in, bias, m, accumulate);
	else if (m <= 16)
		launch_phases<16, 16, 6, CODED>(y, type, &s, in, bias, m, accumulate);
	else if (m <= 32)
		launch_phases<32, 32, 4, CODED>(y, type, &s, in, bias, m, accumulate);
	else
		launch_phases<64, 64, 3, CODED>(y, type, &s, in, bias, m, accumulate);
}

/* The three products */

static struct operand
weights(const struct weight *w, int transposed)
{
	return (struct operand){ w->data, w->type, pitch_cuda(w->k), transposed };
}

template<typename T>
static __global__ void
add_bias(T *y, const float *bias, int n)
{
	for (int i = (int)threadIdx.x; i < n; i += (int)blockDim.x)
		y[(size_t)blockIdx.x * n + i] = down<T>(up(y[(size_t)blockIdx.x * n + i]) + bias[i]);
}

/* Not every version of the library adds a bias of f32. */
static int
many(void *y, enum dtype type, const struct weight *w, const struct operand *x, const float *bias, int m, int n,
    int accumulate)
{
	struct operand a = weights(w, 1);

	if (library_multiply(y, type, n, &a, x, n, m, w->k, 0, bias, accumulate))
		return 1;
	if (!bias || !library_multiply(y, type, n, &a, x, n, m, w->k, 0, NULL, accumulate))
		return 0;
	WITH_TYPE(T, type, LAUNCH(add_bias<T>, (unsigned)m, THREADS, 0, (T *)y, bias, n));
	return 1;
}

/* bf16 rows from codes directly; else from a plain copy of the weights, of x's type. */
static void
quantised(void *y, enum dtype ytype, const void *x, enum dtype xtype, const struct weight *w, const float *b, int m,
    int n, int accumulate)
{
	size_t bytes = (size_t)n * pitch_cuda(w->k) * dtype_size(xtype);
	struct weight copy = { .type = xtype, .n = n, .k = w->k };
	struct operand in;

	if (xtype == DT_BF16 && m <= FEW) {
		in = padded(x, xtype, DT_BF16, w->quant.order, m, w->k, SCRATCH_RIGHT);
		few<true>(y, ytype, w, &in, b, m, n, accumulate);
		return;
	}
	copy.data = scratch(SCRATCH_OUT, bytes);
	quant_decode(copy.data, xtype, w, 0, n);
	matmul_cuda(y, ytype, x, xtype, &copy, b, m, n, accumulate);
}

void
matmul_cuda(void *y, enum dtype ytype, const void *x, enum dtype xtype, const struct weight *w, const float *b,
    int m, int n, int accumulate)
{
	size_t pitch = (size_t)pitch_cuda(w->k);
	struct operand in;

	if (!m || !n)
		return;
	if (w->type == DT_U8) {
		quantised(y, ytype, x, xtype, w, b, m, n, accumulate);
		return;
	}
	if (w->type == DT_BF16 || m > FEW) {
		in = padded(x, xtype, w->type, NULL, m, w->k, SCRATCH_RIGHT);
		if (m > FEW && many(y, ytype, w, &in, b, m, n, accumulate))
			return;
		if (w->type == DT_BF16) {
			few<false>(y, ytype, w, &in, b, m, n, accumulate);
			return;
		}
	}
	plain(y, ytype, n, { x, xtype, (size_t)w->k, 1 }, { w->data, w->type, 1, pitch }, b, m, n, w->k, accumulate);
}

void
matmul_dx_cuda(void *dx, enum dtype dxtype, const void *dy, enum dtype dytype, const struct weight *w, int m, int n,
    int accumulate)
{
	size_t pitch = (size_t)pitch_cuda(w->k);
	struct operand a = weights(w, 0), b;

	if (!m)
		return;
	if (n >= SMALL && w->k >= SMALL) {
		b = padded(dy, dytype, w->type, NULL, m, n, SCRATCH_RIGHT);
		if (library_multiply(dx, dxtype, w->k, &a, &b, w->k, m, n, 0, NULL, accumulate))
			return;
	}
	plain(dx, dxtype, w->k, { dy, dytype, (size_t)n, 1 }, { w->data, w->type, pitch, 1 }, NULL, m, w->k, n,
	    accumulate);
}

void
matmul_dw_cuda(float *dw, const struct weight *w, const void *dy, enum dtype dytype, const void *x,
    enum dtype xtype, int m, int n)
{
	size_t pitch = (size_t)pitch_cuda(w->k);
	struct operand a, b;

	if (!m || !n)
		return;
	if (m >= SMALL && n >= SMALL && w->k >= SMALL) {
		a = padded(x, xtype, w->type, NULL, m, w->k, SCRATCH_LEFT);
		b = padded(dy, dytype, w->type, NULL, m, n, SCRATCH_RIGHT);
		b.transposed = 1;
		if (library_multiply(dw, DT_F32, (int)pitch, &a, &b, w->k, n, m, 1, NULL, 1))
			return;
	}
	plain(dw, DT_F32, pitch, { dy, dytype, 1, (size_t)n }, { x, xtype, (size_t)w->k, 1 }, NULL, n, w->k, m, 1);
}
