package main

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/anishathalye/porcupine"
)

// Op is one operation of a history, as the harness writes it: one JSON object a line.
type Op struct {
	// Model is "register", "counter" or "lock". Operations on different keys are independent.
	Model  string `json:"model"`
	Key    string `json:"key"`
	Client int    `json:"client"`
	// Call and Return are nanoseconds since 1970. A Return of 0 means that no answer came: the operation may take
	// effect at any later time.
	Call   int64 `json:"call"`
	Return int64 `json:"return"`
	// Kind is what was done; each model has its own kinds.
	Kind string `json:"kind"`
	// Name is the reservation in a register, the holder in a counter, and the owner of a lock.
	Name string `json:"name"`
	// Names is what a read has found.
	Names []string `json:"names"`
	// Amount is what a take adds to a counter, and the fencing number of a lock.
	Amount int64 `json:"amount"`
	// Limit is the most that a counter may hold.
	Limit int64 `json:"limit"`
}

// register models a request id. The first call that stores a reservation decides; all others must see the same one.
//
//	reserve  the call was answered with the reservation Name
//	maybe    the call was not answered; if it has stored a reservation, it is one of Names
//	refused  the call was refused, and nothing was stored
//	free     the call that has stored Name has rented nothing, and its request id is free again
//	read     the reservations of this request id are Names
func register(state any, op Op) []any {
	stored := state.(string)
	switch op.Kind {
	case "reserve":
		return only(op.Name != "" && (stored == "" || stored == op.Name), op.Name)
	case "maybe":
		next := []any{stored}
		for _, name := range op.Names {
			if stored == "" {
				next = append(next, name)
			}
		}
		return next
	case "refused":
		return only(stored == "", stored)
	case "free":
		return only(op.Name != "" && stored == op.Name, "")
	case "read":
		if stored == "" {
			return only(len(op.Names) == 0, stored)
		}
		return only(len(op.Names) == 1 && op.Names[0] == stored, stored)
	}
	return nil
}

// counter models a limit on what its holders have together.
//
//	take     Name holds Amount from now on, and all together hold at most Limit
//	refused  Amount more would have been over Limit
//	give     Name holds nothing any more
//
// The state is a sorted list of "holder=amount".
func counter(state any, op Op) []any {
	held := split(state.(string))
	sum := int64(0)
	for _, each := range held {
		sum += amountOf(each)
	}
	mine := slices.IndexFunc(held, func(each string) bool { return strings.HasPrefix(each, op.Name+"=") })
	switch op.Kind {
	case "take":
		if mine >= 0 || sum+op.Amount > op.Limit {
			return nil
		}
		held = append(held, fmt.Sprintf("%s=%d", op.Name, op.Amount))
		slices.Sort(held)
		return only(true, strings.Join(held, " "))
	case "refused":
		return only(sum+op.Amount > op.Limit, state)
	case "give":
		if mine < 0 {
			return nil
		}
		return only(true, strings.Join(slices.Delete(held, mine, mine+1), " "))
	}
	return nil
}

// lock models a claim with fencing numbers.
//
//	take  the owner Name has it under the number Amount
//	drop  the owner Name gives it up
//	act   the owner Name does what only the owner may do
//
// The state is "owner number".
func lock(state any, op Op) []any {
	owner, fence := "", int64(0)
	if now := state.(string); now != "" {
		fmt.Sscanf(now, "%d %s", &fence, &owner)
	}
	switch op.Kind {
	case "take":
		renewed := op.Name == owner && op.Amount == fence
		taken := op.Name != "" && op.Name != owner && op.Amount == fence+1
		return only(renewed || taken, fmt.Sprintf("%d %s", op.Amount, op.Name))
	case "drop":
		return only(op.Name == owner && owner != "", fmt.Sprintf("%d ", fence))
	case "act":
		return only(op.Name == owner && owner != "", state)
	}
	return nil
}

// only is the next state if the operation is allowed, and none otherwise.
func only(allowed bool, next any) []any {
	if allowed {
		return []any{next}
	}
	return nil
}

// steps has the models by their names. A step returns the states that are possible after an operation.
var steps = map[string]func(any, Op) []any{"register": register, "counter": counter, "lock": lock}

// modelOf makes Porcupine's model of one kind of history.
func modelOf(name string) porcupine.Model {
	step := steps[name]
	model := porcupine.NondeterministicModel{
		Init: func() []any { return []any{""} },
		Step: func(state, input, _ any) []any { return step(state, input.(Op)) },
	}
	return model.ToModel()
}

// operations are those of one key as Porcupine takes them.
func operations(ops []Op) []porcupine.Operation {
	made := make([]porcupine.Operation, 0, len(ops))
	for _, op := range ops {
		end := op.Return
		if end == 0 {
			end = math.MaxInt64
		}
		made = append(made, porcupine.Operation{ClientId: op.Client, Input: op, Call: op.Call, Return: end})
	}
	return made
}

func split(text string) []string {
	return strings.Fields(text)
}

func amountOf(held string) int64 {
	var amount int64
	fmt.Sscanf(held[strings.LastIndex(held, "=")+1:], "%d", &amount)
	return amount
}
