package main

import (
	"path/filepath"
	"testing"

	"github.com/pintle-lb/pintle/internal/config"
)

// Every configuration that a manifest carries is one that Pintle reads on every node, without a problem but for the
// number of votes.
func TestRenderedConfigurations(t *testing.T) {
	files, err := filepath.Glob("../../manifests/testdata/config/*.yaml")
	if err != nil || len(files) < 6 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		data, err := readConfig(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, node := range nodesOf(data) {
			_, problems := config.Parse(data, f, config.Options{Node: node})
			for _, p := range problems {
				if !p.Warning || p.Path != "raft.peers" {
					t.Error(p)
				}
			}
		}
	}
}
