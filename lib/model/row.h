/* SPDX-License-Identifier: MIT */
/* row - the row of kernels that --backend names, within --memory */
#ifndef MODEL_ROW_H
#define MODEL_ROW_H

#include "kernels/op.h"
#include "lib/base/options.h"

/* Refuses (exit 2) what is unknown or cannot run here. */
const struct backend *row_pick(const struct common *common);

#endif
