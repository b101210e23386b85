// Command pintle keeps an address on exactly one healthy machine.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the build.
var version = "dev"

func main() { os.Exit(run()) }

// run runs the command line and returns the exit status: 0 done, 1 failed, 2
// bad usage or configuration.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRoot()
	err := root.ExecuteContext(ctx)
	var bad *badInput
	switch {
	case err == nil:
		return 0
	case errors.As(err, &bad):
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	fmt.Fprintln(os.Stderr, "pintle:", err)
	return 1
}

// badInput is an error in what a person typed or wrote; its text stands for
// itself.
type badInput struct{ text string }

func (b *badInput) Error() string { return b.text }

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:           "pintle",
		Short:         "Keeps an address on exactly one healthy machine",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &badInput{fmt.Sprintf("%v\nsee: %s --help", err, c.CommandPath())}
	})
	root.CompletionOptions.HiddenDefaultCmd = true
	root.AddCommand(newRun(), newCheck(), newStatus(), newDemo(), newDemoEcho(), newRaft(), newManifest(), newVersion())
	return root
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		Run: func(c *cobra.Command, _ []string) { fmt.Fprintln(c.OutOrStdout(), "pintle", version) },
	}
}
