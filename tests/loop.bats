#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
#
# Loops of a sampler, a judge and a trainer: they end together, and go on from any stop to the same bytes.
# make kill kills more often in the last two.

bats_require_minimum_version 1.5.0
load train

setup_file() {
	cd "$BATS_FILE_TMPDIR" || return
	seq 60 | jq -c '{id: "r\(.)", instruction: "Add \(.) and \(. * 7).", context: "", response: "It is \(. * 8)."}' >all.jsonl
	train-bpe -q -n 300 --text instruction,response -o tokenizer all.jsonl
	echo '{"model_type":"qwen2","hidden_size":16,"num_hidden_layers":2,"num_attention_heads":2,"num_key_value_heads":1,
		"intermediate_size":24,"max_position_embeddings":128,"rms_norm_eps":1e-6,"tie_word_embeddings":true,
		"initializer_range":0.15,"torch_dtype":"float32"}' >config.json
	init-model -q -s 1 --tokenizer tokenizer -o model config.json
	init-model -q -s 2 --tokenizer tokenizer -o teacher config.json
	tokenize -q -m model --text instruction all.jsonl >text.tokens.zst
	to-json text.tokens.zst |
		jq -c 'if .header then . else .supervised = [[(.ids | length), (.ids | length)]] end' | from-json >prompts.tokens.zst
}

setup() {
	cd "$BATS_TEST_TMPDIR" || return
	export OMP_NUM_THREADS=1 F="$BATS_FILE_TMPDIR" KILLS=${KILLS:-3}
}

# the loops under test, each with its run directory in $1 and more options of rollout in $2, of distill in $3
sample() {
	echo "rollout -q --follow $1 --batch 3 -n 2 --max-tokens 10 $2 $F/prompts.tokens.zst"
}

reverse_kl() {
	echo "$(sample "$1" "$2") | teacher-logits -q -m $F/teacher |
		distill -q -m $F/model -o $1 --on-policy --teacher $F/teacher --divergence reverse-kl --steps 8 --lr 1e-2 $3"
}

minillm() {
	echo "$(sample "$1" "--mix-teacher $F/teacher $2") | teacher-logits -q -m $F/teacher |
		distill -q -m $F/model -o $1 --on-policy --teacher $F/teacher --divergence minillm --steps 8 --lr 1e-2 \
		--inner-epochs 2 --lm $F/text.tokens.zst --lm-kd-ratio 0.5 $3"
}

policy_gradient() {
	echo "$(sample "$1" "--mix-teacher $F/teacher --mix 0 $2") |
		distill -q -m $F/model -o $1 --on-policy --divergence policy-gradient --steps 8 --lr 1e-2 $3"
}

go() {
	timeout "${SANITIZE:+6}60" bash -o pipefail -c "$1"
}

online_metrics() {
	metrics "$1" | jq -c 'del(.seconds_waited)'
}

# the model that was rolled out: records of step N bear it, and their log-probabilities are the version's
@test "batches are answered by the version that the lag allows, and hold other prompts each" {
	for lag in 0 2; do
		go "$(sample run$lag "--lag $lag") | tee rollouts$lag | teacher-logits -q -m $F/teacher |
			distill -q -m $F/model -o run$lag --on-policy --teacher $F/teacher --divergence reverse-kl --steps 6 --lr 1e-2"
		to-json --records rollouts$lag >rollouts$lag.jsonl
		jq -se --argjson lag $lag 'map([.step, .version]) == [range(6) as $n | range(6) | [$n, ([0, $n - $lag] | max)]]' \
			rollouts$lag.jsonl
		jq -se '(map(select(.sample == 0).id) | length == 18 and (unique | length) == 18)' rollouts$lag.jsonl
	done
	# with lag 0 a batch's own model says of it what the sampler said
	jq -se 'map(.model_logp[]) | -add / length' <(head -n 6 rollouts0.jsonl) >first
	{ to-json rollouts0 | head -n 1; head -n 6 rollouts0.jsonl; } | from-json >first.rollouts
	jq -en --slurpfile a first --argjson b "$(perplexity -q -m "$F/model" first.rollouts | jq .mean_nll)" \
		'($a[0] - $b | fabs) < 1e-4'
	# and the student's first cross-entropy is that of its own tokens
	jq -en --slurpfile a first --slurpfile b run0/metrics.jsonl '($a[0] - $b[0].ce | fabs) < 1e-4'
}

@test "epochs: every prompt comes once before one comes again, and then gets another reply" {
	go "$(sample run '--batch 30 -n 1') | tee rollouts | teacher-logits -q -m $F/teacher |
		distill -q -m $F/model -o run --on-policy --teacher $F/teacher --steps 4 --lr 1e-9"
	to-json --records rollouts | jq -se 'length == 120 and (.[:60] | map(.id) | unique | length) == 60 and
		(.[60:] | map(.id) | unique | length) == 60 and (.[:60] | map(.id)) != (.[60:] | map(.id)) and
		((group_by(.id) | map(select(.[0].ids != .[1].ids)) | length) > 30)'
}

@test "on-policy, the student comes nearer to its teacher" {
	go "$(reverse_kl near '' '--steps 60 --schedule constant --warmup 5')"
	jq -se '(.[-5:] | map(.div) | add) < 0.5 * (.[:5] | map(.div) | add)' near/metrics.jsonl
	go "$(policy_gradient gradient '--batch 16' '--steps 60 --schedule constant --warmup 5')"
	jq -se '(.[-5:] | map(.reward) | add) > 0.7 * (.[:5] | map(.reward) | add)' gradient/metrics.jsonl
	go "$(minillm minillm '--batch 8' '--steps 40 --schedule constant --warmup 5')"
	jq -se '(.[-5:] | map(.kl) | add) < 0.7 * (.[:5] | map(.kl) | add) and (.[-1].lm < .[0].lm)' minillm/metrics.jsonl
}

@test "a teacher in distill, in teacher-logits and in rollout judges alike" {
	go "$(policy_gradient in-rollout '' '--steps 3')"
	go "$(sample in-teacher) | teacher-logits -q -m $F/teacher |
		distill -q -m $F/model -o in-teacher --on-policy --teacher $F/teacher --divergence policy-gradient --steps 3 --lr 1e-2"
	go "$(sample in-distill) |
		distill -q -m $F/model -o in-distill --on-policy --teacher $F/teacher --divergence policy-gradient --steps 3 --lr 1e-2"
	for run in in-teacher in-distill; do
		jq -es '(.[0].reward - .[1].reward | fabs) < 2e-3 and (.[0].grad_norm / .[1].grad_norm - 1 | fabs) < 1e-2' \
			<(head -1 in-rollout/metrics.jsonl) <(head -1 $run/metrics.jsonl)
	done
}

@test "micro-batches do not change what is learnt" {
	go "$(minillm whole '' '--steps 2')"
	go "$(minillm cut '' '--steps 2 --micro-tokens 40')"
	jq -es '(.[0].grad_norm / .[1].grad_norm - 1 | fabs) < 1e-5 and (.[0].loss - .[1].loss | fabs) < 1e-5' \
		<(head -1 whole/metrics.jsonl) <(head -1 cut/metrics.jsonl)
}

@test "old versions go, and versions can lie elsewhere" {
	go "$(reverse_kl run '' "--publish $PWD/versions --save-every 3")"
	[ "$(readlink run/policy)" = "$PWD/versions" ]
	[ "$(cd versions && echo *)" = '0 5 6 7 run.json' ]
	[ "$(readlink versions/0)" = "$(realpath "$F/model")" ]
}

@test "a finished loop says so, and ends well" {
	go "$(reverse_kl run '' '--steps 2')"
	run --separate-stderr go "$(reverse_kl run '' '--steps 2')"
	[ "$status" -eq 0 ]
	[ "$stderr" = "distill: 'run' is finished" ]
}

@test "when a part cannot begin, all end with its message" {
	run --separate-stderr go "$(sample run) | teacher-logits -q -m nobody | distill -q -m $F/model -o run --on-policy --teacher $F/teacher --steps 8"
	[ "$status" -eq 1 ]
	[[ "$stderr" == *"teacher-logits: cannot read 'nobody/config.json'"* ]]
	run --separate-stderr go "$(sample run) | teacher-logits -q -m $F/teacher | distill -q -m nobody -o run --on-policy --teacher $F/teacher --steps 8"
	[ "$status" -eq 1 ]
	[[ "$stderr" == *"distill: cannot read 'nobody/config.json'"* ]]
	run --separate-stderr go "rollout -q --follow run nothing | distill -q -m $F/model -o run --on-policy --teacher $F/teacher --steps 8"
	[ "$status" -eq 1 ]
	[[ "$stderr" == *"rollout: cannot open 'nothing'"* ]]
	run --separate-stderr go "rollout -q --follow elsewhere --patience 0 $F/prompts.tokens.zst | cat"
	[ "$status" -eq 1 ]
	[ "$stderr" = "rollout: nobody trains in 'elsewhere': waited 0 seconds" ]
}

@test "input that is no loop's is refused" {
	rollout -q -m "$F/model" --max-tokens 3 "$F/prompts.tokens.zst" >plain
	run --separate-stderr distill -q -m "$F/model" -o a --on-policy --teacher "$F/teacher" --steps 2 plain
	[ "$status" -eq 1 ]
	[ "$stderr" = "distill: 'plain' does not say how many records a step has: such streams begin with rollout --follow" ]
	run --separate-stderr go "$(sample b '--temperature 0.7') | distill -q -m $F/model -o b --on-policy --teacher $F/teacher --divergence minillm --steps 2"
	[ "$status" -eq 1 ]
	[[ "$stderr" == *'was not drawn at temperature 1 and without filters'* ]]
	go "$(sample c '--batch 2 -n 1') | tee rollouts | distill -q -m $F/model -o c --on-policy --teacher $F/teacher --steps 2"
	run --separate-stderr distill -q -m "$F/model" -o d --on-policy --teacher "$F/teacher" --steps 3 rollouts
	[ "$status" -eq 1 ]
	[ "$stderr" = "distill: 'rollouts' ends after 2 of 3 steps" ]
	run --separate-stderr rollout -q --follow run -m "$F/model" "$F/prompts.tokens.zst"
	[ "$status" -ne 0 ]
}


@test "a tool between two pipes ends when nobody reads it, though its writer goes on" {
	mkfifo in
	sleep 100 >in &
	status=0
	timeout 20 bash -o pipefail -c "teacher-logits -q -m $F/teacher <in | true" || status=$?
	kill $!
	[ $status -eq 141 ]
}

@test "when a part is killed, all end with a message" {
	for part in rollout teacher-logits distill; do
		setsid timeout 60 bash -o pipefail -c "$(reverse_kl $part '' '--steps 100000')" 2>stderr &
		pid=$!
		until [ -e $part/policy/2 ] || [ -e $part/policy/3 ]; do sleep 0.02; done
		pkill -9 -x $part -s $pid
		status=0
		wait $pid || status=$?
		[ $status -ne 0 ] && [ $status -ne 124 ]
		grep -E '^(rollout|teacher-logits|distill): ' stderr
		[ -z "$(pgrep -s $pid)" ]
	done
}

# resumes RUN COMMAND: kill -9 one of the tools at a random moment, again and again; then end
resumes() {
	local pid kills part parts=(rollout teacher-logits distill)
	for ((kills = 0; kills < KILLS; kills++)); do
		part=${parts[$((RANDOM % 3))]}
		setsid timeout 60 bash -o pipefail -c "$2" 2>>"$1.log" &
		pid=$!
		sleep "0.$((RANDOM % 30 + 10))"
		pkill -9 -x $part -s $pid || :
		wait $pid || [ $? -ne 124 ] || { cat "$1.log"; return 1; }
		[ ! -e "$1/model" ] || complete "$1/model/model.safetensors"
	done
	go "$2"
}

@test "killed and started again, a loop ends with the same bytes" {
	for loop in reverse_kl minillm policy_gradient; do
		go "$($loop $loop '' '--save-every 2 --steps 12')"
		resumes $loop-killed "$($loop $loop-killed '' '--save-every 2 --steps 12')"
		cmp $loop/model/model.safetensors $loop-killed/model/model.safetensors
		online_metrics $loop | cmp - <(online_metrics $loop-killed)
	done
}

@test "with a lag, too" {
	go "$(minillm run '--lag 2' '--save-every 3 --steps 12')"
	resumes killed "$(minillm killed '--lag 2' '--save-every 3 --steps 12')"
	cmp run/model/model.safetensors killed/model/model.safetensors
}
