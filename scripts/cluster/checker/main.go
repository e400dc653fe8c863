// The checker of recorded histories: is there an order of the operations that explains all answers?
//
// It reads operations from stdin, one JSON object a line, and asks Porcupine for each key. It prints one line for each
// model, and the operations of each key that can't be explained. The exit code is 0 if all histories are linearizable,
// 1 if one is not or if that was not decided in time, and 2 if the input can't be read.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

const (
	perKey  = 10 * time.Minute
	longest = 1 << 24
)

func main() {
	histories, err := read(os.Stdin)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if !check(histories, os.Stdout) {
		os.Exit(1)
	}
}

// read returns the operations by model and key.
func read(from io.Reader) (map[string]map[string][]Op, error) {
	histories := map[string]map[string][]Op{}
	for name := range steps {
		histories[name] = map[string][]Op{}
	}
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, longest)
	for number := 1; lines.Scan(); number++ {
		var op Op
		if err := json.Unmarshal(lines.Bytes(), &op); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		of, known := histories[op.Model]
		if !known || op.Return != 0 && op.Return < op.Call {
			return nil, fmt.Errorf("line %d: the model %q is not known, or the end is before the begin", number, op.Model)
		}
		of[op.Key] = append(of[op.Key], op)
	}
	return histories, lines.Err()
}

// check prints what was found, and returns whether all histories are linearizable.
func check(histories map[string]map[string][]Op, to io.Writer) bool {
	fine := true
	for _, name := range sorted(histories) {
		ops, wrong, undecided := 0, 0, 0
		for _, key := range sorted(histories[name]) {
			history := histories[name][key]
			ops += len(history)
			result := porcupine.CheckOperationsTimeout(modelOf(name), operations(history), perKey)
			if result == porcupine.Ok {
				continue
			}
			if result == porcupine.Unknown {
				undecided++
			} else {
				wrong++
			}
			fmt.Fprintf(to, "%s %s: %s\n%s", name, key, result, told(history))
		}
		fine = fine && wrong == 0 && undecided == 0
		fmt.Fprintf(to, "%-9s %d keys, %d operations: %d not linearizable, %d undecided\n",
			name, len(histories[name]), ops, wrong, undecided)
	}
	return fine
}

// told lists the operations of a key in the order of their calls.
func told(history []Op) string {
	slices.SortFunc(history, func(a, b Op) int { return int(a.Call - b.Call) })
	var text strings.Builder
	for _, op := range history {
		end := "no answer"
		if op.Return != 0 {
			end = fmt.Sprintf("+%.3f s", float64(op.Return-history[0].Call)/1e9)
		}
		fmt.Fprintf(&text, "  client %d, +%.3f s to %s: %s %s %v %d of %d\n", op.Client,
			float64(op.Call-history[0].Call)/1e9, end, op.Kind, op.Name, op.Names, op.Amount, op.Limit)
	}
	return text.String()
}

func sorted[V any](of map[string]V) []string {
	keys := make([]string, 0, len(of))
	for key := range of {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
