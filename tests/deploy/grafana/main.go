// Reads a dashboard from stdin with Grafana's own types, which know each field of a dashboard, of its panels and of
// their queries. An unknown field, a wrong type or a missing value is an error.
package main

import (
	"fmt"
	"io"
	"os"

	"github.com/grafana/grafana-foundation-sdk/go/cog/plugins"
	"github.com/grafana/grafana-foundation-sdk/go/dashboard"
)

func main() {
	plugins.RegisterDefaultPlugins()
	raw, err := io.ReadAll(os.Stdin)
	if err != nil {
		fail(err)
	}
	read := dashboard.NewDashboard()
	if err := read.UnmarshalJSONStrict(raw); err != nil && err.Error() != "" { // an empty list of errors is none
		fail(err)
	}
	if err := read.Validate(); err != nil {
		fail(err)
	}
	fmt.Printf("%d panels\n", len(read.Panels))
}

func fail(err error) {
	fmt.Println(err)
	os.Exit(1)
}
