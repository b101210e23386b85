package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/pintle-lb/pintle/internal/config"
	"github.com/pintle-lb/pintle/internal/ipam"
	"github.com/pintle-lb/pintle/internal/service/pintlev1"
)

// pages are what a person may copy from.
func pages(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(files) < 6 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	out := map[string]string{}
	for _, f := range append(files, "../../README.md") {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(f)] = string(text)
	}
	return out
}

var (
	yamlBlock = regexp.MustCompile("(?s)```yaml\n(.*?)```")
	kindLine  = regexp.MustCompile(`(?m)^kind: `)
	shellLine = regexp.MustCompile(`(?m)^ {4,}pintle .*$`)
	inText    = regexp.MustCompile("`(pintle [a-z][^`]*)`")
	// What follows a command in a shell, and comments.
	shellEnd = regexp.MustCompile(`\s(#|\||>|&&).*$`)
)

// Every configuration in the documents is one that Pintle reads.
func TestDocumentedConfigurations(t *testing.T) {
	n := 0
	for page, text := range pages(t) {
		for _, block := range yamlBlock.FindAllStringSubmatch(text, -1) {
			if !strings.Contains(block[1], "apiVersion: "+config.APIVersion) || kindLine.MatchString(block[1]) {
				continue // an object of the cluster has a kind, and a configuration none
			}
			n++
			data := []byte(block[1])
			if _, problems := config.Parse(data, page, config.Options{Node: nodesOf(data)[0]}); len(problems) > 0 {
				t.Errorf("%s: %v", page, problems)
			}
		}
	}
	if n < 2 {
		t.Errorf("only %d configurations found", n)
	}
}

// Every pool in the documents has fields that there are, and addresses that Services can have.
func TestDocumentedPools(t *testing.T) {
	n := 0
	for page, text := range pages(t) {
		for _, block := range yamlBlock.FindAllStringSubmatch(text, -1) {
			for _, doc := range strings.Split(block[1], "---\n") {
				if !strings.Contains(doc, "kind: AddressPool\n") {
					continue
				}
				n++
				var p pintlev1.AddressPool
				if err := yaml.UnmarshalStrict([]byte(doc), &p); err != nil {
					t.Errorf("%s: %v", page, err)
				}
				for _, a := range p.Spec.Addresses {
					if _, err := ipam.ParseRange(a, p.Spec.SkipFirstLast); err != nil {
						t.Errorf("%s: pool %s: %v", page, p.Name, err)
					}
				}
				if len(p.Spec.Addresses) == 0 {
					t.Errorf("%s: pool %s has no addresses", page, p.Name)
				}
			}
		}
	}
	if n < 2 {
		t.Errorf("only %d pools found", n)
	}
}

// Every command in the documents exists, with these flags and as many arguments.
func TestDocumentedCommands(t *testing.T) {
	n := 0
	for page, text := range pages(t) {
		text = strings.ReplaceAll(text, "\\\n", " ")
		lines := shellLine.FindAllString(text, -1)
		for _, m := range inText.FindAllStringSubmatch(text, -1) {
			lines = append(lines, strings.Join(strings.Fields(m[1]), " "))
		}
		for _, line := range lines {
			if strings.Contains(line, "...") || strings.HasPrefix(line, "pintle is") {
				continue
			}
			n++
			if err := accepts(strings.Fields(strings.ReplaceAll(shellEnd.ReplaceAllString(line, ""), "'", ""))[1:]); err != nil {
				t.Errorf("%s: %s: %v", page, strings.TrimSpace(line), err)
			}
		}
	}
	if n < 20 {
		t.Errorf("only %d commands found", n)
	}
}

// accepts parses a command line and does not run it. A command alone, as in a sentence, is good too.
func accepts(args []string) error {
	c, rest, err := newRoot().Find(args)
	if err != nil {
		return err
	}
	if len(rest) == 0 {
		return nil
	}
	if err := c.ParseFlags(rest); err != nil {
		return err
	}
	if c.HasSubCommands() {
		return c.RunE(c, c.Flags().Args())
	}
	return c.ValidateArgs(c.Flags().Args())
}
