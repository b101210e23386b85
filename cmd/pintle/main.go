// Command pintle keeps an address on exactly one healthy machine.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
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
	root := group("pintle", "Keeps an address on exactly one healthy machine")
	root.SilenceUsage, root.SilenceErrors = true, true
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return &badInput{fmt.Sprintf("%v\nsee: %s --help", err, c.CommandPath())}
	})
	root.CompletionOptions.HiddenDefaultCmd = true
	root.CompletionOptions.DisableNoDescFlag = true
	root.AddCommand(newRun(), newCheck(), newStatus(), newTransfer(), newDemo(), newDemoEcho(), newRaft(), newManifest(), newImport(), newVersion())
	return root
}

// group is a command that only has others below it.
func group(use, short string) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short,
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return c.Help()
			}
			text := fmt.Sprintf("%q is no command of %s", args[0], c.CommandPath())
			if near := c.SuggestionsFor(args[0]); len(near) > 0 {
				text += "; did you mean " + strings.Join(near, " or ") + "?"
			}
			return &badInput{text + "\nsee: " + c.CommandPath() + " --help"}
		},
		Args: cobra.ArbitraryArgs, SuggestionsMinimumDistance: 2,
	}
}

// args accepts so many arguments.
func args(least, most int) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch n := len(args); {
		case n < least:
			return &badInput{fmt.Sprintf("%s: something is missing: %s", c.CommandPath(), c.UseLine())}
		case n > most:
			return &badInput{fmt.Sprintf("%s: %q is too much: %s", c.CommandPath(), args[most], c.UseLine())}
		}
		return nil
	}
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: args(0, 0),
		Run: func(c *cobra.Command, _ []string) { fmt.Fprintln(c.OutOrStdout(), "pintle", version) },
	}
}
