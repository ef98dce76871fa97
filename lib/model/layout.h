/* SPDX-License-Identifier: MIT */
/*
 * layout - which weights a config asks for: shapes, names, order
 *
 * Fills storage and params from m->config, m->be and m->type. Memory that is
 * there already stays, so a model can be laid out anew after its layers changed.
 */
#ifndef MODEL_LAYOUT_H
#define MODEL_LAYOUT_H

#include "lib/model/model.h"

void layout_build(struct model *m);
void layout_build_head(struct model *m);	/* the head alone */
void layout_allocate(struct model *m);		/* zero memory for every storage that has none; dies */
void layout_allocate_matrix(const struct model *m, const struct storage *s);	/* for one */
/* The same for one layer (-1: what lies outside of the blocks), and its memory given back. */
void layout_allocate_layer(struct model *m, int layer);
void layout_release_layer(struct model *m, int layer);

/* "lm_head.weight", or the embedding's name when tied. */
const char *layout_head_name(const struct config *c);

/*
 * Calls act(context, storage, row, rows) for slices that together are the whole
 * model, in parallel; no two slices touch the same memory. A vector is one slice.
 */
void layout_each_slice(const struct model *m,
    void (*act)(void *context, const struct storage *s, int row, int rows), void *context);

#endif
