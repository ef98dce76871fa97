/* SPDX-License-Identifier: MIT */
/*
 * schedule - the learning rate of each step
 *
 * With W steps of warm-up, S steps in all and step s from 0:
 *
 *   s < W:     lr (s + 1) / W
 *   cosine:    end + (lr - end) (1 + cos(pi x)) / 2,   x = (s - W) / (S - W)
 *   linear:    end + (lr - end) (1 - x)
 *   constant:  lr
 */
#ifndef TRAIN_SCHEDULE_H
#define TRAIN_SCHEDULE_H

enum schedule_kind { SCHEDULE_COSINE, SCHEDULE_LINEAR, SCHEDULE_CONSTANT };

struct schedule {
	enum schedule_kind kind;
	double lr, end;
	long warmup, steps;
};

double schedule_lr(const struct schedule *s, long step);

#endif
