#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# What the pipelines make of scores.

bats_require_minimum_version 1.5.0
load fixture

setup() {
	mkdir "$BATS_TEST_TMPDIR/scores" && cd "$BATS_TEST_TMPDIR/scores" || exit
	score base 39.25
	score sft 57.19
	score teacher 68.7
}

score() {
	echo "{\"rouge_l\":{\"mean\":$2,\"std\":0.5},\"exact_match\":{\"mean\":19,\"std\":1},\"stopped\":100}" >"$1.scores.json"
}

table() {
	"$BATS_TEST_DIRNAME/../pipelines/table" . "$@"
}

@test "the table says whether distillation beats fine-tuning, and leaves nothing behind" {
	score kd 57.96
	run -0 --separate-stderr table
	[ "${lines[-1]}" = 'distillation beats fine-tuning alone here' ]
	[[ ${lines[3]} == *'57.96 +- 0.50'*'84 %'* ]]
	score kd 57.18
	run -0 --separate-stderr table
	[ "${lines[-1]}" = 'distillation does not beat fine-tuning alone here' ]
	[ "$(echo *)" = 'base.scores.json kd.scores.json sft.scores.json teacher.scores.json' ]
}

@test "models can be named" {
	run -0 --separate-stderr table base teacher
	[ "${#lines[@]}" -eq 3 ]
	[[ ${lines[2]} == teacher*'100 %'* ]]
}
