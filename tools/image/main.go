// Command image writes the container image of Pintle: an archive that `ctr images import` and `docker load` take. It
// needs no container program and no registry, and the same input makes the same bytes.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
)

func main() {
	var i Image
	binary := flag.String("binary", "build/pintle", "the program, for linux and the architecture")
	out := flag.String("out", "pintle.tar", "the archive")
	flag.StringVar(&i.Arch, "arch", "amd64", "architecture, as Go names it")
	flag.StringVar(&i.Name, "name", "pintle", "name of the image, without a tag")
	flag.StringVar(&i.Version, "version", "dev", "version of the program, and tag of the image")
	flag.Parse()
	if err := write(i, *binary, *out); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// write puts the archive in its place at once.
func write(i Image, binary, out string) error {
	var err error
	if i.Program, err = os.ReadFile(binary); err != nil {
		return err
	}
	archive, err := i.Archive()
	if err != nil {
		return fmt.Errorf("write image of %s: %w", binary, err)
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	return renameio.WriteFile(out, archive, 0o644)
}
