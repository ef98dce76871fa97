/* SPDX-License-Identifier: MIT */
/* device - DEVICE marks the small functions that GPUs run, too */
#ifndef KERNELS_DEVICE_H
#define KERNELS_DEVICE_H

#ifdef __CUDACC__
#define DEVICE __host__ __device__
#else
#define DEVICE
#endif

#endif
