package main

import (
	"io"
	"strings"
	"testing"
)

// Each history is a list of operations; those with `bad` must be refused.
var histories = []struct {
	rule string
	bad  bool
	ops  []Op
}{
	{"all answers of a request id name one reservation", false, []Op{
		reg(1, 10, "reserve", "a"), reg(2, 8, "reserve", "a"), reg(12, 14, "reserve", "a"), found(15, 16, "a")}},
	{"two answers of a request id name two reservations", true, []Op{
		reg(1, 10, "reserve", "a"), reg(2, 8, "reserve", "b")}},
	{"a refusal may come before the call that succeeds", false, []Op{
		reg(1, 10, "reserve", "a"), reg(2, 9, "refused", "")}},
	{"a refusal comes after an answer", true, []Op{
		reg(1, 4, "reserve", "a"), reg(5, 9, "refused", "")}},
	{"a list misses what was answered before", true, []Op{
		reg(1, 4, "reserve", "a"), found(5, 9)}},
	{"a list may miss what is being stored", false, []Op{
		reg(1, 10, "reserve", "a"), found(5, 9)}},
	{"a list has two reservations of one request id", true, []Op{
		reg(1, 4, "reserve", "a"), found(5, 9, "a", "b")}},
	{"a reservation is listed and then it is gone", true, []Op{
		reg(1, 4, "reserve", "a"), found(5, 9, "a"), found(10, 11)}},
	{"a call without an answer may have effect later", false, []Op{
		maybe(1, "a"), found(5, 9), found(10, 11, "a")}},
	{"a call without an answer may have no effect", false, []Op{
		maybe(1), found(5, 9), reg(10, 11, "reserve", "a")}},
	{"a call without an answer is listed and then it is gone", true, []Op{
		maybe(1, "a"), found(5, 9, "a"), found(10, 11)}},
	{"a call that has rented nothing frees its request id", false, []Op{
		maybe(1, "a"), {Model: "register", Call: 1, Kind: "free", Name: "a"}, found(5, 9, "a"), reg(10, 11, "reserve", "b")}},
	{"a request id is free although a call was answered with a reservation", true, []Op{
		reg(1, 3, "reserve", "a"), reg(10, 11, "reserve", "b")}},

	{"a limit is used up", false, []Op{
		count(1, 9, "take", "x", 1), count(1, 9, "take", "y", 1), count(2, 8, "refused", "z", 1)}},
	{"a limit is exceeded", true, []Op{
		count(1, 9, "take", "x", 1), count(1, 9, "take", "y", 1), count(2, 8, "take", "z", 1)}},
	{"a call is refused although it would fit", true, []Op{
		count(1, 4, "take", "x", 1), count(5, 8, "refused", "z", 1)}},
	{"what was given back can be taken again", false, []Op{
		count(1, 4, "take", "x", 2), count(5, 20, "give", "x", 2), count(6, 8, "take", "z", 2)}},
	{"what is held by another is taken again", true, []Op{
		count(1, 4, "take", "x", 2), count(6, 8, "take", "z", 2), count(9, 20, "give", "x", 2)}},

	{"the next owner has the next number", false, []Op{
		claim(1, 2, "take", "p", 1), claim(3, 4, "act", "p", 0), claim(5, 6, "take", "q", 2), claim(7, 8, "act", "q", 0)}},
	{"two owners have one number", true, []Op{
		claim(1, 2, "take", "p", 1), claim(3, 4, "take", "q", 1)}},
	{"an owner that was replaced acts", true, []Op{
		claim(1, 2, "take", "p", 1), claim(5, 6, "take", "q", 2), claim(7, 8, "act", "p", 0)}},
	{"an owner that was replaced renews", true, []Op{
		claim(1, 2, "take", "p", 1), claim(5, 6, "take", "q", 2), claim(7, 8, "take", "p", 1)}},
	{"an owner that gave up acts", true, []Op{
		claim(1, 2, "take", "p", 1), claim(3, 4, "drop", "p", 1), claim(7, 8, "act", "p", 0)}},
	{"a number goes back", true, []Op{
		claim(1, 2, "take", "p", 1), claim(3, 4, "take", "q", 2), claim(7, 8, "take", "p", 2)}},
}

func TestABadHistoryIsRefusedAndAGoodOneIsNot(t *testing.T) {
	for _, each := range histories {
		model := each.ops[0].Model
		got := check(map[string]map[string][]Op{model: {"key": each.ops}}, io.Discard)
		if got == each.bad {
			t.Errorf("%s: linearizable %v", each.rule, got)
		}
	}
}

func TestAnOperationThatCannotBeReadIsAnError(t *testing.T) {
	for _, line := range []string{"{", `{"model": "queue"}`, `{"model": "lock", "call": 9, "return": 3}`} {
		if _, err := read(strings.NewReader(line)); err == nil {
			t.Errorf("%s was read", line)
		}
	}
}

func reg(call, end int64, kind, name string) Op {
	return Op{Model: "register", Call: call, Return: end, Kind: kind, Name: name}
}

func maybe(call int64, names ...string) Op {
	return Op{Model: "register", Call: call, Kind: "maybe", Names: names}
}

func found(call, end int64, names ...string) Op {
	return Op{Model: "register", Call: call, Return: end, Kind: "read", Names: names}
}

func count(call, end int64, kind, name string, amount int64) Op {
	return Op{Model: "counter", Call: call, Return: end, Kind: kind, Name: name, Amount: amount, Limit: 2}
}

func claim(call, end int64, kind, name string, fence int64) Op {
	return Op{Model: "lock", Call: call, Return: end, Kind: kind, Name: name, Amount: fence}
}
