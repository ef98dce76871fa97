/* SPDX-License-Identifier: MIT */
/*
 * threads - OpenMP's threads, tamed
 *
 * By default libgomp's idle threads spin for milliseconds at every join. Tools
 * that share a machine in a pipe, or with anything else, then burn each other's
 * time. Linking this makes them spin about 50 microseconds, enough for the gap
 * between two kernels, and sleep after that; GOMP_SPINCOUNT or OMP_WAIT_POLICY
 * in the environment says otherwise.
 */
#ifndef BASE_THREADS_H
#define BASE_THREADS_H

/* Compute with n threads; 0: with OMP_NUM_THREADS, or as many as there are cores. */
void threads_use(int n);

#endif
