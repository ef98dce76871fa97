/* SPDX-License-Identifier: MIT */
#include "lib/base/die.h"
#include "lib/model/row.h"

const struct backend *
row_pick(const struct common *common)
{
	const struct backend *be = backend_pick(common->backend);

	if (!be)
		die_usage("--backend '%s': %s", common->backend, backend_why(common->backend));
	be->limit(common->memory);
	return be;
}
