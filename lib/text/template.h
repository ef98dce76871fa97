/* SPDX-License-Identifier: MIT */
/*
 * template - from a record's fields to a prompt and its target
 *
 * A template is a text file of three parts, separated by lines of `---`:
 *
 *	# comment
 *	input = context, input, ""
 *	---
 *	Answer{?input} with the text below{/input}.
 *	{instruction}
 *	---
 *	{response}
 *
 * First, names and what they stand for: of the fields listed, the first that
 * the record has and that is not empty; a text in double quotes is taken when
 * there is none. Then the prompt, with its last line end, and the target, without.
 * {name} puts a field in as it is, in one pass; {?name} ... {/name} is kept when
 * it is not empty. A name that the first part does not explain is the field of
 * that name. Other braces are text.
 */
#ifndef TEXT_TEMPLATE_H
#define TEXT_TEMPLATE_H

#include <jansson.h>

#include "lib/base/text.h"

struct template;

/* A path, when it has a slash or ends in .txt; else templates/NAME.txt. NULL and the reason. */
struct template *template_open(const char *name, char *why);
struct template *template_parse(const char *text, size_t n, char *why);
void template_close(struct template *t);

/* Appends. -1 and the reason when a field is missing or is no string. */
int template_render(const struct template *t, const json_t *record, struct text *prompt, struct text *target, char *why);

int template_uses(const struct template *t, const char *field);	/* does the record's field go into either text? */

#endif
