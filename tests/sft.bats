#!/usr/bin/env bats
# SPDX-License-Identifier: MIT

bats_require_minimum_version 1.5.0
load train

@test "the loss falls, on both sets" {
	sft -q -m base -o run --lr 1e-2 --epochs 20 --dev dev.tokens.zst train.tokens.zst
	below "$(loss run -1)" "$(loss run 0) / 3"
	below "$(jq -s 'map(.dev_loss // empty) | .[-1] / .[0]' run/metrics.jsonl)" 0.9
}

@test "GPT-2 learns with dropout, which the seed repeats and another seed does not" {
	init-model -q -s 1 -o gpt2 gpt2.json
	for run in a b; do
		sft -q -m gpt2 -o $run --lr 1e-2 --epochs 6 train.tokens.zst
	done
	same_run a b
	below "$(loss a -1)" "$(loss a 0) * 0.8"
	sft -q -m gpt2 -o c --lr 1e-2 --epochs 6 --no-shuffle --seed 11 train.tokens.zst
	sft -q -m gpt2 -o d --lr 1e-2 --epochs 6 --no-shuffle --seed 12 train.tokens.zst
	[ "$(loss c 0)" != "$(loss d 0)" ]
	sft -q -m gpt2 -o e --lr 1e-2 --epochs 6 --no-shuffle --seed 11 --dropout 0 train.tokens.zst
	sft -q -m gpt2 -o f --lr 1e-2 --epochs 6 --no-shuffle --seed 12 --dropout 0 train.tokens.zst
	cmp e/model/model.safetensors f/model/model.safetensors
	run ! sft -q -m base -o g --dropout 0.1 train.tokens.zst
}

@test "threads and recomputation change no byte" {
	sft -q -j 1 -m base -o a --epochs 3 train.tokens.zst
	sft -q -j 2 -m base -o b --epochs 3 train.tokens.zst
	sft -q -j 2 -m base -o c --epochs 3 --recompute train.tokens.zst
	same_run a b
	same_run a c
}

@test "micro-batches change the rounding alone" {
	for n in 12 40 1024; do
		sft -q -m base -o run$n --epochs 2 --batch 24 --micro-tokens $n train.tokens.zst
	done
	for n in 12 40; do
		jq -es '(.[0].loss / .[1].loss - 1 | fabs) < 1e-6 and
			(.[0].grad_norm / .[1].grad_norm - 1 | fabs) < 1e-5' \
			<(head -1 run$n/metrics.jsonl) <(head -1 run1024/metrics.jsonl)
	done
}

@test "killed at any moment, a run ends as if it never was" {
	local options="--lr 1e-2 --epochs 20 --save-every 3 --dev dev.tokens.zst --dev-every 10"
	for type in f32 bf16; do
		sft -q -m base -o whole.$type --dtype $type $options train.tokens.zst
		until_done cut.$type "sft -q -m base -o cut.$type --dtype $type $options train.tokens.zst"
		same_run whole.$type cut.$type
	done
}

@test "killed at any moment with dropout and a pipe, too" {
	local options="--lr 1e-2 --steps 60 --batch 4 --save-every 2"
	init-model -q -s 1 -o gpt2 gpt2.json
	language 0 240 | from-json >long.tokens.zst
	sft -q -m gpt2 -o whole --no-shuffle $options <long.tokens.zst
	until_done cut "cat long.tokens.zst | sft -q -m gpt2 -o cut $options"
	same_run whole cut
}

@test "an interrupt saves the step it is at, and the same command goes on" {
	sft -q -m base -o whole --epochs 100 train.tokens.zst
	sft -q -m base -o cut --epochs 100 train.tokens.zst 2>log &
	until [ "$(jq -s length cut/metrics.jsonl 2>/dev/null || echo 0)" -gt 3 ]; do sleep 0.01; done
	kill -INT $!
	! wait $!
	grep 'stopped after step [0-9]*; the same command goes on' log
	sft -q -m base -o cut --epochs 100 train.tokens.zst
	same_run whole cut
}

@test "a finished run stays as it is" {
	sft -q -m base -o run train.tokens.zst
	cp run/metrics.jsonl before
	run --separate-stderr sft -m base -o run train.tokens.zst
	[ "$status" -eq 0 ]
	[[ "$stderr" == *"'run' is finished"* ]]
	cmp before run/metrics.jsonl
}

@test "another recipe for the same run is refused by the option's name" {
	sft -q -m base -o run --lr 1e-3 train.tokens.zst
	run --separate-stderr sft -q -m base -o run --lr 2e-3 train.tokens.zst
	[ "$status" -eq 1 ]
	[ "$stderr" = "sft: 'run' was begun with --lr 0.001, not 0.002: another run needs another --output" ]
}

@test "a directory that is no run is left alone" {
	run --separate-stderr sft -q -m base -o . train.tokens.zst
	[ "$status" -eq 0 ]
	cp -r base mine && mkdir mine/model
	run --separate-stderr sft -q -m base -o mine train.tokens.zst
	[ "$status" -eq 1 ]
	[ "$stderr" = "sft: 'mine' holds a model but no run: it would be overwritten" ]
}

@test "the metrics are JSON, one line for each step, and say what the paper plots" {
	sft -q -m base -o run --epochs 3 --batch 5 --dev dev.tokens.zst --dev-every 4 train.tokens.zst
	[ "$(jq -s 'map(select(.loss)) | length' run/metrics.jsonl)" -eq 15 ]
	[ "$(jq -c 'select(.dev_loss) | .step' run/metrics.jsonl | xargs)" = "4 8 12 15" ]
	jq -es 'map(select(.loss)) | all(.lr and .grad_norm and .tokens and .targets and .seconds and
		.tokens_per_second and .ce and .records and .peak_bytes)' run/metrics.jsonl
	# cosine from lr to lr-end over 15 steps
	jq -es '.[0].lr - 1e-5 | fabs < 1e-12' run/metrics.jsonl
}

@test "what is saved is a model like the one it was made from, in the type asked for" {
	sft -q -m base -o run --save-dtype bf16 train.tokens.zst
	complete run/model/model.safetensors
	[ "$(jq -r .dtype run/model/config.json)" = bfloat16 ]
	below "$(stat -c %s run/model/model.safetensors)" "$(stat -c %s base/model.safetensors) * 0.6"
	sft -q -m run/model -o again --epochs 1 train.tokens.zst
	[ "$(jq -r .dtype again/state/options.json)" = bf16 ]
}

@test "records without targets are counted, and take no step by themselves" {
	{ language 0 4; echo '{"id":"none","ids":[1,2,3],"supervised":[]}'; } | from-json >few.tokens.zst
	run --separate-stderr sft -m base -o run few.tokens.zst
	[ "$status" -eq 0 ]
	[[ "$stderr" == *"1 of 5 records had nothing to learn"* ]]
	echo '{"id":"none","ids":[1,2,3],"supervised":[[0,1]]}' | from-json -t tokens >none.tokens.zst
	run --separate-stderr sft -q -m base -o none none.tokens.zst
	[ "$status" -eq 1 ]
	[[ "$stderr" == *"'none.tokens.zst' has nothing to learn" ]]
}

@test "bf16 without a master learns, by the same draws for any threads, and after a stop" {
	sft -q -m base -o master --dtype bf16 --lr 1e-3 --epochs 24 train.tokens.zst
	sft -q -m base -o one --dtype bf16 --stochastic --lr 1e-3 --epochs 24 -j 1 train.tokens.zst
	sft -q -m base -o two --dtype bf16 --stochastic --lr 1e-3 --epochs 24 -j 2 train.tokens.zst
	same_run one two
	! cmp -s master/model/model.safetensors one/model/model.safetensors
	below "$(loss one -1)" "$(loss one 0) * 0.8"
	below "$(loss one -1) / $(loss master -1) - 1 | fabs" 0.1
	until_done three "sft -q -m base -o three --dtype bf16 --stochastic --lr 1e-3 --epochs 24 --save-every 3 train.tokens.zst"
	same_run one three
	run -2 --separate-stderr sft -q -m base -o four --dtype f32 --stochastic train.tokens.zst
	[[ "$stderr" == *"--stochastic rounds weights in bf16"* ]]
}

@test "too little memory is refused with what would fit" {
	run --separate-stderr sft -q -m base -o run --memory 1M train.tokens.zst
	[ "$status" -eq 1 ]
	[[ "$stderr" == *"cannot be trained in less than"* ]]
	run --separate-stderr sft -q -m base -o run --memory 80M --micro-tokens 100000 train.tokens.zst
	[ "$status" -eq 1 ]
	[[ "$stderr" =~ "--micro-tokens "([0-9]+)" would fit" || "$stderr" == *"--recompute"* ]]
	sft -q -m base -o run --memory 80M --micro-tokens "${BASH_REMATCH[1]}" train.tokens.zst
}

@test "a pipe needs to know where it ends, unless the rate is constant" {
	run --separate-stderr bash -c 'cat train.tokens.zst | sft -q -m base -o run'
	[ "$status" -eq 1 ]
	[[ "$stderr" == *"give --steps, or --schedule constant" ]]
	cat train.tokens.zst | sft -q -m base -o run --schedule constant
	[ "$(jq -s length run/metrics.jsonl)" -eq 3 ]
	run --separate-stderr bash -c 'cat train.tokens.zst | sft -m base -o short --steps 9'
	[ "$status" -eq 0 ]
	[[ "$stderr" == *"<stdin> ended after 3 of 9 steps"* ]]
	run --separate-stderr bash -c 'cat train.tokens.zst | sft -q -m base -o many --epochs 2 --steps 4'
	[ "$status" -eq 1 ]
}

@test "what cannot be learnt is refused by the record's name" {
	for bad in '{"id":"x","ids":[1,61],"supervised":[[1,2]]}' '{"id":"x","ids":[1,-2],"supervised":[[1,2]]}' \
		'{"id":"x","ids":[1,2],"supervised":[[1,3]]}' '{"id":"x","ids":[1,2],"supervised":[[2,1]]}' \
		'{"id":"x","ids":[1,2,3,4],"supervised":[[2,3],[1,2]]}'; do
		from-json -t tokens <<<"$bad" >bad.tokens.zst
		run --separate-stderr sft -q -m base -o run bad.tokens.zst
		[ "$status" -eq 1 ]
		[[ "$stderr" == *"record 'x'"* ]]
		rm -r run
	done
	run --separate-stderr sft -q -m base -o run --micro-tokens 4 train.tokens.zst
	[ "$status" -eq 1 ]
	[[ "$stderr" == *"--micro-tokens is 4" ]]
	init-model -q -o gpt2 gpt2.json
	jq -nc '{id: "x", ids: [range(26)], supervised: [[1, 26]]}' | from-json -t tokens >long.tokens.zst
	run --separate-stderr sft -q -m gpt2 -o gpt2.run long.tokens.zst
	[ "$status" -eq 1 ]
	[[ "$stderr" == *"record 'x' needs 25 positions, the model has 24" ]]
}

@test "a loss that is not finite stops the run with step and record, the last state kept" {
	run --separate-stderr sft -q -m base -o run --lr 1e30 --schedule constant --clip 0 --eps 1e-30 --save-every 1 \
		--epochs 9 train.tokens.zst
	[ "$status" -eq 1 ]
	[[ "$stderr" =~ "not finite at step "[0-9]+.*"'r"[0-9]+"'" ]]
	complete run/state/state.safetensors
}

@test "logits are no tokens, and a full disk is a failure that leaves the last state" {
	jq -nc '{header: {type: "scores"}}' | from-json >scores.zst
	run --separate-stderr sft -q -m base -o run scores.zst
	[ "$status" -eq 1 ]
	[[ "$stderr" == *"'scores.zst' carries scores, not tokens or rollouts" ]]

	sft -q -m base -o whole --save-every 1 --epochs 9 train.tokens.zst
	# a disk that is full after so many bytes of one file: the state's, not the model's
	size=$(stat -c %s whole/model/model.safetensors)
	bash -c "ulimit -f $((size * 2 / 1024)); trap '' XFSZ; exec sft -q -m base -o full --save-every 1 \
		--epochs 9 train.tokens.zst" 2>log && return 1
	grep 'cannot write .*state.safetensors.part' log
	[ ! -e full/state/state.safetensors.part ]
	sft -q -m base -o full --save-every 1 --epochs 9 train.tokens.zst
	same_run whole full
}

@test "two processes do not train in one directory" {
	sft -q -m base -o run --epochs 3000 train.tokens.zst &
	until [ -s run/metrics.jsonl ]; do sleep 0.01; done
	run --separate-stderr sft -q -m base -o run --epochs 3000 train.tokens.zst
	kill %1
	[ "$status" -eq 1 ]
	[ "$stderr" = "sft: 'run' is in use by another process" ]
}

@test "misuse exits 2" {
	for wrong in "" "-m base" "-o run" "-m base -o run --lr 0" "-m base -o run --schedule bell" \
		"-m base -o run --betas 1" "-m base -o run --dtype f16" "-m base -o run --memory much" \
		"-m base -o run --epochs 0" "-m base -o run --dev-every 3" "-m base -o run -b none" "-m base -o run a b"; do
		run --separate-stderr sft $wrong
		[ "$status" -eq 2 ] || { echo "sft $wrong: $status"; return 1; }
	done
}
