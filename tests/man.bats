#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# The manual: complete, true to --help, and its examples run.

bats_require_minimum_version 1.5.0
load fixture

sections='NAME SYNOPSIS DESCRIPTION OPTIONS STDIN STDOUT EXIT STATUS EXAMPLES SEE ALSO'

setup() {
	cd "$BATS_TEST_DIRNAME/.." || exit
	count=0
}

tools() {
	basename -s .c bin/*.c
}

# the long options of a page, with those of "All of .Xr another 1", and of --help
of_page() {
	local other
	other=$(sed -n '/^All of$/{n; s/^\.Xr \([^ ]*\) 1.*/man\/\1.1/p}' "$1")
	# shellcheck disable=SC2086
	sed -n 's/^\.It \(Fl .*\)/\1/p' "$1" $other | grep -oE '(Fl|,) -[a-z-]+' | sed 's/.* -/--/' | sort -u
}
of_help() {
	"$1" --help | grep -oE '^  (-.,|   ) --[a-z-]+' | grep -oE -- '--[a-z-]+' | sort -u
}

# examples PAGE: its command lines, without the escapes of mdoc
examples() {
	sed -n 's/^\.Dl \$ //p' "$1" | sed 's/\\(aq/'\''/g; s/\\e/\\/g; s/\\-/-/g; s/\\&//g'
}

# What the examples of all pages speak of, under the names that they use.
kitchen() {
	fixture kitchen
	seq 1012 | jq -c '{id: "\(.)", instruction: "Add \(. % 7) and 2.", context: "", response: "\(. % 7 + 2)", text: "It is \(. % 7)."}' >dolly.jsonl
	head -n 40 dolly.jsonl | tee samples.jsonl held-out.jsonl | zstd -q >books.jsonl.zst
	jq -c '{id, prediction: .text, target: .response}' samples.jsonl >scored.jsonl
	jq 'del(.vocab_size) | .max_position_embeddings = 512' config >student.json
	train-bpe -q -n 480 -t dolly -o tokenizer dolly.jsonl
	init-model -q --tokenizer tokenizer -o teacher student.json
	init-model -q --from teacher --keep-every 6 -o student
	for name in gpt2 big model runs/teacher/model runs/kd/model; do
		mkdir -p "$name"
		cp student/* "$name"
	done
	tokenize -q -m student -t dolly --rows :32 -o train.tokens.zst dolly.jsonl
	tokenize -q -m student -t dolly --rows :2 -o dev.tokens.zst dolly.jsonl
	teacher-logits -q -m teacher -o train.logits.zst train.tokens.zst
}

@test "every tool has a page, with the sections in their order" {
	for tool in $(tools); do
		[ "$(sed -n 's/^\.Sh //p' "man/$tool.1" | xargs)" = "$sections" ] || { echo "man/$tool.1"; false; }
		grep -q "^\.Dt ${tool^^} 1$" "man/$tool.1"
		grep -q "Xr $tool 1" man/pipestill.7 || { echo "$tool is not in man/pipestill.7"; false; }
		count=$((count + 1))
	done
	[ $count -gt 10 ]
	[ "$(ls man/*.1 | wc -l)" -eq $count ]
}

@test "page and --help have the same options, but for those of all tools" {
	for tool in $(tools); do
		comm -13 <(of_help "$tool") <(of_page "man/$tool.1") >"$BATS_TEST_TMPDIR/only"
		[ ! -s "$BATS_TEST_TMPDIR/only" ] || { echo "man/$tool.1 alone: $(xargs <"$BATS_TEST_TMPDIR/only")"; false; }
		comm -23 <(of_help "$tool") <(sort -u <(of_page "man/$tool.1") <(of_page man/pipestill.7)) >"$BATS_TEST_TMPDIR/only"
		[ ! -s "$BATS_TEST_TMPDIR/only" ] || { echo "$tool --help alone: $(xargs <"$BATS_TEST_TMPDIR/only")"; false; }
		count=$((count + $(of_help "$tool" | wc -l)))
	done
	[ $count -gt 100 ]
}

@test "every example runs" {
	cd "$BATS_TEST_TMPDIR"
	kitchen
	cd ..
	for page in "$BATS_TEST_DIRNAME"/../man/*.[157]; do
		rm -rf here
		cp -r "$BATS_TEST_TMPDIR/kitchen" here
		cd here
		# what the page is to make is not there
		! grep -q -- '-o runs/kd' "$page" || rm -r runs/kd
		while read -r line; do
			status=0
			bash -o pipefail -c "$line" </dev/null >stdout 2>stderr || status=$?
			# where a reader leaves early, its writer ends by a signal
			[[ $line == *'| head'* && $status -eq 141 ]] && status=0
			[ "$status" -eq 0 ] || { echo "$(basename "$page"): $line"; cat stderr; false; }
			count=$((count + 1))
		done < <(examples "$page")
		cd ..
	done
	[ $count -ge 25 ]
	[ $count -eq "$(cat "$BATS_TEST_DIRNAME"/../man/* | grep -c '^\.Dl')" ]
}

@test "every page has an example" {
	for page in man/*.1 man/pipestill.7; do
		[ -n "$(examples "$page")" ] || { echo "$page"; false; }
	done
}

@test "what a page refers to is there" {
	while read -r name section; do
		[ -e "man/$name.$section" ] || [[ " bwrap cat jq zstd " == *" $name "* ]] || { echo "$name($section)"; false; }
		count=$((count + 1))
	done < <(grep -ohE 'Xr [^ ]+ [157]' man/* | cut -c4- | sort -u)
	[ $count -gt 10 ]
}

@test "mandoc has no complaint" {
	command -v mandoc >/dev/null || skip "mandoc is not installed"
	mandoc -T lint -W warning man/*.[157]
}
