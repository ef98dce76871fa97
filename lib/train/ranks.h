/* SPDX-License-Identifier: MIT */
/*
 * ranks - data parallel training: the processes that mpirun or srun started share each step
 *
 * Rank r of n takes every n-th record of a step. Losses, counts and gradients are
 * sums; added over the ranks they are those of one process, up to rounding, and every rank
 * makes the same update. Open MPI is loaded by a process that it started and by no
 * other. A rank that dies without closing takes the others with it.
 */
#ifndef TRAIN_RANKS_H
#define TRAIN_RANKS_H

#include "kernels/op.h"

struct ranks {
	int rank, count;
	void *mpi;			/* NULL: one process alone */
	void (*add)(void *x, int n, int wide);
	void (*close)(void);
};

/* Dies where mpirun started the process and pipestill was built without MPI. */
void ranks_open(struct ranks *r);
void ranks_close(struct ranks *r);
/* Add x [n] over the ranks, in place; returns when all have come so far. */
void ranks_add(const struct ranks *r, double *x, int n);
/* The same for floats in the backend's memory. */
void ranks_add_gradient(const struct ranks *r, const struct backend *be, float *x, size_t n);

#endif
