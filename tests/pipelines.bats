#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# What the pipelines make of scores.

bats_require_minimum_version 1.5.0
load fixture

setup() {
	mkdir "$BATS_TEST_TMPDIR/scores" && cd "$BATS_TEST_TMPDIR/scores" || exit
	score base 39 40 41
	score sft 57 58 59
	score teacher 68 69 70
}

# score MODEL ROUGE_L...: one for each seed
score() {
	jq -n '[$ARGS.positional[1:][] | tonumber] as $x | ($x | add / length) as $mean | { rouge_l: { mean: $mean, std: 0.5 },
		exact_match: { mean: 19, std: 1 }, stopped: 100, runs: [$x[] | { rouge_l: ., exact_match: 19 }] }' \
		--args "$@" >"$1.scores.json"
}

table() {
	"$BATS_TEST_DIRNAME/../pipelines/table" . "$@"
}

@test "the table says whether distillation beats fine-tuning, and leaves nothing behind" {
	score kd 58 59.5 60
	run -0 --separate-stderr table
	[[ ${lines[3]} == kd*'59.17 +- 0.50'*'86 %'* ]]
	[ "${lines[-2]}" = 'Rouge-L      +1.17 +- 0.17  distillation is better' ]
	[ "${lines[-1]}" = 'exact match  +0.00 +- 0.00  no difference to speak of' ]
	score kd 60 57 59
	run -0 --separate-stderr table
	[ "${lines[-2]}" = 'Rouge-L      +0.67 +- 1.20  no difference to speak of' ]
	score kd 56 56 57
	run -0 --separate-stderr table
	[ "${lines[-2]}" = 'Rouge-L      -1.67 +- 0.33  fine-tuning alone is better' ]
	[ "$(echo *)" = 'base.scores.json kd.scores.json sft.scores.json teacher.scores.json' ]
}

@test "one seed has no error, and makes no difference" {
	score sft 57
	score kd 60
	run -0 --separate-stderr table
	[[ ${lines[-2]} == 'Rouge-L      +3.00 +- '*nan'  no difference to speak of' ]]
}

@test "models can be named" {
	run -0 --separate-stderr table base teacher
	[ "${#lines[@]}" -eq 3 ]
	[[ ${lines[2]} == teacher*'100 %'* ]]
}
