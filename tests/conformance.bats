#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# The runner of kits itself: that it reads any manifest, and that no case takes the others with it.

bats_require_minimum_version 1.5.0

setup() {
	cd "$BATS_TEST_TMPDIR" || return
	mkdir kit kit/bad
	echo '{"model_type":"mamba9"}' >kit/bad/config.json
	echo '{"kind":"philox","name":"zero","vectors":[{"counter":["00000000","00000000","00000000","00000000"],
		"key":["00000000","00000000"],"out":["6627e8d5","e169c58d","bc57ac4c","9b00dbd8"]}]}' >kit/zero.json
	sed 's/9b00dbd8/9b00dbd9/' kit/zero.json >kit/wrong.json
	echo '{"kind":"forward","name":"bad","model":"bad"}' >kit/bad.json
	echo '{"kind":"forward","name":"absent","model":"absent"}' >kit/absent.json
	word=$(printf 'a%.0s' {1..600})
	echo "{\"word\":\"${word}ing\",\"stem\":\"$word\"}" >kit/words.jsonl
	echo '{"kind":"stem","name":"long","samples":"words.jsonl"}' >kit/long.json
}

# case KIND NAME: one entry of the manifest
case_of() {
	echo "{\"kind\":\"$1\",\"name\":\"$2\",\"file\":\"$2.json\"}"
}

# kit ENTRY ...: run a kit of these
kit() {
	local IFS=,

	echo "{\"format\":1,\"cases\":[$*]}" >kit/manifest.json
	run "${BUILD:-$BATS_TEST_DIRNAME/../build}/conformance" kit
}

@test "a case that holds passes, one that does not fails" {
	kit "$(case_of philox zero)"
	[ "$status" = 0 ]
	[ "${lines[0]}" = "ok philox/zero 2 equal" ]
	kit "$(case_of philox wrong)" "$(case_of philox zero)"
	[ "$status" = 1 ]
	[ "${lines[0]}" = "not ok philox/wrong: 1 thread: vector 0 is wrong" ]
	[ "${lines[2]}" = "1 passed, 1 failed, 0 skipped" ]
}

@test "a model that cannot be read fails its case, one that is not there skips it, the others run" {
	kit "$(case_of forward bad)" "$(case_of forward absent)" "$(case_of philox zero)"
	[ "$status" = 1 ]
	[[ "${lines[0]}" == "not ok forward/bad: "*"model_type 'mamba9'"* ]]
	[ "${lines[1]}" = "skip forward/absent: no model at kit/absent" ]
	[ "${lines[3]}" = "1 passed, 1 failed, 1 skipped" ]
}

@test "a kind that nobody knows and a case without its file fail" {
	kit "$(case_of teleport zero)" "$(case_of philox nowhere)" "$(case_of philox zero)"
	[ "$status" = 1 ]
	[ "${lines[0]}" = "not ok teleport/zero: a kind that this program does not know" ]
	[ "${lines[1]}" = "not ok philox/nowhere: the kit has no file 'nowhere.json'" ]
	[ "${lines[3]}" = "1 passed, 2 failed, 0 skipped" ]
}

@test "words may be longer than any in a dictionary" {
	kit "$(case_of stem long)"
	[ "$status" = 0 ]
}
