#!/usr/bin/env bats
# SPDX-License-Identifier: MIT

bats_require_minimum_version 1.5.0
load train

# a teacher that knows some of the language, wider than its student
teacher() {
	jq '.hidden_size = 48 | .num_attention_heads = 6 | .vocab_size = 67' qwen2.json >teacher.json
	init-model -q -s 2 -o untaught teacher.json
	sft -q -m untaught -o taught --lr 1e-2 --epochs 5 train.tokens.zst
	echo taught/model
}

# draws: every teacher that gives 1/2, 1/4, 1/8, 1/8 to ids that follow the target, in one of the forms
known_teacher() {
	to-json train.tokens.zst | jq -c --arg form "$1" '
		def tensors:
			if $form == "topk" then {topk_ids: map([.[0:4][]]),
				topk_logprobs: map([0.5, 0.25, 0.125, 0.125 | log]), log_tail: map("-inf")}
			elif $form == "sample" then {sample_ids: map(.[]), sample_counts: map(4, 2, 1, 1),
				sample_offsets: [range(0; 4 * length + 1; 4)]}
			else {logprobs: map(. as $ids | [range(59) as $v |
				($ids | index($v)) as $i | if $i then [0.5, 0.25, 0.125, 0.125][$i] | log else "-inf" end])}
			end;
		if .header then {header: {type: "logits", vocab: 59, form: $form}}
		else [.ids[2:][] | [., (. + 1) % 59, (. + 7) % 59, (. + 20) % 59]] as $rows |
			{id, ids, supervised} + ($rows | tensors) end' | from-json
}

@test "the teacher's distribution is learnt, from hidden states in a stream or computed" {
	dir=$(teacher)
	teacher-logits -q -m "$dir" train.tokens.zst >train.logits.zst
	distill -q -m base -o stored --teacher "$dir" --lr 1e-2 --epochs 10 --dev dev.tokens.zst train.logits.zst
	distill -q -m base -o computed --teacher "$dir" --lr 1e-2 --epochs 10 train.tokens.zst
	below "$(jq -s 'map(.div // empty) | .[-1]' stored/metrics.jsonl)" "$(jq -s '.[0].div * 0.7' stored/metrics.jsonl)"
	[ -e stored/best/model.safetensors ]
	# the stream holds the states as bf16
	jq -es '(.[0].div / .[1].div - 1 | fabs) < 2e-3 and .[0].ce == .[1].ce' \
		<(head -1 stored/metrics.jsonl) <(head -1 computed/metrics.jsonl)
}

@test "tokenize, teacher-logits and distill in one pipe give what a file gives" {
	dir=$(teacher)
	teacher-logits -q -m "$dir" train.tokens.zst >train.logits.zst
	distill -q -m base -o file --teacher "$dir" --no-shuffle --steps 3 train.logits.zst
	cat train.tokens.zst | teacher-logits -q -m "$dir" | distill -q -m base -o pipe --teacher "$dir" --steps 3
	same_run file pipe
}

@test "full, topk and sample agree on a teacher that all three can hold" {
	for form in full topk sample; do
		known_teacher $form >$form.logits.zst
		distill -q -m base -o $form --divergence kd --kd-ratio 0.7 --lr 1e-3 $form.logits.zst
	done
	distill -q -m base -o renormalised --divergence kd --kd-ratio 0.7 --lr 1e-3 --tail renormalise topk.logits.zst
	for form in topk sample renormalised; do
		jq -es '(.[0].loss / .[1].loss - 1 | fabs) < 1e-5 and (.[0].grad_norm / .[1].grad_norm - 1 | fabs) < 1e-3' \
			<(head -1 full/metrics.jsonl) <(head -1 $form/metrics.jsonl)
	done
}

@test "kd is forward-kl and the teacher's entropy, and loss is their mixture" {
	known_teacher full >full.logits.zst
	for d in kd forward-kl; do
		distill -q -m base -o $d --divergence $d --kd-ratio 0.3 full.logits.zst
	done
	# entropy of 1/2, 1/4, 1/8, 1/8
	jq -es '(.[0].div - .[1].div - 1.75 * (2 | log) | fabs) < 1e-3' \
		<(head -1 kd/metrics.jsonl) <(head -1 forward-kl/metrics.jsonl)
	jq -e '(.loss - 0.7 * .ce - 0.3 * .div | fabs) < 1e-6' kd/metrics.jsonl
	[ "$(head -1 kd/metrics.jsonl | jq .grad_norm)" = "$(head -1 forward-kl/metrics.jsonl | jq .grad_norm)" ]
}

@test "every divergence falls" {
	dir=$(teacher)
	for d in "kd --tau 2" "forward-kl --tau 2" reverse-kl "jsd --beta 0.9" skew-kl "skew-rkl --alpha 0.2" \
		"alpha-beta --alpha 0.3 --beta 0.6"; do
		rm -rf run
		distill -q -m base -o run --teacher "$dir" --lr 1e-2 --epochs 5 --kd-ratio 1 --divergence $d train.tokens.zst
		below "$(loss run -1)" "$(loss run 0)"
	done
}

@test "killed at any moment, a distillation ends as if it never was" {
	dir=$(teacher)
	teacher-logits -q -m "$dir" train.tokens.zst >train.logits.zst
	options="-m base --teacher $dir --lr 1e-2 --dtype bf16 --save-every 3 --dev dev.tokens.zst --dev-every 10"
	distill -q -o whole $options --epochs 20 train.logits.zst
	until_done cut "distill -q -o cut $options --epochs 20 train.logits.zst"
	same_run whole cut
}

@test "what a form cannot give is refused with the reason" {
	for form in topk sample; do
		known_teacher $form >$form.logits.zst
		run --separate-stderr distill -q -m base -o run --divergence kd --tau 2 $form.logits.zst
		[ "$status" -eq 1 ]
		[[ "$stderr" == *"form $form cannot be softened"* ]]
	done
	run --separate-stderr distill -q -m base -o run --divergence reverse-kl sample.logits.zst
	[ "$status" -eq 1 ]
	[[ "$stderr" == *"only --divergence kd"* ]]
	run --separate-stderr distill -q -m base -o run --divergence jsd --tail renormalise topk.logits.zst
	[ "$status" -eq 1 ]
	[[ "$stderr" == *"take --tail bucket" ]]
	[ ! -e run ]
}

@test "a teacher that does not fit is refused" {
	dir=$(teacher)
	teacher-logits -q -m "$dir" train.tokens.zst >train.logits.zst
	run --separate-stderr distill -q -m base -o run train.logits.zst
	[[ "$status" -eq 1 && "$stderr" == *"--teacher must name"* ]]
	run --separate-stderr distill -q -m base -o run --teacher untaught train.logits.zst
	[[ "$status" -eq 1 && "$stderr" == *"hidden states of another teacher than 'untaught'" ]]
	run --separate-stderr distill -q -m base -o run train.tokens.zst
	[[ "$status" -eq 1 && "$stderr" == *"--teacher must name the model that makes them" ]]
	# rows that are not the record's
	to-json train.logits.zst | jq -c 'if .id == "r3" then .hidden = .hidden[1:] else . end' | from-json >cut.logits.zst
	run --separate-stderr distill -q -m base -o run --teacher "$dir" cut.logits.zst
	[[ "$status" -eq 1 && "$stderr" == *"record 'r3' has "*"rows of 'hidden'" ]]
}

@test "misuse exits 2" {
	for wrong in "--divergence euclid" "--kd-ratio 2" "--tau 0" "--alpha 0.1" "--beta 0.5" "--tail none" \
		"--divergence jsd --beta 1" "--divergence skew-kl --alpha 2"; do
		run --separate-stderr distill -m base -o run $wrong
		[ "$status" -eq 2 ] || { echo "distill $wrong: $status"; return 1; }
	done
}
