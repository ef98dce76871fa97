/* SPDX-License-Identifier: MIT */
#include <math.h>

#include "lib/train/schedule.h"

double
schedule_lr(const struct schedule *s, long step)
{
	double x = 0, fall;

	if (step < s->warmup)
		return s->lr * (double)(step + 1) / (double)s->warmup;
	if (s->steps > s->warmup)
		x = fmin((double)(step - s->warmup) / (double)(s->steps - s->warmup), 1);
	fall = s->kind == SCHEDULE_COSINE ? (1 + cos(M_PI * x)) / 2 :
	    s->kind == SCHEDULE_LINEAR ? 1 - x : 1;
	return s->end + (s->lr - s->end) * fall;
}
