/* SPDX-License-Identifier: MIT */
/* page - where the keys (0) or values (1) of a head begin in a page of struct kv, in elements */
#ifndef KERNELS_PAGE_H
#define KERNELS_PAGE_H

#include "kernels/device.h"
#include "kernels/op.h"

DEVICE static inline size_t
page_at(const struct kv *kv, int layer, int page, int values, int kv_head)
{
	return ((((size_t)layer * kv->pages + page) * 2 + values) * kv->kv_heads + kv_head) *
	    KV_PAGE * kv->d;
}

#endif
