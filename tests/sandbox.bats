#!/usr/bin/env bats
# SPDX-License-Identifier: MIT
# Programs that mean harm, and many programs: what lib/sandbox must keep in, seen through reward.

bats_require_minimum_version 1.5.0

setup_file() {
	cd "$BATS_FILE_TMPDIR" || return
	echo '{"header":{"type":"rollouts"}}' | from-json >none
	if ! reward code=1 <none >/dev/null 2>why; then
		export NO_SANDBOX=yes
		return
	fi
	echo secret >secret
	chmod 644 secret
	"$BATS_TEST_DIRNAME/hostile/stream" "$PWD/secret" >hostile.jsonl
	from-json <hostile.jsonl >hostile
	find /tmp /var/tmp /dev/shm -maxdepth 1 2>/dev/null | sort >places
	HOSTILE_SECRET=visible reward -j 4 --explain code=1:memory=256 <hostile >scores.jsonl
}

setup() {
	cd "$BATS_FILE_TMPDIR" || return
	[ -z "$NO_SANDBOX" ] || skip "$(cat why)"
}

@test "at least 25 hostile programs earn what they should: nothing they try has an effect" {
	jq -s 'map(select(.id) | {key: .id, value: .expected}) | from_entries' hostile.jsonl >expected
	jq -s 'map({key: .id, value: .reward}) | from_entries' scores.jsonl >got
	diff <(jq -S . expected) <(jq -S . got) || { cat scores.jsonl; false; }
	jq -e 'length >= 25' got
}

@test "none of them leaves a process" {
	# a process of a sandbox sees another process namespace than we do; others on this machine come and go
	own=$(readlink /proc/self/ns/pid)
	for _ in $(seq 50); do
		left=0
		for status in /proc/[0-9]*/status; do
			awk '/^NSpid:/ { exit NF < 3 }' "$status" 2>/dev/null && [ "$(readlink "${status%/status}/ns/pid")" != "$own" ] &&
				grep -q '^Seccomp:.2' "$status" && left=$((left + 1))
		done
		[ "$left" -gt 0 ] || return 0
		sleep 0.2
	done
	false
}

@test "none of them leaves a file" {
	find /tmp /var/tmp /dev/shm -maxdepth 1 2>/dev/null | sort | comm -13 places - >new
	run ! grep -E '/(note|link|hard|huge|disk|id|x|[0-9]+)$' new
}

@test "reward leaves no process behind when it is killed" {
	jq -c 'select(.header or .id == "endless_sleep.py")' hostile.jsonl | from-json >sleeper
	reward code=1:time_limit=100 <sleeper >/dev/null &
	pid=$!
	for _ in $(seq 100); do
		children=$(cat /proc/$pid/task/*/children)
		# bubblewrap, the sandbox's first process, the program
		[ -n "$children" ] && first=$(cat "/proc/${children%% *}/task/${children%% *}/children") &&
			[ -n "$first" ] && program=$(cat "/proc/${first%% *}/task/${first%% *}/children") && [ -n "$program" ] && break
		sleep 0.1
	done
	[ -n "$program" ]
	kill -9 $pid
	for _ in $(seq 50); do
		[ ! -d "/proc/${program%% *}" ] && [ ! -d "/proc/${first%% *}" ] && return 0
		sleep 0.1
	done
	false
}

@test "200 programs in a row leave nothing and take no more memory" {
	"$BATS_TEST_DIRNAME/soak" 200
}
