#!/usr/bin/env bats
# SPDX-License-Identifier: MIT

bats_require_minimum_version 1.5.0
load train

# ranks N COMMAND...: on this machine, whoever runs the test and however few cores there are; a sanitizer's
# dlopen() does not know the tools' own path for libraries, and what Open MPI keeps is no leak of theirs
ranks() {
	LD_LIBRARY_PATH=$(dirname "$(command -v sft)") ASAN_OPTIONS=$ASAN_OPTIONS:detect_leaks=0 \
		OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 \
		mpirun --oversubscribe --bind-to none --mca btl_vader_single_copy_mechanism none -n "$@" </dev/null
}

@test "two ranks make the gradient of one" {
	teacher-logits -q -m base train.tokens.zst >train.logits.zst
	for tool in "sft -m base" "distill -m base --teacher base"; do
		input=train.tokens.zst
		[ "${tool%% *}" = sft ] || input=train.logits.zst
		rm -rf one two
		$tool -q -o one --epochs 2 --batch 8 --dev dev.tokens.zst $input
		ranks 2 $tool -q -o two --epochs 2 --batch 8 --dev dev.tokens.zst $input
		jq -es --slurpfile two <(metrics two) '
			. as $one | length == ($two | length) and
			all(range(length); $one[.] as $a | $two[.] as $b |
				($a | keys) == ($b | keys) and $a.targets == $b.targets and $a.tokens == $b.tokens and
				(($a.loss // $a.dev_loss) / ($b.loss // $b.dev_loss) - 1 | fabs) < 1e-5 and
				(($a.grad_norm // 1) / ($b.grad_norm // 1) - 1 | fabs) < 1e-4)' <(metrics one)
	done
}

@test "ranks that are killed go on to the same bytes, and repeat them" {
	local options="--lr 1e-2 --epochs 12 --batch 8 --save-every 3"
	init-model -q -s 1 -o gpt2 gpt2.json
	ranks 2 sft -q -m gpt2 -o whole $options train.tokens.zst
	ranks 2 sft -q -m gpt2 -o again $options train.tokens.zst
	same_run whole again
	ranks 2 sft -q -m gpt2 -o cut $options train.tokens.zst &
	while [ ! -e cut/state/state.safetensors ]; do sleep 0.01; done
	pkill -9 -f "sft -q -m gpt2 -o cut"
	wait $! || true
	until ranks 2 sft -q -m gpt2 -o cut $options train.tokens.zst; do sleep 0.1; done
	same_run whole cut
}

@test "what ranks cannot share is refused, and one that fails ends all" {
	run ! ranks 2 bash -c 'cat train.tokens.zst | sft -q -m base -o run --steps 2'
	[[ "$output" == *"is a pipe: 2 ranks need a file"* ]]
	[ ! -e run ]
	for tool in "grpo-step -m base -o run --steps 2" "distill -m base -o run --teacher base --on-policy --steps 2"; do
		run ! ranks 2 $tool
		[ "$(grep 'one process' <<<"$output")" = "${tool%% *}: rollouts are learned from by one process, not by 2" ]
		[ ! -e run ]
	done
	run ! timeout 60 env PATH="$PATH" bash -c "$(declare -f ranks)"'
		ranks 2 bash -c "[ \$OMPI_COMM_WORLD_RANK = 0 ] || exit 3; exec sft -q -m base -o run train.tokens.zst"'
	[ "$status" != 124 ]
}
