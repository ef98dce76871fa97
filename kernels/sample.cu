/* SPDX-License-Identifier: MIT */
/*
 * sample - draws, and the best of a row, without a sort of the vocabulary
 *
 * Floats are ordered as integers, and an edge is found four bits at a time: the largest number such that
 * what is not below it counts k (top-k), or weighs top_p. Which of several equals stay is decided by
 * id. For everything that goes by the order of ids each warp has a segment of them, in order. Only
 * integers are added by atomics.
 */
#include "kernels/softmax.cuh"

enum { WARPS = ROW_THREADS / WARP, DIGIT = 4 };

static __device__ inline uint32_t
key_of(float x)
{
	uint32_t u = __float_as_uint(x + 0.0f);		/* -0 is 0 */

	return u & 0x80000000 ? ~u : u | 0x80000000;
}

static __device__ inline float
value_of(uint32_t key)
{
	return __uint_as_float(key & 0x80000000 ? key & 0x7fffffff : ~key);
}

/* What a number weighs: one, or its share of the softmax's sum. */
struct ones {
	__device__ float operator()(float) const { return 1; }
};

struct masses {
	struct side s;

	__device__ float operator()(float x) const { return mass_of(&s, x); }
};

/* The weight of all numbers whose keys are `least` or more. */
template<typename W>
static __device__ double
weight_from(const float *x, int v, uint32_t least, W weight)
{
	float sum = 0;

	for (int j = (int)threadIdx.x; j < v; j += ROW_THREADS)
		sum += key_of(x[j]) >= least ? weight(x[j]) : 0;
	return block_reduce((double)sum, plus());
}

/* The largest key such that the numbers from it on weigh `wanted`. */
template<typename W>
static __device__ uint32_t
edge(const float *x, int v, double wanted, W weight)
{
	uint32_t found = 0;

	for (int shift = 32 - DIGIT; shift >= 0; shift -= DIGIT) {
		float sum[1 << DIGIT] = {};
		uint32_t digit = 0;

		for (int j = (int)threadIdx.x; j < v; j += ROW_THREADS) {
			uint32_t key = key_of(x[j]);
			float w = key >= found ? weight(x[j]) : 0;

			#pragma unroll
			for (uint32_t d = 1; d < 1 << DIGIT; d++)
				sum[d] += key >= (found | d << shift) ? w : 0;
		}
		#pragma unroll
		for (uint32_t d = 1; d < 1 << DIGIT; d++)
			if (block_reduce((double)sum[d], plus()) >= wanted)
				digit = d;
		found |= digit << shift;
	}
	return found;
}

/* Ids of this thread's warp: first, and one behind the last; whole warps of ids. */
static __device__ inline int2
segment(int v, int warp)
{
	int size = (blocks_of(v, WARPS) + WARP - 1) / WARP * WARP, first = warp * size;

	return make_int2(first < v ? first : v, first + size < v ? first + size : v);
}

/* The id of the n-th number, from 1 on, whose key is `key`; v where there are not so many. */
static __device__ int
equal_id(const float *x, int v, uint32_t key, int n)
{
	__shared__ int counts[WARPS], found;
	int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP, before = 0, count = 0, id;
	int2 ids = segment(v, warp);

	for (int j = ids.x; j < ids.y; j += WARP)
		count += __popc(__ballot_sync(~0u, j + lane < ids.y && key_of(x[j + lane]) == key));
	if (lane == 0)
		counts[warp] = count;
	if (threadIdx.x == 0)
		found = v;
	__syncthreads();
	for (int w = 0; w < warp; w++)
		before += counts[w];
	for (int j = ids.x; j < ids.y && before < n && before + counts[warp] >= n; j += WARP) {
		unsigned vote = __ballot_sync(~0u, j + lane < ids.y && key_of(x[j + lane]) == key);
		int place = before + __popc(vote & ((1u << lane) - 1)) + 1;

		if (vote >> lane & 1 && place == n)
			found = j + lane;
		before += __popc(vote);
		if (before >= n)
			break;
	}
	__syncthreads();
	id = found;
	__syncthreads();
	return id;
}

/* The first id whose cumulated weight exceeds `uniform` of all, and that weight of all. */
template<typename P>
static __device__ int
draw(double *total, P weight, float uniform, int v)
{
	__shared__ double sums[WARPS];
	__shared__ int found;
	int warp = (int)threadIdx.x / WARP, lane = (int)threadIdx.x % WARP, chosen = -1, id;
	int2 ids = segment(v, warp);
	double sum = 0, before = 0, all = 0, wanted;

	for (int j = ids.x + lane; j < ids.y; j += WARP)
		sum += weight(j);
	sum = warp_reduce(sum, plus());
	if (lane == 0)
		sums[warp] = sum;
	if (threadIdx.x == 0)
		found = 0;
	__syncthreads();
	for (int w = 0; w < WARPS; w++)
		all += sums[w];
	wanted = uniform * all;
	/* the warp whose segment crosses it, else the last that has any */
	for (int w = 0; w < WARPS; w++) {
		if (sums[w] > 0) {
			chosen = w;
			if (before + sums[w] > wanted)
				break;
		}
		before += sums[w];
	}
	if (chosen == warp) {
		int last = 0;

		before = 0;
		for (int w = 0; w < warp; w++)
			before += sums[w];
		for (int j = ids.x; j < ids.y; j += WARP) {
			double p = j + lane < ids.y ? weight(j + lane) : 0, up_to = p;
			unsigned vote, some = __ballot_sync(~0u, p > 0);

			#pragma unroll
			for (int i = 1; i < WARP; i *= 2) {
				double other = __shfl_up_sync(~0u, up_to, i);

				up_to += lane >= i ? other : 0;
			}
			if (some)
				last = j + 31 - __clz((int)some);
			vote = __ballot_sync(~0u, p > 0 && before + up_to > wanted);
			if (vote) {
				last = j + __ffs((int)vote) - 1;
				break;
			}
			before += __shfl_sync(~0u, up_to, WARP - 1);
		}
		if (lane == 0)
			found = last;
	}
	__syncthreads();
	id = found;
	__syncthreads();
	*total = all;
	return id;
}

/* The weight of an id after the filters. */
struct filtered {
	const float *x;
	struct side s;
	uint32_t least;		/* keys from here on stay, */
	int last;		/* those equal to it up to this id */
	float min_p;

	__device__ float
	operator()(int j) const
	{
		uint32_t key = key_of(x[j]);
		float mass = key > least || (key == least && j <= last) ? mass_of(&s, x[j]) : 0;

		return mass < min_p ? 0 : mass;
	}
};

/* Cut the ids before which top_p of the weight lies already. */
static __device__ void
keep_p(struct filtered *f, const float *x, int v, float top_p)
{
	const struct masses weight = { f->s };
	double wanted = (double)top_p * weight_from(x, v, f->least, weight), before;
	uint32_t least = edge(x, v, wanted, weight);
	float each;
	int equals;

	if (least < f->least)
		return;
	before = least == ~0u ? 0 : weight_from(x, v, least + 1, weight);
	each = mass_of(&f->s, value_of(least));
	f->least = least;
	equals = each > 0 ? (int)ceil((wanted - before) / (double)each) : v;
	f->last = equal_id(x, v, least, equals > 1 ? equals : 1);
}

/* The largest number's id, the lowest of equals. */
static __device__ int
best_id(const float *x, int v)
{
	unsigned long long best = 0;

	for (int j = (int)threadIdx.x; j < v; j += ROW_THREADS) {
		unsigned long long one = (unsigned long long)key_of(x[j]) << 32 | (uint32_t)~j;

		best = one > best ? one : best;
	}
	return (int)~(uint32_t)block_reduce(best, largest());
}

static __global__ void
__launch_bounds__(ROW_THREADS)
sample_rows(int *ids, float *logp, float *model_logp, float *logits, size_t ld, struct sampling way,
    const float *uniform, int v)
{
	int row = (int)blockIdx.x, id, best;
	float *x = logits + row * ld, scale = way.temperature > 0 ? 1 / way.temperature : 1, raw;
	struct side model = side_of(x, 1, v);
	struct filtered weight = { x, model, 0, v, way.min_p };
	double total = 1;

	best = id = best_id(x, v);
	weight.s.scale = scale;
	if (!way.greedy) {
		if (way.top_k > 0 && way.top_k < v)
			weight.least = edge(x, v, way.top_k, ones());
		if (way.top_p > 0 && way.top_p < 1)
			keep_p(&weight, x, v, way.top_p);
		id = draw(&total, weight, uniform[row], v);
	}
	raw = x[id];
	if (threadIdx.x == 0) {
		ids[row] = id;
		logp[row] = way.greedy ? 0 : (float)log((double)weight(id) / total);
		model_logp[row] = (float)log_of(&model, raw);
	}
	__syncthreads();
	for (int j = (int)threadIdx.x; j < v; j += ROW_THREADS)
		x[j] = way.greedy ? (float)(j == best) : (float)(weight(j) / total);
}

void
sample_cuda(int *ids, float *logp, float *model_logp, float *logits, size_t ld, const struct sampling *s,
    const float *uniform, int m, int v)
{
	if (m)
		LAUNCH(sample_rows, (unsigned)m, ROW_THREADS, 0, ids, logp, model_logp, logits, ld, *s, uniform, v);
}

struct stored {
	const float *p;

	__device__ float operator()(int j) const { return p[j]; }
};

static __global__ void
__launch_bounds__(ROW_THREADS)
mix_rows(int *ids, float *logp, float *p, const float *other, size_t ld, float share, const float *uniform, int v)
{
	int row = (int)blockIdx.x, id;
	double total;

	p += row * ld;
	other += row * ld;
	for (int j = (int)threadIdx.x; j < v; j += ROW_THREADS)
		p[j] = (float)((1 - (double)share) * p[j] + (double)share * other[j]);
	__syncthreads();
	id = draw(&total, stored{ p }, uniform[row], v);
	if (threadIdx.x == 0) {
		ids[row] = id;
		logp[row] = logf(p[id]);
	}
}

void
mix_cuda(int *ids, float *logp, float *p, const float *other, size_t ld, float share, const float *uniform, int m,
    int v)
{
	if (m)
		LAUNCH(mix_rows, (unsigned)m, ROW_THREADS, 0, ids, logp, p, other, ld, share, uniform, v);
}

/* Descending, of a power of two of numbers; the block's threads take the pairs. */
static __device__ void
sort(unsigned long long *a, int n)
{
	for (int size = 2; size <= n; size *= 2)
		for (int reach = size / 2; reach; reach /= 2) {
			__syncthreads();
			for (int i = (int)threadIdx.x; i < n / 2; i += ROW_THREADS) {
				int low = i / reach * 2 * reach + i % reach, high = low + reach;
				unsigned long long x = a[low], y = a[high];

				if ((x < y) == !(low & size)) {
					a[low] = y;
					a[high] = x;
				}
			}
		}
	__syncthreads();
}

/* all [m, wide]: the k best as key and id in one number, zeros behind. */
static __global__ void
__launch_bounds__(ROW_THREADS)
topk_rows(int32_t *ids, float *logprobs, float *log_tail, unsigned long long *all, int wide, const float *logits,
    size_t ld, int k, int v)
{
	__shared__ int taken;
	const float *x = logits + blockIdx.x * ld;
	unsigned long long *best = all + (size_t)blockIdx.x * wide;
	struct side s = side_of(x, 1, v);
	uint32_t least = edge(x, v, k, ones());
	int more = least == ~0u ? 0 : (int)weight_from(x, v, least + 1, ones()), last = equal_id(x, v, least, k - more);
	double rest = 0;

	if (threadIdx.x == 0)
		taken = 0;
	for (int j = (int)threadIdx.x; j < wide; j += ROW_THREADS)
		best[j] = 0;
	__syncthreads();
	for (int j = (int)threadIdx.x; j < v; j += ROW_THREADS) {
		uint32_t key = key_of(x[j]);

		/* in any order: they are sorted, and no two are equal */
		if (key > least || (key == least && j <= last))
			best[atomicAdd(&taken, 1)] = (unsigned long long)key << 32 | (uint32_t)~j;
		else
			rest += mass_of(&s, x[j]);
	}
	rest = block_reduce(rest, plus());
	sort(best, wide);
	for (int j = (int)threadIdx.x; j < k; j += ROW_THREADS) {
		ids[(size_t)blockIdx.x * k + j] = (int32_t)~(uint32_t)best[j];
		logprobs[(size_t)blockIdx.x * k + j] = (float)log_of(&s, value_of((uint32_t)(best[j] >> 32)));
	}
	if (threadIdx.x == 0)
		log_tail[blockIdx.x] = (float)(log(rest) - s.log_sum);
}

void
topk_cuda(int32_t *ids, float *logprobs, float *log_tail, const float *logits, size_t ld, int k, int m, int v)
{
	int wide = 2;

	if (!m || !k)
		return;
	while (wide < k)
		wide *= 2;
	LAUNCH(topk_rows, (unsigned)m, ROW_THREADS, 0, ids, logprobs, log_tail,
	    (unsigned long long *)scratch(SCRATCH_PARTS, (size_t)m * wide * sizeof(unsigned long long)), wide, logits, ld, k,
	    v);
}
